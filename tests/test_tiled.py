"""Plans of tiled mosaics: what each task stands on, what is a guess, and what a changed setting makes anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
from stub_steps import FakeReferences, exposure

from survey.config.model import SurveyConfig
from survey.mosaics.predictions import predict
from survey.planning.planner import plan
from survey.planning.tiled import NOT_ALIGNED, REFUSED, group_numbers

SIDE = 320 * 0.031 / 3600
BEHIND = {"sky", "skymatch", "pixmap", "outlier_i2d", "median", "outliers", "drizzle", "assemble", "source_catalog"}


def placed(number, detector="NRCB1", filter_name="F200W", sha256=""):
    ra = 214.8 + 0.7 * SIDE * number
    corners = ((ra, 52.8), (ra + SIDE, 52.8), (ra + SIDE, 52.8 + SIDE), (ra, 52.8 + SIDE))
    return replace(exposure(number, detector, filter_name, sha256=sha256), footprint=corners)


EXPOSURES = tuple(placed(number) for number in (1, 2, 3))
PRODUCT = "jw01345-a3001_t001_nircam_clear-f200w-sub320"


def config(**mosaic):
    return SurveyConfig(
        survey="t", program=1345, workspace="/nowhere", steps=["detector1", "image2"], mosaic={"tile": 256, **mosaic},
        references={"context": "jwst_0001.pmap", "cache": "/nowhere/crds"},
    )  # fmt: skip


def laid_out(chosen, exposures=EXPOSURES, first=None):
    """A plan whose alignment has been solved: the layout is the guess, with the alignment's digest."""
    first = first or plan(chosen, exposures, FakeReferences())
    layout = predict(exposures, group_numbers([item.name for item in exposures]), chosen.mosaic.grid, 0.031)
    layouts = {PRODUCT: replace(layout, digest=first[f"align/{PRODUCT}"].digest)}
    return plan(chosen, exposures, FakeReferences(), layouts=layouts)


def digests(made):
    return {task.key: task.digest for task in made}


def changed_steps(one, other):
    first, second = digests(one), digests(other)
    assert first.keys() == second.keys()
    return {key.split("/")[0] for key in first if first[key] != second[key]}


def test_every_task_stands_behind_its_inputs_and_reads_what_they_make():
    made = laid_out(config())
    seen = set()
    for task in made:
        assert set(task.inputs) <= seen, task.key
        seen.add(task.key)
    assert {task.step for task in made} == BEHIND | {"detector1", "image2", "sources", "association", "align"}
    assert all(len(task.digest) == 64 for task in made)
    tiles = [task for task in made if task.step == "drizzle"]
    assert len(tiles) > 2
    assert {index for task in tiles for index in task.settings["members"]} == {0, 1, 2}


def test_before_the_alignment_the_rest_is_a_guess():
    made = plan(config(), EXPOSURES, FakeReferences())
    for task in made:
        assert (task.unknown == NOT_ALIGNED) == (task.step in BEHIND), task.key
        assert bool(task.digest) == (task.step not in BEHIND)


def test_without_footprints_nothing_is_guessed():
    made = plan(config(), [replace(item, footprint=None) for item in EXPOSURES], FakeReferences())
    assert not {task.step for task in made} & BEHIND


def test_the_layout_of_another_alignment_is_a_guess_as_well():
    first = laid_out(config())
    changed = plan(
        config(image3={"tweakreg": {"minobj": 20}}), EXPOSURES, FakeReferences(),
        layouts={PRODUCT: replace(predict(EXPOSURES, [0, 1, 2], {}, 0.031), digest=first[f"align/{PRODUCT}"].digest)},
    )  # fmt: skip
    assert all(task.unknown == NOT_ALIGNED for task in changed if task.step in BEHIND)
    assert {task.key for task in changed} == {task.key for task in first}


@pytest.mark.parametrize(
    ("image3", "steps"),
    [
        (
            {"outlier_detection": {"snr": "4.0 3.0"}},
            {"outlier_i2d", "median", "outliers", "drizzle", "assemble", "source_catalog"},
        ),
        ({"resample": {"pixfrac": 0.8}}, {"drizzle", "assemble", "source_catalog"}),
        ({"source_catalog": {"snr_threshold": 5.0}}, {"source_catalog"}),
        ({"skymatch": {"skymethod": "local"}}, BEHIND - {"pixmap"}),
    ],
)  # fmt: skip
def test_a_setting_makes_anew_what_stands_on_it(image3, steps):
    assert changed_steps(laid_out(config()), laid_out(config(image3=image3))) == steps


def test_an_alignments_setting_makes_everything_behind_it_anew():
    one, other = (laid_out(config(image3={"tweakreg": {"searchrad": value}})) for value in (2.0, 3.0))
    assert changed_steps(one, other) == BEHIND | {"sources", "align"}


def test_a_lone_exposure_has_no_outliers():
    alone = EXPOSURES[:1]
    made = laid_out(config(), alone)
    assert not {"outlier_i2d", "median"} & {task.step for task in made}
    assert {"outliers", "drizzle", "assemble"} <= {task.step for task in made}


def test_other_filters_wait_for_the_one_that_they_are_aligned_to():
    exposures = [*EXPOSURES, placed(1, "NRCBLONG", "F444W"), placed(2, "NRCBLONG", "F444W")]
    made = plan(config(align_to="F444W"), exposures, FakeReferences())
    reference = PRODUCT.replace("f200w", "f444w")
    assert f"align/{reference}" in made[f"align/{PRODUCT}"].inputs
    assert f"stage3/{reference}_sources.ecsv" in made[f"align/{PRODUCT}"].reads
    assert f"align/{PRODUCT}" not in made[f"align/{reference}"].inputs


@pytest.mark.parametrize(("step", "name"), [(step, name) for step, pars in REFUSED.items() for name in pars])
def test_what_this_engine_cannot_do_is_refused(step, name):
    allowed, _ = REFUSED[step][name]
    with pytest.raises(Exception, match=name):
        plan(config(image3={step: {name: not allowed}}), EXPOSURES)
    plan(config(image3={step: {name: allowed}}), EXPOSURES)


def test_a_sky_that_is_measured_twice_is_refused():
    with pytest.raises(Exception, match="measures the sky"):
        plan(config(image3={"skymatch": {"skymethod": "global+match", "subtract": True}}), EXPOSURES)


def test_memory_does_not_grow_with_the_mosaic():
    grid = {"pixel_scale_arcsec": 0.03, "crval_deg": [214.8, 52.8], "crpix": [23000, 7000], "shape": [46200, 15400]}
    small, large = (plan(config(**extra), EXPOSURES, FakeReferences()) for extra in ({}, grid))
    most = [max(task.memory_gb for task in made if task.step == "drizzle") for made in (small, large)]
    assert most[0] == pytest.approx(most[1])
    assert large[f"assemble/{PRODUCT}"].memory_gb < 3


def test_an_alignment_has_one_reference():
    with pytest.raises(Exception, match="one reference"):
        plan(config(align_to="F200W", alignment="/somewhere"), EXPOSURES)
    with pytest.raises(Exception, match="no exposure of F444W; there are F200W"):
        plan(config(align_to="F444W"), EXPOSURES)


def test_files_that_parameters_name_count_by_their_bytes(tmp_path):
    from survey.reduction.inputs import override_digests

    catalogue = tmp_path / "gaia of mine.ecsv"
    catalogue.write_text("one")
    (tmp_path / "aligned").mkdir()
    (tmp_path / "aligned" / "a_wcs.asdf").write_text("one")
    for chosen, path, file in (
        (config(image3={"tweakreg": {"abs_refcat": str(catalogue)}}), catalogue, catalogue),
        (config(alignment=str(tmp_path / "aligned")), tmp_path / "aligned", tmp_path / "aligned" / "a_wcs.asdf"),
    ):
        made = []
        for text in ("one", "other"):
            file.write_text(text)
            found = override_digests(chosen)
            assert list(found) == [str(path)]
            made.append(plan(chosen, EXPOSURES, FakeReferences(), found)[f"align/{PRODUCT}"].digest)
        assert made[0] and made[1] and made[0] != made[1]
    with pytest.raises(Exception, match="not found"):
        override_digests(config(alignment=str(tmp_path / "nowhere")))
    assert override_digests(config(image3={"tweakreg": {"abs_refcat": "GAIADR3"}})) == {}
