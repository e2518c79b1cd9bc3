"""Deploy files: where a survey runs and how big, and nothing of what it reduces.

A file names its `kind`; each kind has its own keys, all of them described here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from survey.config import CLUSTER_ADDRESS, ConfigPath, Section
from survey.config import Server as ExpandedText
from survey.credentials import TOKEN
from survey.documents import MAX_FAULTS, nearest, read_document
from survey.errors import ConfigError

# What workers declare, and tasks ask for, so that the scheduler places tasks by memory [GB].
RESOURCE = "memory_gb"
# What a worker takes beside its task: dask, and the server of child processes with the pipeline imported.
OVERHEAD_GB = 0.5
# Numerical libraries must not start threads below a worker that counts as one core.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
LOCAL = "local"

_NAME = r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?"  # also names of jobs and of Kubernetes objects
_DURATION = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>[0-5]?\d)(?::(?P<seconds>[0-5]?\d))?", re.ASCII)


def _as_seconds(value: Any) -> Any:
    """Seconds of 'HH:MM:SS' or 'D-HH:MM:SS'. YAML itself reads 12:00:00, unquoted, as a number of seconds."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value!r}: expected hours, minutes and seconds, such as '04:00:00'.")
    days, hours, minutes, seconds = (int(match[name] or 0) for name in ("days", "hours", "minutes", "seconds"))
    return 3600 * (24 * days + hours) + 60 * minutes + seconds


Seconds = Annotated[int, BeforeValidator(_as_seconds), Field(ge=1)]


def clock(seconds: int) -> str:
    """HH:MM:SS, as batch systems read it."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class WorkerGroup(Section):
    """Workers of one size. One worker is one process that runs one task at a time."""

    memory_gb: float = Field(
        gt=0, description="largest task of a worker [GB]; 0.5 GB more is asked for the worker itself"
    )
    cores: int = Field(1, ge=1, description="of one worker; tasks use one, more only buys memory on some systems")
    minimum: int = Field(0, ge=0, description="workers that are kept while nothing waits for them")
    maximum: int = Field(1, ge=1, description="workers at most")

    @model_validator(mode="after")
    def _in_order(self) -> WorkerGroup:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}.")
        return self

    @property
    def asked_gb(self) -> float:
        """What one worker and its task take [GB]."""
        return self.memory_gb + OVERHEAD_GB


class JobGroup(WorkerGroup):
    """Workers that come by batch jobs of one kind."""

    workers_per_job: int = Field(1, ge=1, description="a job asks for so many times cores and memory")
    walltime: Seconds = Field(4 * 3600, description="of a job, HH:MM:SS or D-HH:MM:SS")
    lifetime: Seconds | None = Field(
        None, description="after which a worker leaves in order, HH:MM:SS; default: walltime less three times stagger"
    )
    stagger: Seconds | None = Field(
        None, description="by which lifetimes differ at random, HH:MM:SS; default: 5 minutes, at most walltime / 20"
    )
    queue: str | None = Field(None, description="partition or queue; default: the batch system's own")
    directives: tuple[str, ...] = Field((), description="more lines for the head of a job script, such as --exclusive")

    @model_validator(mode="after")
    def _ends_in_time(self) -> JobGroup:
        if self.maximum < self.workers_per_job:
            raise ValueError(f"maximum {self.maximum} is less than the {self.workers_per_job} workers of one job.")
        lifetime, stagger = self.lifetimes
        if lifetime + stagger > self.walltime or lifetime <= stagger:
            raise ValueError(
                f"lifetime {clock(lifetime)} and stagger {clock(stagger)} must end within walltime "
                f"{clock(self.walltime)}: a worker that leaves in order hands its tasks on."
            )
        return self

    @property
    def lifetimes(self) -> tuple[int, int]:
        """Lifetime of a worker and by how much it is varied [s]."""
        stagger = self.stagger or max(1, min(300, self.walltime // 20))
        return self.lifetime or max(self.walltime - 3 * stagger, 1), stagger

    @property
    def jobs(self) -> tuple[int, int]:
        """Jobs at least and at most."""
        return -(-self.minimum // self.workers_per_job), self.maximum // self.workers_per_job


class Volume(Section):
    """A persistent volume claim and where pods see it."""

    claim: str = Field(description="name of the persistent volume claim")
    path: str = Field(description="where pods mount it; configs name paths below it")
    read_only: bool = Field(False, description="whether pods may only read it")

    @field_validator("path")
    @classmethod
    def _is_absolute(cls, value: str) -> str:
        if not value.startswith("/") or ".." in value.split("/"):
            raise ValueError(f"{value!r}: expected an absolute path such as /data/workspace.")
        return value


class PodGroup(WorkerGroup):
    """Workers that are pods of one kind."""

    scratch_gb: float = Field(4.0, gt=0, description="local scratch of one pod [GB]")
    node_selector: dict[str, str] = Field(default_factory=dict, description="labels of nodes that pods may run on")


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


class KubernetesSite(_Grouped):
    """Workers as pods, through the dask operator."""

    kind: Literal["kubernetes"]
    groups: dict[str, PodGroup] = Field(description="pods by size: ordinary ones, and one for tasks that need more")
    image: str = Field(description="container image, with its tag or digest")
    namespace: str = Field("survey", pattern=_NAME, description="of all objects")
    name: str = Field("survey", pattern=_NAME, description="of the cluster")
    workspace: Volume = Field(
        Volume(claim="survey-workspace", path="/workspace"), description="the claim that holds workspaces"
    )
    crds: Volume = Field(
        Volume(claim="survey-crds", path="/crds", read_only=True), description="the claim that holds the CRDS cache"
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field("IfNotPresent", description="of the image")
    user_id: int = Field(10001, ge=1, description="that pods run as; the claims must be writable for it")
    service_account: str = Field("survey", description="of all pods; its token is not mounted")
    dask_config: str = Field("survey-dask", description="config map with dask's settings, mounted at /etc/dask")
    tls_secret: str = Field("survey-tls", description="first part of the secrets' names; -scheduler, -worker follow")
    tls: ConfigPath | None = Field(None, description="folder of certificates, where the client sees it")


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
