"""Run a small survey by the commands of the Kubernetes manifests, without Kubernetes: ``python benchmarks/pods.py``.

Containers become plain processes: their arguments, environment and mounts, a root that cannot be written to, a user id
that nobody has, no capabilities, a network of their own. Needs root. ``tests/test_kubernetes.py`` stands on the same
functions.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
UID = 12345  # in no passwd file
CONTAINERFILE = ROOT / "deploy" / "Containerfile"
# What a root file system needs for Python; links among them are copied.
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/etc/ssl", "/etc/ld.so.cache")


def image_environment() -> dict[str, str]:
    """ENV of the Containerfile."""
    text = CONTAINERFILE.read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^ENV (.*)$", text, re.MULTILINE)
    return dict(word.split("=", 1) for word in shlex.split(line))


@functools.cache
def why_not() -> str:
    """Why such processes cannot be had here; empty when they can."""
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    missing = [name for name in ("unshare", "setpriv", "chroot", "mount") if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    trial = "mount -t tmpfs none /mnt && mount -o remount,ro /mnt"
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", trial], capture_output=True, text=True, timeout=30
    )
    return "" if done.returncode == 0 else f"namespaces are not to be had here: {done.stderr.strip()}"


def in_a_network_of_its_own() -> None:
    """Leave this process's network; before anything is listened to."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) != 0:  # CLONE_NEWNET; os.unshare is Python 3.12's
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket() as probe:
        fcntl.ioctl(probe, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS: up


def command(
    pod: Mapping[str, Any], box: Mapping[str, Any], folders: Mapping[str, Path], arguments: list[str] | None = None
) -> list[str]:
    """Command line of one container.

    Parameters
    ----------
    pod, box : pod spec, and one of its containers
    folders : volume name -> folder of this machine; volumes that are not named are empty
    arguments : in place of the container's
    """
    environment = image_environment() | {item["name"]: item["value"] for item in box.get("env", []) if "value" in item}
    environment["DASK_WORKER_NAME"] = "worker"  # by the operator, or from the pod's own name
    environment["DASK_ROOT_CONFIG"] = "/etc/dask"
    words = [re.sub(r"\$\((\w+)\)", lambda m: environment[m[1]], word) for word in arguments or box["args"]]
    script = ["set -e", "mount -t tmpfs -o mode=0755 none /mnt", "mkdir -p /mnt/etc /mnt/proc /mnt/dev"]
    for path in map(Path, _SYSTEM):
        script += _visible(path)
    script += ["mount --rbind /proc /mnt/proc", "mount --rbind /dev /mnt/dev"]
    script += ["echo '127.0.0.1 localhost survey-scheduler' > /mnt/etc/hosts"]
    script += ["echo 'root:x:0:0::/:/bin/sh' > /mnt/etc/passwd"]
    script += ["mkdir -p /mnt/opt/survey", f"ln -s {ROOT}/configs /mnt/opt/survey/configs"]
    for mount in box["volumeMounts"]:
        script += _mounted(pod, mount, folders)
    for path in sorted({sys.prefix, sys.base_prefix, str(ROOT)}):  # behind the volumes: the checkout may lie in /tmp
        script += [*_bound(Path(path), path, read_only=True)]
    environment |= {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "TZ": "UTC"}
    drop = f"setpriv --reuid {UID} --regid {UID} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"
    settings = shlex.join([f"{name}={value}" for name, value in environment.items()])
    script += ["mount -o remount,ro /mnt", "cd /"]
    script += [f"exec chroot /mnt {drop} env -i -C /home/survey {settings} {shlex.join(words)}"]
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(script)]


def _visible(path: Path) -> list[str]:
    if path.is_symlink():
        return [f"ln -s {os.readlink(path)} /mnt{path}"]
    if path.is_dir():
        return _bound(path, str(path), read_only=True)
    return [f"cp {path} /mnt{path}"] if path.exists() else []


def _bound(source: Path, target: str, read_only: bool) -> list[str]:
    lines = [
        f"mkdir -p /mnt{shlex.quote(target)}",
        f"mount --bind {shlex.quote(str(source))} /mnt{shlex.quote(target)}",
    ]
    return [*lines, f"mount -o remount,bind,ro /mnt{shlex.quote(target)}"] if read_only else lines


def _mounted(pod: Mapping[str, Any], mount: Mapping[str, Any], folders: Mapping[str, Path]) -> list[str]:
    """A volume at its place: a folder of this machine when one is given, else an empty one of the user's."""
    name, target = mount["name"], mount["mountPath"]
    if name not in {volume["name"] for volume in pod["volumes"]}:
        raise KeyError(f"{name}: mounted, and no volume of the pod")
    if name not in folders:
        return [f"mkdir -p /mnt{target}", f"mount -t tmpfs -o uid={UID},mode=0700 none /mnt{target}"]
    return _bound(folders[name], target, mount.get("readOnly", False))


# --- a whole run ------------------------------------------------------------------------------------------------

SCENE = ROOT / "tests" / "whole_scene.yaml"  # two chips, two dithers: smaller than the demo's
ROLES = ("scheduler", "worker", "client")


def main() -> None:
    if why_not():
        sys.exit(f"benchmarks/pods.py: {why_not()}")
    import manifests

    documents = manifests.build(manifests.FOLDER / "overlays" / "small-plain")
    in_a_network_of_its_own()
    with tempfile.TemporaryDirectory() as name:
        folders = places(Path(name), documents)
        chosen = {owner: pod for owner, pod, _ in manifests.pods(documents)}

        def line(owner: str, number: int, role: str, arguments: list[str] | None = None) -> list[str]:
            box = manifests.containers(chosen[owner])[number]
            return command(chosen[owner], box, {**folders, "tls": folders[f"tls-{role}"]}, arguments)

        smaller = ["survey", "simulate", "/workspace/observatory", "--scene", str(SCENE)]
        _timed("simulate", line("survey-fetch", 0, "client", smaller))
        _timed("fetch", line("survey-fetch", 1, "client"))
        _timed("refs", line("survey-fetch", 2, "client"))
        with open(Path(name) / "log", "w") as log:
            cluster = [subprocess.Popen(line(f"survey-{role}", 0, role), stderr=log) for role in ROLES[:2]]
            try:
                time.sleep(10)  # the run asks the workers that are there how much a task may take
                _timed("run", line("survey-run", 0, "client"))
                _timed("run again", line("survey-run", 0, "client"))
            finally:
                for process in reversed(cluster):  # a worker whose scheduler is gone first looks for it for a while
                    process.terminate()
                    try:
                        process.wait(60)  # the grace that the manifests give
                    except subprocess.TimeoutExpired:
                        process.kill()


def places(folder: Path, documents: list[dict[str, Any]]) -> dict[str, Path]:
    """Volumes: ConfigMaps of the manifests, certificates by `survey tls`, each role's in a folder of its own."""
    from survey.cluster import tls

    folder.chmod(0o755)
    names = ("dask", "config", "workspace", "crds", *(f"tls-{role}" for role in ROLES))
    made = {name: folder / name for name in names}
    for path in made.values():
        path.mkdir()
        path.chmod(0o777)
    for item in documents:
        if item["kind"] == "ConfigMap":
            for name, text in item["data"].items():
                (made[item["metadata"]["name"].removeprefix("survey-")] / name).write_text(text)
    tls.make(folder / "certificates")
    for role in ROLES:
        for name in (tls.AUTHORITY, *tls.file_names(role)):
            path = made[f"tls-{role}"] / name
            shutil.copy(folder / "certificates" / name, path)
            shutil.chown(path, 0, UID)
            path.chmod(0o440)  # as a Secret is mounted
    return made


def _timed(name: str, line: list[str]) -> None:
    start = time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True, timeout=1800)
    seconds = time.monotonic() - start
    print(f"{name:10s} {seconds:6.1f} s, exit code {done.returncode}: {done.stdout.strip()}", flush=True)
    if done.returncode != 0:
        sys.exit(done.stderr)


if __name__ == "__main__":
    main()
