"""The command `survey`, also as ``python -m survey.cli``: leaves the current folder out before anything is imported."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from survey.isolation import leave_out_current_folder


def console() -> NoReturn:
    """Entry point of the command."""
    if sys.flags.optimize and os.environ.pop("PYTHONOPTIMIZE", ""):
        # Packages that edit their own docstrings cannot be imported without them; start again with them.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    leave_out_current_folder()
    from survey.cli import main

    main.console()


if __name__ == "__main__":
    console()
