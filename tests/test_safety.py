"""What no line of this project does: shells, pickles, evaluated text, YAML that makes objects, guessable files."""

from __future__ import annotations

import ast
import os
import re
import stat
from pathlib import Path

import psutil
import pytest
from observatory import make_observatory

from survey.cli.main import emit, say
from survey.config.model import read_config
from survey.config.yaml_file import MAX_BYTES
from survey.errors import ConfigError
from survey.mosaics.association_files import MAX_FILE_BYTES, read_association
from survey.references.cache import Cache
from survey.simulate.faults import load_faults
from survey.simulate.scene import load_scene
from survey.simulate.server import serve
from survey.workspace.records import MAX_RECORD_BYTES, read_record

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "survey").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "docs").glob("*.py")])
# Names of functions, as they are called, that hand text to a shell, an interpreter or an unpickler.
FORBIDDEN = frozenset(
    "eval exec compile os.system os.popen os.spawnl pty.spawn subprocess.getoutput subprocess.getstatusoutput "
    "pickle.load pickle.loads cloudpickle.load cloudpickle.loads marshal.loads yaml.unsafe_load yaml.full_load "
    "tempfile.mktemp os.umask os.tempnam".split()
)
MODULES = frozenset({"pickle", "marshal", "shelve", "dill", "joblib", "telnetlib", "xmlrpc"})


def faults_of(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [item.name for item in node.names]
            found += [name for name in names if name.split(".")[0] in MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in FORBIDDEN or (
            name == "yaml.load" and not re.search(r"Loader=_(Strict|Plain)Loader\b", ast.unparse(node))
        ):
            found.append(name)
        for keyword in node.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if (keyword.arg in ("shell", "allow_pickle") and value is not False) or (
                keyword.arg == "mode" and isinstance(value, int) and value & 0o022 and name != "os.open"
            ):
                found.append(f"{name}({keyword.arg}=...)")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_no_line_hands_foreign_words_to_an_interpreter(path):
    assert faults_of(path.read_text()) == []


def test_the_reader_finds_what_it_looks_for():
    lines = ["import pickle", "from marshal import loads", "os.system('x')", "run('x', shell=True)", "eval('1')",
             "yaml.load(text)", "yaml.load(text, Loader=yaml.Loader)", "np.load(path, allow_pickle=True)",
             "tempfile.mktemp()", "folder.chmod(mode=0o777)"]  # fmt: skip
    assert [len(faults_of(line)) for line in lines] == [1] * len(lines)
    assert faults_of("subprocess.run(['x'], shell=False)\nyaml.load(text, Loader=_StrictLoader)") == []


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch made']", "!!python/name:os.system", "!x y"])
@pytest.mark.parametrize("load", [read_config, load_faults, load_scene])
def test_yaml_makes_no_objects(tmp_path, monkeypatch, tag, load):
    monkeypatch.chdir(tmp_path)
    Path("evil.yaml").write_text(f"survey: {tag}\n")
    with pytest.raises(ConfigError):
        load(Path("evil.yaml"))
    assert os.listdir() == ["evil.yaml"]


def test_files_from_outside_are_bounded(tmp_path):
    path = tmp_path / "big.json"
    for size, read, error in (
        (MAX_BYTES, read_config, ConfigError),
        (MAX_FILE_BYTES, read_association, ConfigError),
        (MAX_RECORD_BYTES, read_record, ValueError),
    ):
        with path.open("wb") as stream:
            stream.truncate(size + 1)  # sparse
        with pytest.raises(error, match=str(size)):
            read(path)
    path.write_text("[" * 20_000)
    for read, error in ((read_association, ConfigError), (read_record, ValueError), (read_config, ConfigError)):
        with pytest.raises(error):
            read(path)


def test_the_umask_is_heeded(tmp_path):
    """Also where several users share a cache: who wants that sets a umask."""
    before = os.umask(0o027)
    try:
        with Cache(tmp_path / "cache").locked(1.0):
            pass
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "cache", *(tmp_path / "cache").iterdir())]
    assert len(modes) >= 2 and not any(mode & 0o027 for mode in modes)


def test_the_simulated_archive_listens_on_loopback_alone(tmp_path):
    make_observatory(tmp_path, observations=(1,), exposures=1)
    with serve(tmp_path) as server:
        port = int(server.url.rpartition(":")[2])
        ears = [ear.laddr for ear in psutil.Process().net_connections("inet") if ear.status == psutil.CONN_LISTEN]
    assert [ear.ip for ear in ears if ear.port == port] == ["127.0.0.1"]


def test_foreign_words_do_not_steer_the_terminal(capsys):
    say("HTTP 500 \x1b]0;owned\x07 \x1b[2J\r\x9bH good \u202egnp.exe\ttab\nline \u00e9\u2192")
    emit({}, False, lambda: "\x1b[31mred")
    out, err = capsys.readouterr()
    assert err == "HTTP 500 ?]0;owned? ?[2J??H good ?gnp.exe\ttab\nline \u00e9\u2192\n"
    assert out == "?[31mred\n"
