"""The command line: help, exit codes, JSON, faults without tracebacks."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from observatory import make_observatory

import survey.cli.main
from survey.cli.main import main
from survey.errors import DiskFullError
from survey.simulate.faults import Fault
from survey.simulate.server import serve

COMMANDS = sorted(main.commands)
CONFIG = """\
survey: small
program: 1345
archive: {server: "%s", timeout_seconds: 8, retries: 0}
references: {server: null, context: jwst_0001.pmap, cache: crds}
workspace: ws
"""


def survey_command(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **environment}
    return subprocess.run(
        [sys.executable, "-m", "survey.cli", *map(str, arguments)], capture_output=True, text=True, cwd=cwd,
        env=variables, timeout=60,
    )  # fmt: skip


def console(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """The entry point in this process: exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["survey", *map(str, arguments)])
    monkeypatch.setattr(survey.cli.main.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as raised:
        survey.cli.main.console()
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return int(raised.value.code or 0), out, err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a config whose archive nobody serves; commands run in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CONFIG % "http://127.0.0.1:9")
    return tmp_path


@pytest.fixture
def archive(folder):
    make_observatory(folder / "observatory", observations=(1,), exposures=1)
    with serve(folder / "observatory") as server:
        (folder / "c.yaml").write_text(CONFIG % server.url)
        yield server


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    done = CliRunner().invoke(main, [command, "--help"])
    assert done.exit_code == 0
    assert f"Example: survey {command} " in " ".join(done.output.split())


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("simulate", "serve", "tls")])
def test_every_command_on_a_config_takes_workspace_and_json(command):
    options = {option for item in main.commands[command].params for option in item.opts}
    assert {"--workspace", "--json"} <= options
    assert isinstance(main.commands[command].params[0], click.Argument)


def test_the_interface_is_whole():
    assert set(COMMANDS) == {
        "init", "simulate", "serve", "fetch", "refs", "plan", "run", "mosaic", "status", "explain", "verify", "tls",
        "cluster", "tidy",
    }  # fmt: skip
    assert "Example:" in CliRunner().invoke(main, ["--help"]).output


def test_help_imports_nothing_slow():
    code = (
        "import sys; sys.argv = ['survey', '--help']\n"
        "import atexit; from survey.cli.main import console\n"
        "slow = set('jwst crds astroquery astropy dask distributed pydantic xarray numpy zarr'.split())\n"
        "atexit.register(lambda: print('slow:', sorted(slow & set(sys.modules))))\n"
        "console()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "slow: []"


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], ["run"], ["run", "c.yaml", "--nothing"], ["run", "none.yaml"], ["serve", "x", "--port", "99999"],
     ["explain", "c.yaml"], ["mosaic", "c.yaml"], ["mosaic", "c.yaml", "--asn", "none.json"], ["serve", "none"],
     ["run", "c.yaml", "--until", "imge2"], ["explain", "c.yaml", "none.fits"],
     ["simulate", "x", "--scene", "none.yaml"]],
)  # fmt: skip
def test_wrong_usage_is_2(folder, monkeypatch, capsys, arguments):
    code, out, err = console(monkeypatch, capsys, *arguments)
    assert code == 2
    assert err.strip()
    assert out == ""


@pytest.mark.parametrize("command", [["run"], ["plan"], ["fetch"], ["status"], ["verify"], ["refs"]])
def test_a_bad_config_names_every_fault(folder, monkeypatch, capsys, command):
    bad = (CONFIG % "mast").replace("workspace: ws", "fliters: [F200W]\nsteps: 4")
    (folder / "bad.yaml").write_text(bad)
    code, out, err = console(monkeypatch, capsys, *command, "bad.yaml", "--json")
    assert (code, out) == (2, "")
    for words in ("archive.server", "did you mean 'filters'", "steps", "workspace: is required"):
        assert words in err
    assert not (folder / "ws").exists()


def test_wrong_steps_and_parameters_are_named_before_anything_starts(folder, monkeypatch, capsys):
    bad = (CONFIG % "http://127.0.0.1:9").replace("jwst_0001.pmap", "latest")
    bad += "steps: [image2, {detector1: {jmp: {}}}]\nmosaic: {image3: {resample: {single: true}}}\n"
    (folder / "bad.yaml").write_text(bad)
    code, _, err = console(monkeypatch, capsys, "run", "bad.yaml", "--until", "drizle")
    assert code == 2
    for words in ("accepts rate, got uncal", "did you mean 'jump'", "single", "latest", "--until drizle"):
        assert words in err
    assert not (folder / "ws").exists()


@pytest.mark.parametrize("command", ["run", "fetch", "plan"])
def test_no_archive_is_3(folder, monkeypatch, capsys, command):
    code, out, err = console(monkeypatch, capsys, command, "c.yaml", "--json")
    assert (code, out) == (3, "")
    assert "127.0.0.1:9" in err


def test_json_is_one_document_on_standard_output(archive, monkeypatch, capsys):
    code, out, _ = console(monkeypatch, capsys, "fetch", "c.yaml", "--json")
    assert code == 0
    assert json.loads(out)["exposures"] == 3
    for command in ("plan", "status", "verify"):
        code, out, _ = console(monkeypatch, capsys, command, "c.yaml", "--json")
        assert code == 0
        assert isinstance(json.loads(out), dict)
    code, out, _ = console(monkeypatch, capsys, "plan", "c.yaml")
    assert code == 0
    assert "3 exposures (3 fetched" in out


def test_a_fault_of_a_deploy_file_names_that_file_alone(folder, monkeypatch, capsys):
    (folder / "d.yaml").write_text("kind: lokal\n")
    code, _, err = console(monkeypatch, capsys, "run", "c.yaml", "--cluster", "d.yaml")
    assert code == 2
    assert err.startswith("d.yaml:1: kind: 'lokal' is not a kind; did you mean 'local'?")


@pytest.fixture
def held(folder, monkeypatch, capsys):
    """Raw files that were fetched from an archive that is away now."""
    make_observatory(folder / "observatory", observations=(1,), exposures=1)
    with serve(folder / "observatory") as server:
        (folder / "c.yaml").write_text(CONFIG % server.url)
        assert console(monkeypatch, capsys, "fetch", "c.yaml")[0] == 0
    (folder / "c.yaml").write_text(CONFIG % "http://127.0.0.1:9")
    return folder


def test_held_raw_files_are_planned_when_the_archive_is_away(held, monkeypatch, capsys):
    code, out, err = console(monkeypatch, capsys, "plan", "c.yaml", "--json")
    assert code == 0
    document = json.loads(out)
    assert [item["fetched"] for item in document["exposures"]] == [True] * 3
    assert document["exposures_from"] == "workspace"
    assert "127.0.0.1:9: cannot be reached" in err
    assert "Going on without the archive, with the 3 exposures in ws/raw" in err


@pytest.mark.parametrize("command", ["plan", "status"])
def test_offline_asks_no_server(held, monkeypatch, capsys, command):
    code, out, err = console(monkeypatch, capsys, command, "c.yaml", "--offline", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["table"]["detector1"] == {"F200W": {"to run": 2}, "F444W": {"to run": 1}}


def test_offline_without_raw_files_says_what_to_do(folder, monkeypatch, capsys):
    code, out, err = console(monkeypatch, capsys, "plan", "c.yaml", "--offline")
    assert (code, out) == (1, "")
    assert "ws/raw: no verified raw files of this config. Run 'survey fetch'" in err
    for command in (["plan", "c.yaml", "--offline", "--context", "jwst_0002.pmap"], ["refs", "c.yaml"]):
        assert console(monkeypatch, capsys, *command)[2] == err


def test_an_archive_that_refuses_is_3_though_raw_files_are_held(held, monkeypatch, capsys):
    with serve(held / "observatory", faults=[Fault(kind="error", match="invoke", status=403)]) as server:
        (held / "c.yaml").write_text(CONFIG % server.url)
        assert console(monkeypatch, capsys, "plan", "c.yaml")[0] == 3
    assert console(monkeypatch, capsys, "plan", "c.yaml", "--offline")[0] == 0


def test_another_context_is_looked_up_in_the_cache_when_offline(held, monkeypatch, capsys):
    """The CRDS server of the config would not answer either: what the cache lacks is named."""
    server_of_crds = (CONFIG % "http://127.0.0.1:9").replace("server: null", "server: 'http://127.0.0.1:9/crds'")
    (held / "c.yaml").write_text(server_of_crds)
    code, _, err = console(monkeypatch, capsys, "plan", "c.yaml", "--offline", "--context", "jwst_0002.pmap")
    assert code == 1
    assert "jwst_0002.pmap" in err and "127.0.0.1:9" not in err


def test_workspace_overrides_the_configs(archive, folder, monkeypatch, capsys):
    code, _, _ = console(monkeypatch, capsys, "fetch", "c.yaml", "--workspace", "other")
    assert code == 0
    assert len(list((folder / "other" / "raw").glob("*_uncal.fits"))) == 3
    assert not (folder / "ws").exists()


def test_a_file_that_cannot_be_had_is_1_and_named(archive, folder, monkeypatch, capsys):
    console(monkeypatch, capsys, "fetch", "c.yaml")
    victim = sorted((folder / "ws" / "raw").glob("*_nrcb1_uncal.fits"))[0]
    victim.write_bytes(victim.read_bytes()[:-2880] + bytes(2880))
    code, out, err = console(monkeypatch, capsys, "verify", "c.yaml", "--json")
    assert code == 1
    assert list(json.loads(out)["faults"]) == [f"raw/{victim.name}"]
    assert victim.name.removesuffix("_uncal.fits") in err
    victim.unlink()
    with serve(folder / "observatory", faults=[Fault(kind="error", match=victim.name, status=404)]) as server:
        (folder / "c.yaml").write_text(CONFIG % server.url)
        code, _, err = console(monkeypatch, capsys, "fetch", "c.yaml")
    assert code == 1
    assert victim.name.removesuffix("_uncal.fits") in err


def test_refs_before_fetch_says_what_to_do(folder, monkeypatch, capsys):
    code, _, err = console(monkeypatch, capsys, "refs", "c.yaml")
    assert code == 1
    assert "ws/raw: no verified raw files of this config. Run 'survey fetch'" in err


def test_a_busy_workspace_is_4_and_names_the_holder(archive, folder):
    from survey.workspace.folders import Workspace

    with Workspace(folder / "ws").lock():
        done = survey_command("fetch", "c.yaml", cwd=folder)
    assert done.returncode == 4
    assert f"process {os.getpid()} on" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DiskFullError("/ws: full"), "/ws: full"),
        (OSError(errno.ENOSPC, "No space left on device", "/ws/raw"), "/ws/raw: No space left on device; make room"),
        (OSError("Not enough space on disk: requested 9"), "workspace: Not enough space on disk: requested 9; make"),
    ],
)
def test_a_full_disk_is_5(folder, monkeypatch, capsys, error, words):
    import survey.reduction.inputs

    def full(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(survey.reduction.inputs, "fetch", full)
    code, _, err = console(monkeypatch, capsys, "fetch", "c.yaml")
    assert code == 5
    assert words in err


def test_an_interrupt_is_130(folder, monkeypatch, capsys):
    import survey.reduction.inputs

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(survey.reduction.inputs, "fetch", interrupted)
    code, _, err = console(monkeypatch, capsys, "fetch", "c.yaml")
    assert code == 130
    assert "run again to continue" in err


def test_a_workspace_that_cannot_be_made_is_said_in_a_line(folder, monkeypatch, capsys):
    (folder / "file").write_text("")
    code, out, err = console(monkeypatch, capsys, "fetch", "c.yaml", "--workspace", "file/ws")
    assert (code, out) == (2, "")
    assert "file" in err
    assert len(err.strip().splitlines()) == 1


def test_serve_with_a_command_ends_with_its_code(folder):
    make_observatory(folder / "observatory", observations=(1,), exposures=1)
    code = "import os, sys; print(os.environ['SURVEY_ARCHIVE_URL'], os.environ['SURVEY_CRDS_URL']); sys.exit(7)"
    done = survey_command("serve", "observatory", "--", sys.executable, "-c", code, cwd=folder)
    assert done.returncode == 7
    urls = json.loads(done.stdout.splitlines()[0])
    assert done.stdout.splitlines()[1] == f"{urls['archive']} {urls['crds']}"
    done = survey_command("serve", "observatory", "--", "no-such-command-anywhere", cwd=folder)
    assert done.returncode == 2


def test_the_token_is_never_printed(monkeypatch, capsys):
    monkeypatch.setenv("MAST_API_TOKEN", "secret-token")
    survey.cli.main.say("refused secret-token here")
    assert capsys.readouterr().err == "refused *** here\n"
