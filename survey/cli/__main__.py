"""``python -m survey.cli`` is the command `survey`."""

from survey.cli.main import console

console()
