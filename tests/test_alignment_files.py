"""Folders of aligned WCS: which file is that of which exposure, and what is said before anything runs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from astropy.io import fits
from stub_steps import FakeReferences, exposure

from survey.config.model import SurveyConfig
from survey.errors import ConfigError
from survey.mosaics.alignment_files import alignment_files, choose
from survey.planning.planner import plan
from survey.reduction.alignment import check_alignment
from survey.reduction.inputs import override_digests

EXPOSURES = [exposure(number) for number in (1, 2, 3, 4, 5)]
NAMES = [item.name for item in EXPOSURES]
TREE = b"#ASDF 1.0.0\n%YAML 1.1\n--- !core/asdf-1.1.0\nwcs: !<tag:stsci.edu:gwcs/wcs-1.2.0>\n  name: ''\n...\n"


def write_fits(path, tree):
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((4, 4)), name="SCI")])
    if tree:
        column = fits.Column("ASDF_METADATA", f"{len(tree)}B", array=np.frombuffer(tree, np.uint8)[None])
        hdus.append(fits.BinTableHDU.from_columns([column], name="ASDF"))
    stream = io.BytesIO()
    hdus.writeto(stream)
    path.write_bytes(stream.getvalue())


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "aligned"
    place.mkdir()

    def fill(*files, tree=TREE):
        for file in files:
            if file.endswith(".fits"):
                write_fits(place / file, tree)
            else:
                (place / file).write_bytes(tree)
        return place

    return fill


@pytest.fixture
def config(tmp_path):
    def make(**mosaic):
        return SurveyConfig(
            survey="t", program=1345, workspace=str(tmp_path / "ws"), mosaic=mosaic,
            references={"context": "jwst_0001.pmap", "cache": str(tmp_path / "crds")},
        )  # fmt: skip

    return make


@pytest.mark.parametrize(
    "suffix",
    ["wcs.asdf", "a3001_wcs.asdf", "tweakreg.asdf", "cal.asdf", "ceers-v0.5_tweakreg.asdf", "cal.fits", "tweakreg.fits",
     "a3001_crf.fits", "jhat.fits"],
)  # fmt: skip
def test_a_wcs_is_found_by_its_exposure_with_any_suffix(folder, suffix):
    place = folder(*(f"{name}_{suffix}" for name in NAMES))
    assert choose(place, NAMES) == ({name: place / f"{name}_{suffix}" for name in NAMES}, [])


@pytest.mark.parametrize("suffix", ["member.asdf", "uncal.fits", "rate.fits", "i2d.fits", "o001_i2d.fits", "cat.ecsv"])
def test_other_products_hold_no_aligned_wcs(folder, suffix):
    assert alignment_files(folder(f"{NAMES[0]}_{suffix}", "notes.asdf", f"{NAMES[0]}.asdf")) == {}


def test_the_stage3_of_a_workspace_can_be_given(folder):
    """Descriptions without alignment and crf files are beside the aligned WCS."""
    place = folder(*(f"{NAMES[0]}_{end}" for end in ("member.asdf", "a3001_wcs.asdf", "a3001_crf.fits", "cat.ecsv")))
    assert choose(place, NAMES[:1]) == ({NAMES[0]: place / f"{NAMES[0]}_a3001_wcs.asdf"}, [])


@pytest.mark.parametrize("second", ["wcs.asdf", "o001_wcs.asdf", "tweakreg.fits"])
def test_two_files_of_one_exposure_are_refused_by_name(folder, second):
    place = folder(f"{NAMES[0]}_tweakreg.asdf", f"{NAMES[0]}_{second}", f"{NAMES[1]}_wcs.asdf")
    paths, faults = choose(place, NAMES[:2])
    assert list(paths) == [NAMES[1]]
    assert len(faults) == 1
    assert all(text in faults[0] for text in (f"2 files could hold the aligned WCS of {NAMES[0]}",
                                              f"{NAMES[0]}_tweakreg.asdf", f"{NAMES[0]}_{second}"))  # fmt: skip


def test_members_without_a_wcs_are_named_before_anything_runs(folder, config):
    place = folder(f"{NAMES[0]}_tweakreg.asdf")
    made = plan(config(alignment=str(place)), EXPOSURES, FakeReferences())
    with pytest.raises(ConfigError) as caught:
        check_alignment(config(alignment=str(place)), made)
    text = str(caught.value)
    assert "mosaic.alignment" in text and "4 of 5 members of jw01345-a3001_t001_nircam_clear-f200w" in text
    assert f"{NAMES[1]}, {NAMES[2]}, {NAMES[3]} and 1 more" in text
    check_alignment(config(alignment=str(place)), made, ("detector1", "image2"))  # the WCS may be made of its products
    folder(*(f"{name}_cal.fits" for name in NAMES[1:]))
    check_alignment(config(alignment=str(place)), made)


@pytest.mark.parametrize("suffix", ["wcs.asdf", "cal.fits"])
@pytest.mark.parametrize("tree", [b"", b"#ASDF 1.0.0\nmeta: {}\n...\n\xd3BLK gwcs/wcs-"])
def test_files_without_a_wcs_are_named_before_anything_runs(folder, config, suffix, tree):
    place = folder(*(f"{name}_{suffix}" for name in NAMES), tree=tree)
    chosen = config(alignment=str(place))
    with pytest.raises(ConfigError, match=rf"5 files hold no WCS that can be used: {NAMES[0]}_{suffix}"):
        check_alignment(chosen, plan(chosen, EXPOSURES, FakeReferences()))


def test_commands_check_it(folder, config, monkeypatch):
    from survey.reduction import job

    place = folder(f"{NAMES[0]}_tweakreg.asdf")
    with pytest.raises(ConfigError, match="4 of 5 members"):
        job.plan(config(alignment=str(place)), EXPOSURES, FakeReferences())


def test_the_digest_depends_on_every_file_that_is_read(folder, config):
    place = folder(f"{NAMES[0]}_tweakreg.asdf", f"{NAMES[1]}_cal.fits", f"{NAMES[2]}_wcs.asdf", "readme.txt")
    chosen = config(alignment=str(place))
    seen = {override_digests(chosen)[str(place)]}
    for file in (f"{NAMES[0]}_tweakreg.asdf", f"{NAMES[1]}_cal.fits", f"{NAMES[2]}_wcs.asdf"):
        (place / file).write_bytes((place / file).read_bytes() + b"x")
        seen.add(override_digests(chosen)[str(place)])
    assert len(seen) == 4
    (place / "readme.txt").write_text("other")
    assert override_digests(chosen)[str(place)] in seen
