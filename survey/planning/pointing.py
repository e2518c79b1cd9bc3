"""Warnings about exposures whose headers say that their pointing may be wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from survey.archive.pointing import KINDS
from survey.models import Exposure

SHOWN = 12  # exposures in a warning


def pointing_warnings(exposures: Iterable[Exposure]) -> list[str]:
    """One warning for each kind of fault, with the exposures that have it; those whose header is not known are not."""
    known = [item for item in exposures if item.pointing is not None]
    found = []
    for kind, meaning in KINDS.items():
        names = [item.name for item in known if kind in (item.pointing or "").split(", ")]
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            found.append(
                f"{len(names)} of {len(known)} exposures have {meaning}: {', '.join(names[:SHOWN])}{more}. Their "
                f"alignment may fail; 'pointing: {{exclude: [{kind}]}}' in the config leaves them out"
            )
    return found
