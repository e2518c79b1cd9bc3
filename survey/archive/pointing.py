"""How well an exposure's pointing is known, by the keywords of its header: guiding, and the source of the position."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from survey.archive.headers import DamagedFileError, read_primary_header

KEYWORDS = ("PCS_MODE", "ENGQLPTG", "VISITSTA", "ENG_QUAL")
# What may be wrong -> what that means, for messages. The keywords are those of the pipeline's data models.
KINDS = {
    "coarse": "coarse pointing, without lock on the guide star (PCS_MODE or ENGQLPTG is COARSE)",
    "unguided": "no guide star (PCS_MODE is NONE)",
    "planned": "the planned position in the header, not the measured one (ENGQLPTG is PLANNED)",
    "failed": "a visit that was not successful, as after a guide star failure (VISITSTA)",
    "suspect": "suspect pointing telemetry (ENG_QUAL is SUSPECT)",
}


def pointing_faults(primary: Mapping[str, Any]) -> str:
    """What may be wrong with a pointing: names of `KINDS` in their order, with ', ' between them; '' for nothing.

    Parameters
    ----------
    primary : values of `KEYWORDS` of a primary header; what is missing counts as good
    """
    mode, quality, visit, telemetry = (str(primary.get(key) or "").strip().upper() for key in KEYWORDS)
    found = {
        "coarse": mode == "COARSE" or "COARSE" in quality.split("_"),
        "unguided": mode == "NONE",
        "planned": quality == "PLANNED",
        "failed": visit not in ("", "SUCCESSFUL"),
        "suspect": telemetry == "SUSPECT",
    }
    return ", ".join(name for name in KINDS if found[name])


def read_pointing_faults(path: Path) -> str | None:
    """As `pointing_faults`, from a file; None if its header cannot be read."""
    try:
        return pointing_faults(read_primary_header(path).values(KEYWORDS))
    except (OSError, DamagedFileError):
        return None
