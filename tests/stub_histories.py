"""A survey with a history, in one process: what a plan announces beside what a run does. Steps write a few bytes.

Config, exposures, raw files, ledger, references, records, plan, run, publication and tidying are survey's own. Replaced
are the archive's replies, the rules of CRDS, dask (a task runs as it is submitted) and the child process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import stub_steps
import stub_tiled
from observatory import CORNERS, write_raw

import survey.archive.fetch
import survey.archive.query
import survey.execution.task
import survey.scheduling.task_queue
from survey.archive.fetch import FetchReport
from survey.archive.headers import read_primary_header
from survey.archive.ledger import LEDGER, Ledger
from survey.archive.raw import kept, publish
from survey.config.model import SurveyConfig
from survey.digest import file_sha1
from survey.errors import InterruptedRunError, SurveyError
from survey.execution.children import Usage
from survey.execution.environment import Site
from survey.execution.task import run_job
from survey.models import Exposure
from survey.mosaics.predictions import predict
from survey.mosaics.tiles import chunk_files
from survey.nircam import native_scale_arcsec
from survey.planning.planner import Planner
from survey.planning.staleness import DONE
from survey.planning.tiled import group_numbers
from survey.reduction import inspection, tidy
from survey.reduction import job as reduction
from survey.reduction.inputs import listed_exposures, override_digests
from survey.reduction.offline import known_exposures
from survey.references.cache import Wanted
from survey.references.messages import Best
from survey.scheduling.run_plan import RunSettings, run_plan
from survey.steps.base import Job, Outcome, Step
from survey.steps.registry import REGISTRY

OPTICS = (("NRCB1", "F200W"), ("NRCBLONG", "F444W"))
TYPES = ("mask", "flat")
CACHED = "references/jwst/nircam"


def name_of(observation: int, number: int, detector: str) -> str:
    return f"jw01345{observation:03d}001_02101_{number:05d}_{detector.lower()}"


@dataclass
class Archive:
    """What an archive lists and has: a folder of raw files."""

    folder: Path
    rows: dict[str, Exposure] = field(default_factory=dict)

    def add(self, observation: int, number: int) -> None:
        for detector, filter_name in OPTICS:
            name = name_of(observation, number, detector)
            path = self.folder / f"{name}_uncal.fits"
            content = write_raw(path, name, detector, filter_name)
            self.rows[name] = Exposure(
                name=name, program=1345, observation=observation, visit=1, detector=detector, filter=filter_name,
                subarray="SUB320", groups=3, integrations=1, uri=f"mast:JWST/product/{path.name}", size=len(content),
                footprint=CORNERS,
            )  # fmt: skip

    def find(self, program, *, server, observations=None, filters=None, **_others):
        found = [
            row
            for row in self.rows.values()
            if (observations is None or row.observation in observations) and (filters is None or row.filter in filters)
        ]
        if not found:
            raise SurveyError("no exposure matches")
        return tuple(sorted(found, key=lambda row: row.name))

    def fetch(self, exposures, directory, **_others):
        ledger = Ledger(directory / LEDGER)
        there = [kept(exposure, directory, ledger) for exposure in exposures]
        good, fetched = [], []
        for exposure, found in zip(exposures, there, strict=True):
            if found is None:
                part = directory / f".{exposure.file}.part"
                shutil.copyfile(self.folder / exposure.file, part)
                found = publish(exposure, part, directory, ledger)
                fetched.append(exposure.name)
            good.append(found)
        return FetchReport(tuple(good), fetched=tuple(fetched))


# --- CRDS --------------------------------------------------------------------------------------------------------


def reference_of(kind: str, detector: str, context: str) -> str:
    """Context 2 has another flat of NRCB1 and is as context 1 otherwise."""
    number = 2 if (kind, detector, context) == ("flat", "NRCB1", "jwst_0002.pmap") else 1
    return f"jwst_nircam_{kind}_{detector.lower()}_{number:04d}.fits"


def fetch_rules(cache, context, server, timeout):
    for path in (cache.folder / "mappings/jwst" / context, cache.folder / "config/jwst/server_config"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    return {"references": "x", "mappings": "x"}


def look_up(cache, context, types, raw, is_strict=True):
    groups, exposures, paths, sizes, sha1s = [], {}, {}, {}, {}
    for name, path in raw.items():
        detector = read_primary_header(path).text("DETECTOR")
        group = {kind: reference_of(kind, detector, context) for kind in TYPES}
        if group not in groups:
            groups.append(group)
        exposures[name] = groups.index(group)
        for file in group.values():
            paths[file] = f"{CACHED}/{file}"
            example = cache.folder / ".example"
            example.write_text(file)
            sizes[file], sha1s[file] = len(file), file_sha1(example)
    rules = cache.folder / "mappings/jwst" / context
    cache.fault(Wanted(context, f"mappings/jwst/{context}", rules.stat().st_size, file_sha1(rules)))
    return Best(groups, exposures, {}, [context], paths, sizes, sha1s, [])


def fill_cache(cache, files, urls, timeout):
    for wanted in files:
        if cache.fault(wanted) is not None:
            path = cache.folder / wanted.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted.name)
            assert cache.fault(wanted) is None


# --- tasks -------------------------------------------------------------------------------------------------------


class Inline:
    """In place of a dask client: a task runs as it is submitted."""

    loop = None
    status = "running"

    def __init__(self, stop_after: int | None):
        self.left = stop_after

    def get_metadata(self, _key, default):
        return default

    def scheduler_info(self, **_options):
        return {"workers": {"here": {"resources": {}}}}

    def wait_for_workers(self, *_numbers, **_options):
        pass

    def cancel(self, *_futures, **_options):
        pass

    def submit(self, function, task, site, inputs, limit_gb, **_options):
        if self.left is not None:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
        inputs = [item.record if isinstance(item, Finished) else item for item in inputs]
        return Finished(function(task, site, inputs, limit_gb))


class NoProvenance:
    """In place of the writer of provenance.zarr, which takes longer than all the rest."""

    def __init__(self, *_arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        pass

    def add(self, _record):
        pass


class Finished:
    status = "finished"

    def __init__(self, record):
        self.record = record

    def result(self):
        return self.record

    def done(self):
        return True


class Completed:
    """In place of dask's as_completed."""

    def __init__(self, *_futures, **_options):
        self.futures = []
        self.thread_condition = threading.Condition()

    def add(self, future):
        self.futures.append(future)

    def has_ready(self):
        return bool(self.futures)

    def next_batch(self):
        taken, self.futures = self.futures, []
        return taken


class InProcess:
    def run(self, _function, folder, log, seconds, limit_gb):
        before = os.environ.get("TMPDIR"), tempfile.tempdir
        try:
            run_job(str(folder))
        finally:
            os.environ["TMPDIR"], tempfile.tempdir = before[0] or "/tmp", before[1]
        return Usage(0, 0, 0.0, 0.0, 0.0)


faulty: set[str] = set()  # keys of tasks that fail
known: dict[str, Exposure] = {}  # of the archive, for the stub of the alignment


def run_stub(job: Job, step: Step) -> Outcome:
    if job.key in faulty:
        raise ValueError("bad pixels")
    if step.name == "drizzle" or step.name == "assemble" or step.name in stub_tiled.SUFFIXES:
        return _tiled(job, step)
    if step.name == "align":
        names = [Path(path).name.removesuffix("_member.asdf") for path in job.inputs if path.endswith("_member.asdf")]
        members = [known[name] for name in names]
        layout = predict(
            members, group_numbers(names), job.settings.get("resample", {}), native_scale_arcsec(members[0].detector)
        )
        return Outcome(tuple(_align(job, names, replace(layout, digest=job.digest))))
    if step.per_mosaic and step.produces == "zarr":
        group = job.settings["group"]
        (job.path / "store" / group).mkdir(parents=True)
        (job.path / "store" / group / "zarr.json").write_text(stub_steps.content(job))
        return Outcome(((f"store/{group}", f"mosaics/mosaics.zarr/{group}"),))
    extension = "json" if step.produces == "asn" else "fits"
    name = f"{job.subject}_{step.produces}.{extension}"
    (job.path / name).write_text(stub_steps.content(job))
    made = [(name, f"{step.folder}/{name}")]
    if step.produces == "asn":
        for source in map(Path, job.inputs):
            (job.path / source.name).symlink_to(Path("..") / source.parent.name / source.name)
            made.append((source.name, f"asn/{source.name}"))
    return Outcome(tuple(made))


def _tiled(job: Job, step: Step) -> Outcome:
    text = stub_steps.content(job)
    made = [(f"{job.subject}_{suffix}", f"{step.folder}/{job.subject}_{suffix}")
            for suffix in stub_tiled.SUFFIXES.get(step.name, ())]  # fmt: skip
    for name, _ in made:
        (job.path / name).write_text(text)
    group = job.settings.get("group")
    if step.name == "drizzle":
        for file in chunk_files(["sci"], job.tile, ()):
            (job.path / file).parent.mkdir(parents=True)
            (job.path / file).write_text(text)
            made.append((file, f"mosaics/mosaics.zarr/{group}/{file}"))
    if step.name == "assemble":
        (job.path / "zarr.json").write_text(text)
        made.append(("zarr.json", f"mosaics/mosaics.zarr/{group}/zarr.json"))
    return Outcome(tuple(made))


def _align(job: Job, names, layout) -> list[tuple[str, str]]:
    text = stub_steps.content(job)
    files = {f"{job.subject}_layout.json": json.dumps(layout.to_json())}
    files |= {f"{job.subject}_{suffix}": text for suffix in ("grid.asdf", "sources.ecsv")}
    files |= {f"{name}_{job.settings['acid']}_wcs.asdf": text for name in names}
    for name, content in files.items():
        (job.path / name).write_text(content)
    return [(name, f"stage3/{name}") for name in files]


# --- a survey ----------------------------------------------------------------------------------------------------


class Survey:
    """A survey whose workspace has a history: `change` and the file methods are what happens to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.archive = Archive(folder / "archive")
        for observation, number in ((1, 1), (1, 2), (2, 1)):
            self.archive.add(observation, number)
        self.root = folder / "ws"
        self.values = {
            "filters": None, "observations": None, "context": "jwst_0001.pmap", "threshold": 4.0, "skip_ipc": False,
            "engine": "tiled", "tile": 640, "per": ["filter"], "pixfrac": None, "crval": None, "snr": "5.0 4.0",
            "max_missing": 0, "cache": "crds", "searchrad": None, "keep_intermediate": False,
        }  # fmt: skip
        self.copies = 0
        self.stop_after: int | None = None

    @property
    def config(self) -> SurveyConfig:
        values = self.values
        image3 = {"outlier_detection": {"snr": values["snr"]}, "source_catalog": {"skip": True}}
        if values["searchrad"] is not None:
            image3["tweakreg"] = {"searchrad": values["searchrad"]}
        mosaic = {"engine": values["engine"], "tile": values["tile"], "per": values["per"], "image3": image3,
                  "max_missing": values["max_missing"], "keep_intermediate": values["keep_intermediate"]}  # fmt: skip
        mosaic |= {"pixfrac": values["pixfrac"], "crval_deg": values["crval"]}
        return SurveyConfig(
            survey="t", program=1345, workspace=self.root, filters=values["filters"],
            observations=values["observations"], archive={"server": "http://localhost:9"},
            references={"context": values["context"], "cache": self.folder / values["cache"],
                        "server": "http://localhost:9"},
            steps=[{"detector1": {"jump": {"rejection_threshold": values["threshold"]},
                                  "ipc": {"skip": values["skip_ipc"]}}}, "image2"],
            mosaic=mosaic,
        )  # fmt: skip

    @property
    def lists_all(self) -> bool:
        """Whether the archive still lists every exposure that the workspace has."""
        return {item.name for item in listed_exposures(self.config)} <= self.archive.rows.keys()

    def announced(self, offline: bool = False) -> set[str]:
        """Keys of the tasks that a plan announces to run."""
        config = self.config
        made = reduction.plan(config, known_exposures(config, offline=offline).exposures, ask_server=not offline)
        return {item.task.key for item in inspection.plan_states(config, made) if item.state != DONE}

    def run(self) -> tuple[set[str], set[str]]:
        """Keys of the tasks that a run runs, and of those among them that failed or were skipped."""
        done = reduction.run(self.config)
        failed = {record.key for record in done.failed}
        return {record.key for record in done.ran} | failed, failed

    def interrupt(self, after: int) -> None:
        """A run that is stopped after some tasks."""
        self.stop_after = after
        with contextlib.suppress(InterruptedRunError):
            reduction.run(self.config)
        self.stop_after = None

    def files(self, pattern: str) -> list[Path]:
        """Files of the workspace by a pattern; no links, and no locks."""
        found = sorted(path for path in self.root.glob(pattern) if path.is_file() and not path.is_symlink())
        return [path for path in found if "/." not in str(path.relative_to(self.root.parent))]

    def copy(self, keep_times: bool) -> None:
        """Copy the workspace, and go on with the copy."""
        self.copies += 1
        to = self.folder / f"copy{self.copies}" / "ws"
        function = shutil.copy2 if keep_times else shutil.copyfile
        shutil.copytree(self.root, to, symlinks=True, copy_function=function)
        if not keep_times:
            for path in to.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    os.utime(path, (1.0, 1.0))
        shutil.rmtree(self.root)
        self.root = to

    def move(self) -> None:
        self.copies += 1
        to = self.folder / f"moved {self.copies}"
        self.root.rename(to)
        self.root = to

    def link(self) -> None:
        """Reach the workspace by a link."""
        self.copies += 1
        link = self.folder / f"link{self.copies}"
        link.symlink_to(self.root)
        self.root = link

    def move_cache(self) -> None:
        self.copies += 1
        old = self.folder / self.values["cache"]
        self.values["cache"] = f"crds{self.copies}"
        if old.exists():
            old.rename(self.folder / self.values["cache"])

    def tidy(self, keep: str) -> None:
        with contextlib.suppress(SurveyError):  # a workspace without records
            tidy.remove(self.config, tidy.removable(self.config, keep))


def replace_parts(monkeypatch, survey_of) -> None:
    """Replace archive, CRDS, dask and child processes for surveys; ``survey_of()`` is the present one."""
    sync = sys.modules["survey.references.sync"]  # the package has a function of this name
    for name, step in list(REGISTRY.items()):
        monkeypatch.setitem(REGISTRY, name, replace(step, run="stub_histories:run_stub"))
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(
        survey.archive.query, "find_exposures", lambda *args, **kw: survey_of().archive.find(*args, **kw)
    )
    monkeypatch.setattr(survey.archive.fetch, "fetch", lambda *args, **kw: survey_of().archive.fetch(*args, **kw))
    monkeypatch.setattr(sync, "_sync_mappings", fetch_rules)
    monkeypatch.setattr(sync, "_look_up", look_up)
    monkeypatch.setattr(sync, "complete", fill_cache)
    monkeypatch.setattr(sync, "reference_types", lambda: TYPES)
    monkeypatch.setattr(survey.scheduling.task_queue, "as_completed", Completed)
    monkeypatch.setattr(survey.execution.task, "child_server", lambda _environment: contextlib.nullcontext(InProcess()))
    monkeypatch.setattr(survey.execution.task, "machine", lambda: {"processor": "stub"})
    monkeypatch.setattr("logging.basicConfig", lambda **_options: None)

    def on_cluster(job, made, references, stored, decided):
        planner = Planner(job.config, references, override_digests(job.config))
        site = Site(str(job.config.folders.root), "t", {}, run=job.name)
        client = Inline(survey_of().stop_after)
        known.update(survey_of().archive.rows)
        return run_plan(made, planner, site, client, RunSettings(stored, job.options.until, decided))

    monkeypatch.setattr(reduction, "_on_cluster", on_cluster)
    monkeypatch.setattr(reduction, "ProvenanceWriter", NoProvenance)
