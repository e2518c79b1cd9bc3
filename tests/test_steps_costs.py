"""What tasks are predicted to take: memory, CPU time and disk, by the formula of their step."""

from __future__ import annotations

import pytest
from stub_steps import exposure

from survey.models import Exposure
from survey.steps import costs
from survey.steps.costs import Work
from survey.steps.registry import REGISTRY

IMAGE = 4e-9 * 2048**2  # of a full frame [GB]
TILE = 4e-9 * 1000**2
# step -> work, and what it takes: memory [GB], CPU time [s], disk [GB]
CASES = {
    "detector1": (Work(ramp_gb=0.1, images_gb=(IMAGE,)), 2.1, 29.0, 5.2 * IMAGE),
    "subtract_striping": (Work(ramp_gb=0.1, images_gb=(IMAGE,)), 0.9, 3.0, 5.2 * IMAGE),
    "image2": (Work(ramp_gb=0.1, images_gb=(IMAGE,)), 1.5, 4.0, 7.3 * IMAGE),
    "source_mask": (Work(images_gb=(IMAGE,)), 0.7 + 12 * IMAGE, 1 + 60 * IMAGE, 0.01 * IMAGE),
    "detect": (Work(window_gb=2 * TILE, output_gb=TILE), 0.7 + 24 * TILE, 1 + 120 * TILE, 0.02 * TILE),
    "given": (Work(images_gb=(IMAGE,)), 0.5, 0.0, 7.3 * IMAGE),
    "sources": (Work(images_gb=(IMAGE,)), 0.7 + 60 * IMAGE, 1 + 350 * IMAGE, 0.0),
    "association": (Work(members=100), 0.5, 0.0, 0.0),
    "align": (Work(members=100), 1.1, 45.0, 0.0),
    "sky": (Work(images_gb=(IMAGE,)), 0.7 + 20 * IMAGE, 1 + 60 * IMAGE, 0.0),
    "skymatch": (Work(members=1000), 1.5, 1.0, 0.0),
    "pixmap": (Work(images_gb=(IMAGE,)), 0.7 + 40 * IMAGE, 1 + 250 * IMAGE, 8 * IMAGE),
    "outlier_i2d": (Work(images_gb=(IMAGE, IMAGE / 4), window_gb=TILE), 0.7 + 8 * TILE + 20 * IMAGE,
                    1 + 300 * IMAGE + 40 * TILE, 3 * IMAGE),
    "median": (Work(window_gb=TILE, output_gb=TILE, layers=10), 0.7 + 30 * TILE, 1 + 600 * TILE, TILE),
    "outliers": (Work(images_gb=(IMAGE,)), 0.8 + 45 * IMAGE, 2 + 120 * IMAGE, 7.3 * IMAGE),
    "drizzle": (Work(images_gb=33 * (IMAGE,), window_gb=2 * TILE, output_gb=TILE), 0.8 + 52 * TILE + 25 * IMAGE,
                2 + 6600 * IMAGE, 8 * TILE),
    "assemble": (Work(window_gb=TILE, output_gb=4 * TILE, members=33), 0.9 + 6 * TILE + 0.033,
                 5 + 16.5 + 40 * TILE, 28 * TILE),
    "source_catalog": (Work(output_gb=TILE), 1.0 + 40 * TILE, 5 + 1500 * TILE, TILE),
    "image3": (Work(images_gb=(IMAGE, IMAGE), window_gb=TILE), 1.5 + 42 * IMAGE + 24 * TILE, 20 + 4000 * IMAGE,
               21.6 * IMAGE),
    "mosaic": (Work(images_gb=(IMAGE, IMAGE)), 1.0, 0.0, 7 * IMAGE),
}  # fmt: skip


@pytest.mark.parametrize("step", REGISTRY)
def test_a_step_costs_what_its_formula_gives(step):
    work, memory_gb, cpu_seconds, disk_gb = CASES[step]
    cost = REGISTRY[step].cost(work)
    assert cost.memory_gb == pytest.approx(memory_gb, abs=6e-4)  # some are rounded to 0.001 GB
    assert cost.cpu_seconds == pytest.approx(cpu_seconds)
    assert cost.disk_gb == pytest.approx(disk_gb)


def test_a_stack_is_in_memory_in_part():
    high = costs.median(Work(window_gb=TILE, layers=10_000))
    assert high.memory_gb == pytest.approx(0.7 + 3 * 0.27) and high.cpu_seconds > 2000


def test_sizes_of_an_exposure():
    small = exposure(1)  # SUB320, five groups
    assert costs.ramp_gb(small) == pytest.approx(5 * 4e-9 * 320**2)
    assert costs.image_gb(small) == pytest.approx(4e-9 * 320**2)
    row = Exposure("x", 1, 1, 1, "NRCB1", "F200W", subarray="NEW", size=10**9)
    assert costs.ramp_gb(row) == pytest.approx(2.0)  # samples of two bytes become float32
    assert costs.image_gb(row) == pytest.approx(IMAGE)
    assert REGISTRY["detector1"].cost_of(row).memory_gb == pytest.approx(32.5)
