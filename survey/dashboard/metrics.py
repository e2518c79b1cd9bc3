"""Gauges of the latest run for Prometheus, in addition to dask's."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

import prometheus_client
from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from survey.dashboard.plugin import SurveyPlugin

STATES = ("done", "reused", "failed", "skipped", "running", "waiting")


class _Gauges:
    """Collector that reads the plugin at each request; a process has one, for the scheduler that it started last."""

    def __init__(self) -> None:
        self.plugin: weakref.ref[SurveyPlugin] | None = None

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # labels are not known before a run starts

    def collect(self) -> Iterator[GaugeMetricFamily]:
        plugin = self.plugin() if self.plugin is not None else None
        document = {} if plugin is None else plugin.document()
        if "run" not in document:
            return
        survey = document["survey"]
        tasks = GaugeMetricFamily("survey_tasks", "Tasks by state", labels=["survey", "step", "filter", "state"])
        for row in document["steps"]:
            waiting = row["total"] - sum(row[state] for state in STATES[:-1])
            for state in STATES:
                count = max(waiting, 0) if state == "waiting" else row[state]
                tasks.add_metric([survey, row["step"], row["filter"], state], count)
        yield tasks
        exposures = document["exposures"]
        yield _one("survey_exposures", "Exposures of the plan", survey, exposures["total"])
        yield _one("survey_exposures_calibrated", "Exposures that are calibrated", survey, exposures["done"])
        yield _one("survey_exposures_per_hour", "Exposures calibrated an hour", survey, exposures["per_hour"])
        left = document["seconds_left"]
        yield _one("survey_seconds_left", "Estimated time left; -1 while unknown", survey, -1 if left is None else left)
        yield _one("survey_ended", "1 after the run has ended", survey, int(document["ended"]))
        memory = GaugeMetricFamily(
            "survey_peak_memory_gigabytes", "Largest task of a step", labels=["survey", "step", "kind"]
        )
        for step, row in document["memory"].items():
            memory.add_metric([survey, step, "measured"], row["measured_gb"])
            memory.add_metric([survey, step, "predicted"], row["predicted_gb"])
        yield memory
        tiles = GaugeMetricFamily("survey_tiles", "Tiles of a mosaic", labels=["survey", "product", "state"])
        for mosaic in document["mosaics"]:
            tiles.add_metric([survey, mosaic["product"], "done"], mosaic["done"])
            tiles.add_metric([survey, mosaic["product"], "total"], mosaic["total"])
        yield tiles


def _one(name: str, words: str, survey: str, value: float) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, words, labels=["survey"])
    gauge.add_metric([survey], value)
    return gauge


_GAUGES = _Gauges()


def expose(plugin: SurveyPlugin) -> None:
    """Add the gauges of a plugin to /metrics."""
    if _GAUGES.plugin is None:
        prometheus_client.REGISTRY.register(_GAUGES)
    _GAUGES.plugin = weakref.ref(plugin)
