"""Sky statistics of exposures, and the levels that are solved from them, as tasks hand them on in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from survey.steps.image3.numbers import Typed, typed, untyped

COMPLETE, SKIPPED = "COMPLETE", "SKIPPED"  # values of the header keyword S_SKYMAT
# Sky of some pixels, or None where there are none; number of pixels; their area [sr].
Measured = tuple[Typed | None, int, float]


@dataclass
class Statistics:
    """The sky of one exposure: over all of it, and where groups of others overlap it."""

    start: Typed | None = field(default_factory=lambda: typed(0.0))  # the level that it had before
    whole: Measured | None = None
    overlaps: dict[str, Measured] = field(default_factory=dict)  # number of a group in the layout -> its overlap

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: str) -> Statistics:
        return cls(**json.loads(Path(path).read_text()))


@dataclass(frozen=True)
class Level:
    """The sky level of one member [unit of its image]."""

    level: Typed | None  # None when it was not matched
    status: str = COMPLETE
    deltas: tuple[Typed | None, ...] = ()  # what the config wants subtracted from the pixels, in order

    @property
    def is_matched(self) -> bool:
        return self.status == COMPLETE

    @property
    def value(self) -> Any:
        """The level with its number type."""
        return untyped(self.level)

    @property
    def subtractions(self) -> list[Any]:
        """The deltas with their number types."""
        return [untyped(delta) for delta in self.deltas]


SKIPPED_LEVEL = Level(None, SKIPPED)


@dataclass(frozen=True)
class SkyLevels:
    """The sky levels of a mosaic's members."""

    method: str  # of skymatch
    subtracted: bool
    members: Mapping[str, Level]  # by exposure

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: str) -> SkyLevels:
        data = json.loads(Path(path).read_text())
        members = {
            name: Level(item["level"], item["status"], tuple(item["deltas"])) for name, item in data["members"].items()
        }
        return cls(data["method"], bool(data["subtracted"]), members)
