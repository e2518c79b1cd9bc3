"""A plan announces exactly the tasks that a run runs, whatever happened to the workspace before."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import stub_histories
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from stub_histories import Survey, replace_parts

EXAMPLES = int(os.environ.get("SURVEY_HISTORIES", "15"))
FILES = {
    "raw": "raw/*_uncal.fits",
    "rate": "stage1/*_rate.fits",
    "cal": "stage2/*_cal.fits",
    "stage3": "stage3/*",
    "chunk": "mosaics/mosaics.zarr/*/**/*",
    "mosaic": "mosaics/*",
    "association": "asn/*",
    "record": "records/*.json",
    "layout": "stage3/*_layout.json",
    "references": "references.json",
    "ledger": "raw/ledger.jsonl",
}
VALUES = {
    "filters": [None, ["F200W"], ["F444W"]],
    "observations": [None, [1], [1, 2]],
    "context": ["jwst_0001.pmap", "jwst_0002.pmap"],
    "threshold": [4.0, 5.0],
    "skip_ipc": [False, True],
    "engine": ["tiled", "stock"],
    "tile": [640, 1200],
    "per": [["filter"], ["filter", "observation"]],
    "pixfrac": [None, 0.8],
    "crval": [None, [214.805, 52.805]],
    "snr": ["5.0 4.0", "4.0 3.0"],
    "searchrad": [None, 1.5],
    "keep_intermediate": [False, True],
}
number = st.integers(0, 1000)
change = st.sampled_from(sorted(VALUES)).flatmap(lambda key: st.tuples(st.just(key), st.sampled_from(VALUES[key])))
ACTIONS = st.one_of(
    st.tuples(st.just("change"), change),
    st.tuples(st.sampled_from(["remove", "truncate", "touch"]), st.tuples(st.sampled_from(sorted(FILES)), number)),
    st.tuples(st.just("damage"), st.tuples(st.just("raw"), number)),
    st.tuples(st.just("remove_all"), st.sampled_from(["raw", "rate", "record", "stage3"])),
    st.tuples(st.just("cache"), number),
    st.tuples(st.sampled_from(["copy", "copy_without_times", "move", "link", "move_cache"]), st.none()),
    st.tuples(st.just("add"), number),
    st.tuples(st.just("withdraw"), number),
    st.tuples(st.just("interrupt"), st.integers(0, 40)),
    st.tuples(st.just("fail"), number),
    st.tuples(st.just("tidy"), st.sampled_from(["rate", "cal"])),
)
now: list[Survey] = []


@pytest.fixture(scope="module", autouse=True)
def replaced():
    with pytest.MonkeyPatch.context() as patch:
        replace_parts(patch, lambda: now[-1])
        yield


def act(survey: Survey, action: str, value) -> None:
    if action == "change":
        survey.values[value[0]] = value[1]
    elif action in ("remove", "truncate", "touch", "damage"):
        found = survey.files(FILES[value[0]])
        if found:
            harm(found[value[1] % len(found)], action)
    elif action == "remove_all":
        for path in survey.files(FILES[value]):
            path.unlink()
    elif action == "cache":
        found = sorted((survey.folder / survey.values["cache"]).rglob("*.fits"))
        if found:
            found[value % len(found)].unlink()
    elif action.startswith("copy"):
        survey.copy(keep_times=action == "copy")
    elif action in ("move", "link", "move_cache"):
        getattr(survey, action)()
    elif action == "add":
        survey.archive.add(1 + value % 2, 3 + value % 3)
    elif action == "withdraw":
        if len(survey.archive.rows) > 4:
            del survey.archive.rows[sorted(survey.archive.rows)[value % len(survey.archive.rows)]]
    elif action == "interrupt":
        survey.interrupt(value)
    elif action == "fail":
        keys = sorted(survey.announced())
        stub_histories.faulty.update(keys[value % len(keys) :][:1] if keys else ())
    elif action == "tidy":
        survey.tidy(value)


def harm(path: Path, how: str) -> None:
    if how == "remove":
        path.unlink()
    elif how == "truncate":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "touch":
        os.utime(path, (2.0, 2.0))
    else:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)


def check(survey: Survey) -> None:
    """A plan beside the run after it, and a plan after that."""
    announced = survey.announced()
    ran, failed = survey.run()
    assert ran == announced
    stub_histories.faulty.clear()
    if not failed:
        assert survey.announced() == set()
        if survey.lists_all:
            assert survey.announced(offline=True) == set()
    else:
        assert survey.announced() >= failed


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
@given(history=st.lists(st.lists(ACTIONS, min_size=1, max_size=3), min_size=1, max_size=4))
def test_a_plan_announces_what_a_run_runs(history):
    with workspace() as survey:
        check(survey)
        for actions in history:
            for action, value in actions:
                act(survey, action, value)
            check(survey)


class workspace:
    """Context manager: a survey in memory, where there is such a file system."""

    def __enter__(self) -> Survey:
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(dir=place))
        now[:] = [Survey(self.folder)]
        return now[-1]

    def __exit__(self, *_exception: object) -> None:
        stub_histories.faulty.clear()
        shutil.rmtree(self.folder)
