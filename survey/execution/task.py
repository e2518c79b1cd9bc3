"""Run one task on a worker: in a child process, with its products published atomically and its record written last.

`run_task` is what dask workers execute, `run_job` what the child process does. One task may be executed twice at the
same time, after a worker was taken for lost: publications are locked, and the second one uses the first one's record.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from survey import __version__
from survey.config.code_versions import code_versions
from survey.errors import TaskError
from survey.execution.children import RESULT, Usage, child_server
from survey.execution.environment import KEEP_MEMORY, ONE_THREAD, Site
from survey.execution.failures import cause_of_exit, failure_class, skip_reason
from survey.execution.inputs import verified_sources
from survey.execution.publication import publish, published
from survey.isolation import in_effect, machine
from survey.models import COMPLETE, FAILED, SKIPPED, Notice, Task, TaskRecord
from survey.steps.base import Job, Outcome, code_in
from survey.steps.registry import row_of
from survey.versions import installed_versions, recorded_versions
from survey.workspace.files import is_disk_full, write_file
from survey.workspace.folders import Workspace
from survey.workspace.records import failure_path, read_record, record_path, write_record

BATCH_JOBS = ("SLURM_JOB_ID", "PBS_JOBID")


def run_task(task: Task, site: Site, inputs: Sequence[TaskRecord] = (), limit_gb: float | None = None) -> TaskRecord:
    """Run a task, unless there is a record of the same digest.

    Parameters
    ----------
    task : with its digest
    site : the workspace, and what the child process needs
    inputs : records of the tasks that it depends on, in the task's order
    limit_gb : memory that its child process may hold before it is killed [GB]; default: by the site's limits and the
        task's prediction

    Returns
    -------
    record : complete; or skipped, when an input is not complete; or failed, with its cause and one of these classes:
        'never', 'memory' (one more try with more memory may succeed), 'disk' (the workspace's disk is full; published
        products stay)

    Raises
    ------
    TaskError
        Class 'again': another try may succeed. dask makes it.
    """
    workspace = site.folders
    base = blank_record(task)
    bad = [record for record in inputs if record.status != COMPLETE]
    if bad:
        return skipped_record(task, bad[0])
    try:
        done = published(task, workspace)
        if done is not None:
            return done
        base = replace(base, attempts=_attempts(workspace, task) + 1)
        workspace.check_run(task.key, site.run)
        _check_versions(task)
        allowed = site.limits.memory_gb(task.memory_gb) if limit_gb is None else limit_gb
        return _run(task, site, workspace, base, inputs, allowed)
    except TaskError as error:
        base = replace(base, peak_memory_gb=round(error.used_gb, 4), notices=error.notices)
        record = _failed(workspace, base, str(error), error.retry, site.run)
        if error.retry == "again":
            raise
        return record
    except OSError as error:
        if is_disk_full(error):
            return replace(base, error=f"{workspace.root}: {error.strerror or error}", error_class="disk")
        _failed(workspace, base, str(error), "again", site.run)
        raise TaskError(f"{task.key}: {error}", retry="again") from error


def _check_versions(task: Task) -> None:
    """Check that this worker has the versions of packages, and the code outside of them, that the digest depends on.

    Raises
    ------
    TaskError
        Class 'never': it has others; each is named.
    """
    code = code_in(task.settings)
    here = {**installed_versions(), **(code_versions(code) if code else {})}
    pairs = [(name, here.get(name), wanted) for name, wanted in task.versions.items()]
    wrong = "; ".join(f"{name} {found}, planned {wanted}" for name, found, wanted in pairs if found != wanted)
    if wrong:
        host = socket.gethostname()
        raise TaskError(f"{task.key}: {host} has {wrong}. Install the planned versions there.")


def _attempts(workspace: Workspace, task: Task) -> int:
    """Number of failed tries of the task with its present digest, if another one could succeed."""
    for path in (failure_path(workspace.records, task.key), record_path(workspace.records, task.key)):
        with contextlib.suppress(OSError, ValueError):
            tried = read_record(path)
            if tried.status == FAILED and tried.digest == task.digest and tried.error_class in ("again", "memory"):
                return tried.attempts
    return 0


def _failed(workspace: Workspace, base: TaskRecord, error: str, error_class: str, run: str) -> TaskRecord:
    """The record of a failure, which replaces that of an earlier try.

    When it cannot be written, as on a full disk, the error of the task is reported all the same.
    """
    log = f"logs/{base.step}.{base.subject}.log"
    record = replace(base, status=FAILED, error=error.removeprefix(f"{base.key}: "), error_class=error_class, log=log)
    with contextlib.suppress(OSError):
        if workspace.is_held_by(run):
            write_record(workspace.records, record)
    return record


def blank_record(task: Task) -> TaskRecord:
    """The record of a task that has not run: status 'failed', and all that the task itself knows."""
    return TaskRecord(
        key=task.key,
        step=task.step,
        subject=task.subject,
        filter=task.filter,
        mosaic=task.mosaic,
        digest=task.digest,
        status=FAILED,
        inputs=dict(task.digests),
        settings=dict(task.settings),
        references=dict(task.references),
        sha1={name: task.sha1[name] for name in task.references.values() if name in task.sha1},
        missing=task.missing,
        context=task.context,
        versions={**task.versions, **recorded_versions(), "survey": __version__},
        memory_gb=task.memory_gb,
        estimate_gb=task.estimate_gb,
        host=socket.gethostname(),
        job=_batch_job(),
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _batch_job() -> str:
    """Id of the batch job that this process belongs to; '' outside of one."""
    return next((os.environ[name] for name in BATCH_JOBS if os.environ.get(name)), "")


def skipped_record(task: Task, lost: TaskRecord) -> TaskRecord:
    """The record of a task that was not run, because one that it depends on is not complete."""
    return replace(blank_record(task), status=SKIPPED, error=skip_reason(lost))


def _run(
    task: Task, site: Site, workspace: Workspace, base: TaskRecord, inputs: Sequence[TaskRecord], limit_gb: float
) -> TaskRecord:
    step = row_of(task)
    sources = verified_sources(task, workspace, inputs)
    folder = workspace.folder(step.folder) / f".{task.step}.{task.subject}.{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    log = workspace.root / _log_name(task)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    try:
        job = Job(
            key=task.key,
            step=task.step,
            subject=task.subject,
            digest=task.digest,
            survey=site.survey,
            inputs=tuple(sources),
            folder=str(folder),
            settings=task.settings,
            references=task.references,
            context=task.context,
            missing=task.missing,
            root=str(workspace.root),
            run=site.run,
            mosaic=task.mosaic,
            tile=task.tile,
            must_align=task.must_align,
        )
        (folder / "job.json").write_text(json.dumps(asdict(job)))
        with child_server({**ONE_THREAD, **KEEP_MEMORY, **site.environment}) as server:
            seconds = site.limits.seconds(task.cpu_seconds)
            usage = server.run("survey.execution.task:run_job", folder, log, seconds, limit_gb)
        outcome = _outcome(task, folder, log, usage)
        record = replace(
            base,
            status=COMPLETE,
            log=_log_name(task),
            resolved=outcome.resolved,
            measurements=outcome.measurements,
            machine=outcome.machine,
            environment=outcome.environment,
            notices=outcome.notices,
            seconds=round(usage.seconds, 3),
            cpu_seconds=round(usage.cpu_seconds, 3),
            peak_memory_gb=round(usage.peak_gb, 4),
        )
        return publish(record, task, outcome, folder, workspace, site.run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_job(folder: str) -> None:
    """Run a job in the child process.

    Parameters
    ----------
    folder : holds ``job.json``; gets the products, and ``result.json`` with the outcome, or the error and its class
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", force=True)
    job = Job.from_json(json.loads((Path(folder) / "job.json").read_text()))
    step = row_of(job)
    os.environ["TMPDIR"] = tempfile.tempdir = folder  # tempfile keeps the folder that the server found
    module_name, _, function_name = step.run.partition(":")
    result: dict[str, Any]
    try:
        outcome = getattr(importlib.import_module(module_name), function_name)(job, step)
        outcome = replace(outcome, machine=machine(), environment=in_effect(os.environ))
        result = {"outcome": asdict(outcome)}
    except Exception as error:
        logging.getLogger(__name__).exception("%s failed", job.key)
        text = str(error) if isinstance(error, TaskError) else f"{type(error).__name__}: {error}"
        notices = [asdict(item) for item in getattr(error, "notices", ())]
        result = {"error": text.removeprefix(f"{job.key}: "), "retry": failure_class(error), "notices": notices}
    write_file(Path(folder) / RESULT, json.dumps(result, default=str), durable=False)


def _outcome(task: Task, folder: Path, log: Path, usage: Usage) -> Outcome:
    """The outcome that a child wrote; TaskError when it failed or wrote none."""
    try:
        result = json.loads((folder / RESULT).read_text())
    except (OSError, ValueError):
        cause, retry = cause_of_exit(usage, log)
        raise TaskError(f"{task.key}: {cause}", retry, max(usage.over_gb, usage.peak_gb)) from None
    if "error" in result:
        raise TaskError(f"{task.key}: {result['error']}", result["retry"], usage.peak_gb, _notices(result["notices"]))
    outcome = result["outcome"]
    products = tuple((str(source), str(target)) for source, target in outcome["products"])
    return Outcome(**(outcome | {"products": products, "notices": _notices(outcome["notices"])}))


def _notices(items: Sequence[dict[str, Any]]) -> tuple[Notice, ...]:
    return tuple(Notice(**{**item, "members": tuple(item["members"])}) for item in items)


def _log_name(task: Task) -> str:
    return f"logs/{task.step}.{task.subject}.log"
