"""Plans: digests that stand on exactly what pixels stand on, and what is not known yet."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from stub_steps import FakeReferences, exposure

import survey.planning.planner
from survey.config.model import SurveyConfig
from survey.errors import ConfigError
from survey.planning.disk import total_gb
from survey.planning.mosaic_list import group_name
from survey.planning.planner import plan
from survey.planning.selection import steps_until
from survey.steps.registry import REGISTRY

EXPOSURES = tuple(
    exposure(number, detector, filter_name)
    for number in (1, 2)
    for detector, filter_name in (("NRCB1", "F200W"), ("NRCB2", "F200W"), ("NRCBLONG", "F444W"))
)


def config(steps=None, **changes) -> SurveyConfig:
    facts = {"survey": "t", "program": 1345, "workspace": "/nowhere"}
    facts["references"] = {"context": "jwst_0001.pmap", "cache": "/nowhere/crds"}
    facts["steps"] = steps or ["detector1", "image2"]
    changes["mosaic"] = {"engine": "stock", **changes.get("mosaic", {})}
    return SurveyConfig(**{**facts, **changes})


def digests(made) -> dict[str, str]:
    return {task.key: task.digest for task in made}


def differing(one, other) -> set[str]:
    first, second = digests(one), digests(other)
    assert first.keys() == second.keys()
    return {key for key in first if first[key] != second[key]}


@pytest.fixture(scope="module")
def made():
    return plan(config(), EXPOSURES, FakeReferences())


def test_tasks_stand_behind_their_inputs(made):
    assert [task.step for task in made] == ["detector1", "image2"] * 6 + ["association", "image3", "mosaic"] * 2
    seen = set()
    for task in made:
        assert set(task.inputs) <= seen
        seen.add(task.key)
    assert len(seen) == len(made)
    first = made["detector1/jw01345001001_02101_00001_nrcb1"]
    assert first.files == ("raw/jw01345001001_02101_00001_nrcb1_uncal.fits",)
    assert first.digests == {first.files[0]: EXPOSURES[0].sha256}
    assert made["image2/jw01345001001_02101_00001_nrcb1"].inputs == (first.key,)


def test_digests_are_whole_distinct_and_stable(made):
    found = digests(made)
    assert all(len(value) == 64 and set(value) <= set("0123456789abcdef") for value in found.values())
    assert len(set(found.values())) == len(found)
    assert digests(plan(config(), EXPOSURES[::-1], FakeReferences())) == found
    elsewhere = config(workspace="/other", survey="u", archive={"server": "http://localhost:1"})
    assert digests(plan(elsewhere, EXPOSURES, FakeReferences())) == found


@pytest.mark.parametrize(
    "change",
    [{"filter": "F200W", "size": 77}, {"uri": "mast:JWST/product/x"}, {"start_mjd": 60000.0}, {"footprint": None}],
)
def test_what_an_archive_says_beside_the_bytes_does_not_count(made, change):
    assert not differing(made, plan(config(), [replace(EXPOSURES[0], **change), *EXPOSURES[1:]], FakeReferences()))


def test_the_context_alone_does_not_count(made):
    other = config(references={"context": "jwst_0002.pmap", "cache": "/elsewhere"})
    assert not differing(made, plan(other, EXPOSURES, FakeReferences()))


def test_a_raw_file_changes_its_chain_and_its_mosaic(made):
    changed = plan(config(), [replace(EXPOSURES[0], sha256="0" * 64), *EXPOSURES[1:]], FakeReferences())
    name, mosaic = EXPOSURES[0].name, "jw01345-a3001_t001_nircam_clear-f200w-sub320"
    own = {f"detector1/{name}", f"image2/{name}"}
    assert differing(made, changed) == own | {f"{step}/{mosaic}" for step in ("association", "image3", "mosaic")}


def test_two_contexts_that_differ_in_a_flat_change_image2_and_the_mosaic(made):
    changed = plan(config(), EXPOSURES, FakeReferences(changed=("nrcb1_flat.fits",)))
    mosaic = "jw01345-a3001_t001_nircam_clear-f200w-sub320"
    own = {f"image2/{item.name}" for item in EXPOSURES if item.detector == "NRCB1"}
    assert differing(made, changed) == own | {f"{step}/{mosaic}" for step in ("association", "image3", "mosaic")}


def test_a_setting_changes_its_step_and_what_stands_on_it(made):
    changed = plan(
        config([{"detector1": {"jump": {"rejection_threshold": 5.0}}}, "image2"]), EXPOSURES, FakeReferences()
    )
    assert differing(made, changed) == set(digests(made))
    changed = plan(config(["detector1", {"image2": {"photom": {"skip": True}}}]), EXPOSURES, FakeReferences())
    assert {key.split("/")[0] for key in differing(made, changed)} == {"image2", "association", "image3", "mosaic"}
    changed = plan(config(mosaic={"pixfrac": 0.8}), EXPOSURES, FakeReferences())
    assert {key.split("/")[0] for key in differing(made, changed)} == {"image3", "mosaic"}


def test_a_number_written_otherwise_is_the_same_setting():
    one, other = (
        plan(config([{"detector1": {"jump": {"rejection_threshold": value}}}]), EXPOSURES, FakeReferences())
        for value in (4.0, "4")
    )
    assert not differing(one, other)


def test_a_version_of_the_pipeline_or_of_a_step_changes_everything_below(made, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(survey.planning.planner, "installed_versions", lambda: {"jwst": "9.9", "stcal": "9", "crds": "9"})
        assert differing(made, plan(config(), EXPOSURES, FakeReferences())) == set(digests(made))
    monkeypatch.setitem(REGISTRY, "image2", replace(REGISTRY["image2"], version=99))
    changed = differing(made, plan(config(), EXPOSURES, FakeReferences()))
    assert {key.split("/")[0] for key in changed} == {"image2", "association", "image3", "mosaic"}


def test_the_reference_of_a_skipped_step_does_not_enter(made):
    with_dark = made["detector1/jw01345001001_02101_00001_nrcb1"].references
    assert with_dark["dark"] == "nrcb1_dark.fits"
    assert "flat" not in with_dark  # of clean_flicker_noise, which the pipeline skips by default
    settings = [{"detector1": {"dark_current": {"skip": True}}}, "image2"]
    without = plan(config(settings), EXPOSURES, FakeReferences())
    assert "dark" not in without["detector1/jw01345001001_02101_00001_nrcb1"].references
    changed = plan(config(settings), EXPOSURES, FakeReferences(changed=("nrcb1_dark.fits",)))
    assert not differing(without, changed)


def test_an_override_counts_by_its_bytes():
    steps = ["detector1", {"image2": {"flat_field": {"override_flat": "/my/flat.fits"}}}]
    one, other = (
        plan(config(steps), EXPOSURES, FakeReferences(), {"/my/flat.fits": value}) for value in ("1" * 64, "2" * 64)
    )
    assert {key.split("/")[0] for key in differing(one, other)} == {"image2", "association", "image3", "mosaic"}


def test_what_is_not_known_is_said_and_has_no_digest(made):
    unfetched = plan(config(), [replace(EXPOSURES[0], sha256=None), *EXPOSURES[1:]], FakeReferences())
    lost = [task for task in unfetched if not task.digest]
    assert [task.step for task in lost] == ["detector1", "image2", "association", "image3", "mosaic"]
    assert lost[0].unknown == f"raw/{EXPOSURES[0].file} is not there yet"
    assert all(task.unknown for task in lost)
    known = {task.key: task.digest for task in unfetched if task.digest}
    assert known.items() <= digests(made).items()
    nothing = plan(config(), EXPOSURES)
    assert not any(task.digest for task in nothing)
    assert nothing.tasks[0].unknown == "references were not looked up yet"
    partly = plan(config(), EXPOSURES, FakeReferences(unknown=(EXPOSURES[0].name,)))
    assert EXPOSURES[0].name in partly[f"detector1/{EXPOSURES[0].name}"].unknown


def test_missing_members_change_a_mosaic():
    planner = survey.planning.planner.Planner(config(), FakeReferences())
    made = plan(config(), EXPOSURES, FakeReferences())
    association = made.associations[0]
    chains = {name: [made[f"image2/{name}"]] for name in association.members}
    by_name = {item.name: item for item in EXPOSURES}
    whole, _ = planner.mosaic_tasks(association, chains, by_name)
    assert [task.digest for task in whole] == [made[task.key].digest for task in whole]
    del chains[association.members[0]]
    part, _ = planner.mosaic_tasks(association, chains, by_name, association.members[:1])
    assert {task.digest for task in part}.isdisjoint(task.digest for task in whole)
    assert all(task.missing == association.members[:1] for task in part)


def test_observations_on_their_own_have_their_own_groups():
    second = [replace(item, name=item.name.replace("01345001", "01345002"), observation=2) for item in EXPOSURES]
    made = plan(config(mosaic={"per": ["filter", "observation"]}), [*EXPOSURES, *second], FakeReferences())
    assert [group_name(item) for item in made.associations] == [
        "F200W-o001", "F444W-o001", "F200W-o002", "F444W-o002",
    ]  # fmt: skip
    whole = plan(config(), EXPOSURES).associations
    assert [group_name(item) for item in whole] == ["F200W", "F444W"]
    foreign = replace(whole[0], product=whole[0].product.replace("a3001", "c1000"))
    assert group_name(foreign) == "F200W-c1000"  # it does not take the place of the survey's own


def test_steps_that_end_before_cal_make_no_mosaic():
    made = plan(config(["detector1"]), EXPOSURES, FakeReferences())
    assert {task.step for task in made} == {"detector1"}
    assert made.associations == ()


def test_steps_until():
    made = plan(config(), EXPOSURES)
    assert steps_until(made, None) == ("detector1", "image2", "association", "image3", "mosaic")
    assert steps_until(made, "image2") == ("detector1", "image2")
    with pytest.raises(ConfigError, match=r"--until drizzle: .*detector1, image2"):
        steps_until(made, "drizzle")


def test_every_fault_of_a_config_is_named_at_once():
    faulty = config(
        ["image2", {"detector1": {"jump": {"rejection_treshold": 4}}}, "flat"],
        mosaic={
            "engine": "tiled",
            "pixfrac": 0.5,
            "image3": {"resample": {"pixfrac": 0.5}, "tweakrg": {}, "outlier_detection": {"resample_data": False}},
        },
    )
    with pytest.raises(ConfigError) as raised:
        plan(faulty, EXPOSURES)
    text = str(raised.value)
    for words in ("accepts rate, got uncal", "rejection_threshold", "'flat'", "resample_data", "pixfrac", "tweakreg"):
        assert words in text
    assert len(raised.value.faults) >= 6


def test_memory_grows_with_members_and_mosaic():
    few = plan(config(), EXPOSURES[:3], FakeReferences())
    many = plan(config(), EXPOSURES, FakeReferences())
    key = "image3/jw01345-a3001_t001_nircam_clear-f200w-sub320"
    assert few[key].memory_gb < many[key].memory_gb
    large = plan(config(mosaic={"shape": [46200, 15400]}), EXPOSURES, FakeReferences())
    assert large[key].memory_gb > 24 * 2.8  # 711 million pixels, 2.85 GB a plane
    assert total_gb(EXPOSURES) == pytest.approx(6 * 4e-9 * 320 * 320 * (5 / 2 + 26))


def test_a_plan_of_13000_exposures_is_made_in_seconds():
    many = [
        exposure(number, f"NRC{module}{chip}", filter_name)
        for number in range(1, 1301)
        for module in "AB"
        for chip, filter_name in (*((chip, "F200W") for chip in "1234"), ("LONG", "F444W"))
    ]
    assert len(many) == 13_000
    began = time.process_time()
    made = plan(config(), many, FakeReferences())
    assert len(made) == 2 * 13_000 + 6
    assert all(task.digest for task in made)
    assert (
        time.process_time() - began < 15
    )  # what a whole `survey plan` may take; CPU time, so that neighbours do not count
