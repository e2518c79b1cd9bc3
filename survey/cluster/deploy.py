"""Deploy files: where a survey runs and how big, and nothing of what it reduces.

A file names its `kind`; each kind has its own keys, all of them described here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from survey.cluster.groups import DNS_NAME, Count, JobGroup, PodGroup, Seconds, Volume, WorkerGroup, one_word
from survey.config.values import ConfigPath, Section
from survey.config.values import Server as ExpandedText
from survey.config.yaml_file import MAX_FAULTS, read_document
from survey.credentials import TOKEN
from survey.errors import ConfigError
from survey.execution.environment import THREADS
from survey.messages import nearest

# What workers declare, and tasks ask for, so that the scheduler places tasks by memory [GB].
RESOURCE = "memory_gb"
# Of a dask scheduler, as --cluster takes it: the port is optional, an IPv6 host stands in brackets.
CLUSTER_ADDRESS = re.compile(
    r"(?P<protocol>tcp|tls|ws|wss|ucx)://(?:(?P<host>[^\s/:\[\]]+)|\[(?P<ipv6>[0-9a-fA-F:]+)\])(?::\d{1,5})?", re.ASCII
)
LOCAL = "local"
# Where pods have their own folders.
POD_PATHS = ("/home/survey", "/tmp", "/etc/dask", "/tls")

_NAME = r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?"  # also names of jobs and of Kubernetes objects


class SiteConfig(Section):
    """What all kinds have."""

    kind: str
    environment: dict[str, ExpandedText] = Field(
        default_factory=dict,
        description="for workers, before anything is imported; USER, and 1 for threads of numerical libraries, are set",
    )
    start_timeout: Seconds = Field(
        3600, description="how long to wait for a worker while none is there, HH:MM:SS; then the run gives up"
    )
    groups_of: ClassVar[Any] = WorkerGroup

    @field_validator("environment", mode="before")
    @classmethod
    def _are_names(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        wrong = [name for name in value if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name), re.ASCII)]
        if wrong:
            raise ValueError(f"{', '.join(map(repr, wrong))}: not a name of an environment variable.")
        if TOKEN in value:
            raise ValueError("workers need no archive token; only 'survey fetch' does, from its own environment.")
        return {name: item if isinstance(item, str) else str(item) for name, item in value.items()}

    @property
    def worker_environment(self) -> dict[str, str]:
        """Environment variables of every worker, beside USER: the pipeline asks for one at import."""
        return {**dict.fromkeys(THREADS, "1"), **self.environment}

    @property
    def sizes(self) -> dict[str, WorkerGroup]:
        """Groups by name; none where the file does not say them."""
        return dict(getattr(self, "groups", None) or {})

    @property
    def capacity_gb(self) -> float:
        """The largest task that any worker of this file takes [GB]; 0: not known."""
        return max((group.memory_gb for group in self.sizes.values()), default=0.0)


class _Grouped(SiteConfig):
    @field_validator("groups", mode="after", check_fields=False)
    @classmethod
    def _are_named(cls, value: Any) -> Any:
        if not value and not cls.model_fields["groups"].is_required():
            return value
        if not value:
            raise ValueError("expected at least one group, such as 'ordinary: {memory_gb: 4}'.")
        wrong = [name for name in value if not re.fullmatch(_NAME, name, re.ASCII)]
        if wrong:
            raise ValueError(f"{', '.join(map(repr, wrong))}: expected lower-case letters, digits and '-', 30 at most.")
        return value


class LocalSite(_Grouped):
    """Worker processes on this machine."""

    kind: Literal["local"]
    groups: dict[str, WorkerGroup] = Field(
        default_factory=dict, description="all `maximum` workers of each are started; default: as many as fit"
    )
    scratch: ConfigPath | None = Field(None, description="folder for dask's own files; default: the system's")


class BatchSite(_Grouped):
    """Workers by jobs of a batch system, through dask-jobqueue. The scheduler runs beside the client."""

    kind: Literal["slurm", "pbs"]
    groups: dict[str, JobGroup] = Field(description="jobs by size: ordinary ones, and one for tasks that need more")
    interface: ExpandedText = Field(
        pattern=r"^[A-Za-z0-9_.:-]{1,40}$",
        description="network interface of scheduler and workers, such as ib0",
    )
    account: str | None = Field(None, description="whom jobs are charged to")
    scratch: str | None = Field(None, description="local folder of workers; the job's own variables stand: $TMPDIR")
    python: str | None = Field(None, description="interpreter of workers; default: the one that submits")
    prologue: tuple[str, ...] = Field((), description="shell lines before the workers start, such as 'module load ...'")
    logs: ConfigPath | None = Field(None, description="folder of the jobs' output; default: logs/jobs of the workspace")
    tls: ConfigPath | None = Field(None, description="folder of certificates, on a file system that jobs see")
    idle: Seconds = Field(120, description="after which a job whose workers have nothing to do is ended, HH:MM:SS")

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


class KubernetesSite(_Grouped):
    """Workers as pods, through the dask operator."""

    kind: Literal["kubernetes"]
    groups: dict[str, PodGroup] = Field(description="pods by size: ordinary ones, and one for tasks that need more")
    image: str = Field(pattern=r"^[a-z0-9][A-Za-z0-9._:/@-]*$", description="container image, with its tag or digest")
    namespace: str = Field("survey", pattern=_NAME, description="of all objects")
    name: str = Field("survey", pattern=_NAME, description="of the cluster")
    workspace: Volume = Field(
        Volume(claim="survey-workspace", path="/workspace"), description="the claim that holds workspaces"
    )
    crds: Volume = Field(
        Volume(claim="survey-crds", path="/crds", read_only=True), description="the claim that holds the CRDS cache"
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field("IfNotPresent", description="of the image")
    user_id: Count = Field(10001, ge=1, description="that pods run as; the claims must be writable for it")
    service_account: str = Field("survey", pattern=DNS_NAME, description="of all pods; its token is not mounted")
    dask_config: str = Field(
        "survey-dask", pattern=DNS_NAME, description="config map with dask's settings, mounted at /etc/dask"
    )
    tls_secret: str = Field(
        "survey-tls", pattern=DNS_NAME, description="first part of the secrets' names; -scheduler, -worker follow"
    )
    tls: ConfigPath | None = Field(None, description="folder of certificates, where the client sees it")

    @field_validator("crds")
    @classmethod
    def _is_only_read(cls, value: Volume) -> Volume:
        return value.model_copy(update={"read_only": True})

    @model_validator(mode="after")
    def _fits_together(self) -> KubernetesSite:
        (ordinary, first), *others = self.groups.items()
        for name, group in others:
            if name in ("default", "worker", "scheduler"):
                raise ValueError(f"group {name!r}: the cluster's own objects have this name; choose another.")
            if group.memory_gb <= first.memory_gb:
                raise ValueError(
                    f"group {name!r}: memory_gb {group.memory_gb:g} must be above the {first.memory_gb:g} of "
                    f"{ordinary!r}: the autoscaler would end its workers, and starts none of them."
                )
        paths = [*POD_PATHS, self.workspace.path.rstrip("/"), self.crds.path.rstrip("/")]
        twice = sorted({path or "/" for path in paths if not path or paths.count(path) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: expected a path of its own for each claim, such as /workspace.")
        return self


class AddressSite(SiteConfig):
    """A dask scheduler that somebody else started."""

    kind: Literal["address"]
    address: ExpandedText | None = Field(None, description="of the scheduler, such as tls://host:8786")
    scheduler_file: ConfigPath | None = Field(None, description="that the scheduler wrote; in place of an address")
    tls: ConfigPath | None = Field(None, description="folder of certificates for tls://")

    @model_validator(mode="after")
    def _one_of_them(self) -> AddressSite:
        if (self.address is None) == (self.scheduler_file is None):
            raise ValueError("expected either 'address' or 'scheduler_file'.")
        if self.address is not None and not CLUSTER_ADDRESS.fullmatch(self.address):
            raise ValueError(f"address {self.address!r}: expected one such as tcp://127.0.0.1:8786.")
        return self


KINDS: dict[str, type[SiteConfig]] = {
    "local": LocalSite,
    "slurm": BatchSite,
    "pbs": BatchSite,
    "kubernetes": KubernetesSite,
    "address": AddressSite,
}


def load_site(path: Path | str) -> SiteConfig:
    """Read a deploy file.

    Raises
    ------
    ConfigError
        The file cannot be read, is not a mapping, or holds faults; each fault names file, line and what is expected.
    """
    document = read_document(path)
    kind = document.data.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    faults = list(document.faults)
    if model is None:
        found = (
            f"{kind!r} is none{nearest(kind, list(KINDS))}" if "kind" in document.data else "is required and missing."
        )
        raise ConfigError([*faults, f"{document.locate(['kind'])}: kind: {found} Known: {', '.join(KINDS)}."])
    try:
        site = model(**document.data)
    except ValidationError as error:
        faults += [document.fault(item, model) for item in error.errors(include_url=False)[:MAX_FAULTS]]
    if faults:
        raise ConfigError(faults)
    return site


def site_of(where: str | None) -> SiteConfig:
    """What ``--cluster`` means: nothing or 'local', an address, or a deploy file.

    Raises
    ------
    ConfigError
        It is none of them, or the file holds faults.
    """
    if where is None or where == LOCAL:
        return LocalSite(kind="local")
    if CLUSTER_ADDRESS.fullmatch(where):
        return AddressSite(kind="address", address=where)
    if where and Path(where).is_file():
        return load_site(where)
    raise ConfigError(
        f"--cluster {where}: expected 'local' or an address such as tcp://127.0.0.1:8786, or a deploy file; there is "
        "no file of that name."
    )
