"""Sources of an exposure whose alignment is skipped."""

from __future__ import annotations

import numpy as np
import pytest

from survey.steps.base import Job
from survey.steps.registry import REGISTRY
from tests.small_wcs import SIDE, tangent_wcs

pytestmark = pytest.mark.pipeline

NAME = "jw01345001001_02101_00001_nrcb1"


def test_a_skipped_tweakreg_leaves_a_catalogue_without_rows(tmp_path):
    """A parameter file can skip it, which a plan does not know: what stands behind reads the catalogue all the same."""
    from astropy.table import Table
    from stdatamodels.jwst.datamodels import ImageModel

    from survey.steps.image3.members import read_description
    from survey.steps.image3.sources import run

    model = ImageModel(np.zeros((SIDE, SIDE), np.float32))
    model.meta.wcs = tangent_wcs(16.0, 16.0)
    model.save(tmp_path / f"{NAME}_cal.fits")
    folder = tmp_path / "job"
    folder.mkdir()
    cal = (str(tmp_path / f"{NAME}_cal.fits"),)
    job = Job(f"sources/{NAME}", "sources", NAME, "d", "t", cal, str(folder), {"tweakreg": {"skip": True}})
    outcome = run(job, REGISTRY["sources"])
    files = [path for path, _ in outcome.products]
    assert files == [f"products/{NAME}_cat.ecsv", f"products/{NAME}_member.asdf"]
    table = Table.read(folder / files[0])
    assert len(table) == 0 and table.colnames == ["x", "y", "flux"]
    assert read_description(folder / files[1]).shape == (SIDE, SIDE)
    assert outcome.measurements == {"sources": 0}
