"""The command `survey`, also as ``python -m survey.cli``: leaves the current folder out before anything is imported."""

from __future__ import annotations

from typing import NoReturn

from survey.isolation import leave_out_current_folder


def console() -> NoReturn:
    """Entry point of the command."""
    leave_out_current_folder()
    from survey.cli import main

    main.console()


if __name__ == "__main__":
    console()
