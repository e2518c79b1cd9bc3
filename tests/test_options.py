"""Options and callbacks of a run: as objects, and as keyword arguments of `survey.run` and `survey.mosaic`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import survey
from survey.config.model import SurveyConfig
from survey.errors import ConfigError
from survey.reduction import job
from survey.reduction.options import Callbacks, RunOptions, combined, silent


@pytest.fixture
def config(tmp_path):
    references = {"server": None, "context": "jwst_0001.pmap", "cache": tmp_path / "crds"}
    return SurveyConfig(survey="t", program=1345, workspace=tmp_path / "ws", references=references)


def test_keywords_replace_fields():
    given = RunOptions(cluster="local", until="image2")
    keywords = {"until": "detector1", "client": 1, "say": print}
    options, callbacks = combined(given, Callbacks(progress=max), keywords)
    assert options == RunOptions(client=1, cluster="local", until="detector1")
    assert callbacks == Callbacks(progress=max, say=print)
    assert given.until == "image2"
    assert combined(None, None, {}) == (RunOptions(), Callbacks(None, None, silent))


def test_every_field_is_a_keyword():
    names = [item.name for kind in (RunOptions, Callbacks) for item in dataclasses.fields(kind)]
    assert len(set(names)) == 10
    options, callbacks = combined(None, None, {name: name for name in names})
    assert {**vars(options), **vars(callbacks)} == {name: name for name in names}


@pytest.mark.parametrize("do", [survey.run, lambda config, **keywords: survey.mosaic(config, Path("a"), **keywords)])
def test_an_unknown_keyword_is_refused(config, do):
    with pytest.raises(TypeError, match="unexpected keyword arguments: clientt, untl"):
        do(config, clientt=None, until=None, untl="image2")
    assert not config.workspace.exists()


def test_options_are_checked_with_the_config(config, tmp_path):
    """As an object or as keywords, and by `load_config`: all faults of both at once."""
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({**config.model_dump(mode="json"), "steps": ["image2"]}))
    options = RunOptions(cluster="tcp://login1:8786", until="imge2")
    wrong = config.model_copy(update={"steps": config.steps[1:]})
    calls = [
        lambda: survey.run(wrong, options),
        lambda: survey.run(wrong, cluster="tcp://login1:8786", until="imge2"),
        lambda: survey.mosaic(wrong, tmp_path / "asn.json", options),
        lambda: survey.load_config(path, options=options),
        lambda: survey.load_config(path, cluster="tcp://login1:8786", until="imge2"),
    ]
    for call in calls:
        with pytest.raises(ConfigError) as raised:
            call()
        for words in ("accepts rate, got uncal", "--until imge2", "login1:8786"):
            assert words in str(raised.value)
        assert len(raised.value.faults) == 3


def test_a_run_hands_its_callbacks_on(config, monkeypatch):
    """The plan goes to ``watch``, whose result gets each record; messages go to ``say``."""
    seen, said = [], []
    monkeypatch.setattr(job, "find_exposures", lambda _config, say: ())
    monkeypatch.setattr(
        job, "fetch_some", lambda _config, callbacks, _found, _wanted: (callbacks.progress("a", 1, 2) or (), {})
    )
    with pytest.raises(survey.SurveyError, match="none of 0 raw files"):
        survey.run(config, progress=lambda *facts: seen.append(facts), say=said.append)
    assert seen == [("a", 1, 2)] and said == ["0 exposures of program 1345"]
