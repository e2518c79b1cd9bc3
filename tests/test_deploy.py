"""Deploy files: every fault at once with its line, every key described, and the files of deploy/ as they are."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner
from pydantic import ValidationError

from survey.cli.main import main
from survey.cluster.addresses import cluster_faults
from survey.cluster.batch import BatchCluster
from survey.cluster.deploy import KINDS, AddressSite, BatchSite, LocalSite
from survey.cluster.deploy_file import load_site, site_of
from survey.cluster.groups import JobGroup, WorkerGroup
from survey.cluster.job_scripts import job_scripts, shell_word
from survey.cluster.pods import gibibytes, manifests
from survey.cluster.scaling import Group, jobs_wanted
from survey.config.values import Section
from survey.errors import ConfigError
from survey.execution.environment import THREADS

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "deploy").glob("*.yaml"))
SLURM = """\
kind: slurm
interface: lo
groups:
  ordinary: {memory_gb: 4, workers_per_job: 2, maximum: 4}
"""
ADDRESS = "kind: address\naddress: tcp://127.0.0.1:8786\n"
PODS = "kind: kubernetes\nimage: x\ngroups:\n  a: {memory_gb: 4}\n  b: {memory_gb: 8}\n"


def site(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    return path


def faults(tmp_path: Path, text: str) -> list[str]:
    path = site(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load_site(path)
    return [fault.replace(f"{path}:", "") for fault in raised.value.faults]


def test_every_fault_is_named_with_its_line_and_the_nearest_key(tmp_path):
    found = faults(
        tmp_path,
        "kind: slurm\n"
        "interfaces: ib0\n"
        "groups:\n"
        "  ordinary:\n"
        "    memory: 4\n"
        "    walltime: 4 hours\n"
        "  large: {memory_gb: 8, minimum: 3, maximum: 2}\n"
        "environment: {MAST_API_TOKEN: secret}\n",
    )
    assert any(fault.startswith("2: interfaces: unknown key; did you mean 'interface'?") for fault in found)
    assert any(fault.startswith("5: groups.ordinary.memory: unknown key; did you mean 'memory_gb'?") for fault in found)
    assert any("groups.ordinary.memory_gb: is required" in fault for fault in found)
    assert any(fault.startswith("6: groups.ordinary.walltime: '4 hours'") for fault in found)
    assert any(fault.startswith("7: groups.large.minimum: minimum 3 is above maximum 2") for fault in found)
    assert any("workers need no archive token" in fault for fault in found)
    assert any("interface: is required" in fault for fault in found)
    assert len(found) == 7


SEVERAL = """\
interfaces: ib0
groups:
  ordinary: {memory: 4, walltime: 4 hours, minimum: 3, maximum: 2}
  Large!: {memory_gb: big}
environment: {MAST_API_TOKEN: x, a b: 1, X: [1], Y: }
"""


@pytest.mark.parametrize("kind", ["", "kind: 7\n", "kind: 'somewhere'\n"])
def test_a_file_without_a_kind_has_the_faults_that_every_kind_has(tmp_path, kind):
    first, *found = faults(tmp_path, SEVERAL + kind)
    assert first.startswith("6: kind: " if kind else " kind: is required and missing. Known kinds: local, slurm, ")
    assert [fault.partition(": ")[0] + ": " + fault.split(": ")[1] for fault in found] == [
        "3: groups.ordinary.memory_gb",
        "3: groups.ordinary.memory",
        "3: groups.ordinary.walltime",
        "3: groups.ordinary.minimum",
        "4: groups.Large!",
        "4: groups.Large!.memory_gb",
        "5: environment.MAST_API_TOKEN",
        "5: environment.a b",
        "5: environment.X",
        "5: environment.Y",
        "1: interfaces",
    ]
    text = "\n".join(found)
    assert "memory: unknown key; did you mean 'memory_gb'?" in text
    assert "walltime: '4 hours': expected hours" in text  # from the kinds that have the key
    assert "interfaces: unknown key of every kind." in text


@pytest.mark.parametrize("name", ["workers", "workerz", "wrokers"])
def test_without_a_kind_no_key_of_a_single_kind_is_suggested(tmp_path, name):
    """'workspace' is a key of kubernetes alone."""
    assert faults(tmp_path, f"{name}: 4\n") == [
        " kind: is required and missing. Known kinds: local, slurm, pbs, kubernetes, address.",
        f"1: {name}: unknown key of every kind.",
    ]


def test_an_empty_file_is_called_empty(tmp_path):
    (found,) = faults(tmp_path, "# nothing\n")
    assert found == " is empty; expected a mapping such as 'kind: local'."


def test_a_kind_that_is_nearly_one_is_taken_for_it(tmp_path):
    found = faults(tmp_path, "kind: Slrm\nidle: no\nprologe: []\ngroups: {a: {memory_gb: 4, walltime: '0:50'}}\n")
    assert [fault.partition(" ")[2] for fault in found] == [
        "kind: 'Slrm' is not a kind; did you mean 'slurm'? Known kinds: local, slurm, pbs, kubernetes, address.",
        "groups.a.walltime: lifetime 00:00:01 and stagger 00:00:02 must end 60 s or more before walltime 00:00:50, so "
        "that a worker has the time to hand over its task.",
        "interface: is required and missing.",
        "idle: expected a number, found false.",
        "prologe: unknown key; did you mean 'prologue'?",
    ]


def test_rules_between_keys_and_groups_are_checked_beside_other_faults(tmp_path):
    found = faults(
        tmp_path,
        "kind: kubernetes\nimag: x\ngroups:\n"
        "  a: {memory_gb: 4, coors: 2}\n"
        "  b: {memory_gb: 4, scratch_gb: big}\n"
        "  default: {memory_gb: 8, minimum: 2, maximum: 1}\n"
        "workspace: {claim: w, path: /tmp}\n",
    )
    assert sorted(re.match(r" ?((?:\d+: )?[\w.]+): ", fault)[1] for fault in found) == [
        "2: imag", "4: groups.a.coors", "5: groups.b.memory_gb", "5: groups.b.scratch_gb", "6: groups.default",
        "6: groups.default.minimum", "7: workspace", "image",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kind: local\nstart_timeout: 60\n", "2: start_timeout: is not a key of kind local, only of slurm, pbs."),
        (PODS + "start_timeout: 60\n", "start_timeout: is not a key of kind kubernetes, only of slurm, pbs."),
        (ADDRESS + "start_timeout: 60\n", "3: start_timeout: is not a key of kind address, only of slurm, pbs."),
        (ADDRESS + "environment: {}\n", "environment: is not a key of kind address, only of local, slurm, pbs, kube"),
        ("kind: local\ngroups: {a: {memory_gb: 4, minimum: 1}}\n", "groups.a.minimum: is not a key of kind local, "),
        ("kind: local\ngroups: {a: {memory_gb: 4, cores: 2}}\n", "groups.a.cores: is not a key of kind local, only "),
        (
            PODS.replace("8}", "8, maximum: 3, minimum: 1}"),
            "5: groups.b.minimum: the autoscaler changes the first grou",
        ),
        (PODS.replace("4}", "4, minimum: 0}"), "4: groups.a.minimum: Input should be greater than or equal to 1"),
        (PODS + "crds: {claim: c, path: /crds, read_only: false}\n", "6: crds: read_only: expected true"),
        (PODS + "workspace: {claim: c, path: /w, read_only: true}\n", "6: workspace: read_only: expected false"),
    ],
)
def test_a_key_without_an_effect_is_refused(tmp_path, text, fault):
    (found,) = faults(tmp_path, text)
    assert fault in found


def test_a_minimum_that_a_further_group_has_anyway_is_accepted(tmp_path):
    found = load_site(site(tmp_path, PODS.replace("8}", "8, maximum: 2, minimum: 2}")))
    assert found.groups["b"].minimum == found.groups["b"].maximum == 2


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("groups: {}\n", "kind: is required"),
        ("kind: slrm\n", "1: kind: 'slrm' is not a kind; did you mean 'slurm'?"),
        ("kind: [slurm]\n", "is not a kind; did you mean 'slurm'? Known kinds: local, "),
        (SLURM.replace("ordinary", "Ordinary!"), "expected lower-case letters"),
        (SLURM.replace("lo\n", "'lo; rm -rf /'\n"), "interface"),
        ("kind: slurm\ninterface: lo\ngroups: {}\n", "at least one group"),
        (SLURM.replace("maximum: 4", "maximum: 1"), "less than the 2 workers of one job"),
        (SLURM.replace("maximum: 4", "maximum: 4, walltime: '10:00', lifetime: '10:00'"), "must end 60 s or more"),
        (SLURM.replace("4}", "4, walltime: '04:00:00', lifetime: '3:58:00', stagger: 90}"), "before walltime 04:00:00"),
        (SLURM.replace("4}", "4, walltime: '0:50'}"), "must end 60 s or more before walltime 00:00:50"),
        (SLURM.replace("maximum: 4", "maximum: 4, walltime: '25:61:00'"), "walltime: '25:61:00': expected hours"),
        (SLURM.replace("maximum: 4", "maximum: 4, walltime: '240'"), "walltime: '240': expected hours"),
        (SLURM.replace("maximum: 4", "maximum: 4, walltime: true"), "walltime: expected a number, found true"),
        (SLURM.replace("memory_gb: 4", "memory_gb: true"), "4: groups.ordinary.memory_gb: expected a number"),
        (SLURM.replace("maximum: 4", "maximum: 4, cores: true"), "cores: expected a number, found true"),
        (SLURM.replace("maximum: 4", "maximum: 4, minimum: false"), "minimum: expected a number, found false"),
        (SLURM + "idle: no\n", "idle: expected a number, found false"),
        (SLURM.replace("2, maximum: 4", "3, minimum: 5, maximum: 5"), "minimum 5 needs 2 jobs of 3 workers"),
        (PODS.replace(" b:", " default:"), "5: groups.default: the cluster's own objects"),
        (PODS.replace("8}", "4}"), "5: groups.b.memory_gb: 4 must be above the 4 of 'a'"),
        (PODS.replace("8}", "8, node_selector: {a b: x}}"), "expected a label of nodes"),
        (PODS.replace("image: x", "image: X y"), "image: 'X y': expected the name of an image"),
        (PODS + "namespace: Not a name\n", "namespace: 'Not a name': expected lower-case letters"),
        (PODS + "groups: [a]\n", "groups: expected a mapping of keys, found ['a']."),
        (PODS + "workspace: {claim: Bad_Claim!, path: /w}\n", "workspace.claim"),
        (PODS + "workspace: {claim: w, path: /tmp}\n", "/tmp: expected a path of its own"),
        (PODS + "workspace: {claim: w, path: /crds/}\n", "/crds: expected a path of its own"),
        (SLURM + "account: a b\n", "account: 'a b': expected one word"),
        (SLURM.replace("maximum: 4", 'maximum: 4, queue: "q\\n#SBATCH -x"'), "expected one word"),
        (SLURM.replace("maximum: 4", 'maximum: 4, directives: ["-x\\ntouch y"]'), "expected one line"),
        (SLURM.replace("maximum: 4", "maximum: 4, directives: ['#SBATCH -x']"), "expected one line"),
        ("kind: address\n", "expected either 'address' or 'scheduler_file'"),
        ("kind: address\naddress: localhost\n", "expected one such as tcp://"),
        ("kind: kubernetes\ngroups: {a: {memory_gb: 1}}\nimage: x\ncrds: {claim: c, path: ../x}\n", "absolute path"),
        ("- kind\n", "expected a mapping"),
    ],
)  # fmt: skip
def test_what_a_file_cannot_ask_for(tmp_path, text, fault):
    assert fault in "\n".join(faults(tmp_path, text))


def test_times_as_people_and_yaml_write_them(tmp_path):
    written = {
        "'04:00:00'": 14400, "12:00:00": 43200, "1-02:00:00": 93600, "'1-02:00'": 93600, "90": 90,
        "30:00": 1800, "'30:00'": 1800, "90:00": 5400, "'90:00'": 5400, "'2:30'": 150,
    }  # fmt: skip
    for text, seconds in written.items():
        path = site(tmp_path, SLURM.replace("maximum: 4", f"maximum: 4, walltime: {text}"))
        assert load_site(path).groups["ordinary"].walltime == seconds, text


def test_a_lifetime_ends_below_the_walltime(tmp_path):
    group = load_site(site(tmp_path, SLURM)).groups["ordinary"]
    assert group.lifetimes == (4 * 3600 - 900, 300)
    assert group.jobs == (0, 2)
    for walltime in (70, 120, 600, 3600, 86400):
        group = JobGroup(memory_gb=1, walltime=walltime)
        assert sum(group.lifetimes) <= walltime - 60, walltime


def test_environment_of_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("SHARED", "/shared")
    found = load_site(site(tmp_path, SLURM + "environment: {CRDS_PATH: '${SHARED}/crds', OMP_NUM_THREADS: 2}\n"))
    assert found.worker_environment == dict.fromkeys(THREADS, "1") | {
        "CRDS_PATH": "/shared/crds",
        "OMP_NUM_THREADS": "2",
    }


def keys_of(model: type[Section], place: tuple[str, ...] = ()):
    """Every key of a deploy file: its place in a file whose groups are called 'a', its model and its field."""
    for name, field in model.model_fields.items():
        yield (*place, name), model, field
        for item in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(item, type) and issubclass(item, Section):
                yield from keys_of(item, (*place, name, "a") if name == "groups" else (*place, name))


SOUND = {
    "local": {},
    "slurm": {"interface": "lo", "groups": {"a": {"memory_gb": 4, "maximum": 4}}},
    "kubernetes": {"image": "x", "groups": {"a": {"memory_gb": 4, "maximum": 4}}},
    "address": {"address": "tcp://127.0.0.1:8786"},
}
SOUND["pbs"] = SOUND["slurm"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_described_here_and_in_the_documentation(kind):
    page = (ROOT / "docs" / "deploy.md").read_text()
    found = list(keys_of(KINDS[kind]))
    assert len(found) >= 4
    for place, model, field in found:
        assert field.description and field.examples, f"{model.__name__}.{place[-1]}"
        assert f"`{place[-1]}`" in page, f"{model.__name__}.{place[-1]}"
        units = {"_gb": "[GB]", **dict.fromkeys(("walltime", "lifetime", "stagger", "idle", "start_timeout"), "[s]")}
        wanted = next((unit for end, unit in units.items() if place[-1].endswith(end)), "")
        assert wanted in field.description, f"{model.__name__}.{place[-1]}"


@pytest.mark.parametrize("kind", KINDS)
def test_every_example_is_accepted_and_is_not_the_default(kind):
    for place, _, field in keys_of(KINDS[kind]):
        for example in field.examples if place != ("kind",) else ():
            data = copy.deepcopy({"kind": kind, **SOUND[kind]})
            if place == ("scheduler_file",):
                del data["address"]
            if place[0] in ("workspace", "crds") and place[1:]:
                data[place[0]] = {"claim": "c", "path": "/data"}
            inner = data
            for part in place[:-1]:
                inner = inner.setdefault(part, {})
            inner.setdefault("memory_gb", 4) if place[0] == "groups" and place[1:] else None
            inner[place[-1]] = example
            if place == ("workspace", "read_only"):
                with pytest.raises(ValidationError):
                    KINDS[kind](**data)
                continue
            assert KINDS[kind](**data)
            assert field.is_required() or example != field.default, place


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_the_files_of_deploy_hold_no_fault(path):
    assert load_site(path).kind == yaml.safe_load(path.read_text())["kind"]


def test_there_is_a_file_of_each_kind():
    assert {load_site(path).kind for path in FILES} == set(KINDS)


def test_what_cluster_means(tmp_path):
    assert isinstance(site_of(None), LocalSite)
    assert isinstance(site_of("local"), LocalSite)
    assert site_of("tcp://127.0.0.1:8786") == AddressSite(kind="address", address="tcp://127.0.0.1:8786")
    assert isinstance(site_of(str(site(tmp_path, SLURM))), BatchSite)
    with pytest.raises(ConfigError, match="no file of that name"):
        site_of("nosuch.yaml")


def test_a_scheduler_that_others_reach_wants_certificates(tmp_path, monkeypatch):
    import psutil

    own = {"lo": psutil.net_if_addrs()["lo"]}
    outer = [item._replace(address="10.0.0.1") for item in own["lo"]]
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {**own, "ib0": outer})
    path = str(site(tmp_path, SLURM.replace("lo\n", "ib0\n")))
    assert "Anyone who can connect to a scheduler can run code on it" in "".join(cluster_faults(path))
    assert cluster_faults(path, insecure=True) == []
    path = str(site(tmp_path, SLURM.replace("lo\n", "x\n")))
    assert "is not one of this host: ib0, lo" in "".join(cluster_faults(path))
    both = cluster_faults(path, tmp_path / "nosuch")
    assert "is not one of this host" in both[0] and "nosuch/ca.pem: No such file" in both[1]
    assert cluster_faults(str(site(tmp_path, SLURM))) == []


def test_a_scheduler_file(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps({"address": "tcp://10.0.0.1:8786"}))
    path = str(site(tmp_path, f"kind: address\nscheduler_file: {tmp_path}/s.json\n"))
    assert "on another host and not encrypted" in "".join(cluster_faults(path))
    (tmp_path / "s.json").unlink()
    assert f"scheduler_file {tmp_path}/s.json cannot be read: No such file" in "".join(cluster_faults(path))


# --- how many jobs ------------------------------------------------------------------------------------------------

ORDINARY, LARGE = Group("ordinary", 4.0, 2, 0, 3), Group("large", 16.0, 1, 0, 2)


@pytest.mark.parametrize(
    ("needs", "wanted"),
    [
        ([], (0, 0)),
        ([1.0], (1, 0)),
        ([4.0, 4.0, 4.0], (2, 0)),  # two workers a job
        ([1.0] * 100, (3, 0)),
        ([4.1], (0, 1)),
        ([1.0, 16.0, 16.0, 16.0], (1, 2)),
        ([17.0], (0, 0)),  # no worker would hold it
    ],
)
def test_jobs_for_the_tasks_that_wait(needs, wanted):
    assert tuple(jobs_wanted(needs, [ORDINARY, LARGE]).values()) == wanted
    assert jobs_wanted(needs, [LARGE, ORDINARY]) == jobs_wanted(needs, [ORDINARY, LARGE])


def test_a_minimum_is_kept():
    assert jobs_wanted([], [Group("a", 1.0, 1, 2, 5)]) == {"a": 2}


# --- what the batch system says of jobs ---------------------------------------------------------------------------

UNKNOWN = "qstat: Unknown Job Id 12.pbs"
FINISHED = "qstat: 13.pbs Job has finished, use -x or -H to obtain historical job information"
ROW = "11.pbs survey me 0 Q regular"
INVALID = "slurm_load_jobs error: Invalid job id specified"


@pytest.mark.parametrize(
    ("kind", "ids", "out", "err", "code", "known"),
    [
        ("pbs", ["11.pbs", "12.pbs", "13.pbs"], ROW, f"{UNKNOWN}\n{FINISHED}", 35, {"11.pbs"}),
        ("pbs", ["11.pbs", "12.pbs", "14.pbs"], ROW, UNKNOWN, 153, None),
        ("pbs", ["12.pbs", "13.pbs"], "", f"{UNKNOWN}\n{FINISHED}", 35, set()),
        ("pbs", ["1.pbs"], "", UNKNOWN, 153, None),
        ("pbs", ["12.pbs"], "", UNKNOWN, 153, set()),
        ("pbs", ["12.pbs"], "", "qstat: cannot connect to server", 255, None),
        ("slurm", ["12"], "", INVALID, 1, set()),
        ("slurm", ["12"], "", "slurm_load_jobs error: Unable to contact slurm controller", 1, None),
        ("slurm", ["12", "13"], "13|PENDING|Priority", "", 0, {"13"}),
    ],
)
def test_jobs_that_the_batch_system_no_longer_knows(tmp_path, monkeypatch, kind, ids, out, err, code, known):
    for name in ("qstat", "squeue"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{out}'\necho '{err}' >&2\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    cluster = SimpleNamespace(site=SimpleNamespace(kind=kind))
    told = asyncio.run(BatchCluster._ask_queue(cluster, ids))
    assert (told if told is None else set(told)) == known


# --- what would be submitted ---------------------------------------------------------------------------------------

WORKER = (
    f"{sys.executable} -m distributed.cli.dask_worker tcp://SCHEDULER:PORT --name survey-ordinary-1 --nthreads 1 "
    '--memory-limit 7.92GiB --nworkers 4 --nanny --death-timeout 300 --local-directory "$TMPDIR" '
    "--resources memory_gb=8 --lifetime 13500s --lifetime-stagger 300s --no-dashboard --interface ib0"
)
EXPORTS = [
    'export USER="${USER:-survey}"',
    "unset PYTHONWARNINGS PYTHONOPTIMIZE PYTHONDEVMODE PYTHONINSPECT PYTHONSTARTUP",
    "export PYTHONSAFEPATH=1",
    *(f"export DASK_DISTRIBUTED__WORKER__MEMORY__{name}=False" for name in ("TARGET", "SPILL", "PAUSE", "TERMINATE")),
    "export DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT=30s",
    "export DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP=120s",
    "export DASK_DISTRIBUTED__WORKER__PRELOAD='[]'",
    "export DASK_DISTRIBUTED__NANNY__PRELOAD='[]'",
    "export DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD=spawn",
    "export DASK_DISTRIBUTED__WORKER__DAEMON=True",
    "export DASK_DISTRIBUTED__ADMIN__EVENT_LOOP=tornado",
    *(f"export {name}=1" for name in THREADS),
]
# Line by line what dask-jobqueue documents for PBSCluster and SLURMCluster: name, queue, account, resources, walltime,
# logs, then the further directives, the prologue, and the worker's command. Memory and cores are those of a whole job.
PBS_SCRIPT = [
    "#!/usr/bin/env bash", "",
    "#PBS -N survey",
    "#PBS -q regular",
    "#PBS -A egs",
    "#PBS -l select=1:ncpus=8:mem=32425MB",
    "#PBS -l walltime=04:00:00",
    "#PBS -e /ws/logs/jobs/",
    "#PBS -o /ws/logs/jobs/",
    "#PBS -j oe",
    *EXPORTS, "export CRDS_PATH='/shared/crds cache'", "module load gcc", WORKER,
]  # fmt: skip
SLURM_SCRIPT = [
    "#!/usr/bin/env bash", "",
    "#SBATCH -J survey",
    "#SBATCH -e /ws/logs/jobs/survey-%J.err",
    "#SBATCH -o /ws/logs/jobs/survey-%J.out",
    "#SBATCH -p regular",
    "#SBATCH -A egs",
    "#SBATCH -n 1",
    "#SBATCH --cpus-per-task=8",
    "#SBATCH --mem=32G",
    "#SBATCH -t 04:00:00",
    "#SBATCH -j oe",
    *EXPORTS, "export CRDS_PATH='/shared/crds cache'", "module load gcc", WORKER,
]  # fmt: skip
BATCH = """\
kind: {kind}
interface: ib0
account: egs
scratch: $TMPDIR
prologue: [module load gcc]
environment: {{CRDS_PATH: /shared/crds cache}}
groups:
  ordinary: {{memory_gb: 8, cores: 2, workers_per_job: 4, maximum: 8, queue: regular, directives: [-j oe]}}
"""


@pytest.mark.parametrize(("kind", "script"), [("pbs", PBS_SCRIPT), ("slurm", SLURM_SCRIPT)])
def test_job_scripts_line_by_line(tmp_path, kind, script):
    path = site(tmp_path, BATCH.format(kind=kind))
    done = CliRunner().invoke(main, ["cluster", str(path), "--dry-run", "--json", "--workspace", "/ws"])
    assert done.exit_code == 0, done.output
    (document,) = json.loads(done.output)["documents"]
    assert document["name"] == "ordinary"
    assert document["text"].splitlines() == script
    assert not Path("/ws").exists()


@pytest.mark.parametrize(
    "text", ["/my scratch", "$TMPDIR; touch {0}/x", "`touch {0}/x`$(touch {0}/x)", '"a"\\', "${{A:-x}}"]
)
def test_a_path_is_one_word_of_the_shell(tmp_path, text):
    text = text.format(tmp_path)
    done = subprocess.run(
        ["bash", "-c", f"printf '%s|' {shell_word(text)}"],
        capture_output=True, text=True, timeout=20, check=True, env={"TMPDIR": "/tmp/a b", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout == text.replace("$TMPDIR", "/tmp/a b") + "|"
    assert not (tmp_path / "x").exists()


def test_logs_in_a_folder_with_spaces(tmp_path):
    slurm = load_site(site(tmp_path, SLURM))
    script = job_scripts(slurm, "/log dir", None)["ordinary"]
    assert '#SBATCH -e "/log dir/survey-%J.err"' in script.splitlines()
    assert "#SBATCH -e /log" not in script
    pbs = load_site(site(tmp_path, SLURM.replace("slurm", "pbs")))
    with pytest.raises(ConfigError, match="Set 'logs'"):
        job_scripts(pbs, "/log dir", None)
    with pytest.raises(ConfigError, match="Set 'logs'"):
        BatchCluster(pbs, tmp_path / "log dir", {}, None)
    assert not (tmp_path / "log dir").exists()


def test_a_job_asks_for_no_less_than_its_workers_may_use(tmp_path):
    """PBS and Slurm say MB and GB for powers of two."""
    (line,) = [line for line in PBS_SCRIPT if "mem=" in line]
    asked = int(line.partition("mem=")[2].removesuffix("MB")) * 2**20
    assert 4 * 8.5e9 <= asked < 4 * 8.5e9 + 2**20


@pytest.mark.slow
def test_encrypted_jobs_name_the_workers_certificate_alone(tmp_path):
    from survey.cluster import tls

    tls.make(tmp_path / "tls")
    path = site(tmp_path, SLURM + f"tls: {tmp_path}/tls\n")
    done = CliRunner().invoke(main, ["cluster", str(path), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "tls://SCHEDULER:PORT" in done.output and "--protocol tls" in done.output
    for option, name in {"ca-file": "ca.pem", "cert": "worker.pem", "key": "worker-key.pem"}.items():
        assert f"--tls-{option} {tmp_path}/tls/{name}" in done.output
    assert "scheduler-key" not in done.output


@pytest.mark.parametrize(("name", "folder"), [("kubernetes", "base"), ("kubernetes-plain", "plain")])
def test_manifests_of_the_repository_are_those_of_the_deploy_files(name, folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(main, ["cluster", f"deploy/{name}.yaml", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert Path(f"deploy/kubernetes/{folder}/cluster.yaml").read_text() == done.output


def deployments(path: Path) -> dict[str, dict]:
    found = manifests(load_site(path))
    assert [item["metadata"]["name"] for item in found if item["kind"] == "Service"] == ["survey-scheduler"]
    return {item["metadata"]["name"]: item["spec"] for item in found if item["kind"] == "Deployment"}


def test_deployments_are_what_the_operator_would_make(tmp_path):
    """Of the same groups: names, labels and pods."""
    from dask_kubernetes.operator.controller import controller

    plain = deployments(site(tmp_path, PODS + "operator: false\n"))
    cluster, large, _ = manifests(load_site(site(tmp_path, PODS)))
    scheduler = cluster["spec"]["scheduler"]["spec"]
    made = {"survey-scheduler": controller.build_scheduler_deployment_spec("survey", scheduler, {}, {})}
    for name, group, item in (("survey-worker", "survey-default", cluster), ("survey-b", "survey-b", large)):
        pod = item["spec"]["worker"]["spec"]
        made[name] = controller.build_worker_deployment_spec(group, "survey", "survey", "0", pod, {}, {})
    assert plain.keys() == made.keys()
    for name, spec in plain.items():
        ours, theirs = copy.deepcopy(spec["template"]), copy.deepcopy(made[name]["spec"]["template"])
        assert ours["metadata"]["labels"].items() <= theirs["metadata"]["labels"].items()
        assert spec["selector"]["matchLabels"] == ours["metadata"]["labels"]
        for pod in (ours, theirs):  # both name the worker after its pod, in their own way
            box = pod["spec"]["containers"][0]
            env = {one["name"]: one for one in box.get("env", [])}
            assert (env.pop("DASK_WORKER_NAME", None) is not None) == (name != "survey-scheduler")
            box["env"] = list(env.values())
        assert ours["spec"] == theirs["spec"]


def test_without_the_operator_workers_are_fixed_and_may_have_one_size(tmp_path):
    plain = deployments(site(tmp_path, PODS.replace("8}", "4, maximum: 3}") + "operator: false\n"))
    replicas = {name: spec["replicas"] for name, spec in plain.items()}
    assert replicas == {"survey-scheduler": 1, "survey-worker": 1, "survey-b": 3}
    (fault,) = faults(tmp_path, PODS.replace("4}", "4, minimum: 2, maximum: 3}") + "operator: false\n")
    assert fault.startswith("4: groups.a.minimum: there is no autoscaler, so this group always has 3 workers")


def test_a_container_holds_a_gibibyte_above_the_task_and_only_reads_references(tmp_path):
    found = load_site(site(tmp_path, PODS + "crds: {claim: c, path: /crds}\n"))
    assert found.crds.read_only
    for size in range(1, 200):
        assert gibibytes(WorkerGroup(memory_gb=size)) * 2**30 >= size * 1e9 + 2**30, size


def test_the_environment_of_a_pod_names_each_variable_once(tmp_path):
    found = load_site(site(tmp_path, PODS + "environment: {CRDS_PATH: /mine, OMP_NUM_THREADS: 2}\n"))
    cluster, large, _ = manifests(found)
    for item in (cluster, large):
        env = item["spec"]["worker"]["spec"]["containers"][0]["env"]
        values = {one["name"]: one["value"] for one in env}
        assert len(values) == len(env)
        assert values["USER"] == "survey"
        assert values["CRDS_PATH"] == "/mine"
        assert [values[name] for name in THREADS] == ["2", "1", "1", "1"]


def test_a_dry_run_is_what_kubectl_reads():
    done = CliRunner().invoke(main, ["cluster", str(ROOT / "deploy" / "kubernetes.yaml"), "--dry-run"])
    documents = list(yaml.safe_load_all(done.output))
    assert [item["kind"] for item in documents] == ["DaskCluster", "DaskWorkerGroup", "DaskAutoscaler"]


def test_kinds_that_start_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "survey.cli", "cluster", ROOT / "deploy" / "address.yaml"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "is not started by this command" in done.stderr
