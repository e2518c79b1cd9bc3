"""A plan on dask, with stub steps: failures contained, mosaics gathered, memory, disk, reuse, until."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from dask.distributed import Client, LocalCluster
from stub_steps import ENVIRONMENT, FakeReferences, exposure

from survey.cluster.capacity import capacity
from survey.cluster.deploy import RESOURCE
from survey.config.limits import Limits
from survey.config.model import SurveyConfig
from survey.digest import file_sha256
from survey.errors import DiskFullError, SurveyError
from survey.execution.task import Site
from survey.models import COMPLETE, FAILED, SKIPPED
from survey.planning.planner import Planner, plan
from survey.scheduling.run_plan import RunSettings, run_plan
from survey.workspace.folders import Workspace
from survey.workspace.records import read_records

STEPS = ("detector1", "subtract_striping", "image2")
MOSAIC = "jw01345-a3001_t001_nircam_clear-{}-sub320"


class Line:
    """A workspace with raw files and all that `run_plan` needs."""

    def __init__(self, root, **mosaic):
        self.workspace = Workspace(root)
        self.workspace.create()
        self.config = SurveyConfig(
            survey="t", program=1345, workspace=root, references={"context": "jwst_0001.pmap", "cache": root},
            steps=list(STEPS), mosaic={"engine": "stock", **mosaic},
        )  # fmt: skip
        made = [exposure(number) for number in (1, 2, 3)] + [exposure(1, "NRCBLONG", "F444W")]
        for item in made:
            (self.workspace.raw / item.file).write_text(item.name)
        self.exposures = [replace(item, sha256=file_sha256(self.workspace.raw / item.file)) for item in made]
        self.name = made[0].name
        self.seen: list[tuple[str, str, bool]] = []

    def faults(self, **faults: list[str]) -> None:
        keys = {f"{step}/{self.name}": kinds for step, kinds in faults.items()}
        (self.workspace.root / "faults.json").write_text(json.dumps(keys))

    def run(self, client, until=None, change=None, limits=None, watch=None):
        references = FakeReferences()
        made = plan(self.config, self.exposures, references)
        if change is not None:
            made = replace(made, tasks=tuple(map(change, made.tasks)))
        self.seen = []
        site = Site(str(self.workspace.root), "t", ENVIRONMENT, limits or Limits())
        stored = read_records(self.workspace.records).by_key
        watch = watch or (lambda record, reused: self.seen.append((record.key, record.status, reused)))
        records = run_plan(made, Planner(self.config, references), site, client, RunSettings(stored, until, watch))
        assert sorted(item[0] for item in self.seen) == sorted(record.key for record in records)
        return {record.key: record for record in records}

    def attempts(self) -> dict[str, int]:
        folder = self.workspace.root / "attempts"
        return {path.name: len(path.read_text().splitlines()) for path in folder.glob("*")}


@pytest.fixture
def line(tmp_path):
    return Line(tmp_path / "ws")


def statuses(records, status):
    return {key for key, record in records.items() if record.status == status}


def test_a_plan_runs_once_and_a_second_time_runs_nothing(client, line):
    records = line.run(client)
    assert len(records) == 4 * 3 + 2 * 3
    assert statuses(records, COMPLETE) == set(records)
    assert set(line.attempts().values()) == {1}
    assert not any(reused for _, _, reused in line.seen)
    again = line.run(client)
    assert again == records
    assert all(reused for _, _, reused in line.seen)
    assert set(line.attempts().values()) == {1}


def test_only_what_a_changed_raw_file_reaches_runs_again(client, line):
    line.run(client)
    path = line.workspace.raw / line.exposures[3].file
    path.write_text("other bytes")
    line.exposures[3] = replace(line.exposures[3], sha256=file_sha256(path))
    line.run(client)
    twice = {name for name, count in line.attempts().items() if count == 2}
    assert twice == {f"{step}.{line.exposures[3].name}" for step in STEPS} | {
        f"{step}.{MOSAIC.format('f444w')}" for step in ("association", "image3", "mosaic")
    }


def test_a_failed_exposure_takes_its_dependents_and_no_one_else(client, line):
    line.faults(detector1=["never"] * 9)
    records = line.run(client)
    assert statuses(records, FAILED) == {f"detector1/{line.name}"}
    mosaic = {f"{step}/{MOSAIC.format('f200w')}" for step in ("association", "image3", "mosaic")}
    chain = {f"{step}/{line.name}" for step in STEPS[1:]}
    assert statuses(records, SKIPPED) == mosaic | chain
    assert f"detector1/{line.name} failed: " in records[f"image2/{line.name}"].error
    assert "ValueError: bad pixels" in records[f"image2/{line.name}"].error
    cause = records[f"mosaic/{MOSAIC.format('f200w')}"].error
    assert "1 of 3 members missing" in cause
    assert line.name in cause
    assert "max_missing allows 0" in cause
    assert line.attempts()[f"detector1.{line.name}"] == 1  # wrong data are not tried again


def test_a_mosaic_is_made_without_the_members_that_may_be_missing(client, tmp_path):
    line = Line(tmp_path / "ws", max_missing=1)
    line.faults(image2=["never"])
    key = f"mosaic/{MOSAIC.format('f200w')}"
    part = line.run(client)[key]
    assert part.status == COMPLETE
    assert part.missing == (line.name,)
    whole = line.run(client)[key]
    assert (whole.status, whole.missing) == (COMPLETE, ())
    assert whole.products[0].sha256 != part.products[0].sha256


def test_what_may_pass_is_tried_again(client, line):
    line.faults(detector1=["again"], image2=["io"])
    records = line.run(client)
    assert statuses(records, COMPLETE) == set(records)
    assert line.attempts()[f"detector1.{line.name}"] == 2
    assert line.attempts()[f"image2.{line.name}"] == 2
    assert records[f"detector1/{line.name}"].attempts == 2


def test_what_does_not_pass_fails_in_the_end_and_its_dependents_are_skipped(client, line):
    line.faults(detector1=["again"] * 9)
    records = line.run(client)
    assert statuses(records, FAILED) == {f"detector1/{line.name}"}
    record = records[f"detector1/{line.name}"]
    assert "the disk blinked" in record.error
    assert (record.error_class, record.attempts) == ("again", 3)
    assert records[f"image2/{line.name}"].status == SKIPPED
    assert "the disk blinked" in records[f"image2/{line.name}"].error
    assert f"mosaic/{MOSAIC.format('f444w')}" in statuses(records, COMPLETE)


@pytest.mark.parametrize("fault", ["memory", "kill"])
def test_a_task_out_of_memory_gets_one_more_try_and_its_chain_goes_on(client, line, fault):
    line.faults(detector1=[fault])
    records = line.run(client)
    assert statuses(records, COMPLETE) == set(records)
    assert line.attempts()[f"detector1.{line.name}"] == 2
    assert line.attempts()[f"image2.{line.name}"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="memory is watched through /proc")
def test_a_task_that_takes_more_memory_than_it_may_is_ended_and_tried_with_more(client, line):
    """It asked for 0.1 GB and may have 0.3; the second try asks for more than the first was seen to hold."""
    line.faults(detector1=["memory_hog", "memory_hog"])

    def shrink(task):
        return replace(task, memory_gb=0.1)

    limits = Limits(memory_factor=3.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("survey.config.limits.MIN_MEMORY_GB", 0.0)
        records = line.run(client, until="image2", change=shrink, limits=limits)
    record = records[f"detector1/{line.name}"]
    assert (record.status, record.error_class) == (FAILED, "memory")
    used, limit = (float(part.split(" GB")[0]) for part in record.error.split("used ")[1].split("limit "))
    assert used >= limit > 0.45  # 3 x 1.5 x the 0.3 GB that the first try was over
    assert record.peak_memory_gb > used - 0.06  # told to one digit
    assert line.attempts()[f"detector1.{line.name}"] == 2
    assert records[f"image2/{line.name}"].status == SKIPPED
    assert len(statuses(records, COMPLETE)) == 9  # the three other exposures


@pytest.mark.parametrize("fault", ["hold_lock", "sleep", "segfault"])
def test_a_task_that_hangs_or_crashes_takes_no_one_along(client, line, fault):
    line.faults(detector1=[fault])

    def expect_little(task):
        return replace(task, cpu_seconds=0.1)

    records = line.run(client, until="image2", change=expect_little, limits=Limits(task_hours=2 / 3600))
    record = records[f"detector1/{line.name}"]
    assert (record.status, record.error_class) == (FAILED, "never")
    assert ("signal 11" if fault == "segfault" else "limit of 2 s") in record.error
    assert len(statuses(records, COMPLETE)) == 9


def test_tasks_do_not_wait_for_ever_for_a_worker_that_is_gone(line):
    """The worker that could hold the large task goes while the first one runs; the others go on."""
    line.faults(detector1=["wait"])
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, resources={RESOURCE: 4.0},
                     dashboard_address="127.0.0.1:0", memory_limit=0) as cluster,
        Client(cluster, set_as_default=False) as own,
    ):  # fmt: skip
        large = f"image2/{line.name}"
        options = cluster.worker_spec[0]["options"]
        cluster.worker_spec["large"] = {"cls": cluster.worker_spec[0]["cls"],
                                        "options": {**options, "resources": {RESOURCE: 9.0}}}  # fmt: skip
        cluster.sync(cluster._correct_state)
        own.wait_for_workers(2, timeout=20)

        def grow(task):
            return replace(task, memory_gb=8.0) if task.key == large else task

        def leave(record, _reused):
            line.seen.append((record.key, record.status, _reused))
            if record.key == f"detector1/{line.name}":
                cluster.worker_spec.pop("large", None)
                cluster.sync(cluster._correct_state)

        records = line.run(own, until="image2", change=grow, limits=Limits(workers_minutes=2 / 60), watch=leave)
    assert (records[large].status, records[large].error_class) == (FAILED, "again")
    assert "no worker with resource memory_gb = 8.0 came within" in records[large].error
    assert "the largest that is there has 4.0" in records[large].error
    assert len(statuses(records, COMPLETE)) == 11


def test_a_scheduler_without_workers_is_an_error_that_says_so(line):
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as own,
        pytest.raises(SurveyError, match=r"there is no worker at all"),
    ):
        line.run(own, limits=Limits(workers_minutes=1 / 60))


@pytest.mark.parametrize("step", ["association", "image3", "mosaic"])
def test_a_mosaic_out_of_memory_gets_one_more_try(client, line, step):
    key = f"{step}/{MOSAIC.format('f200w')}"
    (line.workspace.root / "faults.json").write_text(json.dumps({key: ["memory"]}))
    records = line.run(client)
    assert len(records) == 18
    assert statuses(records, COMPLETE) == set(records)


def test_a_client_that_served_another_workspace_still_makes_the_products(client, tmp_path):
    first, second = Line(tmp_path / "one"), Line(tmp_path / "two")
    assert second.run(client).keys() == first.run(client).keys()
    assert second.attempts() == first.attempts()


def test_a_task_out_of_memory_twice_fails(client, line):
    line.faults(subtract_striping=["memory"] * 9)
    records = line.run(client)
    assert statuses(records, FAILED) == {f"subtract_striping/{line.name}"}
    assert records[f"subtract_striping/{line.name}"].error_class == "memory"
    assert line.attempts()[f"subtract_striping.{line.name}"] == 2
    assert records[f"image2/{line.name}"].status == SKIPPED


def test_a_full_disk_stops_the_run_and_keeps_what_is_complete(client, line):
    line.run(client, until="detector1")
    line.faults(image2=["disk"])
    with pytest.raises(DiskFullError) as raised:
        line.run(client)
    assert f"image2/{line.name}" in str(raised.value)
    records = line.run(client)
    assert statuses(records, COMPLETE) == set(records)
    assert line.attempts()[f"detector1.{line.name}"] == 1


def test_a_task_that_no_worker_can_hold_is_an_error_that_names_it(client, line):
    key = f"detector1/{line.name}"

    def grow(task):
        return replace(task, memory_gb=40.0) if task.key == key else task

    records = line.run(client, until="image2", change=grow)
    assert (records[key].status, records[key].error_class) == (FAILED, "never")
    assert "needs resource memory_gb = 40.0, the largest worker has 4.0" in records[key].error
    assert f"detector1.{line.name}" not in line.attempts()
    others = {other for other in records if not other.endswith(line.name)}
    assert statuses(records, COMPLETE) == others and others  # siblings go on


def test_until_ends_behind_its_step(client, line):
    records = line.run(client, until="subtract_striping")
    assert {key.split("/")[0] for key in records} == {"detector1", "subtract_striping"}
    assert {key.split("/")[0] for key in line.run(client, until="association")} == {*STEPS, "association"}


def test_what_is_not_known_fails_and_says_why(client, line):
    line.exposures[0] = replace(line.exposures[0], sha256=None)
    records = line.run(client)
    assert records[f"detector1/{line.name}"].status == FAILED
    assert "is not there yet" in records[f"detector1/{line.name}"].error
    assert records[f"mosaic/{MOSAIC.format('f200w')}"].status == SKIPPED
    assert records[f"mosaic/{MOSAIC.format('f444w')}"].status == COMPLETE


def test_a_users_client_with_threads_and_without_resources(line):
    with Client(
        n_workers=1, threads_per_worker=3, processes=False, dashboard_address="127.0.0.1:0", set_as_default=False
    ) as own:
        assert capacity(own) == 0
        records = line.run(own)
    assert statuses(records, COMPLETE) == set(records)


@pytest.mark.slow
def test_workers_that_are_processes(line):
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as own,
    ):
        records = line.run(own)
    assert statuses(records, COMPLETE) == set(records)
