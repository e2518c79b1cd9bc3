"""The cluster of a deploy file as Kubernetes objects: resources of the dask operator, or plain Deployments without it.

The files of deploy/kubernetes are made by this module, so that pods are described once. They depend on the objects of
deploy/kubernetes/common: dask's settings, the service account, network policies and claims.
"""

from __future__ import annotations

import math
from typing import Any

from survey.cluster.deploy import RESOURCE, KubernetesSite
from survey.cluster.groups import PodGroup, WorkerGroup
from survey.execution.environment import THREADS

HOME_GB, SCHEDULER_GB = 1, 4
COMM, DASHBOARD, WORKER, WORKER_HTTP = 8786, 8787, 8789, 8788
_GIB = 2**30 / 1e9
Manifest = dict[str, Any]


def manifests(site: KubernetesSite) -> list[Manifest]:
    """Objects of a cluster: a scheduler with its service, the workers of each group, and an autoscaler.

    The operator's autoscaler changes the first group alone: further groups have `maximum` workers all the time.
    Without the operator, all groups do.
    """
    return _operator_resources(site) if site.operator else _deployments(site)


def gibibytes(group: WorkerGroup) -> int:
    """Memory limit of a worker's container, whole [GiB]: 1 GiB or more above the largest task."""
    return math.ceil(group.memory_gb / _GIB + 1)


def _operator_resources(site: KubernetesSite) -> list[Manifest]:
    (_, first), *others = site.groups.items()
    scheduler = {"spec": _scheduler(site), "service": _service(site)}
    worker = {"replicas": first.minimum, "spec": _worker(site, first)}
    return [
        _resource(site, "DaskCluster", site.name, {"idleTimeout": 0, "scheduler": scheduler, "worker": worker}),
        *(
            _resource(site, "DaskWorkerGroup", f"{site.name}-{name}", {
                "cluster": site.name, "worker": {"replicas": group.maximum, "spec": _worker(site, group)},
            })
            for name, group in others
        ),
        _resource(site, "DaskAutoscaler", site.name, {
            "cluster": site.name, "minimum": first.minimum, "maximum": first.maximum,
        }),
    ]  # fmt: skip


def _resource(site: KubernetesSite, kind: str, name: str, spec: Manifest) -> Manifest:
    metadata = {"name": name, "namespace": site.namespace}
    return {"apiVersion": "kubernetes.dask.org/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _deployments(site: KubernetesSite) -> list[Manifest]:
    """What the operator would make of its resources, with the same names and labels."""
    name_of_pod = {"name": "DASK_WORKER_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    (ordinary, _), *_ = site.groups.items()
    scheduler = _deployment(site, "scheduler", {}, 1, _scheduler(site))
    scheduler["spec"]["strategy"] = {"type": "Recreate"}
    workers = []
    for name, group in site.groups.items():
        pod = _worker(site, group)
        pod["containers"][0]["env"].append(name_of_pod)
        label = {"dask.org/workergroup-name": f"{site.name}-{'default' if name == ordinary else name}"}
        workers.append(_deployment(site, "worker" if name == ordinary else name, label, group.maximum, pod))
    service = {"apiVersion": "v1", "kind": "Service", "metadata": scheduler["metadata"], "spec": _service(site)}
    return [scheduler, service, *workers]


def _deployment(site: KubernetesSite, name: str, labels: Manifest, replicas: int, pod: Manifest) -> Manifest:
    labels = {**_labels(site, "scheduler" if name == "scheduler" else "worker"), **labels}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{site.name}-{name}", "namespace": site.namespace, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _labels(site: KubernetesSite, component: str) -> Manifest:
    return {"dask.org/cluster-name": site.name, "dask.org/component": component}


def _service(site: KubernetesSite) -> Manifest:
    ports = [
        {"name": item["name"], "protocol": "TCP", "port": item["containerPort"], "targetPort": item["name"]}
        for item in _ports(COMM, DASHBOARD)
    ]
    return {"type": "ClusterIP", "selector": _labels(site, "scheduler"), "ports": ports}


def _scheduler(site: KubernetesSite) -> Manifest:
    health = {"httpGet": {"port": "http-dashboard", "path": "/health"}, "timeoutSeconds": 10}
    container = {
        **_container(site, "scheduler", SCHEDULER_GB, SCHEDULER_GB),
        "args": [
            *("dask", "scheduler", "--protocol=tls", "--host=0.0.0.0"),
            # The preload keeps the large workers when the autoscaler asks for fewer.
            *(f"--port={COMM}", f"--dashboard-address=:{DASHBOARD}", "--preload=survey.cluster.kubernetes_preload"),
        ],
        "ports": _ports(COMM, DASHBOARD),
        "readinessProbe": {**health, "periodSeconds": 5},
        "livenessProbe": {**health, "initialDelaySeconds": 30, "periodSeconds": 20, "failureThreshold": 6},
    }
    return {**_pod(site, "scheduler", SCHEDULER_GB), "containers": [container]}


def _worker(site: KubernetesSite, group: PodGroup) -> Manifest:
    """A pod with one worker of one thread, which runs one task at a time in a child process.

    There is no nanny: the kubelet starts a container again. dask's own memory limit is off, since the resource
    memory_gb accounts for the tasks, and the container's limit holds them.
    """
    address = f"tls://{site.name}-scheduler:{COMM}"
    volumes = {"workspace": site.workspace, "crds": site.crds}
    environment = {
        **{"DASK_SCHEDULER_ADDRESS": address, "USER": "survey", "PYTHONSAFEPATH": "1"},
        **dict.fromkeys(THREADS, "1"),
        **{"CRDS_PATH": site.crds.path, **site.environment},
    }
    container = {
        **_container(site, "worker", gibibytes(group), group.scratch_gb, str(group.cores)),
        "args": [
            *("dask", "worker", address, "--name=$(DASK_WORKER_NAME)", "--no-nanny", "--nthreads=1"),
            *("--memory-limit=0", f"--resources={RESOURCE}={group.memory_gb:g}", f"--worker-port={WORKER}"),
            *("--no-dashboard", f"--dashboard-address=:{WORKER_HTTP}", "--local-directory=/tmp/dask"),
            "--death-timeout=600",
        ],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "ports": _ports(WORKER, WORKER_HTTP),
        "livenessProbe": {
            **{"httpGet": {"port": "http-dashboard", "path": "/health"}, "timeoutSeconds": 10},
            **{"initialDelaySeconds": 60, "periodSeconds": 30, "failureThreshold": 6},
        },
    }
    container["volumeMounts"] += [
        {"name": name, "mountPath": volume.path, **({"readOnly": True} if volume.read_only else {})}
        for name, volume in volumes.items()
    ]
    pod = {"terminationGracePeriodSeconds": 60, **_pod(site, "worker", group.scratch_gb), "containers": [container]}
    pod["volumes"] += [
        {"name": name, "persistentVolumeClaim": {"claimName": volume.claim}} for name, volume in volumes.items()
    ]
    if group.node_selector:
        pod["nodeSelector"] = dict(group.node_selector)
    return pod


def _pod(site: KubernetesSite, role: str, scratch_gb: float) -> Manifest:
    """Common part of scheduler and workers: no privileges, no token of the API, the role's own certificate."""
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


def _container(site: KubernetesSite, role: str, memory_gib: float, scratch_gb: float, cpu: str = "1") -> Manifest:
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


def _ports(comm: int, http: int) -> list[Manifest]:
    return [
        {"name": "tcp-comm", "containerPort": comm, "protocol": "TCP"},
        {"name": "http-dashboard", "containerPort": http, "protocol": "TCP"},
    ]
