"""Settings of dask that a user made for other work: none ends a run in a traceback, and few have an effect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import dask
import pytest
import yaml
from click.testing import CliRunner

from survey.cli.main import main
from survey.cluster import tls
from survey.cluster.addresses import cluster_faults
from survey.cluster.connect import connect
from survey.cluster.dask_settings import (
    ENCRYPTION,
    FOLDER,
    LINK,
    ON_HOSTS,
    applied,
    as_variables,
    dashboard_link,
    users,
)
from survey.cluster.preview import preview
from survey.errors import ConfigError
from survey.reduction.load import config_faults
from survey.reduction.options import RunOptions
from survey.user_files import setting_faults, where_set

ROOT = Path(__file__).parent.parent
# Start a local cluster, run a task, and print what the worker sees.
PROGRAM = """
import json, sys
from survey.cluster.dask_settings import load_dask
from survey.errors import SurveyError

def seen():
    import dask, os
    return {"environment": dict(os.environ), "memory": dask.config.get("distributed.worker.memory"),
            "preload": dask.config.get("distributed.worker.preload"), "path": __import__("sys").path}

try:
    load_dask()
    from survey.cluster.connect import connect, dashboard
    with connect("local", 4.0, 8.0) as client:
        worker = client.submit(seen).result()
        print(json.dumps({"address": client.scheduler.address, "dashboard": dashboard(client), **worker}))
except SurveyError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def started(tmp_path, settings, **variables):
    """Exit code and output of `PROGRAM`, with settings in the home folder."""
    home = tmp_path / "home"
    (home / ".config" / "dask").mkdir(parents=True, exist_ok=True)
    text = settings if isinstance(settings, str) else yaml.safe_dump(settings)
    (home / ".config" / "dask" / "mine.yaml").write_text(text)
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=110, env=environment, cwd=tmp_path
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.returncode, done.stdout


# Each of them ended the start of a local cluster, or changed how it works.
NASTY = {
    "temporary-directory": None,
    "scheduler": "threads",
    "distributed": {
        "dashboard": {"link": "{JUPYTERHUB_SERVICE_PREFIX}proxy/{port}/status"},
        "scheduler": {
            "preload": ["a_module_that_is_missing"],
            "allowed-failures": 0,
            "worker-ttl": "1 ms",
            "idle-timeout": "1 ms",
            "no-workers-timeout": "1 ms",
            "blocked-handlers": ["identity"],
            "http": {"routes": ["a_module_that_is_missing"]},
            "dashboard": {"tls": {"cert": "/missing.pem", "key": "/missing.pem", "ca-file": "/missing.pem"}},
        },
        "worker": {
            "preload": ["a_module_that_is_missing"],
            "resources": {"GPU": "two"},
            "memory": {"target": 0.0001, "spill": 0.0001, "pause": 0.0001, "terminate": 0.0001},
            "lifetime": {"duration": "1 ms"},
            "multiprocessing-method": "teleport",
            "http": {"routes": ["a_module_that_is_missing"]},
        },
        "nanny": {
            "preload": ["a_module_that_is_missing"],
            "environ": ["A=1"],
            "pre-spawn-environ": {"PYTHONPATH": ".", "PYTHONWARNINGS": "error"},
        },
        "client": {"preload": ["a_module_that_is_missing"], "heartbeat": "never"},
        "comm": {
            "tls": {"ca-file": "/missing.pem", "client": {"cert": "/missing.pem"}, "ciphers": 5, "min-version": 7},
            "default-scheme": "inproc",
            "timeouts": {"connect": "1 ns"},
            "retry": {"count": "many"},
        },
        "admin": {"event-loop": "uvloop_that_is_missing", "tick": {"interval": "-1 s"}},
    },
    "jobqueue": {"slurm": {"walltime": "soon", "job-extra": "x"}},
    "kubernetes": {"name": 5},
    "dataframe": {"backend": "cudf"},
    "array": {"backend": "cupy"},
}


def test_no_setting_of_the_users_reaches_a_local_cluster(tmp_path):
    status, said = started(
        tmp_path,
        NASTY,
        DASK_DISTRIBUTED__WORKER__VALIDATE="perhaps",
        DASK_SCHEDULER_ADDRESS="tcp://127.0.0.1:9",
        PYTHONWARNINGS="error",
    )
    assert status == 0, said
    found = json.loads(said)
    assert found["dashboard"].startswith("http://127.0.0.1:") and found["dashboard"].endswith("/status")
    assert found["address"].startswith("tcp://127.0.0.1:")
    assert {found["memory"][name] for name in ("target", "spill", "pause", "terminate")} == {False}
    assert found["preload"] == []
    assert found["environment"]["PYTHONSAFEPATH"] == "1"
    assert found["environment"].keys() & {"PYTHONWARNINGS", "DASK_SCHEDULER_ADDRESS"} == set()


@pytest.mark.slow
def test_encryption_that_the_users_settings_ask_for_is_used(tmp_path):
    tls.make(tmp_path / "tls")
    found = {"ca-file": f"{tmp_path}/tls/{tls.AUTHORITY}"}
    for role in tls.ROLES:
        found[role] = dict(
            zip(("cert", "key"), (f"{tmp_path}/tls/{name}" for name in tls.file_names(role)), strict=True)
        )
    status, said = started(tmp_path, {"distributed": {"comm": {"require-encryption": True, "tls": found}}})
    assert status == 0, said
    assert json.loads(said)["address"].startswith("tls://127.0.0.1:")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("distributed:\n  dashboard: [\n", "mine.yaml: dask cannot use these settings: not YAML"),
        ({"distributed": {"logging": {"version": 1, "handlers": {"f": {"class": "missing"}}}}}, "with its settings"),
        ({"distributed": {"comm": {"offload": "much"}}}, "with its settings"),
        ({"temporary-directory": "/dev/null/x"}, "dask's setting temporary-directory in "),
        ({"distributed": {"comm": {"require-encryption": True}}}, "distributed.comm.tls.ca-file: no file is named"),
        (
            {"distributed": {"comm": {"default-scheme": "tls", "tls": {"ca-file": "/missing.pem"}}}},
            "distributed.comm.tls.ca-file in ",
        ),
    ],
)
@pytest.mark.slow
def test_settings_that_cannot_be_used_are_named_with_their_file(tmp_path, settings, said):
    status, printed = started(tmp_path, settings)
    assert (status, said in printed) == (2, True), printed
    assert "mine.yaml" in printed


@pytest.mark.slow
def test_a_temporary_directory_is_used(tmp_path):
    status, said = started(tmp_path, {"temporary-directory": str(tmp_path / "scratch")})
    assert status == 0
    assert any(folder.startswith(str(tmp_path / "scratch")) for folder in json.loads(said)["path"])


@pytest.mark.parametrize(
    ("variable", "name", "package"),
    [("ZARR_CONFIG", "mine.yaml", "zarr"), ("ASTROPY_CONFIG_DIR", "astropy.cfg", "astropy"),
     ("XDG_CONFIG_HOME", "astropy/astroquery.cfg", "astropy")],
)  # fmt: skip
def test_damaged_files_of_other_packages_are_named(tmp_path, variable, name, package):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("[oops\nx=[\n")
    (fault,) = setting_faults({variable: str(tmp_path)})
    assert fault.startswith(f"{path}: {package} cannot use these settings: ")
    path.write_text("[mast]\nserver = x\n" if package == "astropy" else "array: {order: C}\n")
    assert setting_faults({variable: str(tmp_path)}) == []


@pytest.mark.parametrize("command", ["plan", "status", "run", "explain", "verify"])
def test_every_command_names_the_file(tmp_path, monkeypatch, command):
    """xarray imports dask, too: without this a plan or status ended in a traceback."""
    (tmp_path / "broken.yaml").write_text("a: [\n")
    (tmp_path / "config.yaml").write_text((ROOT / "configs" / "demo.yaml").read_text())
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path))
    for name in ("SURVEY_ARCHIVE_URL", "SURVEY_CRDS_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    arguments = [command, str(tmp_path / "config.yaml"), *(["x"] if command == "explain" else [])]
    done = CliRunner().invoke(main, arguments)
    assert isinstance(done.exception, ConfigError)
    assert f"{tmp_path}/broken.yaml: dask cannot use these settings" in str(done.exception)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "expected names and values, found a list"),
        ("distributed: 5\n", "distributed: expected names and values, found '5'"),
        ("jobqueue: [slurm]\n", "jobqueue: expected names and values"),
        ("\x00", "not YAML"),
        ("a: !!python/object:os.system {}\n", "not YAML"),
    ],
)
def test_files_that_dask_cannot_use(tmp_path, text, said):
    (tmp_path / "mine.yaml").write_text(text)
    (fault,) = setting_faults({"DASK_CONFIG": str(tmp_path)})
    assert fault.startswith(f"{tmp_path}/mine.yaml: dask cannot use these settings: {said}")


def test_files_that_dask_skips_are_no_fault(tmp_path):
    (tmp_path / "notes.txt").write_text("a: [\n")
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "unreadable.yaml").mkdir()
    assert setting_faults({"DASK_CONFIG": str(tmp_path)}) == []
    assert setting_faults({"DASK_CONFIG": str(tmp_path / "missing")}) == []
    assert "DASK_DISTRIBUTED: dask cannot use" in setting_faults({"DASK_DISTRIBUTED": "5"})[0]


def test_a_setting_is_found_in_its_file_or_variable(tmp_path):
    (tmp_path / "a.yaml").write_text("temporary_directory: /x\ndistributed: {dashboard: {link: y}}\n")
    environment = {"DASK_CONFIG": str(tmp_path)}
    assert where_set(FOLDER, environment) == str(tmp_path / "a.yaml")
    assert where_set(LINK, environment) == str(tmp_path / "a.yaml")
    assert where_set(ENCRYPTION, environment) == ""
    assert where_set(FOLDER, {**environment, "DASK_TEMPORARY_DIRECTORY": "/y"}) == "DASK_TEMPORARY_DIRECTORY"


@pytest.mark.parametrize(
    ("template", "link"),
    [
        ("/user/{USER_OF_THE_HUB}/proxy/{port}/status", "/user/me/proxy/8787/status"),
        ("{JUPYTERHUB_SERVICE_PREFIX}proxy/{port}/status", "http://10.0.0.1:8787/status"),
        ("{}", "http://10.0.0.1:8787/status"),
        ("{port", "http://10.0.0.1:8787/status"),
        ("{port.x}", "http://10.0.0.1:8787/status"),
        (None, "http://10.0.0.1:8787/status"),
    ],
)
def test_a_link_to_the_dashboard(monkeypatch, template, link):
    monkeypatch.setenv("USER_OF_THE_HUB", "me")
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    scheduler = SimpleNamespace(address="tcp://10.0.0.1:8786")
    with dask.config.set({LINK: template}):
        client = LinkedClient(scheduler, {"services": {"dashboard": 8787}})
        assert dashboard_link(client) == link  # of a client that the caller made
        with applied(False):
            assert dashboard_link(client) == link
            client.info = {"services": {}}
            assert dashboard_link(client) == ""


class LinkedClient:
    """What `distributed.Client` does for its link, without a scheduler."""

    def __init__(self, scheduler, info):
        self.scheduler, self.info = scheduler, info

    def scheduler_info(self, n_workers):
        return self.info

    @property
    def dashboard_link(self):
        from distributed.utils import format_dashboard_link

        return format_dashboard_link("10.0.0.1", self.info["services"]["dashboard"])


def test_the_users_settings_come_back():
    with dask.config.set({"distributed.scheduler.worker-ttl": "7s", LINK: "{NOT_SET}"}):
        before = dask.config.merge(dask.config.config)
        with applied(False):
            assert users("distributed.scheduler.worker-ttl") == "5 minutes"
        assert dask.config.config == before


def test_an_address_that_is_not_encrypted_where_settings_ask_for_it():
    with dask.config.set({ENCRYPTION: True}):
        (fault,) = cluster_faults("tcp://127.0.0.1:8786")
        assert fault.startswith("--cluster tcp://127.0.0.1:8786: is not encrypted") and ENCRYPTION in fault
        with pytest.raises(ConfigError, match="is not encrypted"), connect("tcp://127.0.0.1:8786"):
            pass


def test_jobs_take_queue_and_account_from_the_users_settings_and_nothing_else(tmp_path):
    deploy = tmp_path / "slurm.yaml"
    deploy.write_text("kind: slurm\ninterface: lo\ngroups: {ordinary: {memory_gb: 4}}\n")
    plain = preview(deploy, "ws")["ordinary"]
    nasty = {"walltime": "soon", "job-extra": "x", "job-mem": "1GB", "python": "/elsewhere", "header-skip": ["-t"],
             "extra": ["--x"], "worker-command": "dask_cuda.cli", "env-extra": ["x"], "cores": "all"}  # fmt: skip
    with dask.config.set({"jobqueue.slurm": {**nasty, "queue": "fast", "account": "egs"}}):
        lines = preview(deploy, "ws")["ordinary"].splitlines()
    assert sorted(set(lines) - set(plain.splitlines())) == ["#SBATCH -A egs", "#SBATCH -p fast"]
    with (
        dask.config.set({"jobqueue.slurm": {"queue": ["fast"]}}),
        pytest.raises(ConfigError, match=r"jobqueue\.slurm\.queue: expected text, found \['fast'\]"),
    ):
        preview(deploy, "ws")


def test_workers_on_other_hosts_get_their_settings_as_variables():
    """dask reads them with priority over the files of the host."""
    variables = as_variables(ON_HOSTS)
    settings = dask.config.merge(*dask.config.defaults)
    dask.config.set({"distributed.worker.preload": ["x"], "distributed.worker.memory.pause": 0.1}, config=settings)
    found = dask.config.merge(settings, dask.config.collect_env(variables))
    assert {name: dask.config.get(name, config=found) for name in ON_HOSTS} == ON_HOSTS


def test_a_config_is_checked_with_the_files_of_dask(tmp_path, monkeypatch):
    from survey.config.model import SurveyConfig

    (tmp_path / "broken.yaml").write_text("a: [\n")
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path))
    config = SurveyConfig(
        survey="t", program=1345, workspace=tmp_path, references={"context": "jwst_0001.pmap", "cache": tmp_path},
        steps=["detector1"],
    )  # fmt: skip
    (fault,) = config_faults(config, RunOptions())
    assert "broken.yaml" in fault
