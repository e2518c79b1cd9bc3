"""Manifests of Kubernetes: schemas, security, who reaches whom; and their commands, run as a pod would run them."""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import survey
from survey.config.model import read_config
from survey.errors import ConfigError, DiskFullError, InterruptedRunError, ServiceError, WorkspaceBusyError
from survey.execution.environment import THREADS

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "kubernetes"


def _benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


manifests, pods = _benchmark("manifests"), _benchmark("pods")

SCHEDULER = {"dask.org/cluster-name": "survey", "dask.org/component": "scheduler"}
WORKER = {"dask.org/cluster-name": "survey", "dask.org/component": "worker"}
RUN, FETCH = ({"app.kubernetes.io/name": name} for name in ("survey-run", "survey-fetch"))


@pytest.fixture(scope="module")
def builds():
    return {name: manifests.build(FOLDER / name) for name in manifests.BUILDS}


def named(documents, kind, name):
    (found,) = [item for item in documents if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


# --- building and schemas ---


def test_every_file_is_part_of_a_build():
    used = set()
    for path in FOLDER.rglob("kustomization.yaml"):
        plan = yaml.safe_load(path.read_text())
        names = [*plan.get("resources", []), *(item["path"] for item in plan.get("patches", []) if "path" in item)]
        names += [name for item in plan.get("configMapGenerator", []) for name in item["files"]]
        used |= {path} | {(path.parent / name).resolve() for name in names}
    assert {path for path in FOLDER.rglob("*") if path.is_file()} <= used


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here: built by benchmarks/manifests.py alone")
@pytest.mark.parametrize("name", manifests.BUILDS)
def test_kubectl_builds_the_same(builds, name):
    done = subprocess.run(["kubectl", "kustomize", FOLDER / name], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

    def ordered(documents):
        return sorted(documents, key=lambda item: (item["kind"], item["metadata"]["name"]))

    assert ordered(yaml.safe_load_all(done.stdout)) == ordered(builds[name])


@pytest.mark.parametrize("name", manifests.BUILDS)
def test_documents_fit_their_schemas_and_pods_are_restricted(name, record_property):
    report = manifests.look_at(FOLDER / name)
    record_property(name, str(report))
    assert report.faults == ()
    assert report.documents >= 16
    assert report.validations > 3 * report.documents - 9
    assert report.assertions >= 90


def test_the_document_has_the_figures(builds):
    text = " ".join((ROOT / "docs" / "deploy.md").read_text().split())
    reports = [manifests.look_at(FOLDER / name) for name in manifests.BUILDS]
    totals = {
        name: sum(getattr(report, name) for report in reports) for name in ("documents", "validations", "assertions")
    }
    count = sum(len(list(manifests.pods(documents))) for documents in builds.values())
    assert f"{totals['documents']} documents; {totals['validations']} validations" in text
    assert f"{totals['assertions']} security assertions on {count} pods" in text


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "fault"),
    [
        ("NetworkPolicy", "run", "/spec/egres", [], "egres"),
        (
            "Job",
            "survey-run",
            "/spec/template/spec/containers/0/securityContext/readonlyRootFilesystem",
            True,
            "readonly",
        ),
        ("Job", "survey-run", "/spec/backoffLimit", "six", "six"),
        ("DaskCluster", "survey", "/spec/worker/spec/containers/0/commands", ["dask"], "commands"),
        ("DaskCluster", "survey", "/spec/worker/replicas", "two", "two"),
        ("DaskAutoscaler", "survey", "/spec/minimun", 1, "minimun"),
    ],
)
def test_what_does_not_fit_is_found(builds, kind, name, path, value, fault):
    document = copy.deepcopy(named(builds["base"], kind, name))
    manifests.patch(document, {"op": "add", "path": path, "value": value})
    faults = manifests.schema_faults(document, manifests.VERSIONS[-1])
    assert len(faults) == 1
    assert fault in faults[0]


@pytest.mark.parametrize(
    ("path", "value", "assertion"),
    [
        ("/securityContext/runAsUser", 0, "runs as a user that is not root"),
        ("/automountServiceAccountToken", True, "no token of the Kubernetes API"),
        ("/hostNetwork", True, "nothing of the host"),
        ("/volumes/0", {"name": "home", "hostPath": {"path": "/"}}, "volumes that the restricted profile allows"),
        ("/containers/0/securityContext/readOnlyRootFilesystem", False, "run: read-only root file system"),
        ("/containers/0/securityContext/capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]}, "run: no capabilities"),
        ("/containers/0/image", "jwst-survey:latest", "run: an image with a version"),
        ("/containers/0/resources/limits/memory", "64Gi", "run: memory is limited to what it asks for"),
    ],
)
def test_a_pod_that_asks_for_more_is_found(builds, path, value, assertion):
    pod = copy.deepcopy(named(builds["base"], "Job", "survey-run")["spec"]["template"]["spec"])
    assert [name for name, holds in manifests.security(pod) if not holds] == []
    manifests.patch(pod, {"op": "add" if path == "/hostNetwork" else "replace", "path": path, "value": value})
    assert [name for name, holds in manifests.security(pod) if not holds] == [assertion]


@pytest.mark.parametrize("name", manifests.BUILDS)
def test_the_namespace_refuses_pods_that_ask_for_more(builds, name):
    space = named(builds[name], "Namespace", "survey")
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [item["metadata"].get("namespace") for item in builds[name] if item is not space]
    assert set(others) == {"survey"}


# --- who holds what ---


@pytest.mark.parametrize("name", manifests.BUILDS)
def test_the_fetch_container_alone_holds_the_token(builds, name):
    holders = [
        (owner, box["name"])
        for owner, pod, _ in manifests.pods(builds[name])
        for box in manifests.containers(pod)
        if "survey-archive-token" in json.dumps(box) or "MAST_API_TOKEN" in json.dumps(box)
    ]
    assert holders == [("survey-fetch", "fetch")]
    volumes = [json.dumps(pod["volumes"]) for _, pod, _ in manifests.pods(builds[name])]
    assert not any("survey-archive-token" in text for text in volumes)


@pytest.mark.parametrize("name", manifests.BUILDS)
def test_each_role_has_its_own_certificate_alone(builds, name):
    roles = {}
    for owner, pod, labels in manifests.pods(builds[name]):
        role = {"survey-run": "client", "survey-fetch": None}.get(owner, labels.get("dask.org/component"))
        roles.setdefault(role, []).append([item["secret"]["secretName"] for item in pod["volumes"] if "secret" in item])
    assert roles == {
        "scheduler": [["survey-tls-scheduler"]],
        "worker": [["survey-tls-worker"]] * 2,
        "client": [["survey-tls-client"]],
        None: [[]],
    }


@pytest.mark.parametrize("name", manifests.BUILDS)
def test_workers_cannot_change_the_references(builds, name):
    for owner, pod, labels in manifests.pods(builds[name]):
        mounts = {item["name"]: item for box in pod["containers"] for item in box["volumeMounts"]}
        if labels.get("dask.org/component") == "worker":
            assert mounts["crds"]["readOnly"] is True, owner
            assert not mounts["workspace"].get("readOnly")
        if labels.get("dask.org/component") == "scheduler":
            assert not {"crds", "workspace"} & set(mounts)


@pytest.mark.parametrize("name", manifests.BUILDS)
def test_who_reaches_whom(builds, name):
    who = {"scheduler": SCHEDULER, "worker": WORKER, "run": RUN, "fetch": FETCH, "stranger": {"app": "other"}}
    open_ways = {
        (source, target, port)
        for source, labels in who.items()
        for target, others in who.items()
        for port in (443, 8080, 8786, 8787, 8788, 8789)
        if manifests.reaches(builds[name], labels, others, port)
    }
    assert open_ways == {
        ("worker", "scheduler", 8786),
        ("run", "scheduler", 8786),
        ("scheduler", "worker", 8789),
        ("worker", "worker", 8789),
    }


@pytest.mark.parametrize("name", manifests.BUILDS)
def test_the_openings_to_the_world(builds, name):
    """Addresses outside: for the jobs that ask the archive, port 443, and nothing private."""
    policies = [item["spec"] for item in builds[name] if item["kind"] == "NetworkPolicy"]
    blocks = [(spec, rule) for spec in policies for rule in spec.get("egress", []) if "ipBlock" in json.dumps(rule)]
    ((spec, rule),) = blocks
    for labels, may in ((SCHEDULER, False), (WORKER, False), (RUN, True), (FETCH, True)):
        assert manifests.selects(spec["podSelector"], labels) is may
    assert [item["port"] for item in rule["ports"]] == [443]
    kept = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}  # the last: metadata of clouds
    assert kept <= set(rule["to"][0]["ipBlock"]["except"])
    (entry,) = [
        rule for spec in policies for rule in spec.get("ingress", []) if "namespaceSelector" in json.dumps(rule)
    ]
    assert [item["port"] for item in entry["ports"]] == [8787]


# --- what they run ---


@pytest.mark.parametrize("name", manifests.BUILDS)
def test_workers_have_a_user_and_one_thread(builds, name):
    for owner, pod, labels in manifests.pods(builds[name]):
        if labels.get("dask.org/component") == "worker":
            values = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
            assert values["USER"] == "survey", owner
            assert {values[thread] for thread in THREADS} == {"1"}, owner


def memory_bytes(text):
    return float(re.fullmatch(r"(\d+)Gi", text)[1]) * 2**30


@pytest.mark.parametrize("name", manifests.BUILDS)
def test_workers_declare_memory_that_their_container_holds(builds, name):
    declared = {}
    for owner, pod, labels in manifests.pods(builds[name]):
        if labels.get("dask.org/component") == "worker":
            (box,) = pod["containers"]
            (amount,) = [word.removeprefix("--resources=memory_gb=") for word in box["args"] if "memory_gb" in word]
            declared[owner] = float(amount)
            room = memory_bytes(box["resources"]["limits"]["memory"]) - float(amount) * 1e9
            assert room >= 0.8e9, owner  # the worker, and the process with the pipeline from which children are forked
            assert {"--nthreads=1", "--no-nanny"} <= set(box["args"])
    assert len(declared) == 2
    if any(
        item["kind"] == "DaskAutoscaler" for item in builds[name]
    ):  # survey.cluster.kubernetes_preload tells them apart by it
        large = next(amount for owner, amount in declared.items() if owner.startswith("survey-large"))
        assert large > min(declared.values())
    if name in ("base", "plain"):
        assert max(declared.values()) >= 4 * min(declared.values())


@pytest.mark.parametrize("name", manifests.BUILDS)
def test_the_scheduler_lets_no_large_worker_go(builds, name):
    (box,) = [
        box
        for _, pod, labels in manifests.pods(builds[name])
        if labels.get("dask.org/component") == "scheduler"
        for box in pod["containers"]
    ]
    (module,) = [word.removeprefix("--preload=") for word in box["args"] if word.startswith("--preload=")]
    assert callable(importlib.import_module(module).dask_setup)


@pytest.mark.parametrize("name", manifests.BUILDS)
def test_ports_are_those_of_the_commands_and_the_policies(builds, name):
    for owner, pod, labels in manifests.pods(builds[name]):
        for box in pod["containers"]:
            text = " ".join(box["args"])
            for port in box.get("ports", []):
                assert str(port["containerPort"]) in text, owner
        if labels.get("dask.org/component") == "worker":
            assert "tls://survey-scheduler:8786" in pod["containers"][0]["args"]
    for service in [*builds[name], *manifests.operator_makes(builds[name])]:
        if service["kind"] == "Service":
            assert service["metadata"]["name"] == "survey-scheduler"
            assert service["spec"]["selector"].items() <= SCHEDULER.items()


def test_the_operator_keeps_workers_on_tls(builds):
    """It adds a plain address of its own unless the container has one."""
    made = manifests.operator_makes(builds["base"])
    workers = [item for item in made if "worker" in item["metadata"]["name"]]
    assert len(workers) == 2
    for item in workers:
        env = {one["name"]: one.get("value") for one in item["spec"]["template"]["spec"]["containers"][0]["env"]}
        assert env["DASK_SCHEDULER_ADDRESS"] == "tls://survey-scheduler:8786"
        assert env["DASK_WORKER_NAME"]


@pytest.mark.parametrize("name", ["overlays/small", "overlays/small-plain"])
def test_the_demo_is_that_of_the_configs(builds, name, tmp_path, monkeypatch):
    monkeypatch.setenv("CRDS_PATH", "/crds")
    path = tmp_path / "survey.yaml"
    path.write_text(named(builds[name], "ConfigMap", "survey-config")["data"]["survey.yaml"])
    wanted = read_config(ROOT / "configs" / "demo.yaml", workspace="/workspace/egs-demo").model_dump()
    wanted["references"]["cache"] = Path("/crds")
    assert read_config(path).model_dump() == wanted


@pytest.mark.parametrize("name", ["base", "plain"])
def test_the_configs_run_with_the_places_of_a_pod(builds, name, monkeypatch):
    """Any config serves, as long as its cache is ${CRDS_PATH}: ConfigMap survey-config is made from it."""
    monkeypatch.setenv("CRDS_PATH", "/crds")
    assert read_config(ROOT / "configs" / "ceers.yaml", workspace="/workspace").references.cache == Path("/crds")
    args = named(builds[name], "Job", "survey-run")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[:4] == ["survey", "run", "/config/survey.yaml", "--workspace=/workspace"]


def test_jobs_are_tried_again_when_that_can_help(builds):
    for name in ("survey-fetch", "survey-run"):
        rules = named(builds["base"], "Job", name)["spec"]["podFailurePolicy"]["rules"]
        (codes,) = [rule["onExitCodes"]["values"] for rule in rules if rule["action"] == "FailJob"]
        assert set(codes) == {1, ConfigError.exit_code, DiskFullError.exit_code}
        assert not {ServiceError.exit_code, WorkspaceBusyError.exit_code, InterruptedRunError.exit_code} & set(codes)


# --- the document's commands ---


def blocks_with(command):
    """Lines of the document's blocks that hold a command."""
    text = (ROOT / "docs" / "deploy.md").read_text().replace("\\\n", " ")
    blocks = [body.splitlines() for body in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    found = [lines for lines in blocks if any(command in line for line in lines)]
    assert found, command
    return found


def place_of(lines, command):
    (place,) = [number for number, line in enumerate(lines) if command in line]
    return place


def test_the_token_is_made_before_what_the_fetch_job_waits_for(builds):
    """It waits for its config alone; a token that is not there yet would be done without."""
    job = named(builds["base"], "Job", "survey-fetch")["spec"]
    (config,) = [volume["configMap"] for volume in job["template"]["spec"]["volumes"] if "configMap" in volume]
    assert config == {"name": "survey-config"}
    assert not job.get("suspend")
    for lines in blocks_with("survey-archive-token"):
        made = place_of(lines, "create secret generic survey-archive-token")
        assert place_of(lines, "kubectl apply") < made < place_of(lines, "create configmap survey-config")


def test_a_job_that_is_made_suspended_is_let_go(builds):
    assert named(builds["base"], "Job", "survey-run")["spec"]["suspend"] is True
    go = 'patch job survey-run --type merge --patch \'{"spec": {"suspend": false}}\''
    for lines in blocks_with("delete job survey-run"):
        assert place_of(lines, "delete job") < place_of(lines, "kubectl apply") < place_of(lines, go)
    for lines in blocks_with("logs --follow job/survey-run"):
        assert place_of(lines, "job/survey-fetch") < place_of(lines, go) < place_of(lines, "logs --follow")


# --- the image ---


def instructions():
    text = re.sub(r"^#.*\n", "", pods.CONTAINERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def test_the_image_is_built_from_the_constraints_for_a_user_that_is_not_root(builds):
    steps = instructions()
    (install,) = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
    assert '--constraint constraints.txt ".[simulate]"' in install
    user = [rest for word, rest in steps if word == "USER"]
    pod = named(builds["base"], "Job", "survey-run")["spec"]["template"]["spec"]
    assert user == [str(pod["securityContext"]["runAsUser"])]
    assert [word for word, _ in steps].index("USER") > max(i for i, (word, _) in enumerate(steps) if word == "RUN")
    for word, rest in steps:
        if word == "COPY" and "--from" not in rest:
            assert all((ROOT / source).exists() for source in rest.split()[:-1])
    assert "ENTRYPOINT" not in {word for word, _ in steps}  # pods name the whole command
    environment = pods.image_environment()
    assert environment["USER"]
    homes = {environment[name] for name in ("HOME", "MPLCONFIGDIR")}
    assert all(path.startswith("/home/survey") for path in homes)


def test_the_tag_is_the_version(builds):
    images = {
        box["image"]
        for name in builds
        for _, pod, _ in manifests.pods(builds[name])
        for box in manifests.containers(pod)
    }
    assert images == {f"jwst-survey:{survey.__version__}"}


def test_every_package_of_the_image_is_pinned():
    """Nothing that the image installs is left to what is newest on the day of its build."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    seen, waiting = set(), [("jwst-survey", ("simulate",))]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for text in importlib.metadata.requires(name) or []:
            item = Requirement(text)
            if item.marker is None or any(item.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                waiting.append((canonicalize_name(item.name), tuple(sorted(item.extras))))
    assert len(seen) > 60
    assert {name for name, _ in seen} - pinned == {"jwst-survey"}


# --- their commands, in the conditions of a pod ---

in_pods = pytest.mark.skipif(pods.why_not() != "", reason=f"no pod's conditions here: {pods.why_not()}")


@pytest.fixture(scope="module")
def places(builds, tmp_path_factory):
    """Folders for the volumes that are not empty ones."""
    folder = tmp_path_factory.mktemp("pod")
    made = pods.places(folder, builds["overlays/small-plain"])
    for path in [folder, *folder.parents]:
        if path != Path("/tmp") and path.is_relative_to("/tmp"):
            path.chmod(0o755)
    return made


def started(builds, places, owner, role, arguments=None):
    """Command line of the first container of a pod of the small cluster without the operator."""
    pod = next(pod for name, pod, _ in manifests.pods(builds["overlays/small-plain"]) if name == owner)
    return pods.command(pod, pod["containers"][0], {**places, "tls": places[f"tls-{role}"]}, arguments)


def once(builds, places, *arguments):
    line = started(builds, places, "survey-run", "client", list(arguments))
    return subprocess.run(line, capture_output=True, text=True, timeout=240)


@in_pods
@pytest.mark.slow
def test_a_pod_can_write_nowhere_but_to_its_volumes(builds, places):
    script = """
import os, pathlib, survey
assert os.getuid() == 12345, os.getuid()
written = []
places = "/ /usr /etc /opt /tls /etc/dask /tmp /home/survey /workspace".split()
for place in (*places, os.path.dirname(survey.__file__)):
    try:
        (pathlib.Path(place) / "probe").write_text("x")
        written.append(place)
    except OSError as error:
        assert error.errno in (13, 30), (place, error)
print(written)
"""
    done = once(builds, places, "python", "-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["['/tmp',", "'/home/survey',", "'/workspace']"]


@in_pods
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["survey", "--help"], "survey run"),
        (["dask", "scheduler", "--help"], "--protocol"),
        (["dask", "worker", "--help"], "--resources"),
    ],
    ids=" ".join,
)
def test_entry_commands(builds, places, arguments, said):
    done = once(builds, places, *arguments)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


@in_pods
@pytest.mark.pipeline
def test_the_pipeline_starts_with_a_user_id_that_nobody_has(builds, places):
    """What a worker's server of children does first; getpass.getuser() at import is content with USER."""
    done = once(
        builds, places, "python", "-c", "import jwst.pipeline; from survey.steps.warm import warm_up; warm_up()"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "children start cold" not in done.stderr


JOIN = """
import json, subprocess, sys, time, urllib.request
sys.path[:0] = [{folder!r}]
import pods
pods.in_a_network_of_its_own()
lines = json.loads({lines!r})
started = [subprocess.Popen(lines[role], stderr=subprocess.DEVNULL) for role in ("scheduler", "worker")]
try:
    done = subprocess.run(lines["client"], timeout=150)
    health = urllib.request.urlopen("http://127.0.0.1:8788/health", timeout=20).read().decode()
    target = json.load(urllib.request.urlopen("http://127.0.0.1:8787/api/v1/adaptive_target", timeout=20))
    print(json.dumps({{"health": health, "target": target}}))
finally:
    for process in reversed(started):  # a worker whose scheduler is gone first looks for it for a while
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
sys.exit(done.returncode)
"""
CLIENT = """
import json
from survey.cluster.connect import connect
from survey.cluster.capacity import capacity
with connect("tls://survey-scheduler:8786") as client:
    client.wait_for_workers(1, timeout=100)
    facts = client.scheduler_info(n_workers=-1)
    worker, = facts["workers"].values()
    met = {"scheduler": facts["address"], "sum": client.submit(sum, [1, 2]).result(), "capacity": capacity(client)}
    met |= {"worker": next(iter(facts["workers"])), "threads": worker["nthreads"], "name": worker["name"]}
    met["plugins"] = client.run_on_scheduler(lambda dask_scheduler: sorted(dask_scheduler.plugins))
    print(json.dumps(met), flush=True)
try:
    with connect("tcp://survey-scheduler:8786"):
        pass
except Exception as error:
    print(json.dumps({"plain": str(error)}), flush=True)
"""


@in_pods
@pytest.mark.slow
def test_scheduler_worker_and_client_meet_over_tls(builds, places):
    """The commands of the manifests themselves, in a network of their own, with the certificates of their roles."""
    lines = {
        "scheduler": started(builds, places, "survey-scheduler", "scheduler"),
        "worker": started(builds, places, "survey-worker", "worker"),
        "client": started(builds, places, "survey-run", "client", ["python", "-c", CLIENT]),
    }
    script = JOIN.format(folder=str(ROOT / "benchmarks"), lines=json.dumps(lines))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    met, plain, served = map(json.loads, done.stdout.splitlines())
    assert {name: met[name] for name in ("sum", "capacity", "threads", "name")} == {
        "sum": 3, "capacity": 2.0, "threads": 1, "name": "worker",
    }  # fmt: skip
    assert met["scheduler"].startswith("tls://")
    assert "survey-retirement" in met["plugins"]
    assert re.fullmatch(r"tls://[\d.]+:8789", met["worker"])
    assert "not encrypted" in plain["plain"]
    assert served["health"] == "ok"
    assert "workers" in served["target"]  # what the operator's autoscaler asks for, without a certificate
