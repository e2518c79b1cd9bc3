"""Room is made by removing raw and rate files: nothing counts as lost, and what needs them brings them back."""

from __future__ import annotations

import json
import shutil

import pytest
from stub_histories import Survey, replace_parts

from survey.archive import held as archive_held
from survey.cli.plan_report import Planned, plan_blocks
from survey.cli.tables import text_of
from survey.cli.tidy_command import tidy_document, tidy_text
from survey.errors import ConfigError
from survey.models import REMOVED
from survey.reduction import inspection, tidy
from survey.reduction import job as reduction
from survey.reduction.inputs import find_exposures, held_exposures
from survey.workspace.records import read_records


@pytest.fixture
def survey(tmp_path, monkeypatch):
    made = Survey(tmp_path)
    replace_parts(monkeypatch, lambda: made)
    made.run()
    return made


def shown(survey) -> str:
    config = survey.config
    made = reduction.plan(config, find_exposures(config))
    return text_of(plan_blocks(Planned(config, made, inspection.plan_states(config, made))))


def test_raw_and_rate_files_go_and_everything_stays_done(survey):
    raw, rates = survey.files("raw/*_uncal.fits"), survey.files("stage1/*_rate.fits")
    assert len(raw) == len(rates) == 6
    size = sum(path.stat().st_size for path in (*raw, *rates))
    removal = tidy.removable(survey.config, "cal")
    assert sum(item.bytes for item in removal.files) == size and removal.needed == {}
    assert survey.files("raw/*_uncal.fits") == raw  # looking removes nothing
    tidy.remove(survey.config, removal)
    assert survey.files("raw/*_uncal.fits") == survey.files("stage1/*_rate.fits") == []
    assert len(survey.files("stage2/*_cal.fits")) == 6
    assert survey.announced() == survey.announced(offline=True) == set()
    assert survey.run() == (set(), set())
    assert survey.files("raw/*_uncal.fits") == []
    assert inspection.verify(survey.config) == {}
    assert {item.absent for item in held_exposures(survey.config)} == {REMOVED}
    assert tidy.removable(survey.config, "cal").files == ()
    assert "raw files of 6 exposures were removed by survey tidy: not needed" in shown(survey)


def test_mosaics_are_made_again_from_cal_files(survey):
    survey.tidy("cal")
    survey.values["searchrad"] = 1.5
    announced = survey.announced()
    assert announced and not {key for key in announced if key.startswith(("detector1/", "image2/"))}
    assert survey.run() == (announced, set())
    assert survey.files("raw/*_uncal.fits") == survey.files("stage1/*_rate.fits") == []


def test_another_setting_of_detector1_fetches_raw_files_again(survey):
    survey.tidy("cal")
    survey.values["threshold"] = 5.0
    text = shown(survey)
    assert "raw files of 6 exposures were removed by survey tidy: 6 of them are fetched again" in text
    announced = survey.announced()
    assert survey.run() == (announced, set())
    assert len(survey.files("raw/*_uncal.fits")) == len(survey.files("stage1/*_rate.fits")) == 6
    assert survey.announced() == set()


def test_a_lost_cal_file_brings_its_raw_and_rate_files_back(survey):
    survey.tidy("cal")
    lost = survey.files("stage2/*_cal.fits")[0]
    before = lost.read_bytes()
    lost.unlink()
    name = lost.name.removesuffix("_cal.fits")
    assert survey.announced() == {f"detector1/{name}", f"image2/{name}"}
    assert survey.run() == ({f"detector1/{name}", f"image2/{name}"}, set())
    assert lost.read_bytes() == before
    assert [path.name for path in survey.files("raw/*_uncal.fits")] == [f"{name}_uncal.fits"]


def test_another_context_is_looked_up_from_the_kept_headers(survey):
    survey.tidy("cal")
    survey.values["context"] = "jwst_0002.pmap"
    announced = survey.announced()
    names = {key.removeprefix("image2/") for key in announced if key.startswith("image2/")}
    assert len(names) == 3 and all(name.endswith("nrcb1") for name in names)  # the others have the same files
    # image2 reads rate files, which are gone.
    assert {f"detector1/{name}" for name in names} == {key for key in announced if key.startswith("detector1/")}
    assert survey.run() == (announced, set())


def test_raw_files_alone(survey):
    survey.tidy("rate")
    assert survey.files("raw/*_uncal.fits") == [] and len(survey.files("stage1/*_rate.fits")) == 6
    assert survey.announced() == set()
    survey.values["context"] = "jwst_0002.pmap"  # another flat of NRCB1
    announced = survey.announced()
    assert {key.partition("/")[0] for key in announced} >= {"image2"}
    assert not {key for key in announced if key.startswith("detector1/")}
    assert survey.run() == (announced, set()) and survey.files("raw/*_uncal.fits") == []


def test_files_that_a_task_has_to_read_are_kept(survey):
    survey.values["skip_ipc"] = True
    removal = tidy.removable(survey.config, "cal")
    assert removal.files == () and set(removal.needed.values()) == {"detector1 has to run"}
    survey.values["skip_ipc"] = False
    survey.files("stage2/*_cal.fits")[0].unlink()
    assert len(tidy.removable(survey.config, "cal").needed) == 1


def test_raw_files_that_cannot_be_fetched_again_are_named(survey):
    survey.tidy("cal")
    shutil.rmtree(survey.archive.folder)
    assert survey.run() == (set(), set())  # nothing reads them
    survey.values["threshold"] = 5.0
    survey.archive.fetch = lost_archive
    done = reduction.run(survey.config)
    assert len(done.missing) == 6 and "is gone" in next(iter(done.missing.values()))
    assert {record.error for record in done.failed if record.step == "detector1"} == {
        f"not run: raw/{name}_uncal.fits is not there yet" for name in done.missing
    }
    survey.values["threshold"] = 4.0
    assert survey.announced() == set()  # the products of before are still there


def lost_archive(exposures, _directory, **_others):
    from survey.archive.fetch import FetchReport

    return FetchReport((), missing={exposure.name: "the file is gone" for exposure in exposures})


def test_an_interruption_loses_nothing(survey, monkeypatch):
    removal = tidy.removable(survey.config, "cal")
    written = []

    def stop_at_third(*arguments):
        written.append(arguments)
        if len(written) == 3:
            raise KeyboardInterrupt
        return write(*arguments)

    write = tidy.write_record
    monkeypatch.setattr(tidy, "write_record", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        tidy.remove(survey.config, removal)
    assert survey.announced() == set()
    monkeypatch.setattr(tidy, "write_record", write)
    tidy.remove(survey.config, tidy.removable(survey.config, "cal"))
    assert survey.files("stage1/*_rate.fits") == []


def test_what_is_removed_is_said_with_sizes(survey):
    removal = tidy.removable(survey.config, "cal")
    text = tidy_text(survey.config, removal, dry_run=True)
    assert "raw/: 6 files, 0.00 GB would be removed" in text
    assert "stage1/: 6 files" in text
    assert "a change of detector1 or of a later step of the exposures needs files that are gone" in text
    document = json.loads(json.dumps(tidy_document(removal, True)))
    assert len(document["files"]) == 12 and document["dry_run"] and document["kept"] == {}


def test_a_record_says_when_its_product_was_removed(survey):
    survey.tidy("cal")
    records = read_records(survey.root / "records").by_key
    assert {record.step for record in records.values() if record.removed} == {"detector1"}
    assert archive_held.verify(survey.root / "raw") == {}


def test_only_known_products_can_be_kept(survey):
    with pytest.raises(ConfigError, match="expected rate or cal"):
        tidy.removable(survey.config, "mosaics")
