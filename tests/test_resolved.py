"""Records say what was run: a CRDS parameter file that changes a step's default shows in ``resolved``."""

from __future__ import annotations

import pytest

from survey.steps.base import Job
from survey.steps.image3.parts import parameters, part
from survey.steps.pipeline import call

pytestmark = pytest.mark.pipeline


@pytest.fixture
def source(tmp_path):
    """A ramp, as far as CRDS asks."""
    from stdatamodels.jwst import datamodels

    model = datamodels.RampModel((1, 2, 8, 8))
    model.meta.instrument.name = "NIRCAM"
    model.save(tmp_path / "x_uncal.fits")
    return tmp_path / "x_uncal.fits"


def chosen_by_crds(monkeypatch, **files):
    """Have CRDS name these parameter files, by type, and no other."""
    from stpipe import crds_client

    def best(_parameters, kind, _observatory):
        return str(files.get(kind.replace("-", "_"), "N/A"))

    monkeypatch.setattr(crds_client, "get_reference_file", best)


def test_of_a_pipeline(source, tmp_path, monkeypatch):
    from jwst.jump import JumpStep
    from jwst.pipeline import Detector1Pipeline

    file = tmp_path / "jwst_nircam_pars-jumpstep_0001.asdf"
    JumpStep(rejection_threshold=7.5).export_config(file)
    chosen_by_crds(monkeypatch, pars_jumpstep=file)
    monkeypatch.setattr(Detector1Pipeline, "run", lambda *_: None)
    name = "jwst.pipeline.calwebb_detector1:Detector1Pipeline"
    jump = call(name, source, tmp_path, {})["steps"]["jump"]
    assert jump["rejection_threshold"] == 7.5
    asked = call(name, source, tmp_path, {"jump": {"rejection_threshold": 5.0}})["steps"]["jump"]
    assert asked["rejection_threshold"] == 5.0  # the config has the last word


def test_of_a_part_of_image3(tmp_path, monkeypatch):
    from jwst.tweakreg import TweakRegStep

    file = tmp_path / "jwst_nircam_pars-tweakregstep_0001.asdf"
    TweakRegStep(snr_threshold=17.0).export_config(file)
    monkeypatch.setattr("crds.core.config.locate_file", lambda *_, **__: str(file))
    job = Job("align/m", "align", "m", "d", "t", (), str(tmp_path), {}, {"pars-tweakregstep": file.name})
    assert parameters(part(job, "tweakreg"))["snr_threshold"] == 17.0
    bare = Job("align/m", "align", "m", "d", "t", (), str(tmp_path), {})
    assert parameters(part(bare, "tweakreg"))["snr_threshold"] != 17.0
