"""Steps of the package snowblind, as they are published: registered aliases, hooks, a pipeline."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from whole_run import survey

from survey.config.model import SurveyConfig
from survey.errors import ConfigError
from survey.planning.recipe import recipe_of
from survey.steps.registry import row_for

pytestmark = pytest.mark.pipeline
HOOKS = ["snowblind.SnowblindStep(growth_factor=1.5)", "snowblind.JumpPlusStep", "stream_clean"]
NAME = "jw01345001001_02201_00001_nrcb1"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def config(tmp_path, *steps) -> SurveyConfig:
    references = {"context": "jwst_0001.pmap", "cache": tmp_path, "server": None}
    return SurveyConfig(survey="t", program=1345, workspace=tmp_path, references=references, steps=list(steps))


def test_steps_and_hooks_are_found_by_alias_and_class(tmp_path):
    chosen = config(
        tmp_path, {"detector1": {"jump": {"post_hooks": HOOKS}}}, {"snowblind": {"min_radius": 5}}, "image2"
    )
    recipe = recipe_of(chosen)
    assert recipe.chain["detector1"]["jump"]["post_hooks"] == [
        {"snowblind.snowblind:SnowblindStep": {"growth_factor": 1.5}},
        "snowblind.jump_plus:JumpPlusStep",
        "snowblind.stream_clean:StreamCleanStep",
    ]
    assert recipe.chain["snowblind"]["class"]["suffix"] == "snowblind"
    assert recipe.packages == {name: {"snowblind": "1.0.1"} for name in ("detector1", "snowblind")}
    assert "flat" in row_for("detector1", {}).reference_types(recipe.chain["detector1"])  # of StreamCleanStep
    assert "flat" not in row_for("detector1", {}).reference_types({})


def test_its_pipeline_takes_the_place_of_detector1(tmp_path):
    settings = {"pipeline": "snowblind_detector1", "ramp_fit": {"anchor_min_pixels": 500}}
    chain = recipe_of(config(tmp_path, {"detector1": settings}, "image2")).chain
    assert chain["detector1"]["pipeline"] == "snowblind.pipeline:Detector1Pipeline"
    types = row_for("detector1", {}).reference_types(chain["detector1"])
    assert {"flat", "superbias", "pars-detector1pipeline"} <= set(types)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (["detector1", "open_pixel"], "snowblind.selfcal:OpenPixelStep works on an association"),
        (["detector1", "image2", "snowblind.PersistenceFlagStep"], "PersistenceFlagStep works on an association"),
        (["detector1", "stream_clean"], "snowblind.stream_clean:StreamCleanStep works on ramps"),
        (["snowblind_detector1"], "Write 'detector1: {pipeline: \"snowblind.pipeline:Detector1Pipeline\"}'"),
        ([{"detector1": {"pipeline": "snowblind.JumpPlusStep"}}], "JumpPlusStep is no pipeline that makes a rate file"),
        ([{"detector1": {"pipeline": "jwst.pipeline.Image2Pipeline"}}], "Image2Pipeline is no pipeline that makes"),
        (["detector1", "image2", "tweakreg"], "TweakRegStep works on an association of exposures; a step of 'steps'"),
        (["detector1", "skymatch"], "Parameters of Image3's steps are in mosaic.image3"),
        (["detector1", "image2", "jwst.step.ResampleStep"], "ResampleStep works on an association"),
        (["detector1", "image2", "outlier_detection"], "OutlierDetectionStep works on an association"),
        (["detector1", "jump"], "JumpStep works on ramps"),
        (["detector1", {"clean_flicker_noise": {"fit_method": "fftt"}}], "fit_method = 'fftt' does not match option("),
    ],
)
def test_what_has_another_place_is_refused(steps, said, tmp_path):
    with pytest.raises(ConfigError) as caught:
        recipe_of(config(tmp_path, *steps))
    assert said in "\n".join(caught.value.faults)


BY_HAND = """
import sys
import numpy as np
from jwst.pipeline import Detector1Pipeline, Image2Pipeline
from jwst.step import CleanFlickerNoiseStep
from snowblind import JumpPlusStep, SnowblindStep, StreamCleanStep

hooks = [SnowblindStep(growth_factor=1.5), JumpPlusStep, StreamCleanStep]
rate = Detector1Pipeline.call(sys.argv[1], steps={"jump": {"expand_large_events": False, "post_hooks": hooks}})
flagged = SnowblindStep.call(rate, min_radius=5)
(cal,) = Image2Pipeline.call(flagged, steps={"resample": {"skip": True}})
clean = CleanFlickerNoiseStep.call(cal, fit_method="median")
models = (rate, flagged, cal, clean)
arrays = {f"data{number}": model.data for number, model in enumerate(models)}
np.savez(sys.argv[2], **arrays, **{f"dq{number}": model.dq for number, model in enumerate(models)})
"""


@pytest.mark.whole
def test_a_run_gives_the_pixels_of_calls_by_hand(small, tmp_path):
    """Hooks in Detector1, a step on rates and one on cal files, against the classes called in Python."""
    from astropy.io import fits

    workspace = tmp_path / "ws"
    path = small.config("snowblind", workspace)
    steps = (
        "steps:\n"
        "  - detector1: {jump: {expand_large_events: false, post_hooks:"
        " [snowblind.SnowblindStep(growth_factor=1.5), snowblind.JumpPlusStep, stream_clean]}}\n"
        "  - snowblind: {min_radius: 5}\n"
        "  - image2: {}\n"
        "  - jwst.step:CleanFlickerNoiseStep: {fit_method: median}\n"
    )
    text = path.read_text()
    path.write_text(text[: text.index("steps:")] + steps + text[text.index("mosaic:") :] + "filters: [F200W]\n")
    survey("run", path, "--until", "clean_flicker_noise")

    environment = {
        "CRDS_PATH": str(small.folder / "crds"), "CRDS_CONTEXT": "jwst_0001.pmap", "CRDS_READONLY_CACHE": "1",
        "CRDS_SERVER_URL": small.server.crds_url, "USER": "survey", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    raw = workspace / "raw" / f"{NAME}_uncal.fits"
    subprocess.run(
        [sys.executable, "-c", BY_HAND, str(raw), str(tmp_path / "hand.npz")], cwd=tmp_path, timeout=600, check=True,
        env={**os.environ, **environment}, capture_output=True,
    )  # fmt: skip
    hand = np.load(tmp_path / "hand.npz")
    places = ("stage1/{}_rate", "stage1/{}_snowblind", "stage2/{}_cal", "stage2/{}_clean-flicker-noise")
    for number, place in enumerate(places):
        with fits.open(workspace / f"{place.format(NAME)}.fits") as hdus:
            np.testing.assert_array_equal(hdus["SCI"].data, hand[f"data{number}"], err_msg=place)
            np.testing.assert_array_equal(hdus["DQ"].data, hand[f"dq{number}"], err_msg=place)
    assert not np.array_equal(hand["data2"], hand["data3"], equal_nan=True)
