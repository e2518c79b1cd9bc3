"""Corrections that run between steps of the pipeline: functions of arrays, each in a thin stpipe Step."""

__all__: list[str] = []  # used only through the registry of steps
