"""What would run and why: every kind of difference between a record and a task is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stub_steps import FakeReferences, exposure

from survey.cli.plan_report import Planned, plan_blocks
from survey.cli.tables import text_of
from survey.config.model import SurveyConfig
from survey.digest import file_sha256
from survey.execution.task import blank_record
from survey.models import COMPLETE, FAILED, SKIPPED, Plan, Product, Task
from survey.mosaics.grid import Box
from survey.mosaics.layouts import Layout, Member
from survey.planning.planner import plan
from survey.planning.staleness import DONE, NEW, STALE, UNKNOWN, causes, differences, reach, state_of, states, summary
from survey.planning.staleness import FAILED as FAILED_STATE
from survey.steps.registry import REGISTRY
from survey.versions import installed_versions

TASK = Task(
    key="image2/x", step="image2", subject="x", filter="F200W", settings={"photom": {"skip": False}, "a": 1},
    inputs=("detector1/x",), files=("raw/x_uncal.fits",), references={"flat": "flat_1.fits", "area": "area_1.fits"},
    sha1={"flat_1.fits": "1" * 40, "area_1.fits": "2" * 40}, digests={"detector1/x": "d", "raw/x_uncal.fits": "r"},
    versions={"jwst": "3.0.0"}, digest="e" * 64,
)  # fmt: skip


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "stage2" / "x_cal.fits"
    path.parent.mkdir()
    path.write_text("cal")
    product = Product("stage2/x_cal.fits", file_sha256(path), 3)
    return replace(blank_record(TASK), status=COMPLETE, products=(product,))


def test_states(record, tmp_path):
    assert state_of(TASK, record, tmp_path).state == DONE
    assert state_of(TASK, None, tmp_path).state == NEW
    unknown = replace(TASK, digest="", unknown="raw/x is not there yet")
    assert state_of(unknown, record, tmp_path).state == UNKNOWN
    assert state_of(unknown, None, tmp_path).reasons == ("raw/x is not there yet",)
    assert state_of(replace(TASK, digest="f" * 64), record, tmp_path).state == STALE
    (tmp_path / "stage2" / "x_cal.fits").unlink()
    assert state_of(TASK, record, tmp_path).reasons == ("stage2/x_cal.fits is missing or has another size",)


def test_only_the_product_that_is_out_of_place_is_a_cause(record, tmp_path):
    (tmp_path / "stage2" / "x_i2d.fits").write_text("i2d")
    more = Product("stage2/x_i2d.fits", file_sha256(tmp_path / "stage2" / "x_i2d.fits"), 3)
    both = replace(record, products=(*record.products, more))
    assert state_of(TASK, both, tmp_path).state == DONE
    (tmp_path / "stage2" / "x_i2d.fits").write_text("longer")
    assert state_of(TASK, both, tmp_path).reasons == ("stage2/x_i2d.fits is missing or has another size",)


@pytest.mark.parametrize("status", [FAILED, SKIPPED])
@pytest.mark.parametrize("digest", [TASK.digest, "f" * 64])
def test_what_never_came_to_an_end_failed_whatever_it_stood_on(record, tmp_path, status, digest):
    found = state_of(TASK, replace(record, status=status, digest=digest, error="broken"), tmp_path)
    assert (found.state, found.reasons) == (FAILED_STATE, ("broken",))


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({"settings": {"photom": {"skip": True}, "a": 1}}, ["photom.skip: False -> True"]),
        ({"settings": {"photom": {"skip": False}}}, ["a: 1 -> default"]),
        ({"settings": {"photom": {"skip": False}, "a": 1, "b": [1, 2]}}, ["b: default -> [1, 2]"]),
        ({"versions": {"jwst": "3.1.0"}}, ["jwst 3.0.0 -> 3.1.0"]),
        ({"digests": {"detector1/x": "new", "raw/x_uncal.fits": "r"}}, ["detector1/x has changed"]),
        ({"digests": {"detector1/x": "d", "raw/x_uncal.fits": "s"}}, ["raw/x_uncal.fits holds other bytes"]),
        ({"digests": {"detector1/x": "d"}}, ["raw/x_uncal.fits is no longer an input"]),
        ({"missing": ("y",)}, ["missing members: 0 -> 1"]),
        ({}, ["the step's version has changed"]),
    ],
)  # fmt: skip
def test_differences(record, change, reasons):
    assert differences(replace(TASK, **change), record) == reasons


def test_references_count_by_their_bytes(record):
    renamed = {"references": {"flat": "flat_2.fits", "area": "area_1.fits"}}
    same = replace(TASK, **renamed, sha1={"flat_2.fits": "1" * 40, "area_1.fits": "2" * 40})
    assert differences(same, record) == ["the step's version has changed"]  # nothing to be named
    other = replace(TASK, **renamed, sha1={"flat_2.fits": "9" * 40, "area_1.fits": "2" * 40})
    assert differences(other, record) == ["flat flat_2.fits replaced flat_1.fits"]
    without = replace(TASK, references={"flat": "flat_1.fits"}, sha1={"flat_1.fits": "1" * 40})
    assert differences(without, record) == ["area none replaced area_1.fits"]


def test_counts_and_first_causes(record, tmp_path):
    changed = replace(TASK, digest="f" * 64, settings={"photom": {"skip": True}, "a": 1})
    behind = replace(TASK, key="mosaic/m", step="mosaic", digest="f" * 64, digests={**TASK.digests, "detector1/x": "n"})
    found = [state_of(TASK, record, tmp_path), state_of(changed, record, tmp_path), state_of(behind, record, tmp_path)]
    assert summary(found) == {"image2 F200W": {"done": 1, "stale": 1}, "mosaic F200W": {"stale": 1}}
    assert causes(found) == {"photom.skip: False -> True": {"image2": 1}}


# --- a survey of two filters, all of it done, and one thing changed ----------------------------------------------

SHORT = "jw01345-a3001_t001_nircam_clear-f200w-sub320"
SHORTS = [exposure(1), exposure(2), exposure(3, "NRCA1")]
LONGS = [exposure(1, "NRCBLONG", "F444W"), exposure(2, "NRCBLONG", "F444W")]


def config_of(tmp_path, steps=("detector1", "image2"), **mosaic):
    return SurveyConfig(
        survey="t", program=1345, workspace=tmp_path, references={"context": "jwst_0001.pmap", "cache": tmp_path},
        steps=list(steps), mosaic={"tile": 256, **mosaic},
    )  # fmt: skip


def layouts_of(config, exposures, references):
    """Of alignments that were solved for exactly this."""
    made = {}
    for task in plan(config, exposures, references):
        if task.step == "align":
            names = [item.name for item in exposures if item.filter == task.filter]
            box = Box(0, 0, 300, 300)
            members = tuple(Member(name, number, box, box) for number, name in enumerate(names))
            made[task.subject] = Layout((300, 300), (300, 300), True, members, task.digest)
    return made


class Done:
    """A survey of which every task has a record."""

    def __init__(self, tmp_path, **mosaic):
        self.root, self.config = tmp_path, config_of(tmp_path, **mosaic)
        self.exposures, self.references = [*SHORTS, *LONGS], FakeReferences()
        self.layouts = layouts_of(self.config, self.exposures, self.references)
        made = plan(self.config, self.exposures, self.references, layouts=self.layouts)
        self.records = {task.key: replace(blank_record(task), status=COMPLETE) for task in made}
        assert self.waiting(self.states()) == set()

    def states(self, config=None, exposures=None, references=None):
        asked = (config or self.config, exposures or self.exposures, references or self.references)
        return states(plan(*asked, layouts=self.layouts), self.records, self.root)

    def waiting(self, found):
        return {item.task.key for item in found if item.state != DONE}

    def behind(self, first, found):
        """Keys of some tasks and of all that stand on them."""
        keys = set()
        for item in found:
            if first(item.task) or keys & set(item.task.inputs):
                keys.add(item.task.key)
        return keys


@pytest.fixture(params=["tiled", "stock"])
def done(tmp_path, request):
    return Done(tmp_path, engine=request.param)


def of(found, word):
    return {reason: counts for reason, counts in reach(found).items() if word in reason}


def test_one_setting_of_a_step_reaches_every_exposure_and_mosaic(done):
    steps = ({"detector1": {"jump": {"rejection_threshold": 5.0}}}, "image2")
    found = done.states(config_of(done.root, steps, engine=done.config.mosaic.engine))
    assert done.waiting(found) == done.behind(lambda task: task.step == "detector1", found)
    ((reason, counts),) = reach(found).items()
    assert reason == "jump.rejection_threshold: default -> 5.0"
    assert (counts["exposures"], counts["mosaics"]) == (5, 2)


def test_one_setting_of_the_mosaic_reaches_no_exposure(done):
    image3 = {"resample": {"pixfrac": 0.8}}
    found = done.states(config_of(done.root, engine=done.config.mosaic.engine, image3=image3))
    first = {"tiled": ("pixmap", "drizzle", "assemble"), "stock": ("image3",)}[done.config.mosaic.engine]
    waiting = done.waiting(found)
    assert waiting <= done.behind(lambda task: task.step in first, found)
    assert not {key for key in waiting if key.startswith(("detector1", "image2", "association", "align", "sky"))}
    assert of(found, "pixfrac: default -> 0.8")["resample.pixfrac: default -> 0.8"]["mosaics"] == 2
    assert all(counts["exposures"] == 0 for counts in reach(found).values())


def test_one_reference_file_reaches_its_detector_and_that_mosaic(done):
    found = done.states(references=FakeReferences(replaced={"nrcb1_flat.fits": "nrcb1_flat_0002.fits"}))
    names = {item.name for item in SHORTS if item.detector == "NRCB1"}
    assert done.waiting(found) == done.behind(lambda task: task.step == "image2" and task.subject in names, found)
    ((reason, counts),) = reach(found).items()
    assert reason == "flat nrcb1_flat_0002.fits replaced nrcb1_flat.fits"
    assert (counts["exposures"], counts["mosaics"]) == (2, 1)
    assert counts["tasks"] == len(done.waiting(found))
    text = text_of(plan_blocks(Planned(done.config, Plan((), (), ()), found)))
    assert f"  {reason}: 2 exposures, 1 mosaic ({counts['tasks']} tasks)" in text.splitlines()


def test_one_raw_file_reaches_its_exposure_and_that_mosaic(done):
    changed = [replace(item, sha256="f" * 64) if item is LONGS[0] else item for item in done.exposures]
    found = done.states(exposures=changed)
    name = LONGS[0].name
    assert done.waiting(found) == done.behind(lambda task: task.key == f"detector1/{name}", found)
    ((reason, counts),) = reach(found).items()
    assert reason == f"raw/{name}_uncal.fits holds other bytes"
    assert (counts["exposures"], counts["mosaics"]) == (1, 1)


def test_one_version_reaches_everything(done, monkeypatch):
    newer = {**installed_versions(), "stcal": "99.0"}
    monkeypatch.setattr("survey.planning.planner.installed_versions", lambda: newer)
    found = done.states()
    assert done.waiting(found) == {item.task.key for item in found}
    reason = next(iter(of(found, "stcal")))
    assert reason.endswith("-> 99.0")
    assert (reach(found)[reason]["exposures"], reach(found)[reason]["mosaics"]) == (5, 2)


def test_the_version_of_one_step_reaches_what_stands_on_it(done, monkeypatch):
    monkeypatch.setitem(REGISTRY, "image2", replace(REGISTRY["image2"], version=99))
    found = done.states()
    assert done.waiting(found) == done.behind(lambda task: task.step == "image2", found)
    assert list(reach(found)) == ["the step's version has changed"]
    assert "the step's version has changed" in causes(found)
