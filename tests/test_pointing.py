"""Exposures whose headers say that their pointing may be wrong: told in plan and status, left out on demand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest
from observatory import make_observatory, write_raw
from stub_steps import exposure
from test_cli import console

from survey.archive.ledger import LEDGER, Ledger
from survey.archive.pointing import KEYWORDS, KINDS, pointing_faults
from survey.config.model import read_config
from survey.config.sections import PointingConfig
from survey.errors import ConfigError
from survey.planning.pointing import pointing_warnings
from survey.reduction.inputs import fetch, find_exposures, held_exposures
from survey.simulate.server import serve

COARSE = "jw01345001001_02101_00001_nrcb1"
PLANNED = "jw01345001001_02101_00002_nrcb2"
CONFIG = """\
survey: t
program: 1345
archive: {{server: "{server}"}}
references: {{server: null, context: jwst_0001.pmap, cache: crds}}
pointing: {{exclude: {exclude}}}
workspace: "{workspace}"
"""


@pytest.fixture
def server(tmp_path):
    folder = make_observatory(tmp_path / "observatory", observations=(1,), exposures=2)
    write_raw(folder / "raw" / f"{COARSE}_uncal.fits", COARSE, "NRCB1", "F200W", PCS_MODE="COARSE")
    write_raw(folder / "raw" / f"{PLANNED}_uncal.fits", PLANNED, "NRCB2", "F200W", ENGQLPTG="PLANNED")
    with serve(folder) as running:
        yield running


def write(tmp_path, server, exclude="[]"):
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(server=server.url, workspace=tmp_path / "ws", exclude=exclude))
    return path


@pytest.mark.parametrize(
    ("header", "faults"),
    [
        ({}, ""),
        ({"PCS_MODE": "FINEGUIDE", "ENGQLPTG": "CALCULATED_TRACK_TR_202111", "VISITSTA": "SUCCESSFUL"}, ""),
        ({"PCS_MODE": "TRACK", "ENG_QUAL": "OK"}, ""),
        ({"PCS_MODE": "MOVING"}, ""),
        ({"PCS_MODE": "COARSE"}, "coarse"),
        ({"PCS_MODE": "FINEGUIDE", "ENGQLPTG": "CALCULATED_COARSE_TR_202107"}, "coarse"),
        ({"PCS_MODE": "NONE", "ENGQLPTG": "PLANNED"}, "unguided, planned"),
        ({"VISITSTA": "UNSUCCESSFUL"}, "failed"),
        ({"ENG_QUAL": "SUSPECT", "PCS_MODE": "coarse "}, "coarse, suspect"),
    ],
)
def test_faults_are_read_from_keywords(header, faults):
    assert pointing_faults(header) == faults


def test_kinds_of_the_config_and_keywords_of_the_data_models_exist():
    annotation = PointingConfig.model_fields["exclude"].annotation
    assert get_args(get_args(annotation)[0]) == tuple(KINDS)
    schema = __import__("importlib").resources.files("stdatamodels.jwst.datamodels.schemas") / "core.schema.yaml"
    text = schema.read_text()
    assert all(f"fits_keyword: {key}\n" in text for key in KEYWORDS)


def test_each_exposure_is_named_once_its_header_is_known():
    exposures = [replace(exposure(number), pointing=found) for number, found in ((1, "coarse"), (2, ""), (3, None))]
    (text,) = pointing_warnings(exposures)
    assert text == (
        "1 of 2 exposures have coarse pointing, without lock on the guide star (PCS_MODE or ENGQLPTG is COARSE): "
        f"{exposures[0].name}. Their alignment may fail; 'pointing: {{exclude: [coarse]}}' in the config leaves them "
        "out"
    )
    assert pointing_warnings(exposures[1:]) == []


def test_plan_and_status_name_them(tmp_path, server, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, server)
    assert "pointing" not in console(monkeypatch, capsys, "plan", path)[1]  # the archive's rows do not say
    assert console(monkeypatch, capsys, "fetch", path)[0] == 0
    for command in ("plan", "status"):
        lines = console(monkeypatch, capsys, command, path)[1].splitlines()
        found = [line for line in lines if line.startswith("warning: 1 of 6 exposures have ")]
        assert len(found) == 2 and COARSE in found[0] and "coarse pointing" in found[0]
        assert PLANNED in found[1] and "ENGQLPTG is PLANNED" in found[1]
    document = json.loads(console(monkeypatch, capsys, "plan", path, "--json")[1])
    assert {item["name"]: item["pointing"] for item in document["exposures"] if item["pointing"]} == {
        COARSE: "coarse", PLANNED: "planned",
    }  # fmt: skip


def test_they_are_left_out_on_demand(tmp_path, server, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, server, "[coarse]")
    config = read_config(path)
    assert not any(item.excluded for item in find_exposures(config))
    found = {item.name: item for item in fetch(config)}
    assert found[COARSE].excluded == (
        "coarse pointing, without lock on the guide star (PCS_MODE or ENGQLPTG is COARSE); excluded by the config "
        "(pointing.exclude: coarse)."
    )
    assert found[COARSE].sha256 and not found[PLANNED].excluded
    assert {item.name for item in find_exposures(config) if item.excluded} == {COARSE}
    assert len(held_exposures(config)) == 5
    _, plan, _ = console(monkeypatch, capsys, "plan", path)
    assert f"left out {COARSE}: coarse pointing" in plan and "5 exposures (5 fetched" in plan
    assert len(server.downloads(COARSE)) == 1
    assert len(held_exposures(read_config(write(tmp_path, server)))) == 6  # its file is kept


def test_a_workspace_of_an_earlier_version_is_read_again(tmp_path, server):
    """Its ledger does not say anything of pointings."""
    config = read_config(write(tmp_path, server))
    fetch(config)
    ledger = Ledger(config.folders.raw / LEDGER)
    for name in ledger.names():
        entry = ledger.get(name)
        ledger.append(replace(entry, facts={key: value for key, value in entry.facts.items() if key != "pointing"}))
    for found in (find_exposures(config), held_exposures(config), fetch(config)):
        assert {item.name: item.pointing for item in found if item.pointing} == {COARSE: "coarse", PLANNED: "planned"}


def test_kinds_are_checked(tmp_path, server):
    with pytest.raises(ConfigError, match=r"c.yaml:5: pointing.exclude.0: expected 'coarse', .*did you mean 'coarse'"):
        read_config(write(tmp_path, server, "[course]"))
