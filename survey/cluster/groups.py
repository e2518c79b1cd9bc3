"""Groups of workers in a deploy file: how large, how many, for how long."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from survey.config.values import Section
from survey.messages import shown

# What a worker takes beside its task: dask, and the server of child processes with the pipeline imported.
OVERHEAD_GB = 0.5
# A worker starts later than its job, and takes a while to leave: its lifetime ends so long before the walltime [s].
RESERVE_SECONDS = 60

_TIMES = [
    re.compile(pattern, re.ASCII)
    for pattern in (
        r"(?P<minutes>\d+):(?P<seconds>[0-5]?\d)",
        r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>[0-5]?\d):(?P<seconds>[0-5]?\d)",
        r"(?P<days>\d+)-(?P<hours>\d+):(?P<minutes>[0-5]?\d)",
    )
]
# Names of Kubernetes objects, and names and values of labels.
DNS_NAME = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"
_LABEL_VALUE = r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"
_LABEL = r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_UNITS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, found {str(value).lower()}.")
    return value


def _as_seconds(value: Any) -> Any:
    """Seconds of 'MM:SS', 'HH:MM:SS', 'D-HH:MM:SS' or 'D-HH:MM', as Slurm and PBS read them.

    YAML itself reads 30:00 and 12:00:00, unquoted, as numbers of seconds, the same ones.
    """
    if not isinstance(value, str):
        return _no_boolean(value)
    found = next(filter(None, (pattern.fullmatch(value.strip()) for pattern in _TIMES)), None)
    if found is None:
        raise ValueError(f"{shown(value)}: expected hours, minutes and seconds, such as '04:00:00'.")
    return sum(_UNITS[name] * int(digits or 0) for name, digits in found.groupdict().items())


Seconds = Annotated[int, BeforeValidator(_as_seconds), Field(ge=1)]
Count = Annotated[int, BeforeValidator(_no_boolean)]
Gigabytes = Annotated[float, BeforeValidator(_no_boolean)]


def one_word(value: str | None) -> str | None:
    """A value that stands in a line of a job script's head as it is."""
    if value is not None and not re.fullmatch(r"[^\s\"'`#\\\x00-\x1f\x7f]+", value):
        raise ValueError(f"{value!r}: expected one word without spaces, quotes and '#'.")
    return value


def clock(seconds: int) -> str:
    """HH:MM:SS, as batch systems read it."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class WorkerGroup(Section):
    """Workers of one size. One worker is one process that runs one task at a time."""

    memory_gb: Gigabytes = Field(
        gt=0, description="largest task of a worker [GB]; 0.5 GB more is asked for the worker itself"
    )
    cores: Count = Field(1, ge=1, description="of one worker; tasks use one, more only buys memory on some systems")
    minimum: Count = Field(0, ge=0, description="workers that are kept while nothing waits for them")
    maximum: Count = Field(1, ge=1, description="workers at most")

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

    workers_per_job: Count = Field(1, ge=1, description="a job asks for so many times cores and memory")
    walltime: Seconds = Field(4 * 3600, description="of a job, HH:MM:SS or D-HH:MM:SS")
    lifetime: Seconds | None = Field(
        None, description="after which a worker leaves in order, HH:MM:SS; default: walltime less three times stagger"
    )
    stagger: Seconds | None = Field(
        None, description="by which lifetimes differ at random, HH:MM:SS; default: 5 minutes, at most walltime / 20"
    )
    queue: str | None = Field(None, description="partition or queue; default: the batch system's own")
    directives: tuple[str, ...] = Field((), description="more lines for the head of a job script, such as --exclusive")

    @field_validator("queue")
    @classmethod
    def _is_one_word(cls, value: str | None) -> str | None:
        return one_word(value)

    @field_validator("directives")
    @classmethod
    def _are_lines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for line in value:
            if not line.isprintable() or line.lstrip().startswith("#"):
                raise ValueError(f"{line!r}: expected one line without its first #SBATCH or #PBS, such as --exclusive.")
        return value

    @model_validator(mode="after")
    def _ends_in_time(self) -> JobGroup:
        if self.maximum < self.workers_per_job:
            raise ValueError(f"maximum {self.maximum} is less than the {self.workers_per_job} workers of one job.")
        least, most = self.jobs
        if least > most:
            raise ValueError(
                f"minimum {self.minimum} needs {least} jobs of {self.workers_per_job} workers, and maximum "
                f"{self.maximum} allows {most}: expected a minimum of {most * self.workers_per_job} or less."
            )
        lifetime, stagger = self.lifetimes
        if lifetime + stagger > self.walltime - RESERVE_SECONDS or lifetime <= stagger:
            raise ValueError(
                f"lifetime {clock(lifetime)} and stagger {clock(stagger)} must end {RESERVE_SECONDS} s or more before "
                f"walltime {clock(self.walltime)}: a worker that leaves in order hands its tasks on."
            )
        return self

    @property
    def lifetimes(self) -> tuple[int, int]:
        """Lifetime of a worker and by how much it is varied [s]."""
        stagger = self.stagger or max(1, min(300, self.walltime // 20))
        longest = self.walltime - stagger - max(2 * stagger, RESERVE_SECONDS)
        return self.lifetime or max(longest, 1), stagger

    @property
    def jobs(self) -> tuple[int, int]:
        """Jobs at least and at most."""
        return -(-self.minimum // self.workers_per_job), self.maximum // self.workers_per_job


class Volume(Section):
    """A persistent volume claim and where pods see it."""

    claim: str = Field(pattern=DNS_NAME, description="name of the persistent volume claim")
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

    scratch_gb: Gigabytes = Field(4.0, gt=0, description="local scratch of one pod [GB]")
    node_selector: dict[str, str] = Field(default_factory=dict, description="labels of nodes that pods may run on")

    @field_validator("node_selector")
    @classmethod
    def _are_labels(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not re.fullmatch(_LABEL, name) or not re.fullmatch(_LABEL_VALUE, text):
                raise ValueError(f"{name!r}: {text!r}: expected a label of nodes, such as 'kubernetes.io/arch: amd64'.")
        return value
