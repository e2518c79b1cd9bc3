"""Groups of workers in a deploy file: their size, their number, and for how long they run."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from survey.config.values import Section
from survey.messages import shown

# Memory of a worker besides its task: dask, and the server of child processes with the pipeline imported.
OVERHEAD_GB = 0.5
# A worker starts later than its job and needs time to leave: its lifetime must end this long before the walltime [s].
RESERVE_SECONDS = 60

_TIMES = [
    re.compile(pattern, re.ASCII)
    for pattern in (
        r"(?P<minutes>\d+):(?P<seconds>[0-5]?\d)",
        r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>[0-5]?\d):(?P<seconds>[0-5]?\d)",
        r"(?P<days>\d+)-(?P<hours>\d+):(?P<minutes>[0-5]?\d)",
    )
]
# Names and values of labels of Kubernetes' nodes.
_LABEL_VALUE = r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"
_LABEL = r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_UNITS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, found {str(value).lower()}.")
    return value


def _as_seconds(value: Any) -> Any:
    """Seconds of 'MM:SS', 'HH:MM:SS', 'D-HH:MM:SS' or 'D-HH:MM', as Slurm and PBS read them.

    YAML reads an unquoted 30:00 or 12:00:00 as a number of seconds, the same one.
    """
    if not isinstance(value, str):
        return _no_boolean(value)
    found = next(filter(None, (pattern.fullmatch(value.strip()) for pattern in _TIMES)), None)
    if found is None:
        raise ValueError(f"{shown(value)}: expected hours, minutes and seconds, such as '04:00:00'.")
    return sum(_UNITS[name] * int(digits or 0) for name, digits in found.groupdict().items())


def matching(pattern: str, expected: str) -> AfterValidator:
    """Check of a text against a whole pattern; ``expected`` completes the message "expected ..."."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, re.ASCII):
            raise ValueError(f"{shown(value)}: expected {expected}.")
        return value

    return AfterValidator(check)


ObjectName = Annotated[
    str, matching(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", "the name of a Kubernetes object, such as survey-crds")
]
Seconds = Annotated[int, BeforeValidator(_as_seconds), Field(ge=1)]
Count = Annotated[int, BeforeValidator(_no_boolean)]
Gigabytes = Annotated[float, BeforeValidator(_no_boolean)]


def one_word(value: str | None) -> str | None:
    """Check a value that is written into a directive of a job script as it is."""
    if value is not None and not re.fullmatch(r"[^\s\"'`#\\\x00-\x1f\x7f]+", value):
        raise ValueError(f"{value!r}: expected one word without spaces, quotes and '#'.")
    return value


def clock(seconds: int) -> str:
    """HH:MM:SS, as batch systems read it."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


# A rule between keys is a validator of the last key that it needs: `info.data` holds the sound ones before it, so that
# the rule is also checked where other keys have faults.


class WorkerGroup(Section):
    """Workers of one size on this machine. One worker is one process that runs one task at a time."""

    memory_gb: Gigabytes = Field(
        gt=0, description="memory of the largest task that a worker of this group runs [GB]", examples=[8]
    )
    maximum: Count = Field(1, ge=1, description="number of workers; a local cluster starts all of them", examples=[4])


class ScaledGroup(WorkerGroup):
    """Workers of one size whose number changes with the tasks that are ready."""

    maximum: Count = Field(1, ge=1, description="largest number of workers", examples=[64])
    cores: Count = Field(
        1,
        ge=1,
        description="number of cores of one worker; a task uses one, more are for systems that sell memory by the core",
        examples=[2],
    )
    minimum: Count = Field(0, ge=0, description="number of workers that are kept while no task is ready", examples=[4])

    @field_validator("minimum")
    @classmethod
    def _is_not_above_maximum(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("maximum", value):
            raise ValueError(f"minimum {value} is above maximum {info.data['maximum']}.")
        return value


class JobGroup(ScaledGroup):
    """Workers in batch jobs of one kind. A job asks for `workers_per_job` times the memory and 0.5 GB a worker."""

    workers_per_job: Count = Field(1, ge=1, description="number of workers in one job", examples=[4])
    lifetime: Seconds | None = Field(
        None,
        description="time after which a worker leaves and hands over its task, as HH:MM:SS or a number [s]; "
        "null: walltime less three times stagger",
        examples=["03:30:00"],
    )
    stagger: Seconds | None = Field(
        None,
        description="largest random difference between lifetimes, as HH:MM:SS or a number [s]; "
        "null: 5 minutes, or walltime / 20 if that is shorter",
        examples=["00:02:00"],
    )
    walltime: Seconds = Field(
        4 * 3600,
        validate_default=True,
        description="time limit of a job, as HH:MM:SS, D-HH:MM:SS or a number [s]",
        examples=["08:00:00"],
    )
    queue: str | None = Field(
        None, description="partition or queue; null: the batch system's default", examples=["long"]
    )
    directives: tuple[str, ...] = Field(
        (), description="more directives of a job script, without #SBATCH or #PBS", examples=[["--constraint=milan"]]
    )

    @field_validator("workers_per_job")
    @classmethod
    def _fits_into_the_group(cls, value: int, info: ValidationInfo) -> int:
        maximum, minimum = info.data.get("maximum"), info.data.get("minimum", 0)
        if maximum is not None and maximum < value:
            raise ValueError(f"maximum {maximum} is less than the {value} workers of one job.")
        if maximum is not None and -(-minimum // value) > maximum // value:
            raise ValueError(
                f"minimum {minimum} needs {-(-minimum // value)} jobs of {value} workers, and maximum {maximum} allows "
                f"{maximum // value}: expected a minimum of {maximum // value * value} or less."
            )
        return value

    @field_validator("walltime")
    @classmethod
    def _ends_after_the_workers(cls, value: int, info: ValidationInfo) -> int:
        if not {"lifetime", "stagger"} <= set(info.data):
            return value
        lifetime, stagger = _lifetimes(value, info.data["lifetime"], info.data["stagger"])
        if lifetime + stagger > value - RESERVE_SECONDS or lifetime <= stagger:
            raise ValueError(
                f"lifetime {clock(lifetime)} and stagger {clock(stagger)} must end {RESERVE_SECONDS} s or more before "
                f"walltime {clock(value)}, so that a worker has the time to hand over its task."
            )
        return value

    @field_validator("queue")
    @classmethod
    def _is_one_word(cls, value: str | None) -> str | None:
        return one_word(value)

    @field_validator("directives")
    @classmethod
    def _are_lines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [line for line in value if not line.isprintable() or line.lstrip().startswith("#")]
        if wrong:
            raise ValueError(
                f"{', '.join(map(repr, wrong))}: expected one line each, without #SBATCH or #PBS, such as --exclusive."
            )
        return value

    @property
    def asked_gb(self) -> float:
        """Memory that a job asks for, for one worker and its task [GB]."""
        return self.memory_gb + OVERHEAD_GB

    @property
    def lifetimes(self) -> tuple[int, int]:
        """Lifetime of a worker and its largest random difference [s]."""
        return _lifetimes(self.walltime, self.lifetime, self.stagger)

    @property
    def jobs(self) -> tuple[int, int]:
        """Smallest and largest number of jobs."""
        return -(-self.minimum // self.workers_per_job), self.maximum // self.workers_per_job


def _lifetimes(walltime: int, lifetime: int | None, stagger: int | None) -> tuple[int, int]:
    stagger = stagger or max(1, min(300, walltime // 20))
    longest = walltime - stagger - max(2 * stagger, RESERVE_SECONDS)
    return lifetime or max(longest, 1), stagger


class Volume(Section):
    """A persistent volume claim and the path at which pods mount it."""

    claim: ObjectName = Field(description="name of the persistent volume claim", examples=["survey-workspace"])
    path: str = Field(
        description="path at which pods mount the claim; configs name paths below it", examples=["/data/egs"]
    )
    read_only: bool = Field(
        False,
        description="true for the CRDS cache, false for the workspace; other values are rejected",
        examples=[True],
    )

    @field_validator("path")
    @classmethod
    def _is_absolute(cls, value: str) -> str:
        if not value.startswith("/") or ".." in value.split("/"):
            raise ValueError(f"{value!r}: expected an absolute path such as /data/workspace.")
        return value


class PodGroup(ScaledGroup):
    """Workers that are pods of one kind. The memory limit of a pod is 1 GiB and more above its largest task."""

    minimum: Count = Field(
        1,
        ge=1,
        description="number of workers that are kept; of the first group only, others always have `maximum` workers",
        examples=[4],
    )
    scratch_gb: Gigabytes = Field(4.0, gt=0, description="size of a pod's temporary files [GB]", examples=[20])
    node_selector: dict[str, str] = Field(
        default_factory=dict,
        description="labels of the nodes on which pods may run",
        examples=[{"kubernetes.io/arch": "amd64"}],
    )

    @field_validator("node_selector")
    @classmethod
    def _are_labels(cls, value: dict[str, str]) -> dict[str, str]:
        wrong = [
            f"{name!r}: {text!r}"
            for name, text in value.items()
            if not re.fullmatch(_LABEL, name) or not re.fullmatch(_LABEL_VALUE, text)
        ]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: expected a label of nodes, such as 'kubernetes.io/arch: amd64'.")
        return value
