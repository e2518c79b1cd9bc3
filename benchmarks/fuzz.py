"""Inputs tried and crashes: ``python benchmarks/fuzz.py [--examples 1000] [--target config] [--seed 1] [--json]``.

Configs, associations, names, records, archive rows, FITS files, replies and ledgers that nobody of this project wrote,
made by hypothesis from good ones; and three of them through the command line itself. A crash is anything but the errors
that a reader documents. Aim: 0. The tests run a short form (tests/test_fuzz.py).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from measure import ROOT, say

sys.path.insert(0, str(ROOT / "tests"))
from foreign_inputs import TARGETS, Target

COMMAND_SHARE = 10  # a command costs as much as some ten readings of a file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1000, help="of each reader; a tenth of it of each command")
    parser.add_argument("--target", choices=sorted(TARGETS), help="this one alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    given_ = parser.parse_args()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):  # what reaches for a server finds none
        os.environ[name] = "http://127.0.0.1:9"
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, target in TARGETS.items():
            if given_.target not in (None, name):
                continue
            examples = given_.examples // COMMAND_SHARE if name.startswith("command") else given_.examples
            start = time.monotonic()
            tried, crashes = try_target(target, max(1, examples), given_.seed, Path(folder))
            found[name] = {"tried": tried, "crashes": len(crashes), "seconds": round(time.monotonic() - start, 1)}
            say(f"{name}: {tried} inputs, {len(crashes)} crashes, {found[name]['seconds']} s")
            for place, example in crashes.items():
                say(f"  {place}\n    {example}")
    total = {key: sum(entry[key] for entry in found.values()) for key in ("tried", "crashes")}
    if given_.json:
        print(json.dumps({"seed": given_.seed, **total, "targets": found}))
    else:
        print(f"{total['tried']} inputs, {total['crashes']} crashes")
    sys.exit(1 if total["crashes"] else 0)


def try_target(target: Target, examples: int, number: int, folder: Path) -> tuple[int, dict[str, str]]:
    """Inputs tried, and crashes: where each was raised -> the first input that did it."""
    tried, crashes = 0, {}

    @seed(number)
    @settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.inputs)
    def read(value: Any) -> None:
        nonlocal tried
        tried += 1
        try:
            target.read(value, folder)
        except Exception as error:  # noqa: BLE001 - what is counted here
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__}: {str(error)[:300]} ({Path(last.filename).name}:{last.lineno})"
            crashes.setdefault(place, ascii(value)[-1500:])

    read()
    return tried, crashes


if __name__ == "__main__":
    main()
