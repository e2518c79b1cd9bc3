"""Every command, key, link, file and message of the documentation is one that exists; commands that can run are run."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from survey.cli.main import main
from survey.config.model import SurveyConfig

ROOT = Path(__file__).parent.parent
TOP = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md")
BUILT = {ROOT / "docs" / "_build", ROOT / "docs" / "reference" / "api"}
PAGES = sorted(
    [
        *(ROOT / name for name in TOP),
        *(page for page in (ROOT / "docs").rglob("*.md") if not BUILT & set(page.parents)),
    ]
)
MAX_LINE = 100
_FENCE = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Lines of code blocks that start with 'survey', and `survey ...` inside of sentences that names a command."""
    lines = [line.strip().removeprefix("$ ") for line in text.splitlines() if line.startswith("    ")]
    lines += [line.strip().removeprefix("$ ") for item in _FENCE.finditer(text) for line in item["body"].splitlines()]
    prose = "\n".join(line for line in _FENCE.sub("", text).splitlines() if not line.startswith("    "))
    lines += [" ".join(item.split()) for item in re.findall(r"`(survey [^`]+)`", prose)]
    return [re.split("  #| > ", line)[0].strip() for line in lines if line.startswith("survey ")]


FOUND = [(page, line) for page in PAGES for line in commands(page.read_text())]
BLOCKS = [
    (page, item["body"]) for page in PAGES for item in _FENCE.finditer(page.read_text()) if item["kind"] == "python"
]


def in_a_sentence(page: Path, line: str) -> bool:
    """Whether a command is mentioned only, perhaps without its arguments: `survey status`."""
    return f"`{line}`" in " ".join(page.read_text().split())


def check(words: list[str], whole: bool) -> None:
    """Parse the arguments of one command as click would; raises click.ClickException."""
    command = main.commands.get(words[0])
    assert command is not None, f"no command {words[0]!r}"
    behind = words.index("--") if "--" in words else len(words)
    if whole and not {"--help", "-h"} & set(words):
        context = command.make_context(words[0], words[1:])
        assert context.params
    else:
        known = {option for item in command.params for option in item.opts} | {"--help", "-h"}
        assert {word.partition("=")[0] for word in words[1:behind] if word.startswith("-")} <= known
    if words[behind + 1 : behind + 2] == ["survey"]:
        check(words[behind + 2 :], whole)


def yaml_blocks(text: str) -> list[str]:
    """Code blocks, fenced as yaml or indented, that begin with a key and hold no command."""
    fenced = [item["body"] for item in _FENCE.finditer(text) if item["kind"] in ("yaml", "")]
    rest = _FENCE.sub("", text)
    indented = [textwrap.dedent(item) for item in re.findall(r"(?:^(?: {4}.*)?\n)+", rest, re.MULTILINE)]
    starts = re.compile(r"\s*[a-z_]+:(?:\s|$)")
    return [block for block in (*fenced, *indented) if starts.match(block)]


YAML = [(page, block) for page in PAGES for block in yaml_blocks(page.read_text())]


@pytest.mark.parametrize(("page", "block"), YAML, ids=[f"{page.name}: {block.split()[0]}" for page, block in YAML])
def test_blocks_of_yaml_are_read_as_they_are_meant(page, block):
    found = yaml.safe_load(block)
    assert found.keys() <= SurveyConfig.model_fields.keys(), f"{page}: {found}"
    assert all(isinstance(step, dict) and len(step) == 1 for step in found.get("steps", ()))


def test_a_block_of_yaml_that_was_wrapped_as_prose_is_found():
    (block,) = yaml_blocks("Text:\n\n    steps:\n      - detector1: {} - image2: {}\n\nmore\n")
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(block)


@pytest.mark.parametrize(("page", "line"), FOUND, ids=[f"{page.name}: {line}" for page, line in FOUND])
def test_every_command_exists_with_its_options(page, line):
    words = shlex.split(line)[1:]
    if words == ["--help"] or words[0] == "--verbose":
        return
    try:
        check(words, whole=not in_a_sentence(page, line))
    except click.ClickException as error:
        pytest.fail(f"{page.name}: {line}: {error.format_message()}")


def test_the_readme_shows_the_commands_of_the_main_line():
    shown = {shlex.split(line)[1] for page, line in FOUND if page.name == "README.md"}
    assert {"simulate", "serve", "plan", "fetch", "run", "status", "explain", "verify", "mosaic"} <= shown


@pytest.mark.parametrize(("page", "line"), FOUND, ids=[f"{page.name}: {line}" for page, line in FOUND])
def test_files_that_commands_name_are_there(page, line):
    named = [word for word in shlex.split(line) if word.startswith(("configs/", "deploy/"))]
    assert [name for name in named if not (ROOT / name).is_file()] == []


# --- which commands run -------------------------------------------------------------------------------------------

# Commands in code blocks that no test runs as they are written, and why.
NOT_RUN = {
    r"--cluster deploy/slurm\.yaml": "needs a Slurm cluster; tests/test_slurm.py runs a real one, with its own file",
    r"survey cluster deploy/slurm\.yaml --workspace": "needs a Slurm cluster, and holds it until it is stopped",
    r"--cluster tls://login1": "needs a host login1; tests/test_tls.py uses certificates on loopback",
    r"--cluster tcp://127\.0\.0\.1:8786": "needs a scheduler at that port; other tests start theirs at free ones",
}
SHOWN = list(dict.fromkeys(line for page, line in FOUND if not in_a_sentence(page, line)))
DRY = [line for line in SHOWN if "--dry-run" in line]


def reason_not_to_run(line: str) -> str:
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, line)), "")


RUN = [line for line in SHOWN if line not in DRY and not reason_not_to_run(line)]
RUN.sort(key=lambda line: "survey simulate" not in line)  # it makes the observatory that others serve


def test_commands_are_run_or_have_a_reason():
    """29 commands are in code blocks: 24 run, and 5 do not, for 4 reasons."""
    left = [line for line in SHOWN if reason_not_to_run(line)]
    assert len(SHOWN) == len(DRY) + len(RUN) + len(left)
    assert [pattern for pattern in NOT_RUN if not any(re.search(pattern, line) for line in left)] == []
    assert len(left) <= 6 < 18 <= len(RUN) + len(DRY)


@pytest.mark.parametrize("line", DRY)
def test_dry_runs_run(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(main, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output
    assert ("memory_gb=" if "cluster" in line else "remove") in done.output


@pytest.fixture(scope="module")
def laid_out(small, finished, tmp_path_factory):
    """A folder as the documentation has it, with the small finished run in place of the demo's and of CEERS'."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "configs" / "scenes").mkdir(parents=True)
    (folder / "runs").mkdir()
    (folder / "bin").mkdir()
    shutil.copytree(small.workspace, folder / "runs" / "egs-demo", symlinks=True)
    shutil.copy(Path(__file__).with_name("whole_scene.yaml"), folder / "configs" / "scenes" / "demo.yaml")
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    config = small.config("readme", folder / "runs" / "egs-demo")
    for name in ("configs/demo.yaml", "configs/ceers.yaml", "ceers.yaml"):
        shutil.copy(config, folder / name)
    command = folder / "bin" / "survey"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m survey.cli "$@"\n')
    command.chmod(0o755)
    return folder


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


@pytest.mark.whole
@pytest.mark.xdist_group("whole")  # one finished run serves all of them
@pytest.mark.parametrize("line", RUN)
def test_a_command_of_the_documentation_runs(laid_out, small, line):
    """As it is written, with exit code 0. `survey init` writes a file that is not there yet."""
    (product,) = (path.name for path in (laid_out / "runs" / "egs-demo" / "mosaics").glob("*f444w*_i2d.fits"))
    words = shlex.split(re.sub(r"jw01345-a3001\S*_i2d\.fits", product, line))
    new = {"init": laid_out / words[-1], "tls": laid_out / "certificates"}.get(words[1])
    kept = new.read_text() if words[1] == "init" else ""
    if new is not None:
        shutil.rmtree(new) if new.is_dir() else new.unlink(missing_ok=True)
    servers = {"SURVEY_ARCHIVE_URL": small.server.url, "SURVEY_CRDS_URL": small.server.crds_url}
    if "serve runs/observatory" in line and not (laid_out / "runs" / "observatory" / "exposures.json").exists():
        # Another process may have run the command that makes it, in a folder of its own.
        subprocess.run(shlex.split(RUN[0]), cwd=laid_out, env=environment(laid_out), check=True, timeout=300)
    done = subprocess.run(
        words, cwd=laid_out, env={**environment(laid_out), **servers}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout[-1000:]}{done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr
    if kept:
        assert new.read_text() != kept
        new.write_text(kept)  # the finished run's, for the commands that follow


@pytest.mark.whole
@pytest.mark.xdist_group("whole")
def test_the_readmes_python_runs_on_a_finished_run(laid_out):
    blocks = [body for page, body in BLOCKS if page.name in ("README.md", "demo.md", "workspace.md")]
    assert len(blocks) > 3
    script = laid_out / "readme.py"
    script.write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=laid_out, capture_output=True, text=True, timeout=300,
        env=environment(laid_out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


# --- links, files, messages, lines --------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        generated = (page.parent / target).resolve().parent == ROOT / "docs" / "reference" / "api"
        if "://" not in target and not generated:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_row_in_contributing_is_a_step():
    """The example of a registry row has the fields that a Step has, and each is accepted."""
    from survey.steps import costs
    from survey.steps.base import Step, Unit

    (block,) = re.findall(r"^ +Step\(\n.*?^ +\)\n", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL)
    step = eval(textwrap.dedent(block), {"Step": Step, "Unit": Unit, "costs": costs})  # our own page
    assert step.chained and step.corrects and step.unit is Unit.EXPOSURE


def test_targets_of_make_exist():
    rules = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:^    |`)make ([a-z]+)", page.read_text(), re.MULTILINE)) <= rules


PLACES = ("", "survey", "tests", "benchmarks", "survey/steps/image3", "survey/planning", "docs")


def test_files_that_pages_name_are_there():
    """Modules and scripts in backquotes and in code blocks, wherever the page counts them from."""
    missing = []
    for page in [page for page in PAGES if page.parent.name != "coming-from"]:  # they name files of other projects
        text = page.read_text()
        named = re.findall(r"`([\w./-]+\.(?:py|yaml|sbatch))`", text)
        named += re.findall(r"^ +python ([\w./-]+\.py)", text, re.MULTILINE)
        named += re.findall(r"`python ([\w./-]+\.py)", text)
        for name in set(named):
            if not any((ROOT / place / name).exists() for place in PLACES):
                missing.append(f"{page.relative_to(ROOT)}: {name}")
    assert missing == []


def literals(source: str) -> list[str]:
    """Every text of a module, pieces of f-strings joined by a blank mark."""
    texts = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            pieces = [piece.value if isinstance(piece, ast.Constant) else "\0" for piece in node.values]
            texts.append("".join(map(str, pieces)))
    return texts


def test_messages_of_the_troubleshooting_page_are_real():
    """Each heading is a part of a message in the code; where words are filled in, the pieces around them match."""
    page = ROOT / "docs" / "guide" / "troubleshooting.md"
    headings = re.findall(r"^### `(.+)`$", page.read_text(), re.MULTILINE)
    assert len(headings) >= 40 and len(set(headings)) == len(headings)
    modules = [path for path in (ROOT / "survey").rglob("*.py") if "simulate" not in path.parts]
    texts = [text for path in modules for text in literals(path.read_text(encoding="utf-8"))]
    example = {"accepts rate, got uncal": " accepts \0, got \0"}
    assert [name for name in headings if not any(example.get(name, name) in text for text in texts)] == []


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_lines_are_short(page):
    """100 characters, but for rows of tables, and for links and names that cannot be wrapped."""
    long = [
        f"{page.name}:{number}"
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if len(line) > MAX_LINE and not line.strip().startswith(("|", "![")) and len(line.strip("-*| ").split()) > 1
    ]
    assert long == []


@pytest.mark.parametrize(("page", "body"), BLOCKS, ids=[f"{page.name}:{n}" for n, (page, _) in enumerate(BLOCKS)])
def test_python_blocks_use_names_that_exist(page, body):
    import survey

    tree = ast.parse(body)
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "survey"
    }
    assert [name for name in used if not hasattr(survey, name)] == []
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    for node in imported:
        if node.module.split(".")[0] == "survey":
            module = __import__(node.module, fromlist=["x"])
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_change_fragments_have_a_type_that_releases_know():
    import tomllib

    types = {
        item["directory"] for item in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]["type"]
    }
    fragments = [path for path in (ROOT / "changes").iterdir() if path.name != "README.md"]
    assert [
        path.name for path in fragments if not re.fullmatch(rf"\+[a-z0-9-]+\.({'|'.join(types)})\.md", path.name)
    ] == []
    assert [path.name for path in fragments if not path.read_text().strip()] == []
    # A release puts '- ' before the first line.
    long = [path.name for path in fragments for line in path.read_text().splitlines() if len(line) > MAX_LINE - 2]
    assert long == []


def test_figures_are_drawn_by_drizzle_itself(tmp_path, monkeypatch):
    """The two figures that need no workspace; their titles hold the counts, which the page repeats."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "figures"))
    import draw

    for made in (draw.draw_corners(tmp_path), draw.draw_outlines(tmp_path)):
        assert made.stat().st_size > 20_000


# --- the references that are made from the code ---------------------------------------------------------------------


@pytest.fixture
def config_keys(monkeypatch):
    pytest.importorskip("sphinx")  # of the extra 'docs'
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_extensions"))
    import config_keys

    return config_keys


def test_a_key_is_shown_with_its_type_limits_unit_default_and_example(config_keys):
    from survey.config.model import SurveyConfig

    mosaic = config_keys.find_model(SurveyConfig, "mosaic")
    keys = {key.name: key for key in config_keys.keys(mosaic, "mosaic.")}
    tile = keys["mosaic.tile"]
    assert (tile.kind, tile.unit, tile.default) == ("whole number, 64 or more", "pixels", "2048")
    assert tile.examples == ("4096",) and "[" not in tile.description
    assert keys["mosaic.crval_deg"].kind == "list of 2 numbers or null"
    assert keys["mosaic.image3"].examples == ("{tweakreg: {expand_refcat: true}}",)


def test_every_section_of_the_config_and_kind_of_deploy_file_has_its_place(config_keys):
    from survey.cluster import deploy
    from survey.config.model import SurveyConfig

    page = (ROOT / "docs" / "reference" / "config.md").read_text()
    sections = {name for name, field in SurveyConfig.model_fields.items() if config_keys.is_section(field)}
    assert sections == {"archive", "pointing", "references", "mosaic", "limits"}
    assert set(re.findall(r"^:section: (\w+)$", page, re.MULTILINE)) == sections
    page = (ROOT / "docs" / "reference" / "deploy-file.md").read_text()
    assert {model.__name__ for model in deploy.KINDS.values()} <= set(re.findall(r"deploy:(\w+)", page))
