"""Compare plans with runs over many random histories of a small survey with stub steps.

    python benchmarks/histories.py --number 200

Prints how many histories were tried, and the first in which a plan announced other tasks than a run ran, if any.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=200, help="histories to try")
    given = parser.parse_args()
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--timeout", str(60 + 30 * given.number),
               str(ROOT / "tests" / "test_plan_and_run.py")]  # fmt: skip
    environment = {**os.environ, "SURVEY_HISTORIES": str(given.number)}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    print(f"{given.number} histories: {'no disagreement' if done.returncode == 0 else 'a disagreement, see above'}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
