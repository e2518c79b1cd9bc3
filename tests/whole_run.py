"""One small simulated observatory, its server and one finished run, for all tests of whole runs (session fixtures)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCENE = Path(__file__).with_name("whole_scene.yaml")
SENTINEL = "5e47ine1/T0ken+<of>.the-archive"  # looks another way in an address and in a page
CONFIG = """\
survey: small
program: 1345
archive: {{server: "{archive}", timeout_seconds: 30}}
references: {{server: "{crds}", context: {context}, cache: "{cache}"}}
steps:
  - detector1: {{jump: {{rejection_threshold: 4.0}}}}
  - subtract_striping: {{}}
  - image2: {{}}
mosaic:
  engine: {engine}
  tile: 256
  {mosaic}
workspace: "{workspace}"
"""


class Small:
    """The shared observatory and its config."""

    def __init__(self, folder: Path, server):
        self.folder = folder
        self.server = server
        self.workspace = folder / "ws"

    def config(
        self, name: str, workspace: Path, context: str = "jwst_0001.pmap", archive: str | None = None,
        engine: str = "tiled", mosaic: str = "image3: {tweakreg: {expand_refcat: true}}",
    ) -> Path:  # fmt: skip
        path = self.folder / f"{name}.yaml"
        servers = {"archive": archive or self.server.url, "crds": self.server.crds_url, "cache": self.folder / "crds"}
        path.write_text(CONFIG.format(**servers, context=context, workspace=workspace, engine=engine, mosaic=mosaic))
        return path

    def copy(self, workspace: Path) -> Path:
        """A copy of the finished workspace; its raw files are new ones, which fetch looks at once more."""
        shutil.copytree(self.workspace, workspace, symlinks=True)
        requests = len(self.server.downloads())
        survey("fetch", self.folder / "small.yaml", "--workspace", workspace)
        assert len(self.server.downloads()) == requests  # they are verified, not fetched again
        return workspace

    def records(self, workspace: Path | None = None) -> dict[str, dict]:
        read = [json.loads(path.read_text()) for path in ((workspace or self.workspace) / "records").glob("*.json")]
        return {record["key"]: record for record in read}


def survey(*arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-m", "survey.cli", *map(str, arguments)], capture_output=True, text=True, timeout=600,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def document(*arguments: object, code: int = 0, **environment: str) -> dict:
    return json.loads(survey(*arguments, "--json", code=code, **environment).stdout)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    from survey.simulate.server import serve

    folder = tmp_path_factory.mktemp("whole")
    survey("simulate", folder / "observatory", "--scene", SCENE)
    with serve(folder / "observatory") as server:
        yield Small(folder, server)


@pytest.fixture(scope="session")
def finished(small):
    """The config of a finished run, and what it said. It was made with a token of the archive's."""
    config = small.config("small", small.workspace)
    return config, document("run", config, MAST_API_TOKEN=SENTINEL)
