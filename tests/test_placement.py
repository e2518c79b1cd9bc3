"""A plan refuses a grid that misses a mosaic's exposures, and fields that are far apart; it warns of losses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from observatory import make_observatory
from stub_steps import exposure
from test_cli import console

from survey.config.model import SurveyConfig
from survey.errors import ConfigError
from survey.mosaics.sky_plane import unproject
from survey.reduction.inputs import fetch
from survey.reduction.inspection import forecast
from survey.reduction.job import plan, run
from survey.reduction.placement import placement_of
from survey.simulate.server import serve

CENTRE = (0.001, 52.8)  # the field crosses the meridian
SIDE = 10.0  # of a footprint [arcsec]
ROOT = Path(__file__).parents[1]


def at(number, x_arcsec=0.0, y_arcsec=0.0, observation=1, centre=CENTRE):
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    points = [(x_arcsec + sx * SIDE / 2, y_arcsec + sy * SIDE / 2) for sx, sy in corners]
    made = exposure(number, sha256=None)
    name = made.name.replace("jw01345001", f"jw01345{observation:03d}")
    footprint = tuple(unproject(point, centre, 1.0, 0.0) for point in points)
    return replace(made, name=name, observation=observation, footprint=footprint)


def config_of(tmp_path, **mosaic):
    return SurveyConfig(
        survey="t", program=1345, workspace=tmp_path / "ws", mosaic=mosaic,
        references={"context": "jwst_0001.pmap", "cache": tmp_path, "server": None},
    )  # fmt: skip


def around(centre, side=1000):
    """A grid of 100 arcsec."""
    middle = (side - 1) / 2
    return {"crval_deg": centre, "crpix": (middle, middle), "rotation_deg": 0.0, "shape": (side, side),
            "pixel_scale_arcsec": 0.1}  # fmt: skip


def fault_of(tmp_path, exposures, **mosaic):
    with pytest.raises(ConfigError) as error:
        plan(config_of(tmp_path, **mosaic), exposures)
    return str(error.value)


@pytest.mark.parametrize("engine", ["tiled", "stock"])
@pytest.mark.parametrize(
    ("crval", "away"),
    [((5.001, 52.8), "3.02 deg"), ((0.001, 52.8 + 95 / 3600), "95.0 arcsec"), ((180.0, -52.8), "180")],
)
def test_a_grid_that_misses_all_exposures_is_refused(tmp_path, engine, crval, away):
    text = fault_of(tmp_path, [at(1), at(2, 5.0)], engine=engine, **around(crval))
    assert text.startswith("mosaic.crval_deg: the grid misses all 2 exposures of jw01345-a3001_t001_nircam_clear-f200w")
    assert f", {away}" in text and "survey init 1345" in text
    if "arcsec" in away:
        assert "the nearest exposure is 40.0 arcsec from its border" in text


def test_a_grid_is_refused_by_the_outlines_of_the_archives_mosaics(tmp_path):
    """Rows of level 3 have no footprint of an exposure."""
    bare = [replace(at(1), footprint=None, outlines=(at(1).footprint, at(2, 20.0).footprint))]
    assert "misses the only exposure" in fault_of(tmp_path, bare, **around((5.0, 52.8)))
    on_one = around((CENTRE[0], CENTRE[1]))
    assert plan(config_of(tmp_path, **on_one), bare).exposures == tuple(bare)
    unknown = [*bare, replace(at(3), footprint=None)]
    assert len(plan(config_of(tmp_path, **around((5.0, 52.8))), unknown).exposures) == 2


def test_a_grid_without_scale_or_rotation_is_refused_when_no_choice_of_them_helps(tmp_path):
    partial = {key: value for key, value in around((5.0, 52.8)).items() if key in ("crval_deg", "crpix", "shape")}
    assert "the grid misses" in fault_of(tmp_path, [at(1)], **partial)
    near = {**partial, "crval_deg": CENTRE}
    assert plan(config_of(tmp_path, **near), [at(1)])
    resample = {"resample": {"crval": [5.0, 52.8], "crpix": [499.5, 499.5], "output_shape": [1000, 1000]}}
    assert fault_of(tmp_path, [at(1)], image3=resample).startswith("mosaic.image3.resample.crval: the grid misses")


def test_a_grid_that_loses_exposures_is_told_with_figures(tmp_path):
    config = config_of(tmp_path, **around(CENTRE))
    exposures = [at(1), at(2, 47.5), at(3, 95.0), at(4, 95.0, 10.0)]
    warnings = placement_of(config, plan(config, exposures)).warnings
    product = "jw01345-a3001_t001_nircam_clear-f200w-sub320"
    assert warnings[0] == (
        f"the grid of {product} does not hold all exposures: 2 of 4 exposures outside, 1 of 4 exposures partly "
        "outside; 56.2 % of the area of all exposures is lost"
    )
    assert warnings[1] == (
        f"outside the grid of {product}, by 40.0 arcsec or more: {exposures[2].name}, {exposures[3].name}"
    )
    assert warnings[2] == f"partly outside the grid of {product}: {exposures[1].name}"
    assert placement_of(config, plan(config, [at(1)])).warnings == ()


def test_a_grid_that_holds_one_of_two_fields_names_the_other(tmp_path):
    config = config_of(tmp_path, **around(CENTRE))
    exposures = [at(1), at(2, observation=5, centre=(CENTRE[0], 54.0))]
    (line,) = [text for text in placement_of(config, plan(config, exposures)).warnings if "has 2 fields" in text]
    assert "field 2 around 0.0010 54.0000 deg (observation 5; 1 exposure), 1.20 deg from the grid's centre" in line
    assert "per: [filter, observation]" in line


def test_fields_that_are_far_apart_are_refused_with_their_observations(tmp_path):
    exposures = [at(1), at(2, 5.0), at(3, observation=5, centre=(CENTRE[0], 54.0))]
    text = fault_of(tmp_path, exposures)
    assert text.startswith("mosaic.per: the exposures of jw01345-a3001_t001_nircam_clear-f200w-sub320 are in 2 fields")
    assert "up to 1.20 deg apart: field 1 around" in text and "(observation 5; 1 exposure)" in text
    assert "per: [filter, observation]" in text and "leave it out" not in text
    apart = plan(config_of(tmp_path, per=("filter", "observation")), exposures)
    assert len(apart.associations) == 2
    rows = [replace(item, footprint=None, outlines=(item.footprint,)) for item in exposures]
    assert "2 fields" in fault_of(tmp_path, rows)


def test_one_observation_in_two_fields_is_split_by_exclude(tmp_path):
    text = fault_of(tmp_path, [at(1), at(2, centre=(2.0, 54.0))], per=("filter", "observation"))
    assert "Observation 1 has exposures in more than one field" in text and "'exclude:'" in text


def test_the_first_step_of_a_new_user_leads_to_a_clear_message(tmp_path, monkeypatch, capsys):
    """configs/ceers.yaml with the keys of another program: its grid is that of CEERS."""
    corners = [unproject(point, (150.1, 2.2), 1.0, 0.0) for point in ((0, 0), (60, 0), (60, 60), (0, 60))]
    make_observatory(tmp_path / "observatory", program=1727, corners=corners)
    text = (ROOT / "configs" / "ceers.yaml").read_text()
    with serve(tmp_path / "observatory") as server:
        edits = {"program: 1345": "program: 1727", "https://mast.stsci.edu": server.url,
                 "server: https://jwst-crds.stsci.edu": "server: null", "${CRDS_PATH:-crds_cache}": str(tmp_path),
                 "runs/ceers": str(tmp_path / "ws")}  # fmt: skip
        for old, new in edits.items():
            text = text.replace(old, new)
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        for command in ("plan", "run"):
            code, _, err = console(monkeypatch, capsys, command, path)
            assert code == 2, err
            line = text.splitlines().index("  crval_deg: [214.825, 52.825]") + 1
            assert f"{path}:{line}: mosaic.crval_deg: the grid misses all 18 exposures" in err
            assert "survey init 1727" in err
        assert not server.downloads()
        servers = ("--server", server.url, "--crds-server", server.url)
        _, out, _ = console(monkeypatch, capsys, "init", 1727, "--output", tmp_path / "new.yaml", *servers, "--json")
        assert json.loads(out)["grid"]["crval_deg"] == pytest.approx([150.0917, 2.2083], abs=1e-3)


def test_an_observation_outside_the_grid_is_refused_by_name(tmp_path):
    exposures = [at(1), at(2, observation=5, centre=(CENTRE[0], 54.0))]
    text = fault_of(tmp_path, exposures, per=("filter", "observation"), **around(CENTRE))
    assert "the grid misses the only exposure of jw01345-o005_t001" in text
    assert text.endswith("Or leave this observation out by 'observations:'.")


def test_status_shows_what_a_run_would_refuse(tmp_path):
    make_observatory(tmp_path / "folder", exposures=1, observations=(1,))
    config = config_of(tmp_path, **around((5.0, 52.8)))
    config = config.model_copy(update={"archive": config.archive.model_copy(update={"local": tmp_path / "folder/raw"})})
    fetch(config)
    short, long = forecast(config).warnings
    assert "the grid misses all 2 exposures of jw01345-a3001_t001_nircam_clear-f200w-sub320" in short
    assert "the grid misses the only exposure of jw01345-a3001_t001_nircam_clear-f444w-sub320" in long
    with pytest.raises(ConfigError, match="the grid misses"):
        run(config)
