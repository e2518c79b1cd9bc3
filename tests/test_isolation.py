"""Processes that survey starts: no variable, setting or module of the user's reaches them unseen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from survey.errors import TaskError
from survey.execution.children import ChildServer
from survey.isolation import FIXED, NETWORK, PACKAGE, clean_environment, in_effect, isolated, machine

TESTS = Path(__file__).parent
ENVIRONMENT = {"SURVEY_PRELOAD": "", "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
# Each of them changes what the pipeline, or a library below it, does.
HARMFUL = {
    "STPIPE_DISABLE_CRDS_STEPPARS": "true",
    "STRICT_VALIDATION": "1",
    "PASS_INVALID_VALUES": "1",
    "SKIP_FITS_UPDATE": "1",
    "ASTROMETRIC_CATALOG_URL": "http://127.0.0.1:9",
    "ENG_BASE_URL": "http://127.0.0.1:9",
    "SOURCE_DATE_EPOCH": "0",
    "CRDS_INI_FILE": "/elsewhere.ini",
    "ASTROPY_CONFIG_DIR": "/elsewhere",
    "XDG_CONFIG_HOME": "/elsewhere",
    "NPY_PROMOTION_STATE": "legacy",
    "OMP_NUM_THREADS": "7",
    "LC_NUMERIC": "de_DE.UTF-8",
    "LANG": "de_DE.UTF-8",
    "PYTHONOPTIMIZE": "2",
    "PYTHONWARNINGS": "error",
    "PYTHONSTARTUP": "/elsewhere.py",
    "JUPYTERHUB_SERVICE_PREFIX": "/user/x/",
    "http_proxy": "http://127.0.0.1:9",
}


def seen_by_a_child(tmp_path, environment=ENVIRONMENT):
    server = ChildServer(environment)
    try:
        server.run("child_jobs:write_environment", tmp_path, tmp_path / "log", 20.0)
    finally:
        server.close()
    return dict(line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines() if "=" in line)


def test_a_child_gets_none_of_the_users_variables(monkeypatch, tmp_path):
    for name, value in HARMFUL.items():
        monkeypatch.setenv(name, value)
    seen = seen_by_a_child(tmp_path)
    assert HARMFUL.keys() & seen.keys() == set()
    assert {name: seen[name] for name in FIXED} == FIXED
    assert seen["PATH"] == os.environ["PATH"]


def test_what_survey_itself_sets_for_tasks_reaches_them(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert seen_by_a_child(tmp_path, {**ENVIRONMENT, "OMP_NUM_THREADS": "1"})["OMP_NUM_THREADS"] == "1"


def test_a_child_has_an_empty_home_of_its_own_that_goes_with_its_server(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".astropy" / "config").mkdir(parents=True)
    server = ChildServer(ENVIRONMENT)
    try:
        server.run("child_jobs:write_home", tmp_path, tmp_path / "log", 20.0)
    finally:
        server.close()
    home, folder, content = (tmp_path / "home").read_text().splitlines()
    assert home == folder != str(tmp_path) and content == "[]"
    assert not Path(home).exists()


def test_modules_in_the_current_folder_are_not_imported(monkeypatch, tmp_path):
    """A user's own script may have a library's name; an empty or relative folder of PYTHONPATH is the current one."""
    for name in ("json", "contextlib", "astropy", "numpy", "stat"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the module of the current folder')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", str(TESTS), str(TESTS.parent)]))
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    assert seen_by_a_child(tmp_path, environment)["PYTHONPATH"] == os.pathsep.join([str(TESTS), str(TESTS.parent)])


def test_a_server_that_ends_at_import_shows_its_last_words(tmp_path):
    (tmp_path / "broken_package.py").write_text("raise ImportError('libfoo.so.3: cannot open shared object file')\n")
    path = os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    server = ChildServer({"SURVEY_PRELOAD": "broken_package", "PYTHONPATH": path})
    try:
        with pytest.raises(TaskError, match=r"has ended[\s\S]*ImportError: libfoo.so.3: cannot open shared") as raised:
            server.run("child_jobs:write_environment", tmp_path, tmp_path / "log", 20.0)
    finally:
        server.close()
    assert raised.value.retry == "again"


def test_processes_that_ask_a_server_keep_proxies_and_certificates():
    given = {"HTTPS_PROXY": "http://proxy:3128", "SSL_CERT_FILE": "/etc/ca.pem", "LANG": "C"}
    assert (
        isolated(given, keep=NETWORK).items()
        >= {"HTTPS_PROXY": "http://proxy:3128", "SSL_CERT_FILE": "/etc/ca.pem"}.items()
    )
    assert isolated(given).keys() & {"HTTPS_PROXY", "SSL_CERT_FILE", "LANG"} == set()


def test_packages_below_the_users_home_are_still_found(tmp_path):
    """`pip install --user` puts them below the home folder, which a child has not."""
    given = isolated({**os.environ, "PYTHONUSERBASE": str(tmp_path)})
    code = "import site; print(site.getuserbase())"
    shown = subprocess.run([sys.executable, "-c", code], env={**given, "HOME": "/"}, capture_output=True, text=True)
    assert shown.stdout.strip() == str(tmp_path)


def test_the_package_itself_is_found_wherever_it_lies():
    assert isolated({})["PYTHONPATH"] == str(PACKAGE)
    assert isolated({"PYTHONPATH": "/a"})["PYTHONPATH"] == os.pathsep.join(["/a", str(PACKAGE)])


def test_what_may_change_last_bits_is_kept_and_named():
    given = {"OPENBLAS_CORETYPE": "Haswell", "LD_PRELOAD": "/lib/libjemalloc.so", "HOME": "/home/x"}
    kept = isolated(given)
    assert in_effect(kept).items() >= {"OPENBLAS_CORETYPE": "Haswell", "LD_PRELOAD": "/lib/libjemalloc.so"}.items()
    assert "HOME" not in in_effect(given)


def test_a_machine_names_its_processor_and_libraries():
    found = machine()
    assert found["processor"] and "blas" in found["libraries"].lower()
    assert found["vector units"].split()


# Names of packages that the command and its workers import, and of modules of Python itself.
TRAPS = ("astropy", "click", "crds", "dask", "distributed", "jwst", "numpy", "pydantic", "random", "requests", "rich",
         "scipy", "socket", "tempfile", "tornado", "xarray", "yaml", "zarr")  # fmt: skip


@pytest.fixture
def trapped(tmp_path):
    """A folder whose files have the names of packages, and raise when they are imported."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    for name in TRAPS:
        (folder / f"{name}.py").write_text("raise RuntimeError('the module of the current folder')\n")
    return folder


@pytest.mark.parametrize("path", [None, "", ":", "."])
def test_the_command_imports_nothing_from_the_current_folder(trapped, path):
    """Also where PYTHONPATH has an empty item, as `export PYTHONPATH=$PYTHONPATH:/somewhere` leaves one."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {} if path is None else {"PYTHONPATH": f"{PACKAGE}:{path}"}
    (trapped / "config.yaml").write_bytes((PACKAGE / "configs" / "demo.yaml").read_bytes())
    command = [sys.executable, "-m", "survey.cli", "status", "config.yaml", "--workspace", "ws"]
    servers = {"SURVEY_ARCHIVE_URL": "http://127.0.0.1:9", "SURVEY_CRDS_URL": "http://127.0.0.1:9"}
    shown = subprocess.run(command, env={**environment, **servers}, cwd=trapped, capture_output=True, text=True)
    assert "Traceback" not in shown.stderr and "current folder" not in shown.stderr, shown.stderr
    assert "ws: no such workspace" in shown.stderr or shown.returncode == 0


START = """
import json, os
from survey.cluster.connect import connect
def seen():
    import random, sys, yaml
    return [sys.path, os.getcwd()]
if __name__ == "__main__":
    with connect("local", 100.0, 100.0) as client:
        print(json.dumps(client.submit(seen).result()))
    print(os.environ.get("PYTHONWARNINGS"), os.environ.get("PYTHONSAFEPATH"))
"""


def test_local_workers_import_nothing_from_the_current_folder(trapped):
    """multiprocessing starts them by ``python -c``, which looks there first."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "PYTHONWARNINGS": "error::UserWarning"}
    (trapped.parent / "program.py").write_text(START)
    command = [sys.executable, str(trapped.parent / "program.py")]
    shown = subprocess.run(command, env=environment, cwd=trapped, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    found, after = shown.stdout.splitlines()
    path, folder = json.loads(found)
    assert folder == str(trapped) and folder not in path and "" not in path
    assert after == "error::UserWarning None"  # as the caller had it


def test_the_environment_comes_back(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "/a", "."]))
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", "x")
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    before = dict(os.environ)
    with clean_environment():
        assert os.environ["PYTHONPATH"] == "/a" and os.environ["PYTHONSAFEPATH"] == "1"
        assert os.environ.keys() & {"DASK_DISTRIBUTED__WORKER__PRELOAD", "PYTHONOPTIMIZE"} == set()
    assert dict(os.environ) == before


def test_warnings_are_no_errors_for_the_command(tmp_path):
    code = (
        "from survey.isolation import leave_out_current_folder; leave_out_current_folder(); import warnings, sys; "
        "warnings.warn('x'); print(sys.warnoptions)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "PYTHONWARNINGS": "error"}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert (shown.returncode, shown.stdout.strip()) == (0, "[]"), shown.stderr


def test_a_folder_that_pythonpath_names_in_full_is_kept(tmp_path):
    (tmp_path / "my_steps.py").write_text("")
    code = "from survey.isolation import leave_out_current_folder; leave_out_current_folder(); import my_steps"
    environment = {**os.environ, "PYTHONPATH": f"{PACKAGE}:{tmp_path}"}
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, env=environment, capture_output=True, cwd=tmp_path).returncode == 0
    environment["PYTHONPATH"] = str(PACKAGE)
    assert subprocess.run(command, env=environment, capture_output=True, cwd=tmp_path).returncode == 1


def test_a_module_that_runs_at_start_is_recorded(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("")
    code = "from survey.isolation import machine; print(machine().get('start-up modules'))"
    environment = {**os.environ, "PYTHONPATH": f"{PACKAGE}:{tmp_path}"}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert shown.stdout.strip() == str(tmp_path / "sitecustomize.py"), shown.stderr


def test_the_command_keeps_docstrings():
    """pyvo, which astroquery imports, edits its own, and cannot be imported with PYTHONOPTIMIZE=2."""
    code = (
        "import survey.cli.main; survey.cli.main.console = lambda: print(__import__('sys').flags.optimize); "
        "from survey.cli.__main__ import console; console()"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "PYTHONOPTIMIZE": "2"}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert shown.stdout.strip() == "0", shown.stderr


@pytest.mark.parametrize("file", ["kubernetes.yaml", "kubernetes-plain.yaml", "slurm.yaml", "pbs.yaml"])
def test_jobs_and_pods_import_nothing_from_the_current_folder(file):
    from survey.cluster.preview import preview

    workers = [text for name, text in preview(PACKAGE / "deploy" / file, "ws").items() if "--nthreads" in text]
    assert workers and all("PYTHONSAFEPATH" in text for text in workers)


def test_a_processor_without_further_vector_units(monkeypatch):
    """numpy leaves the key out then, as on an old processor or with all units in NPY_DISABLE_CPU_FEATURES."""
    import numpy

    monkeypatch.setattr(numpy, "show_config", lambda mode: {"SIMD Extensions": {"baseline": ["X86_V2"]}})
    assert machine.__wrapped__()["vector units"] == "X86_V2"
