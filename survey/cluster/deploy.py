"""Deploy files: where a survey runs and with how many workers. What it reduces is in the config.

A file names its `kind`; each kind has keys of its own. Every fault of a file is reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from survey.cluster.groups import (
    Count,
    JobGroup,
    ObjectName,
    PodGroup,
    Seconds,
    Volume,
    WorkerGroup,
    matching,
    one_word,
)
from survey.config.values import ConfigPath, Section, expand
from survey.config.values import Server as ExpandedText
from survey.config.yaml_file import Place
from survey.credentials import TOKEN
from survey.execution.environment import THREADS
from survey.messages import shown

# Resource that workers declare and tasks ask for, by which the scheduler places tasks [GB].
RESOURCE = "memory_gb"
# Address of a dask scheduler, as --cluster takes it: the port is optional, an IPv6 host is in brackets.
CLUSTER_ADDRESS = re.compile(
    r"(?P<protocol>tcp|tls|ws|wss|ucx)://(?:(?P<host>[^\s/:\[\]]+)|\[(?P<ipv6>[0-9a-fA-F:]+)\])(?::\d{1,5})?", re.ASCII
)
# Paths of pods that no claim may have.
POD_PATHS = ("/home/survey", "/tmp", "/etc/dask", "/tls")


def _variable_name(value: str) -> str:
    if value == TOKEN:
        raise ValueError("workers need no archive token; only 'survey fetch' does, from its own environment.")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value, re.ASCII):
        raise ValueError("not a name of an environment variable.")
    return value


def _variable_value(value: Any) -> str:
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"{shown(value)}: expected text or a number.")
    return expand(str(value))


# Also part of the names of jobs and of Kubernetes objects.
ShortName = Annotated[
    str,
    matching(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?", "lower-case letters, digits and '-', 30 characters at most"),
]
ImageName = Annotated[str, matching(r"[a-z0-9][A-Za-z0-9._:/@-]*", "the name of an image, such as jwst-survey:0.2.0")]
InterfaceName = Annotated[ExpandedText, matching(r"[A-Za-z0-9_.:-]{1,40}", "a network interface, such as ib0")]
VariableName = Annotated[str, AfterValidator(_variable_name)]
VariableValue = Annotated[str, BeforeValidator(_variable_value)]


class SiteConfig(Section):
    """A deploy file."""

    kind: str = Field(description="kind of cluster", examples=["slurm"])

    @classmethod
    def group_faults(cls, data: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
        """Faults of groups that show only beside other keys and groups: place and message.

        Parameters
        ----------
        data : the file as YAML has it; values may be of any type
        """
        yield from ()


class WorkersSite(SiteConfig):
    """A deploy file that says which workers to start."""

    groups: Mapping[ShortName, WorkerGroup]
    environment: dict[VariableName, VariableValue] = Field(
        default_factory=dict,
        description="environment variables of workers, set before anything is imported; USER is set, and so is one "
        "thread for each numerical library",
        examples=[{"CRDS_PATH": "/shared/crds"}],
    )

    @property
    def worker_environment(self) -> dict[str, str]:
        """Environment variables of every worker besides USER, which the pipeline needs when it is imported."""
        return {**dict.fromkeys(THREADS, "1"), **self.environment}

    @property
    def capacity_gb(self) -> float:
        """Memory of the largest task that any worker of this file runs [GB]; 0: not known."""
        return max((group.memory_gb for group in self.groups.values()), default=0.0)


class LocalSite(WorkersSite):
    """Worker processes on this machine."""

    kind: Literal["local"] = Field(description="kind of cluster", examples=["local"])
    groups: Mapping[ShortName, WorkerGroup] = Field(
        default_factory=dict,
        description="workers by size; default: as many as cores and memory allow",
        examples=[{"ordinary": {"memory_gb": 4, "maximum": 2}, "large": {"memory_gb": 8}}],
    )
    scratch: ConfigPath | None = Field(
        None,
        description="folder for dask's own files; null: the system's folder for temporary files",
        examples=["/fast"],
    )


class BatchSite(WorkersSite):
    """Workers in jobs of a batch system, through dask-jobqueue. The scheduler runs in the client's process."""

    kind: Literal["slurm", "pbs"] = Field(description="kind of cluster", examples=["slurm"])
    groups: Mapping[ShortName, JobGroup] = Field(
        min_length=1,
        description="jobs by size of their workers: ordinary ones, and larger ones for tasks that need more memory",
        examples=[{"ordinary": {"memory_gb": 8, "maximum": 64}, "large": {"memory_gb": 60}}],
    )
    interface: InterfaceName = Field(
        description="network interface of the scheduler and the workers",
        examples=["ib0"],
    )
    account: str | None = Field(
        None, description="account that jobs are charged to; null: the user's default", examples=["egs"]
    )
    scratch: str | None = Field(
        None,
        description="folder for dask's own files on a node; it may name variables of the job; null: dask's default",
        examples=["$TMPDIR"],
    )
    python: str | None = Field(
        None,
        description="Python interpreter of workers; null: the one that submits the jobs",
        examples=["/shared/venv/bin/python"],
    )
    prologue: tuple[str, ...] = Field(
        (), description="shell commands of a job before its workers start", examples=[["module load gcc"]]
    )
    logs: ConfigPath | None = Field(
        None, description="folder of the jobs' output; null: logs/jobs of the workspace", examples=["/shared/logs"]
    )
    tls: ConfigPath | None = Field(
        None, description="folder of certificates, on a file system that the nodes share", examples=["certificates"]
    )
    idle: Seconds = Field(
        120,
        description="time after which a job whose workers have no task is ended, as HH:MM:SS or a number [s]",
        examples=["00:05:00"],
    )
    start_timeout: Seconds = Field(
        3600,
        description="time without any worker, while tasks are ready, after which the run gives up, as HH:MM:SS or a "
        "number [s]",
        examples=["12:00:00"],
    )

    @field_validator("account")
    @classmethod
    def _is_one_word(cls, value: str | None) -> str | None:
        return one_word(value)

    @field_validator("scratch", "python")
    @classmethod
    def _is_one_line(cls, value: str | None) -> str | None:
        if value is not None and not (value and value.isprintable()):
            raise ValueError(f"{value!r}: expected a path without control characters.")
        return value


class KubernetesSite(WorkersSite):
    """Workers in pods, through the dask operator."""

    kind: Literal["kubernetes"] = Field(description="kind of cluster", examples=["kubernetes"])
    groups: Mapping[ShortName, PodGroup] = Field(
        min_length=1,
        description="pods by size: ordinary ones first, then larger ones for tasks that need more memory",
        examples=[{"ordinary": {"memory_gb": 4, "maximum": 32}, "large": {"memory_gb": 24}}],
    )
    operator: bool = Field(
        True,
        description="true: resources of the dask operator, which scales the first group; false: Deployments, for "
        "Kubernetes without the operator, where each group always has `maximum` workers",
        examples=[False],
    )
    image: ImageName = Field(
        description="container image, with its tag or digest",
        examples=["registry.example.org/jwst-survey:0.2.0"],
    )
    namespace: ShortName = Field("survey", description="namespace of all objects", examples=["egs"])
    name: ShortName = Field("survey", description="name of the cluster", examples=["egs"])
    workspace: Volume = Field(
        Volume(claim="survey-workspace", path="/workspace"),
        description="claim that holds the workspaces",
        examples=[{"claim": "egs-workspace", "path": "/data/workspace"}],
    )
    crds: Volume = Field(
        Volume(claim="survey-crds", path="/crds", read_only=True),
        validate_default=True,
        description="claim that holds the CRDS cache",
        examples=[{"claim": "egs-crds", "path": "/data/crds"}],
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "IfNotPresent", description="when nodes pull the image", examples=["Always"]
    )
    user_id: Count = Field(
        10001, ge=1, description="user id of all pods; it must be able to write to the claims", examples=[1000]
    )
    service_account: ObjectName = Field(
        "survey",
        description="service account of all pods; its token is not mounted",
        examples=["egs"],
    )
    dask_config: ObjectName = Field(
        "survey-dask",
        description="config map with dask's settings, mounted at /etc/dask",
        examples=["egs-dask"],
    )
    tls_secret: ObjectName = Field(
        "survey-tls",
        description="prefix of the names of the secrets that hold certificates; -scheduler and -worker are appended",
        examples=["egs-tls"],
    )
    tls: ConfigPath | None = Field(
        None, description="folder of certificates on the client's machine", examples=["certificates"]
    )

    @field_validator("workspace", "crds")
    @classmethod
    def _is_mounted_apart(cls, value: Volume, info: ValidationInfo) -> Volume:
        others = [*POD_PATHS, *([info.data["workspace"].path] if "workspace" in info.data else [])]
        only_read = info.field_name == "crds"
        faults = []
        if value.path.rstrip("/") in ("", *(path.rstrip("/") for path in others)):
            faults.append(f"{value.path}: expected a path of its own for each claim, such as /workspace.")
        if value.read_only is not only_read and "read_only" in value.model_fields_set:
            reason = "workers never change reference files" if only_read else "workers write their products there"
            faults.append(f"read_only: expected {str(only_read).lower()}: {reason}.")
        if faults:
            raise ValueError(" ".join(faults))
        return value.model_copy(update={"read_only": only_read})

    @classmethod
    def group_faults(cls, data: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
        """The autoscaler changes the first group alone, and recognises its workers by their memory."""
        groups = data.get("groups")
        scaled = data.get("operator") is not False
        if not isinstance(groups, dict) or not groups:
            return
        first, *_ = groups
        least = _number_of(groups[first], "memory_gb")
        for name, group in groups.items():
            place = ("groups", str(name))
            size, maximum = _number_of(group, "memory_gb"), _number_of(group, "maximum") or 1
            if name in ("default", "worker", "scheduler") and name != first:
                yield place, "the cluster's own objects have this name; choose another."
            if scaled and name != first and size is not None and least is not None and size <= least:
                message = f"{size:g} must be above the {least:g} of {first!r}: otherwise the autoscaler would end its "
                yield (*place, "memory_gb"), message + "workers, and it starts none of them again."
            is_fixed = not scaled or name != first
            if is_fixed and _number_of(group, "minimum") not in (None, maximum):
                reason = "the autoscaler changes the first group alone" if scaled else "there is no autoscaler"
                message = f"{reason}, so this group always has {maximum:g} workers, its maximum. Remove this key."
                yield (*place, "minimum"), message


class AddressSite(SiteConfig):
    """A dask scheduler that runs already."""

    kind: Literal["address"] = Field(description="kind of cluster", examples=["address"])
    address: ExpandedText | None = Field(None, description="address of the scheduler", examples=["tls://login1:8786"])
    scheduler_file: ConfigPath | None = Field(
        None,
        validate_default=True,
        description="file that the scheduler wrote, in place of an address",
        examples=["scheduler.json"],
    )
    tls: ConfigPath | None = Field(
        None, description="folder of certificates, for a tls:// address", examples=["certificates"]
    )

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and not CLUSTER_ADDRESS.fullmatch(value):
            raise ValueError(f"{value!r}: expected one such as tcp://127.0.0.1:8786.")
        return value

    @field_validator("scheduler_file")
    @classmethod
    def _is_the_only_one(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if "address" in info.data and (info.data["address"] is None) == (value is None):
            raise ValueError("expected either 'address' or 'scheduler_file'.")
        return value


KINDS: dict[str, type[SiteConfig]] = {
    "local": LocalSite,
    "slurm": BatchSite,
    "pbs": BatchSite,
    "kubernetes": KubernetesSite,
    "address": AddressSite,
}


def _number_of(group: Any, key: str) -> float | None:
    """A number of a group as YAML has it; None where there is none."""
    value = group.get(key) if isinstance(group, dict) else None
    try:
        return None if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
