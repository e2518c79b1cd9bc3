"""The cluster of a deploy file as resources of the dask operator.

They are those of deploy/kubernetes/base with the file's sizes, image and claims, and stand on what
deploy/kubernetes/common makes: settings of dask, certificates, network policies, claims.
"""

from __future__ import annotations

import math
from typing import Any

from survey.cluster.deploy import RESOURCE, KubernetesSite
from survey.cluster.groups import PodGroup, WorkerGroup
from survey.execution.environment import THREADS

API = "kubernetes.dask.org/v1"
HOME_GB, SCHEDULER_GB = 1, 4
COMM, DASHBOARD, WORKER, WORKER_HTTP = 8786, 8787, 8789, 8788
_GIB = 2**30 / 1e9


def manifests(site: KubernetesSite) -> list[dict[str, Any]]:
    """A DaskCluster of the first group with its autoscaler, and a DaskWorkerGroup for each further one.

    The operator's autoscaler knows the cluster's own workers alone: further groups hold `maximum` workers all the time.
    """
    (_, first), *others = site.groups.items()
    cluster = _resource(
        site, "DaskCluster", site.name,
        {"idleTimeout": 0, "scheduler": _scheduler(site), "worker": _workers(site, first, max(first.minimum, 1))},
    )  # fmt: skip
    scaling = {"cluster": site.name, "minimum": max(first.minimum, 1), "maximum": first.maximum}
    groups = [
        _resource(
            site, "DaskWorkerGroup", f"{site.name}-{name}",
            {"cluster": site.name, "worker": _workers(site, group, group.maximum)},
        )
        for name, group in others
    ]  # fmt: skip
    return [cluster, *groups, _resource(site, "DaskAutoscaler", site.name, scaling)]


def gibibytes(group: WorkerGroup) -> int:
    """What a worker's container may take, whole [GiB]."""
    return math.ceil(group.memory_gb / _GIB + 1)


def _resource(site: KubernetesSite, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name, "namespace": site.namespace}, "spec": spec}


def _scheduler(site: KubernetesSite) -> dict[str, Any]:
    health = {"httpGet": {"port": "http-dashboard", "path": "/health"}, "timeoutSeconds": 10}
    container = {
        **_container(site, "scheduler", SCHEDULER_GB, SCHEDULER_GB),
        "args": [
            *("dask", "scheduler", "--protocol=tls", "--host=0.0.0.0"),
            *(f"--port={COMM}", f"--dashboard-address=:{DASHBOARD}", "--preload=survey.cluster.kubernetes_preload"),
        ],
        "ports": _ports(COMM, DASHBOARD),
        "readinessProbe": {**health, "periodSeconds": 5},
        "livenessProbe": {**health, "initialDelaySeconds": 30, "periodSeconds": 20, "failureThreshold": 6},
    }
    ports = [
        {"name": item["name"], "protocol": "TCP", "port": item["containerPort"], "targetPort": item["name"]}
        for item in _ports(COMM, DASHBOARD)
    ]
    selector = {"dask.org/cluster-name": site.name, "dask.org/component": "scheduler"}
    return {
        "spec": {**_pod(site, "scheduler", SCHEDULER_GB), "containers": [container]},
        "service": {"type": "ClusterIP", "selector": selector, "ports": ports},
    }


def _workers(site: KubernetesSite, group: PodGroup, replicas: int) -> dict[str, Any]:
    address = f"tls://{site.name}-scheduler:{COMM}"
    volumes = {"workspace": site.workspace, "crds": site.crds}
    environment = {
        **{"DASK_SCHEDULER_ADDRESS": address, "USER": "survey"},
        **dict.fromkeys(THREADS, "1"),
        **{"CRDS_PATH": site.crds.path, **site.environment},
    }
    container = {
        **_container(site, "worker", gibibytes(group), group.scratch_gb, str(group.cores)),
        "args": [
            *(
                "dask",
                "worker",
                address,
                "--name=$(DASK_WORKER_NAME)",
                "--no-nanny",
                "--nthreads=1",
                "--memory-limit=0",
            ),
            *(f"--resources={RESOURCE}={group.memory_gb:g}", f"--worker-port={WORKER}", "--no-dashboard"),
            *(f"--dashboard-address=:{WORKER_HTTP}", "--local-directory=/tmp/dask", "--death-timeout=600"),
        ],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "ports": _ports(WORKER, WORKER_HTTP),
        "livenessProbe": {
            **{"httpGet": {"port": "http-dashboard", "path": "/health"}, "timeoutSeconds": 10},
            **{"initialDelaySeconds": 60, "periodSeconds": 30, "failureThreshold": 6},
        },
    }
    container["volumeMounts"] = container["volumeMounts"] + [
        {"name": name, "mountPath": volume.path, **({"readOnly": True} if volume.read_only else {})}
        for name, volume in volumes.items()
    ]
    pod = {"terminationGracePeriodSeconds": 60, **_pod(site, "worker", group.scratch_gb), "containers": [container]}
    pod["volumes"] = pod["volumes"] + [
        {"name": name, "persistentVolumeClaim": {"claimName": volume.claim}} for name, volume in volumes.items()
    ]
    if group.node_selector:
        pod["nodeSelector"] = dict(group.node_selector)
    return {"replicas": replicas, "spec": pod}


def _pod(site: KubernetesSite, role: str, scratch_gb: float) -> dict[str, Any]:
    """What scheduler and workers have in common: no privileges, no token, each role's own certificate."""
    user = site.user_id
    return {
        "serviceAccountName": site.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            **{"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user},
            **{"fsGroup": user, "fsGroupChangePolicy": "OnRootMismatch"},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [
            {"name": "home", "emptyDir": {"sizeLimit": f"{HOME_GB}Gi"}},
            {"name": "tmp", "emptyDir": {"sizeLimit": f"{math.ceil(scratch_gb)}Gi"}},
            {"name": "dask", "configMap": {"name": site.dask_config}},
            {"name": "tls", "secret": {"secretName": f"{site.tls_secret}-{role}", "defaultMode": 0o440}},
        ],
    }


def _container(site: KubernetesSite, role: str, memory_gib: float, scratch_gb: float, cpu: str = "1") -> dict[str, Any]:
    memory = f"{math.ceil(memory_gib)}Gi"
    mounts = {"home": "/home/survey", "tmp": "/tmp", "dask": "/etc/dask", "tls": "/tls"}
    return {
        "name": role,
        "image": site.image,
        "imagePullPolicy": site.pull_policy,
        "resources": {
            "requests": {"cpu": cpu, "memory": memory, "ephemeral-storage": "1Gi"},
            "limits": {"memory": memory, "ephemeral-storage": f"{math.ceil(scratch_gb) + HOME_GB + 1}Gi"},
        },
        "securityContext": {
            **{"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True},
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": name, "mountPath": path, **({"readOnly": True} if name in ("dask", "tls") else {})}
            for name, path in mounts.items()
        ],
    }


def _ports(comm: int, http: int) -> list[dict[str, Any]]:
    return [
        {"name": "tcp-comm", "containerPort": comm, "protocol": "TCP"},
        {"name": "http-dashboard", "containerPort": http, "protocol": "TCP"},
    ]
