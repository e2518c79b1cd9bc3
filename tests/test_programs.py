"""Surveys of several programs: queries, selection of observations, names of mosaics and of their groups."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from observatory import make_observatory
from stub_steps import FakeReferences, exposure
from test_cli import console

from survey.config.model import SurveyConfig, read_config
from survey.dashboard.state import RunState
from survey.errors import ConfigError, NoExposuresError
from survey.planning.associations import group
from survey.planning.mosaic_list import group_name
from survey.planning.planner import plan
from survey.reduction.inputs import fetch, find_exposures, listed_exposures
from survey.simulate.exposures import plan_shots
from survey.simulate.scene import Pointing, Scene
from survey.simulate.server import serve

CONFIG = """\
survey: t
program: {program}
observations: {observations}
filters: {filters}
archive: {{server: "{server}"}}
references: {{server: null, context: jwst_0001.pmap, cache: crds}}
workspace: "{workspace}"
"""


@pytest.fixture
def server(tmp_path):
    """Two programs in one archive; the second, without a long-wave detector's files, has observations 1 and 2."""
    folder = make_observatory(tmp_path / "observatory", program=1727, observations=(1,), exposures=1)
    other = make_observatory(tmp_path / "other", program=1345, observations=(1, 2), exposures=1)
    rows = json.loads((folder / "exposures.json").read_text())
    rows += [row for row in json.loads((other / "exposures.json").read_text()) if row["filter"] == "F200W"]
    (folder / "exposures.json").write_text(json.dumps(rows))
    shutil.copytree(other / "raw", folder / "raw", dirs_exist_ok=True)
    with serve(folder) as running:
        yield running


def write(tmp_path, server, program="[1727, 1345]", observations="null", filters="null"):
    path = tmp_path / "c.yaml"
    path.write_text(
        CONFIG.format(
            program=program, observations=observations, filters=filters, server=server.url, workspace=tmp_path / "ws"
        )
    )
    return path


def of(number, program, detector="NRCB1", filter_name="F200W", observation=1):
    made = exposure(number, detector, filter_name)
    name = made.name.replace("jw01345001", f"jw{program:05d}{observation:03d}")
    return replace(made, name=name, program=program, observation=observation)


def config_of(tmp_path, **changes):
    references = {"context": "jwst_0001.pmap", "cache": tmp_path}
    return SurveyConfig(
        **{"survey": "t", "program": [1727, 1345], "workspace": tmp_path, "references": references} | changes
    )


def test_exposures_of_all_programs_make_one_mosaic_per_filter(tmp_path, server, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = read_config(write(tmp_path, server))
    assert (config.programs, config.program_text) == ((1727, 1345), "programs 1727, 1345")
    found = fetch(config)
    assert [item.name[2:10] for item in found] == ["01345001"] * 2 + ["01345002"] * 2 + ["01727001"] * 3
    assert all(item.sha256 for item in found)
    made = plan(config, found, FakeReferences())
    short, long = made.associations
    assert (short.product, long.product) == (
        "jw01727-a3001_t001_nircam_clear-f200w-sub320", "jw01727-a3001_t001_nircam_clear-f444w-sub320",
    )  # fmt: skip
    assert short.members == tuple(item.name for item in found if item.filter == "F200W")
    assert (group_name(short), group_name(long)) == ("F200W", "F444W")
    assert [item.name for item in listed_exposures(config)] == [item.name for item in found]
    for command in ("plan", "status"):
        code, out, err = console(monkeypatch, capsys, command, tmp_path / "c.yaml")
        assert code == 0, err
        assert command != "plan" or "t: programs 1727, 1345, 7 exposures" in out


def test_observations_are_chosen_by_program(tmp_path, server):
    config = read_config(write(tmp_path, server, observations="{1345: [2]}"))
    assert (config.observations_of(1345), config.observations_of(1727)) == ((2,), None)
    names = {item.name[2:10] for item in find_exposures(config)}
    assert names == {"01345002", "01727001"}
    assert (config.includes(1345, 1), config.includes(1345, 2), config.includes(1727, 9)) == (False, True, True)
    assert not config.includes(2079, 2)


def test_a_program_without_a_filter_is_said_and_one_without_imaging_is_an_error(tmp_path, server):
    config = read_config(write(tmp_path, server, filters="[F444W]"))
    said = []
    assert {item.program for item in find_exposures(config, say=said.append)} == {1727}
    assert "program 1345: no uncal exposure" in said[0] and "it has filters F200W" in said[0]
    config = read_config(write(tmp_path, server, program="[1727, 2079]"))
    with pytest.raises(NoExposuresError, match=r"program 2079: .* has no NIRCam imaging of it"):
        find_exposures(config)
    config = read_config(write(tmp_path, server, filters="[F090W]"))
    with pytest.raises(NoExposuresError, match=r"(?s)program 1727: .*program 1345: "):
        find_exposures(config)


def test_a_mosaic_is_named_after_the_first_program_that_has_members_in_it():
    exposures = [of(1, 1345), of(1, 1727), of(1, 1345, "NRCBLONG", "F444W")]
    short, long = group(exposures, "filter", (1727, 1345))
    names = (long.product, short.product)
    assert names == ("jw01727-a3001_t001_nircam_clear-f200w-sub320", "jw01345-a3001_t001_nircam_clear-f444w-sub320")
    assert [item.product for item in group(exposures, "filter")] == [
        "jw01345-a3001_t001_nircam_clear-f200w-sub320", "jw01345-a3001_t001_nircam_clear-f444w-sub320",
        "jw01727-a3001_t001_nircam_clear-f200w-sub320",
    ]  # fmt: skip


def test_mosaics_of_observations_stay_apart(tmp_path):
    exposures = [of(1, 1345), of(1, 1727), of(2, 1345, observation=2)]
    made = plan(config_of(tmp_path, mosaic={"per": ["filter", "observation"]}), exposures, FakeReferences())
    assert {item.product[:12]: group_name(item) for item in made.associations} == {
        "jw01345-o001": "F200W-jw01345-o001", "jw01345-o002": "F200W-jw01345-o002",
        "jw01727-o001": "F200W-jw01727-o001",
    }  # fmt: skip


def test_filters_are_aligned_to_one_of_another_program(tmp_path):
    """F444W has members of program 1345 alone, so that its mosaic has another number."""
    exposures = [of(1, 1345), of(1, 1727), of(1, 1345, "NRCBLONG", "F444W")]
    made = plan(config_of(tmp_path, mosaic={"align_to": "F444W"}), exposures, FakeReferences())
    (task,) = [item for item in made if item.step == "align" and item.filter == "F200W"]
    assert "align/jw01345-a3001_t001_nircam_clear-f444w-sub320" in task.inputs


def test_a_faulty_exposure_of_any_program_is_missing(tmp_path):
    exposures = [of(1, 1345), of(1, 1727), replace(of(2, 1345), fault="damaged")]
    (association,) = plan(config_of(tmp_path), exposures, FakeReferences()).associations
    assert association.program == 1727 and association.lost == (exposures[2].name,)


def test_one_program_in_a_list_is_one_program(tmp_path):
    alone, listed = (config_of(tmp_path, program=value) for value in (1345, [1345]))
    assert alone == listed and listed.program == 1345
    by_list, by_map = (config_of(tmp_path, program=1345, observations=value) for value in ([1, 2], {1345: [1, 2]}))
    assert by_list == by_map and by_map.observations == (1, 2)
    exposures = [exposure(1), exposure(2)]
    digests = [[task.digest for task in plan(item, exposures, FakeReferences())] for item in (alone, listed)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("program", "[]", "the list is empty"),
        ("program", "[1727, 1727]", "1727 is listed twice"),
        ("program", "[1727, 100000]", "100000: expected a program number from 1 to 99999"),
        ("program", "[1727, many]", "'many': expected a program number"),
        ("program", "[1727, true]", "True: expected a program number"),
        ("program", "0", "0: expected a program number"),
        ("observations", "[1, 2]", r"of which program\? Write a mapping, such as {1727: \[1, 2\], 1345: null}"),
        ("observations", "{1728: [1]}", "1728: is not a program of this config; it has 1727, 1345"),
        ("observations", "{1727: [1, 1000]}", "1000: expected whole numbers from 1 to 999"),
        ("observations", "{1727: 1}", "expected a list of observation numbers"),
    ],
)
def test_values_are_checked_by_item_with_file_and_line(tmp_path, server, key, value, words):
    with pytest.raises(ConfigError, match=words) as error:
        read_config(write(tmp_path, server, **{key: value}))
    assert str(error.value).startswith(f"{tmp_path}/c.yaml:{2 if key == 'program' else 3}: {key}")


def test_the_page_of_a_run_shows_all_programs():
    facts = {"run": "r", "survey": "t", "context": "c", "began": 0.0, "exposures": 1, "last_step": "image2",
             "totals": [], "products": []}  # fmt: skip
    assert RunState.begin(facts | {"program": 1345}).program == 1345
    assert RunState.begin(facts | {"program": [1727, 1345]}).program == [1727, 1345]


def test_a_scene_can_have_observations_of_several_programs():
    pointings = [Pointing(observation=1, dithers=1), Pointing(observation=1, dithers=1, program=1727)]
    scene = Scene(
        name="t", program=1345, detectors=["NRCB1"], filters=["F200W"], subarray="SUB320", observations=pointings
    )
    assert [shot.name(scene, "NRCB1")[:13] for shot in plan_shots(scene)] == ["jw01345001001", "jw01727001001"]
