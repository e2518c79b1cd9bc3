"""What a reduction starts from: files that cannot be read, and the members of associations from outside."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from observatory import write_raw

from survey.config.model import read_config
from survey.errors import ConfigError, DownloadError
from survey.models import Association
from survey.planning.planner import plan
from survey.reduction.inputs import fetch, find_exposures, held_exposures
from survey.reduction.members import members_of

NAMES = [f"jw01345001001_02201_0000{number}_nrcb1" for number in (1, 2, 3)]


@pytest.fixture
def config(tmp_path):
    for name in NAMES:
        write_raw(tmp_path / "archive" / f"{name}_uncal.fits", name, "NRCB1", "F200W")
    text = {
        "survey": "t",
        "program": 1345,
        "archive": {"local": str(tmp_path / "archive")},
        "references": {"server": None, "context": "jwst_0001.pmap", "cache": str(tmp_path / "crds")},
        "mosaic": {"engine": "stock"},
        "workspace": str(tmp_path / "ws"),
    }
    (tmp_path / "c.yaml").write_text(json.dumps(text))
    return read_config(tmp_path / "c.yaml")


def test_a_file_that_cannot_be_read_is_missing_from_its_mosaics(config):
    path = config.archive.local / f"{NAMES[1]}_uncal.fits"
    path.write_bytes(path.read_bytes()[:-100])
    said = []
    exposures = find_exposures(config, say=said.append)
    assert [item.name for item in exposures if item.fault] == [NAMES[1]]
    assert NAMES[1] in said[0]
    with pytest.raises(DownloadError) as raised:
        fetch(config, exposures)
    assert list(raised.value.missing) == [NAMES[1]]
    assert [item.name for item in held_exposures(config)] == [NAMES[0], NAMES[2]]  # the others are kept
    made = plan(config, exposures)
    assert made.associations[0].members == (NAMES[0], NAMES[2])
    assert made.associations[0].lost == (NAMES[1],)
    assert made[f"image3/{made.associations[0].product}"].missing == (NAMES[1],)


def test_members_come_from_raw_files_or_lie_beside_the_association(config, tmp_path):
    fetch(config)
    other = "jw01345009001_02201_00001_nrcb1"
    association = Association("jw01345-a3001_t001_nircam_clear-f200w", "F200W", "all", (NAMES[0], other), 1345)
    folder = tmp_path / "given"
    folder.mkdir()
    with pytest.raises(ConfigError, match=other):
        members_of(config, association, folder)
    write_raw(folder / f"{other}_cal.fits", other, "NRCB1", "F200W")
    found = members_of(config, association, folder)
    raw, given = found.raw, found.given
    assert [item.name for item in raw] == [NAMES[0]]
    assert [(item.name, item.uri) for item in given] == [(other, str(folder / f"{other}_cal.fits"))]
    with pytest.raises(ConfigError, match=f"{NAMES[0]} has filter F200W, the product clear-f444w"):
        members_of(config, replace(association, product="jw01345-a3001_t001_nircam_clear-f444w"), folder)
    (folder / f"{other}_cal.fits").rename(tmp_path / f"{other}_cal.fits")
    (folder / f"{other}_cal.fits").symlink_to(tmp_path / f"{other}_cal.fits")
    with pytest.raises(ConfigError, match="is a link out of its folder"):
        members_of(config, association, folder)


def test_an_exposure_without_a_reference_is_left_out_and_the_others_are_planned(tmp_path):
    from stub_steps import exposure

    from survey.config.model import SurveyConfig
    from survey.reduction import job as reduction
    from survey.reduction.inputs import unreferenced
    from survey.references.record import References

    config = SurveyConfig(survey="t", program=1345, workspace=tmp_path,
                          references={"context": "jwst_0001.pmap", "cache": tmp_path})  # fmt: skip
    made = [exposure(1), exposure(2), exposure(1, "NRCBLONG", "F444W")]
    groups = ({"flat": "flat.fits"}, {"flat": "NOT FOUND 'FULL' is not in ['SUB320']"})
    found = References(
        context="jwst_0001.pmap", cache=str(tmp_path), groups=groups, files={"flat.fits": "0" * 40}, paths={},
        mappings={}, exposures={made[0].name: 0, made[1].name: 1, made[2].name: 0},
    )  # fmt: skip
    lacking = unreferenced(config, made, found)
    assert list(lacking) == [made[1].name]
    assert "step 'image2' needs a flat file" in lacking[made[1].name]
    assert "'FULL' is not in ['SUB320']" in lacking[made[1].name]
    planned = reduction.plan(config, made, found)
    assert not [task for task in planned if task.subject.startswith(made[1].name)]
    lost = {item.filter: (item.members, item.lost) for item in planned.associations}
    assert lost == {"F200W": ((made[0].name,), (made[1].name,)), "F444W": ((made[2].name,), ())}
