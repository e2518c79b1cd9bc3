"""A real Slurm on loopback: munged, slurmctld and slurmd of Debian's packages, with folders, keys and ports of its own.

One node with more CPUs than the machine has, since what the jobs of these tests do is mostly sleep. Needs root: a
node's daemon starts jobs as their users.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

PACKAGES = ("slurm-wlm", "munge")
COMMANDS = ("setpriv", "munged", "slurmctld", "slurmd", "sbatch", "scancel", "squeue")
CPUS = 8
MEMORY_MB = 16000
CONF = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
MinJobAge=300
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=normal Nodes=localhost Default=YES MaxTime=INFINITE State=UP
PartitionName=closed Nodes=localhost MaxTime=INFINITE State=DOWN
"""


def install() -> None:
    """Have Debian's packages, or skip, and say why."""
    if all(map(shutil.which, COMMANDS)):
        return
    if os.geteuid() != 0:
        pytest.skip(f"a real Slurm needs root, to install {' and '.join(PACKAGES)} and to start jobs")
    if shutil.which("apt-get") is None:
        pytest.skip("a real Slurm comes from Debian's packages, and apt-get is not here")
    # Installing must not start daemons: these tests start their own.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):  # of conftest: they lead nowhere
        environment.pop(name, None)
    for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *PACKAGES]):
        try:
            done = subprocess.run(
                ["apt-get", *command], env=environment, capture_output=True, text=True, timeout=240, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"apt-get {command[0]} took more than 240 s")
        if done.returncode != 0:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            pytest.skip(f"apt-get {command[0]} failed: {''.join(last)}")


class Slurm:
    """The running service. Its commands find it by SLURM_CONF, which is set as long as it runs."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._processes: list[subprocess.Popen] = []

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        conf = self.folder / "slurm.conf"
        conf.write_text(CONF.format(folder=self.folder, ports=free_ports(2), cpus=CPUS, memory=MEMORY_MB))
        os.environ["SLURM_CONF"] = str(conf)
        files = {
            "socket": "munge.socket",
            "pid-file": "munged.pid",
            "log-file": "munged.log",
            "seed-file": "munged.seed",
        }
        self._run(
            "munged", "--foreground", "--force", f"--key-file={key}",
            *(f"--{option}={self.folder / name}" for option, name in files.items()),
        )  # fmt: skip
        wait_for(lambda: (self.folder / "munge.socket").exists(), 10, "munged")
        self._run("slurmctld", "-D", "-i")
        self._run("slurmd", "-D", "-N", "localhost")
        wait_for(
            lambda: "idle" in command("sinfo", "--noheader", "--format=%T"), 30, f"Slurm's node; see {self.folder}"
        )

    def _run(self, *arguments: str) -> None:
        with open(self.folder / f"{arguments[0]}.out", "w") as out:
            # With this process it ends in any case, also when nobody calls `stop`.
            bound = ["setpriv", "--pdeathsig", "TERM", *arguments]
            self._processes.append(subprocess.Popen(bound, stdout=out, stderr=out, start_new_session=True))

    def stop(self) -> None:
        """End all jobs, then the daemons."""
        with contextlib.suppress(AssertionError, OSError, subprocess.TimeoutExpired):
            ids = [job["id"] for job in self.jobs()]
            if ids:
                command("scancel", *ids)
                wait_for(lambda: not self.jobs("RUNNING", "COMPLETING"), 20, "the end of all jobs")
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        os.environ.pop("SLURM_CONF", None)

    def jobs(self, *states: str) -> list[dict[str, str]]:
        """Jobs that Slurm knows, of these states; default: all that are not over."""
        lines = command("squeue", "--noheader", "--format=%i|%T|%j|%l|%m|%C").splitlines()
        found = [
            dict(zip(("id", "state", "name", "limit", "memory", "cpus"), line.split("|"), strict=True))
            for line in lines
        ]
        return [job for job in found if not states or job["state"] in states]

    def cancel(self, job_id: str) -> None:
        command("scancel", job_id)

    def ended(self, job_id: str) -> str:
        """How a job ended."""
        return command("scontrol", "show", "job", job_id).partition("JobState=")[2].split()[0]


def command(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout


def wait_for(condition, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [item.getsockname()[1] for item in sockets]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    install()
    if os.geteuid() != 0:
        pytest.skip("a real Slurm needs root, to start jobs")
    service = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        service.start()
        yield service
    finally:
        service.stop()
