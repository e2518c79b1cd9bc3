"""Runs with stub steps, in a process of their own, whose processes are killed at random moments."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from survey.digest import file_sha256
from survey.models import COMPLETE
from survey.steps.registry import REGISTRY
from survey.workspace.folders import Workspace
from survey.workspace.records import read_records

TESTS = Path(__file__).parent
KINDS = ("client", "worker", "server", "child")  # the client's process holds the scheduler and the nannies as well
LIMIT_SECONDS = 300.0


@dataclass
class Tally:
    """What a series of kills came to."""

    kills: Counter = field(default_factory=Counter)  # kind of process -> how often
    steps: Counter = field(default_factory=Counter)  # step -> how often one of its tasks was under way at a kill
    equal: int = 0  # kills whose workspace ended with the bytes of an undisturbed run
    unequal: list = field(default_factory=list)
    run_twice: list = field(default_factory=list)  # tasks that ran after they were committed
    faults: list = field(default_factory=list)  # records without their products, seen right after a kill
    reruns: int = 0

    @property
    def count(self) -> int:
        return sum(self.kills.values())

    def to_json(self) -> dict:
        return {"kills": self.count, "processes": dict(self.kills), "steps": dict(sorted(self.steps.items())),
                "reruns": self.reruns, "equal": self.equal, "unequal": self.unequal, "run_twice": self.run_twice,
                "faults": self.faults}  # fmt: skip


def start(root: Path, seconds: float) -> subprocess.Popen:
    """A run in a workspace; each of its tasks takes this long."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
                   "STUB_SECONDS": str(seconds)}  # fmt: skip
    with open(root.with_suffix(".log"), "ab") as log:
        return subprocess.Popen([sys.executable, str(TESTS / "stub_survey.py"), str(root)], env=environment,
                                stdout=log, stderr=log)  # fmt: skip


def family(client: subprocess.Popen) -> dict[str, list[psutil.Process]]:
    """The processes of a run, by kind."""
    found: dict[str, list[psutil.Process]] = {kind: [] for kind in KINDS}
    try:
        found["client"].append(psutil.Process(client.pid))
        below = found["client"][0].children(recursive=True)
    except psutil.Error:
        return found
    for process in below:
        try:
            line, parent = " ".join(process.cmdline()), process.parent()
            if "survey.execution.children" in line:
                is_child = parent is not None and "survey.execution.children" in " ".join(parent.cmdline())
                found["child" if is_child else "server"].append(process)
            elif "spawn_main" in line:
                found["worker"].append(process)
        except psutil.Error:
            continue
    return found


def products(root: Path) -> dict[str, str]:
    """Every file of the products' folders -> sha256; links by where they lead."""
    found = {}
    for folder in ("stage1", "stage2", "stage3", "asn", "mosaics"):
        for path in sorted((root / folder).rglob("*")):
            if path.is_symlink():
                found[str(path.relative_to(root))] = os.readlink(path)
            elif path.is_file():
                found[str(path.relative_to(root))] = file_sha256(path)
    return found


def committed(root: Path) -> set[str]:
    return {key for key, record in read_records(root / "records").by_key.items() if record.status == COMPLETE}


def attempts(root: Path, key: str) -> list[str]:
    """When each attempt of a task began [Unix time]."""
    path = root / "attempts" / key.replace("/", ".")
    return path.read_text().splitlines() if path.exists() else []


def false_records(root: Path) -> list[str]:
    """Products of complete records that are not there, or hold other bytes."""
    found = []
    for record in read_records(root / "records").by_key.values():
        for product in record.products if record.status == COMPLETE else ():
            path = root / product.path
            if path.exists() and file_sha256(path) != product.sha256:
                found.append(f"{product.path} is not what {record.key} says")
            elif not path.exists() and not REGISTRY[record.step].intermediate:
                found.append(f"{product.path} of {record.key} is not there")
    return found


def wait_for_end(root: Path, seconds: float = 60.0) -> None:
    """Until no process that was started for this workspace is left."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        mine = [item for item in psutil.process_iter(["cmdline", "environ"])
                if str(root) in " ".join(item.info["cmdline"] or ())]  # fmt: skip
        if not mine:
            return
        time.sleep(0.2)


class Chain:
    """One workspace: runs whose processes are killed, until one ends by itself."""

    def __init__(self, root: Path, expected: dict[str, str], chance: random.Random, tally: Tally, seconds: float):
        self.root, self.expected, self.chance, self.tally, self.seconds = root, expected, chance, tally, seconds
        self.killed = 0
        self.seen: dict[str, tuple[int, float]] = {}  # committed task -> its attempts when that was seen, and when

    def run(self, kills: int, kinds: tuple[str, ...] = KINDS) -> None:
        """Kill so often at most, and run until the end."""
        left = kills
        for _ in range(kills + 6):
            client = start(self.root, self.seconds)
            left -= self._harm(client, left, kinds)
            code = client.wait(LIMIT_SECONDS)
            self.tally.reruns += 1
            if code == 0:
                break
        else:
            raise AssertionError(f"{self.root}: does not come to an end; see {self.root.with_suffix('.log')}")
        self._compare()

    def _harm(self, client: subprocess.Popen, kills: int, kinds: tuple[str, ...]) -> int:
        """Kill processes of a run; returns how many."""
        done = 0
        while done < kills and client.poll() is None:
            self._wait_for_progress(client, self.chance.randrange(0, 12))
            time.sleep(self.chance.uniform(0.0, 4 * self.seconds))
            kind = self.chance.choice(kinds)
            victims = family(client)[kind]
            if not victims:
                continue
            steps = {path.name.split(".")[1] for path in Workspace(self.root).leftovers()}
            if client.poll() is not None or not _kill(self.chance.choice(victims)):
                continue
            done += 1
            self.tally.kills[kind] += 1
            self.tally.steps.update(steps)
            self._note()
            if kind == "client":
                client.wait(LIMIT_SECONDS)
                if self.chance.random() < 0.5:  # else the next run meets what this one left behind
                    wait_for_end(self.root)
                    self.tally.faults += false_records(self.root)
                break
        self.killed += done
        return done

    def _wait_for_progress(self, client: subprocess.Popen, tasks: int) -> None:
        """Until so many more tasks were begun."""
        count, end = len(self._begun()), time.monotonic() + LIMIT_SECONDS
        while client.poll() is None and len(self._begun()) < count + tasks and time.monotonic() < end:
            self._note()
            time.sleep(0.05)

    def _begun(self) -> list[Path]:
        return list((self.root / "attempts").glob("*"))

    def _note(self) -> None:
        for key in committed(self.root) - set(self.seen):
            self.seen[key] = (len(attempts(self.root, key)), time.time())

    def _compare(self) -> None:
        self._note()
        found = products(self.root)
        odd = sorted(name for name in {*found, *self.expected} if found.get(name) != self.expected.get(name))
        for key, (count, moment) in sorted(self.seen.items()):
            begun = attempts(self.root, key)
            if len(begun) > count:
                when = f"seen complete at {moment}, begun at {', '.join(begun)}"
                self.tally.run_twice.append(f"{self.root.name}: {key}: {when}")
        self.tally.unequal += [f"{self.root.name}: {name}" for name in odd]
        self.tally.faults += false_records(self.root)
        if not odd:
            self.tally.equal += self.killed


def _kill(process: psutil.Process) -> bool:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.Error:
        return False
    return True


def undisturbed(root: Path) -> dict[str, str]:
    """The products of a run that nobody disturbs."""
    client = start(root, 0.0)
    assert client.wait(LIMIT_SECONDS) == 0, root.with_suffix(".log").read_text()
    return products(root)


def harm(folder: Path, kills: int, seed: int, a_chain: int = 8, seconds: float = 0.05, say=lambda _text: None) -> Tally:
    """Kill so many processes of runs in workspaces below a folder, and compare what they end with."""
    tally, chance = Tally(), random.Random(seed)
    expected = undisturbed(folder / "undisturbed")
    number = 0
    while tally.count < kills:
        number += 1
        Chain(folder / f"chain{number}", expected, chance, tally, seconds).run(min(a_chain, kills - tally.count))
        say(json.dumps(tally.to_json()))
    return tally
