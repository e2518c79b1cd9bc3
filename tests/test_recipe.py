"""The recipe of a config: checked once a command, refused with every fault, never older than the config."""

from __future__ import annotations

import dataclasses
import json
import pickle
from dataclasses import replace

import pytest
from click.testing import CliRunner
from stub_steps import FakeReferences, exposure

import survey
from survey.cli.main import main
from survey.config.model import SurveyConfig, read_config
from survey.digest import file_sha256
from survey.errors import ConfigError
from survey.models import Association
from survey.planning import recipe
from survey.planning.recipe import recipe_of
from survey.reduction import inputs, job, offline
from survey.reduction.members import Members
from survey.workspace.folders import Workspace

SEEN = [("NRCB1", "F200W"), ("NRCB2", "F200W"), ("NRCBLONG", "F444W")]
EXPOSURES = tuple(exposure(number, *where) for number in range(1, 9) for where in SEEN)
FAULTY = {
    "steps": [{"detector1": {"jump": {"rejection_treshold": 4}}}, "imge2"],
    "mosaic": {"image3": {"resample": {"kernel": "squre"}}},
}


@pytest.fixture
def checks(monkeypatch):
    """Arguments of every check of a config."""
    seen, check = [], recipe.check

    def counted(*parts):
        seen.append(parts)
        return check(*parts)

    monkeypatch.setattr(recipe, "check", counted)
    return seen


def facts(root, **changes):
    references = {"server": None, "context": "jwst_0001.pmap", "cache": str(root / "crds")}
    return {"survey": "t", "program": 1345, "workspace": str(root / "ws"), "references": references, **changes}


def written(root, **changes):
    path = root / "c.yaml"
    path.write_text(json.dumps(facts(root, **changes)))
    return path


def with_raw_files(root):
    """The exposures, with raw files of a few bytes in the workspace."""
    workspace = Workspace(root / "ws")
    workspace.create()
    for item in EXPOSURES:
        (workspace.raw / item.file).write_text(item.name)
    return tuple(replace(item, sha256=file_sha256(workspace.raw / item.file)) for item in EXPOSURES)


def test_one_plan_checks_the_config_once(tmp_path, monkeypatch, checks):
    monkeypatch.setattr(offline, "find_exposures", lambda _config, say: EXPOSURES)
    done = CliRunner().invoke(main, ["plan", str(written(tmp_path)), "--json"], catch_exceptions=False)
    assert (done.exit_code, len(json.loads(done.stdout)["exposures"])) == (0, len(EXPOSURES))
    assert len(checks) == 1


def test_a_plan_of_another_context_checks_the_config_once(tmp_path, monkeypatch, checks):
    exposures = with_raw_files(tmp_path)
    monkeypatch.setattr(inputs, "held_exposures", lambda _config: exposures)
    monkeypatch.setattr(inputs, "look_up", lambda *_: FakeReferences())
    command = ["plan", str(written(tmp_path)), "--json", "--context", "jwst_0002.pmap"]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert json.loads(done.stdout)["context"] == "jwst_0002.pmap"
    assert len(checks) == 1


@pytest.mark.parametrize("until", [None, "image2"])
def test_one_run_checks_the_config_once(tmp_path, monkeypatch, checks, until):
    """Everything of `survey run` but downloads, references and the cluster."""
    exposures, planned = with_raw_files(tmp_path), []
    monkeypatch.setattr(job, "_fetch_available", lambda *_: (exposures, {}))
    monkeypatch.setattr(job, "sync_references", lambda *_: FakeReferences())
    monkeypatch.setattr(job, "_on_cluster", lambda _job, made, *_: planned.append(made) or [])
    options = [] if until is None else ["--until", until]
    done = CliRunner().invoke(main, ["run", str(written(tmp_path)), *options], catch_exceptions=False)
    assert done.exit_code == 0 and len(planned[0].exposures) == len(EXPOSURES)
    assert len(checks) == 1


def test_one_mosaic_checks_the_config_once(tmp_path, monkeypatch, checks):
    exposures, planned = with_raw_files(tmp_path), []
    members = tuple(item for item in exposures if item.filter == "F200W")
    names = tuple(item.name for item in members)
    product = "jw01345-a3001_t001_nircam_clear-f200w"
    monkeypatch.setattr(job, "read_association", lambda *_: Association(product, "F200W", "all", names, 1345))
    monkeypatch.setattr(job, "members_of", lambda _config, found, _folder: Members(found, members, ()))
    monkeypatch.setattr(job, "sync_references", lambda *_: FakeReferences())
    monkeypatch.setattr(job, "_on_cluster", lambda _job, made, *_: planned.append(made) or [])
    command = ["mosaic", str(written(tmp_path)), "--asn", "asn.json"]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0 and planned[0].associations[0].members == names
    assert len(checks) == 1


@pytest.mark.parametrize("do", [lambda config: survey.plan(config, EXPOSURES), survey.run, recipe_of])
def test_a_config_of_python_is_checked_once_and_refused_with_every_fault(tmp_path, checks, do):
    config = SurveyConfig(**facts(tmp_path, **FAULTY))
    with pytest.raises(ConfigError) as raised:
        do(config)
    places = [fault.partition(": ")[0] for fault in raised.value.faults]
    assert places == ["steps.detector1.jump.rejection_treshold", "steps.imge2", "mosaic.image3.resample.kernel"]
    assert len(checks) == 1
    assert not (tmp_path / "ws").exists()


def test_a_refused_config_of_a_file_names_its_lines(tmp_path):
    config = read_config(written(tmp_path, **FAULTY))
    with pytest.raises(ConfigError) as raised:
        survey.plan(config, EXPOSURES)
    assert all(fault.startswith(f"{tmp_path}/c.yaml:1: ") for fault in raised.value.faults)


def test_copies_and_pickles_keep_the_recipe(tmp_path, checks):
    config = SurveyConfig(**facts(tmp_path))
    first = recipe_of(config)
    other = config.references.model_copy(update={"context": "jwst_0002.pmap"})
    assert recipe_of(config.model_copy(update={"references": other, "observations": (2,)})) is first
    assert recipe_of(pickle.loads(pickle.dumps(config))) == first
    assert recipe_of(config.model_copy(deep=True)) == first
    assert len(checks) == 1


def test_a_copy_with_other_steps_has_its_own_recipe(tmp_path):
    config = SurveyConfig(**facts(tmp_path))
    assert list(recipe_of(config).chain) == ["detector1", "image2"] and recipe_of(config).makes_mosaics
    short = config.model_copy(update={"steps": config.steps[:1]})
    assert list(recipe_of(short).chain) == ["detector1"] and not recipe_of(short).makes_mosaics
    coarse = config.model_copy(update={"mosaic": config.mosaic.model_copy(update={"pixfrac": 0.5})})
    assert recipe_of(coarse).image3["resample"] == {"pixfrac": 0.5}
    wrong = config.model_copy(
        update={"filters": ("F200W",), "mosaic": config.mosaic.model_copy(update={"align_to": "F444W"})}
    )
    with pytest.raises(ConfigError, match=r"mosaic\.align_to: F444W is not among"):
        recipe_of(wrong)
    assert recipe_of(config).makes_mosaics  # the original keeps its own


def test_a_changed_setting_is_checked(tmp_path):
    """Sections are frozen, but the mapping of a step's parameters is a dict."""
    config = SurveyConfig(**facts(tmp_path, steps=[{"detector1": {"jump": {"skip": False}}}, "image2"]))
    assert recipe_of(config).chain["detector1"] == {"jump": {"skip": False}}
    config.steps[0].settings["jump"]["skip"] = "perhaps"
    with pytest.raises(ConfigError, match=r"steps\.detector1\.jump\.skip"):
        recipe_of(config)


def test_a_recipe_is_frozen(tmp_path):
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe_of(SurveyConfig(**facts(tmp_path))).makes_mosaics = False
