"""`survey init`: from a program number to a config that loads, plans, and whose grid holds every exposure."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import crds_folder
import pytest
import yaml
from observatory import make_observatory
from stub_steps import exposure
from test_cli import console
from test_sky_plane import astropy_wcs

from survey.archive.query import Outline, Program
from survey.config.model import SurveyConfig
from survey.mosaics.sky_plane import LinearWcs, unproject
from survey.reduction.load import load_config
from survey.reduction.suggest import Request, Server, write
from survey.reduction.suggested_grid import choose_grid, pixel_scale_arcsec
from survey.simulate.faults import Fault
from survey.simulate.server import serve

CENTRE = (214.8, 52.8)
SIDE_ARCSEC = 10.0


def footprint(x, y, angle=-49.7, centre=CENTRE):
    """Corners of a detector at an offset from the centre [arcsec] along the axes of a rotated field."""
    half = SIDE_ARCSEC / 2
    corners = ((-half, -half), (half, -half), (half, half), (-half, half))
    return [list(unproject((x + dx, y + dy), centre, 1.0, angle)) for dx, dy in corners]


@pytest.fixture
def observatory(tmp_path, monkeypatch):
    """Two observations in a strip that is rotated by -49.7 degrees; commands run beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CRDS_PATH", raising=False)
    directory = make_observatory(tmp_path / "observatory", observations=(1, 2), exposures=2)
    rows = json.loads((directory / "exposures.json").read_text())
    for number, row in enumerate(rows):
        row["footprint"] = footprint(17.0 * number - 90, 4.0 * (number % 3))
    (directory / "exposures.json").write_text(json.dumps(rows))
    crds_folder.make_observatory(directory / "crds")
    return directory


def in_environment(monkeypatch, server):
    monkeypatch.setenv("SURVEY_ARCHIVE_URL", server.url)
    monkeypatch.setenv("SURVEY_CRDS_URL", server.crds_url)


@pytest.mark.parametrize("per_exposure", [False, True])
def test_a_program_becomes_a_config_that_plans_and_holds_every_exposure(observatory, monkeypatch, capsys, per_exposure):
    with serve(observatory, per_exposure=per_exposure) as server:
        in_environment(monkeypatch, server)
        code, out, _ = console(monkeypatch, capsys, "init", "1345", "--output", "c.yaml", "--json")
        assert code == 0
        config = load_config("c.yaml")
        planned, text, _ = console(monkeypatch, capsys, "plan", "c.yaml", "--json")
    document = json.loads(out)
    assert (document["file"], document["exposures"]) == ("c.yaml", {"F200W": 8, "F444W": 4})
    assert document["observations"]["2"] == {"F200W": 4, "F444W": 2}
    assert document["notes"] == []
    assert (config.survey, config.program, config.observations) == ("jw01345", 1345, (1, 2))
    assert config.filters == ("F200W", "F444W")
    assert config.references.context == "jwst_0002.pmap"
    assert [step.name for step in config.steps] == ["detector1", "subtract_striping", "image2"]
    assert planned == 0
    (grid,) = {json.dumps(item["grid"]) for item in json.loads(text)["associations"]}
    assert (json.loads(grid)["source"], json.loads(grid)["shape"]) == ("config", list(config.mosaic.shape))
    # The corners of all exposures are on the grid, as astropy has it; in a rectangle that is not much larger.
    mosaic = config.mosaic
    wcs = astropy_wcs(
        LinearWcs(mosaic.crval_deg, mosaic.crpix, mosaic.pixel_scale_arcsec, mosaic.rotation_deg, mosaic.shape)
    )
    rows = json.loads((observatory / "exposures.json").read_text())
    corners = [corner for row in rows for corner in row["footprint"]]
    x, y = wcs.all_world2pix(*zip(*corners, strict=True), 0)
    nx, ny = mosaic.shape
    assert x.min() >= 90 and x.max() <= nx - 91 and y.min() >= 90 and y.max() <= ny - 91
    assert nx * ny * mosaic.pixel_scale_arcsec**2 < 1.05 * (17 * 11 + 10 + 6) * (8 + 10 + 6)
    comment = "have no footprint of 12 of 12 exposures"
    assert (comment in Path("c.yaml").read_text()) is not per_exposure


def test_every_key_of_the_model_has_its_description(observatory, monkeypatch, capsys):
    with serve(observatory) as server:
        in_environment(monkeypatch, server)
        assert console(monkeypatch, capsys, "init", "1345")[0] == 0
    lines = (observatory.parent / "jw01345.yaml").read_text().splitlines()
    text = "\n".join(lines)
    assert "#   1: 6 exposures (F200W 4, F444W 2)" in lines
    assert "#   F444W: 4 exposures" in lines
    assert "server: ${SURVEY_ARCHIVE_URL:-" in text and "server: ${SURVEY_CRDS_URL:-" in text
    data = yaml.safe_load(text)
    for name, field in SurveyConfig.model_fields.items():
        inner = getattr(field.annotation, "model_fields", {})
        assert f"# {field.description}" in lines
        assert set(data[name] if inner else ()) == set(inner)
        assert all(f"  # {item.description}" in lines for item in inner.values())


def test_an_existing_file_is_kept(observatory, monkeypatch, capsys):
    (observatory.parent / "c.yaml").write_text("mine")
    code, out, err = console(
        monkeypatch, capsys, "init", "1345", "--output", "c.yaml", "--server", "http://127.0.0.1:9"
    )
    assert (code, out) == (2, "")
    assert "c.yaml: exists, and is not overwritten" in err
    assert (observatory.parent / "c.yaml").read_text() == "mine"


def test_a_program_that_the_archive_does_not_have_is_2(observatory, monkeypatch, capsys):
    with serve(observatory) as server:
        in_environment(monkeypatch, server)
        code, _, err = console(monkeypatch, capsys, "init", "4321")
        assert code == 2 and "program 4321" in err and "no NIRCam imaging" in err
        assert "Check the program's number and --server." in err and "archive.server" not in err
        code, _, err = console(monkeypatch, capsys, "init", "1345", "--filter", "F115W")
        assert code == 2 and "it has filters F200W, F444W" in err
    assert not list(observatory.parent.glob("*.yaml"))


@pytest.mark.parametrize(
    "arguments",
    [["0"], ["123456"], ["ceers"], [], ["1345", "--filter", "F20W"], ["1345", "--observation", "0"],
     ["1345", "--server", "mast"], ["1345", "--output", "none/c.yaml"]],
)  # fmt: skip
def test_wrong_usage_is_2(observatory, monkeypatch, capsys, arguments):
    code, out, err = console(monkeypatch, capsys, "init", *arguments)
    assert (code, out) == (2, "")
    assert err.strip()


def test_an_archive_that_is_away_is_3(observatory, monkeypatch, capsys):
    import survey.reduction.suggest

    monkeypatch.setattr(survey.reduction.suggest, "TIMEOUT_SECONDS", 2.0)
    code, _, err = console(monkeypatch, capsys, "init", "1345", "--server", "http://127.0.0.1:9")
    assert code == 3 and "127.0.0.1:9" in err
    assert "Check --server" in err and "archive." not in err
    with serve(observatory, faults=[Fault(kind="error", match="invoke", status=403)]) as server:
        assert console(monkeypatch, capsys, "init", "1345", "--server", server.url)[0] == 3
    assert not list(observatory.parent.glob("*.yaml"))


def test_without_a_crds_server_a_placeholder_is_left_that_is_refused(observatory, monkeypatch, capsys):
    with serve(observatory) as server:
        options = ["--server", server.url, "--crds-server", "http://127.0.0.1:9/crds"]
        code, out, err = console(monkeypatch, capsys, "init", "1345", *options, "--json")
        assert code == 0
        assert json.loads(out)["context"] is None
        assert "references.context is not filled in" in err and "references.server" not in err
        assert f"server: {server.url}\n" in Path("jw01345.yaml").read_text()
        code, _, err = console(monkeypatch, capsys, "plan", "jw01345.yaml")
    assert code == 2
    assert "references.context: is not filled in (jwst_NNNN.pmap). Write a name such as jwst_1584.pmap." in err


def test_without_a_context_the_next_step_is_to_write_it(observatory, monkeypatch, capsys):
    with serve(observatory) as server:
        options = ["--server", server.url, "--crds-server", "http://127.0.0.1:9/crds"]
        code, out, _ = console(monkeypatch, capsys, "init", "1345", *options)
    assert code == 0
    assert out.splitlines()[-1] == ("next: write references.context in jw01345.yaml, then survey plan jw01345.yaml")


def test_a_folder_that_cannot_be_written_is_named_before_the_archive_is_asked(observatory, monkeypatch, capsys):
    options = ["--output", "/proc/c.yaml", "--server", "http://127.0.0.1:9"]
    code, _, err = console(monkeypatch, capsys, "init", "1345", *options)
    assert code == 2
    assert "/proc/c.yaml: cannot be written in /proc (" in err and "127.0.0.1" not in err


def test_observations_and_filters_can_be_chosen(observatory, monkeypatch, capsys):
    with serve(observatory) as server:
        in_environment(monkeypatch, server)
        options = ["--observation", "2", "--filter", "f444w", "--workspace", "elsewhere"]
        assert console(monkeypatch, capsys, "init", "1345", *options)[0] == 0
        config = load_config("jw01345.yaml")
    assert (config.observations, config.filters) == ((2,), ("F444W",))
    assert str(config.workspace) == "elsewhere"
    assert config.mosaic.pixel_scale_arcsec == 0.06


# --- the grid, from made-up rows ------------------------------------------------------------------------------------


def at(number, observation=1, x=0.0, y=0.0, centre=CENTRE, filter_name="F200W"):
    item = replace(exposure(number), observation=observation, filter=filter_name)
    return replace(item, footprint=tuple(map(tuple, footprint(x, y, 0.0, centre))))


def suggestion(found):
    address = Server("http://localhost:1", "http://localhost:1")
    return write(Request(1345, address, address, "crds", "ws"), found, "jwst_0001.pmap")


def test_fields_far_apart_get_no_common_grid_but_advice(tmp_path):
    near = [at(number, 1, 20.0 * number) for number in range(4)]
    far = [at(10 + number, 2, 20.0 * number, centre=(CENTRE[0], CENTRE[1] + 1.5)) for number in range(4)]
    made = suggestion(Program((*near, *far), ()))
    assert made.choice.grid is None
    assert [item.observations for item in made.choice.fields] == [(1,), (2,)]
    assert "2 fields, up to 1.50 deg from the largest" in made.notes[0]
    assert "survey init 1345 --observation 2" in made.text
    (tmp_path / "c.yaml").write_text(made.text)
    config = load_config(tmp_path / "c.yaml")
    assert config.mosaic.per == ("filter", "observation")
    assert (config.mosaic.shape, config.mosaic.pixel_scale_arcsec) == (None, 0.03)


def test_one_exposure_with_an_absurd_footprint_does_not_take_the_grid_away():
    near = [at(number, 1, 2.0 * number) for number in range(60)]
    lost = replace(near[0], name=exposure(99).name, observation=7, footprint=((0.0, 0.0), (0.01, 0.0), (0.01, 0.01)))
    made = suggestion(Program((*near, lost), ()))
    assert all(made.choice.grid.holds(item.footprint) for item in near)
    assert max(made.choice.grid.shape) < 6000
    (note,) = made.notes
    assert note.startswith("outside of the grid: field 2: around 0.005") and "observations 7" in note


def test_mosaics_stand_for_exposures_without_footprints():
    """Outlines of mosaics whose exposures have footprints do not count: they may be larger."""
    bare = replace(at(1, 1), footprint=None)
    known = at(2, 2, 30.0)
    wide = tuple(map(tuple, footprint(0, 0)))
    outline = Outline("F200W", 1, wide)
    choice = choose_grid(Program((bare, known), (outline, Outline("F200W", 2, tuple((a + 0.1, b) for a, b in wide)))))
    assert choice.grid.holds(wide) and choice.grid.holds(known.footprint)
    assert choice.fields[0].outlines == 2
    joint = choose_grid(Program((bare,), (replace(outline, observation=None),)))
    assert joint.grid.holds(wide) and joint.warnings == ()


def test_what_has_no_footprint_is_said():
    bare = replace(at(1, 3, filter_name="F115W"), footprint=None)
    none = suggestion(Program((bare,), ()))
    assert none.choice.grid is None and "no grid is suggested" in none.notes[0]
    assert "no grid is suggested" in none.text
    some = suggestion(Program((bare, at(2)), ()))
    assert some.notes == ("neither a footprint nor an outline in the archive's rows: F115W of observation 3",)
    assert some.notes[0] in some.text


def test_the_scale_follows_the_channels():
    assert pixel_scale_arcsec(["F444W"]) == 0.06
    assert pixel_scale_arcsec(["F444W", "F070W"]) == 0.03


def test_a_catalogue_is_skipped_for_large_mosaics_alone(tmp_path):
    small = suggestion(Program((at(1),), ()))
    wide = [at(number, x=80.0 * number, y=80.0 * number) for number in range(12)]
    assert "source_catalog: {skip: true}" not in small.text
    large = suggestion(Program(tuple(wide), ()))
    assert math.prod(large.choice.grid.shape) < 2e8  # a strip is rotated to fit
    square = [at(number, x=600.0 * (number % 2), y=600.0 * (number // 2)) for number in range(4)]
    assert "source_catalog: {skip: true}" in suggestion(Program(tuple(square), ())).text
