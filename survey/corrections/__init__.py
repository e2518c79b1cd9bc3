"""Corrections that surveys add between the pipeline's steps: functions of arrays, each in a thin stpipe Step."""

__all__: list[str] = []  # entered through the registry of steps alone
