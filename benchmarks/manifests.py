"""Build the Kubernetes manifests and check them offline: ``python benchmarks/manifests.py [--json]``.

Documents against the strict schemas of Kubernetes and against the dask operator's own; what the operator would make of
its resources against Kubernetes' again; the security fields of every pod; who may reach whom. Needs no cluster.
``tests/test_kubernetes.py`` stands on the same functions.
"""

from __future__ import annotations

import copy
import functools
import importlib.resources
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "kubernetes"
BUILDS = ("base", "plain", "overlays/small", "overlays/small-plain")
VERSIONS = ("1.31", "1.34", "1.37")  # of Kubernetes; podFailurePolicy is stable from 1.31 on
CLUSTER_WIDE = ("Namespace",)
OPERATOR = "kubernetes.dask.org/v1"
Document = dict[str, Any]


# --- building: the part of kustomize that the manifests use; anything else is refused -----------------------------

KNOWN = set("apiVersion kind namespace resources components configMapGenerator generatorOptions images patches".split())


def build(folder: Path, into: list[Document] | None = None) -> list[Document]:
    """All documents of a kustomization, as `kubectl kustomize` would print them (its order apart)."""
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if strange := set(plan) - KNOWN:
        raise ValueError(f"{folder}: {sorted(strange)}: not among what this reader knows of kustomize.")
    documents = [] if into is None else into
    for name in plan.get("resources", []):
        path = folder / name
        documents += build(path) if path.is_dir() else [item for item in yaml.safe_load_all(path.read_text()) if item]
    for name in plan.get("components", []):
        build(folder / name, documents)
    for entry in plan.get("configMapGenerator", []):
        documents.append(_config_map(folder, entry, plan.get("generatorOptions", {})))
    for entry in plan.get("patches", []):
        text = entry.get("patch") or (folder / entry["path"]).read_text()
        chosen = [item for item in documents if _fits(item, entry["target"])]
        if not chosen:
            raise ValueError(f"{folder}: a patch fits no document: {entry['target']}")
        for item in chosen:
            for operation in yaml.safe_load(text):
                patch(item, operation)
    for item in documents:
        if "namespace" in plan and item["kind"] not in CLUSTER_WIDE:
            item["metadata"]["namespace"] = plan["namespace"]
        for image in plan.get("images", []):
            _set_image(item, image)
    return documents


def patch(document: Document, operation: Mapping[str, Any]) -> None:
    """Apply one JSON patch operation (RFC 6902: add, replace, remove) in place."""
    *parents, last = operation["path"].strip("/").split("/")
    place: Any = document
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    value = copy.deepcopy(operation.get("value"))
    if isinstance(place, list):
        if operation["op"] == "add":
            place.insert(len(place) if last == "-" else int(last), value)
            return
        last = int(last)  # type: ignore[assignment]
    if operation["op"] == "remove":
        del place[last]
    elif operation["op"] == "replace":
        place[last]  # KeyError: there is nothing to replace
        place[last] = value
    else:
        place[last] = value


def _config_map(folder: Path, entry: Mapping[str, Any], options: Mapping[str, Any]) -> Document:
    if not options.get("disableNameSuffixHash"):
        raise ValueError(f"{folder}: a generated name with a hash, which the operator's resources could not name.")
    data = {Path(name).name: (folder / name).read_text() for name in entry["files"]}
    where = {"namespace": entry["namespace"]} if "namespace" in entry else {}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": entry["name"], **where}, "data": data}


def _fits(document: Document, target: Mapping[str, str]) -> bool:
    name = document["metadata"]["name"]
    return document["kind"] == target["kind"] and target.get("name", name) == name


def _set_image(value: Any, image: Mapping[str, str]) -> None:
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _set_image(item, image)
    if isinstance(value, dict) and str(value.get("image", "")).partition(":")[0] == image["name"]:
        value["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"


# --- schemas ------------------------------------------------------------------------------------------------------


def schema_faults(document: Document, version: str) -> list[str]:
    """Where a document departs from its schema, keys that the schema does not name included."""
    validator = (
        _operator_validator(document["kind"]) if document["apiVersion"] == OPERATOR else _validator(document, version)
    )
    name = f"{document['kind']}/{document['metadata']['name']}"
    return [f"{name}: {error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def _validator(document: Document, version: str) -> Any:
    group = document["apiVersion"].split("/")
    group[0] = group[0].split(".")[0]
    return _kubernetes_validator("-".join([document["kind"].lower(), *group]), version)


@functools.cache
def _kubernetes_validator(name: str, version: str) -> Any:
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    folder = _kubernetes_schemas(version)
    schema = json.loads((folder / f"{name}.json").read_text())
    return Draft202012Validator(schema, registry=Registry().with_resources(
        [(item.id() or "", item) for item in (_definitions(version), Resource.from_contents(schema))]
    ))  # fmt: skip


def _kubernetes_schemas(version: str) -> Any:
    return importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"


@functools.cache
def _definitions(version: str) -> Any:
    from referencing import Resource

    return Resource.from_contents(json.loads((_kubernetes_schemas(version) / "_definitions.json").read_text()))


@functools.cache
def _operator_validator(kind: str) -> Any:
    from jsonschema import Draft202012Validator

    charts = importlib.resources.files("dask_kubernetes") / "operator" / "deployment" / "helm"
    path = charts / "dask-kubernetes-operator" / "crds" / f"{kind.lower()}.yaml"
    schema = yaml.safe_load(path.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"] |= {"apiVersion": {"const": OPERATOR}, "kind": {"const": kind}, "metadata": {"type": "object"}}
    return Draft202012Validator({**strict(schema), "required": ["apiVersion", "kind", "metadata", "spec"]})


def strict(schema: Any) -> Any:
    """A schema that refuses the keys it does not name, which an API server would drop without a word."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    named = isinstance(schema.get("properties"), dict) and "type" in schema
    if named and not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
        made["additionalProperties"] = False
    return made


def operator_makes(documents: list[Document]) -> list[Document]:
    """What the operator makes of its resources, by its own functions: scheduler, service, one worker of each group."""
    from dask_kubernetes.operator.controller import controller

    made: list[Document] = []
    for item in documents:
        name, space, spec = item["metadata"]["name"], item["metadata"].get("namespace", "default"), item.get("spec", {})
        groups = []
        if item["kind"] == "DaskCluster":
            made.append(controller.build_scheduler_deployment_spec(name, spec["scheduler"]["spec"], {}, {}))
            made.append(controller.build_scheduler_service_spec(name, spec["scheduler"]["service"], {}, {}))
            groups.append((f"{name}-default", name, spec["worker"]["spec"]))
        elif item["kind"] == "DaskWorkerGroup":
            groups.append((name, spec["cluster"], spec["worker"]["spec"]))
        for group, cluster, pod in groups:
            made.append(controller.build_worker_deployment_spec(group, space, cluster, "0a1b2c3d4e", pod, {}, {}))
    return copy.deepcopy(made)


# --- security -----------------------------------------------------------------------------------------------------

POD: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "runs as a user that is not root": lambda pod: (
        _context(pod).get("runAsNonRoot") is True and _context(pod).get("runAsUser", 0) > 0
    ),
    "its groups are not root's": lambda pod: all(_context(pod).get(key, 0) > 0 for key in ("runAsGroup", "fsGroup")),
    "seccomp RuntimeDefault": lambda pod: _context(pod).get("seccompProfile") == {"type": "RuntimeDefault"},
    "no token of the Kubernetes API": lambda pod: pod.get("automountServiceAccountToken") is False,
    "its own service account": lambda pod: pod.get("serviceAccountName") == "survey",
    "nothing of the host": lambda pod: not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
    "volumes that the restricted profile allows": lambda pod: all(
        set(volume) & {"configMap", "emptyDir", "persistentVolumeClaim", "secret"} for volume in pod.get("volumes", [])
    ),
}
CONTAINER: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "read-only root file system": lambda box: _context(box).get("readOnlyRootFilesystem") is True,
    "no more privileges": lambda box: (
        _context(box).get("allowPrivilegeEscalation") is False and not _context(box).get("privileged")
    ),
    "no capabilities": lambda box: _context(box).get("capabilities") == {"drop": ["ALL"]},
    "not root": lambda box: _context(box).get("runAsNonRoot") is True and _context(box).get("runAsUser", 1) > 0,
    "no port of the host": lambda box: not any("hostPort" in port for port in box.get("ports", [])),
    "asks for processor and memory": lambda box: {"cpu", "memory"} <= set(box["resources"]["requests"]),
    "memory is limited to what it asks for": lambda box: (
        box["resources"].get("limits", {}).get("memory") == box["resources"]["requests"]["memory"]
    ),
    "has a folder for temporary files": lambda box: "/tmp" in _places(box),
    "has a home to write to": lambda box: "/home/survey" in _places(box),
    "an image with a version": lambda box: ":" in box["image"] and not box["image"].endswith(":latest"),
}


def _places(box: Mapping[str, Any]) -> set[str]:
    return {mount["mountPath"] for mount in box.get("volumeMounts", [])}


def _context(item: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = item.get("securityContext", {})
    return found


def pods(documents: list[Document]) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """Name, pod spec and labels of every pod that the documents, and the operator behind them, would start."""
    for item in [*documents, *operator_makes(documents)]:
        template = item.get("spec", {}).get("template") if item["kind"] in ("Deployment", "Job") else None
        if template is not None:
            yield item["metadata"]["name"], template["spec"], template["metadata"]["labels"]


def containers(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def security(pod: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Every assertion on a pod and its containers, and whether it holds."""
    for name, holds in POD.items():
        yield name, holds(pod)
    for box in containers(pod):
        for name, holds in CONTAINER.items():
            yield f"{box['name']}: {name}", holds(box)


# --- network ------------------------------------------------------------------------------------------------------


def reaches(documents: list[Document], source: Mapping[str, str], target: Mapping[str, str], port: int) -> bool:
    """Whether the policies let pods with the first labels open a TCP connection to pods with the second."""
    out = _allowed(documents, source, target, port, "Egress")
    return out and _allowed(documents, target, source, port, "Ingress")


def _allowed(documents: list[Document], pod: Mapping[str, str], peer: Mapping[str, str], port: int, way: str) -> bool:
    policies = [item["spec"] for item in documents if item["kind"] == "NetworkPolicy"]
    chosen = [spec for spec in policies if way in spec["policyTypes"] and selects(spec["podSelector"], pod)]
    peers = "to" if way == "Egress" else "from"
    return not chosen or any(
        any(item["port"] == port and item["protocol"] == "TCP" for item in rule["ports"])
        and any("namespaceSelector" not in one and selects(one.get("podSelector"), peer) for one in rule[peers])
        for spec in chosen
        for rule in spec.get(way.lower(), [])
    )


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    if selector is None:
        return False
    same = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return same and all(
        rule["operator"] == "In" and labels.get(rule["key"]) in rule["values"]
        for rule in selector.get("matchExpressions", [])
    )


# --- report -------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What was looked at, and what is wrong."""

    documents: int = 0
    validations: int = 0  # documents times versions of Kubernetes; the operator's resources have one version
    assertions: int = 0
    faults: tuple[str, ...] = ()


def look_at(folder: Path) -> Report:
    """Check one build."""
    documents = build(folder)
    report, faults = Report(documents=len(documents)), []
    for item in [*documents, *operator_makes(documents)]:
        for version in VERSIONS[-1:] if item["apiVersion"] == OPERATOR else VERSIONS:
            report.validations += 1
            faults += [f"{version}: {fault}" for fault in schema_faults(item, version)]
    for name, pod, _ in pods(documents):
        for assertion, holds in security(pod):
            report.assertions += 1
            faults += [] if holds else [f"{name}: not so: {assertion}"]
    report.faults = tuple(faults)
    return report


def main() -> None:
    found = {name: look_at(FOLDER / name) for name in BUILDS}
    if "--json" in sys.argv[1:]:
        print(json.dumps({name: vars(report) for name, report in found.items()}, indent=1))
    else:
        for name, report in found.items():
            print(
                f"{name:22s} {report.documents:3d} documents, {report.validations:3d} schema validations, "
                f"{report.assertions:3d} security assertions, {len(report.faults)} faults"
            )
            for fault in report.faults:
                print(f"  {fault}")
    sys.exit(any(report.faults for report in found.values()))


if __name__ == "__main__":
    main()
