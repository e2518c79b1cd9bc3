"""Memory of a process and its descendants, as /proc tells."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from survey.execution.child_memory import family, held_gb

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")


def test_a_family_is_the_process_and_its_descendants():
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '30']); print(p.pid, flush=True); p.wait()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        grandchild = int(process.stdout.readline())
        assert family(process.pid) == [process.pid, grandchild]
        assert {process.pid, grandchild} < set(family(os.getpid()))
    finally:
        for pid in reversed(family(process.pid)):
            os.kill(pid, 9)
        process.wait()
        process.stdout.close()
    assert family(process.pid) == []


@pytest.mark.parametrize("exact", [False, True])
def test_what_is_held_grows_by_what_is_taken(exact):
    before = held_gb([os.getpid()], exact)
    assert 0.01 < before < 20
    taken = b"x" * 200_000_000
    assert held_gb([os.getpid()], exact) - before == pytest.approx(len(taken) / 1e9, abs=0.02)


def test_a_process_that_is_gone_holds_nothing():
    process = subprocess.Popen(["true"])
    process.wait()
    assert held_gb([process.pid]) == held_gb([process.pid], exact=True) == 0
