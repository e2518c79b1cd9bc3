"""Exposures that are left out: by the config, or since their files are of another mode than the archive lists."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from observatory import make_observatory, write_raw
from stub_steps import FakeReferences, exposure
from test_cli import console

from survey.archive.ledger import LEDGER, Ledger
from survey.config.model import SurveyConfig, read_config
from survey.errors import ConfigError, SurveyError
from survey.planning.planner import plan
from survey.reduction.inputs import (
    fetch,
    find_exposures,
    forget_rejected,
    held_exposures,
    listed_exposures,
)
from survey.reduction.job import run
from survey.reduction.selection import select
from survey.simulate.server import serve

CORON = "jw01345001001_02101_00001_nrcb1"  # coronagraphic, by its header
OTHER = "jw01345001001_02101_00002_nrcb2"  # through another filter
CONFIG = """\
survey: t
program: 1345
observations: [1]
archive: {{server: "{server}"}}
references: {{server: null, context: jwst_0001.pmap, cache: crds}}
exclude: {exclude}
workspace: "{workspace}"
"""


@pytest.fixture
def server(tmp_path):
    folder = make_observatory(tmp_path / "observatory", observations=(1,), exposures=3)
    write_raw(folder / "raw" / f"{CORON}_uncal.fits", CORON, "NRCB1", "F200W", EXP_TYPE="NRC_CORON")
    write_raw(folder / "raw" / f"{OTHER}_uncal.fits", OTHER, "NRCB2", "F150W")
    with serve(folder) as running:
        yield running


def config_of(tmp_path, server, exclude="[]"):
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(server=server.url, workspace=tmp_path / "ws", exclude=exclude))
    return read_config(path)


def test_a_file_of_another_mode_is_learnt_once(tmp_path, server):
    config = config_of(tmp_path, server)
    found = fetch(config)
    causes = {item.name: item.excluded for item in found if item.excluded}
    assert causes == {
        CORON: "is not a NIRCam image of NRCB1 by its header (EXP_TYPE NRC_CORON, FILTER F200W).",
        OTHER: "holds filter F150W by its header, expected F200W by its row.",
    }
    assert {name: len(server.downloads(name)) for name in causes} == {CORON: 1, OTHER: 1}
    assert sum(bool(item.sha256) for item in found) == 7
    assert not list((tmp_path / "ws" / "raw").glob(f"*{CORON}*"))

    again = fetch(config, find_exposures(config))
    assert {item.name: item.excluded for item in again if item.excluded} == causes
    assert {item.name: item.excluded for item in listed_exposures(config) if item.excluded} == causes
    assert len(held_exposures(config)) == 7
    assert len(server.downloads(CORON)) == 1

    made = plan(config, find_exposures(config), FakeReferences())
    (short,) = (item for item in made.associations if item.filter == "F200W")
    assert len(short.members) == 4 and short.lost == () and not {CORON, OTHER} & set(short.members)
    assert {item.name for item in made.left_out} == {CORON, OTHER}
    assert len(made.exposures) == 7 and not [task for task in made if CORON in task.subject]


def test_what_was_learnt_is_forgotten_on_demand_or_with_another_row(tmp_path, server):
    config = config_of(tmp_path, server)
    fetch(config)
    assert forget_rejected(config) == 2 and forget_rejected(config) == 0
    assert not [item for item in listed_exposures(config) if item.excluded]
    name = f"{CORON}_uncal.fits"
    write_raw(server.directory / "raw" / name, CORON, "NRCB1", "F200W")  # the archive has corrected it
    found = {item.name: item for item in fetch(config)}
    assert found[CORON].sha256 and not found[CORON].excluded and found[OTHER].excluded
    ledger = Ledger(tmp_path / "ws" / "raw" / LEDGER)
    ledger.append(replace(ledger.get(f"{OTHER}_uncal.fits"), facts={"filter": "F210M", "pupil": "CLEAR"}))
    assert not next(item for item in find_exposures(config) if item.name == OTHER).excluded


def test_a_file_of_another_mode_in_the_workspace_is_not_fetched(tmp_path, server):
    config = config_of(tmp_path, server)
    raw = tmp_path / "ws" / "raw"
    raw.mkdir(parents=True)
    name = f"{CORON}_uncal.fits"
    (raw / name).write_bytes((server.directory / "raw" / name).read_bytes())
    assert {item.name for item in fetch(config) if item.excluded} == {CORON, OTHER}
    assert not server.downloads(CORON) and (raw / name).exists()


def test_commands_name_what_is_left_out(tmp_path, server, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config_of(tmp_path, server, "[jw01345001001_02101_00003_*]")
    path = tmp_path / "c.yaml"
    line = "left out jw01345001001_02101_00003_nrcb1, jw01345001001_02101_00003_nrcb2, "
    line += "jw01345001001_02101_00003_nrcblong: excluded by the config (exclude: jw01345001001_02101_00003_*)."
    _, before, _ = console(monkeypatch, capsys, "plan", path)
    assert line in before and "6 exposures (0 fetched" in before
    code, out, err = console(monkeypatch, capsys, "fetch", path)
    assert (code, out.strip()) == (0, f"4 raw files verified in {tmp_path}/ws/raw")
    mode = f"left out {CORON}: is not a NIRCam image of NRCB1 by its header (EXP_TYPE NRC_CORON, FILTER F200W)."
    assert mode in err and line in err
    assert not server.downloads("00003")
    for command in ("plan", "status"):
        code, out, _ = console(monkeypatch, capsys, command, path)
        assert code == 0 and mode in out
        document = json.loads(console(monkeypatch, capsys, command, path, "--json")[1])
        assert document["left_out"][OTHER].startswith("holds filter F150W")
    assert console(monkeypatch, capsys, "fetch", path, "--recheck")[0] == 0
    assert len(server.downloads(CORON)) == 2


def test_a_run_goes_on_by_what_remains_and_fails_when_nothing_does(tmp_path, server):
    config = config_of(tmp_path, server, "['*']")
    with pytest.raises(SurveyError, match=r"all 9 exposures are left out, such as .* excluded by the config"):
        run(config)
    assert not server.downloads()


@pytest.mark.parametrize(
    "pattern", ["JW01345001001_02101_00001_nrcb1", "jw*_00001_nrcb1", "jw*_0000[1]_nrcb1_uncal.fits"]
)
def test_exposures_are_excluded_by_name_file_or_glob(tmp_path, pattern):
    config = SurveyConfig(
        survey="t", program=1345, workspace=tmp_path, references={"context": "jwst_0001.pmap", "cache": tmp_path},
        exclude=[pattern],
    )  # fmt: skip
    exposures = [exposure(1), exposure(2), exposure(1, "NRCB2")]
    found = select(config, exposures)
    assert [bool(item.excluded) for item in found] == [True, False, False]
    with_all = plan(config, exposures, FakeReferences())
    digests = {task.key: task.digest for task in plan(config, found, FakeReferences()) if not task.mosaic}
    assert digests and all(with_all[key].digest == value for key, value in digests.items())


def test_a_pattern_that_matches_nothing_is_an_error_with_its_line(tmp_path, server):
    config = config_of(tmp_path, server, "\n  - jw01345001001_02101_00001_nrcb1\n  - jw01345001001_02101_00009_nrcb1")
    with pytest.raises(ConfigError) as error:
        find_exposures(config)
    assert str(error.value) == (
        f"{tmp_path}/c.yaml:8: exclude.jw01345001001_02101_00009_nrcb1: matches none of 9 exposures of the program, "
        "filters and observations of this config; did you mean 'jw01345001001_02101_00003_nrcb1'?"
    )
    assert listed_exposures(config) == ()  # the workspace need not have them


@pytest.mark.parametrize("value", ["jw01345*", "[1]", "['a/b']", "['']", "[jw1*, jw1*]", "[{a: b}]"])
def test_values_of_exclude_are_checked(tmp_path, value):
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(server="http://localhost:9", workspace="ws", exclude=value))
    with pytest.raises(ConfigError, match=r"c.yaml:6: exclude"):
        read_config(path)
