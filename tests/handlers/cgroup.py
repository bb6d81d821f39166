"""Handlers that look at their worker's cgroup, and fill it."""

import subprocess
import sys
import threading
import time

import snakepen

_kept: list[bytearray] = []


def _own() -> str:
    with open("/proc/self/cgroup") as file:
        (line,) = (line for line in file if line.startswith("0::"))
    return line.removeprefix("0::").rstrip("\n")


AT_LOAD = _own()


@snakepen.handler
def places() -> list[str]:
    """Where it was while site was set up, if that has told; while this file was loaded; and now."""
    return [getattr(sys, "cgroup_at_site", ""), AT_LOAD, _own()]


@snakepen.handler
def hoard() -> None:
    while True:
        _kept.append(bytearray(b"x" * (16 << 20)))


@snakepen.handler
def hoard_in_a_child() -> None:
    code = "kept = []\nwhile True: kept.append(bytearray(b'x' * (16 << 20)))"
    subprocess.run([sys.executable, "-c", code])
    time.sleep(1000)


@snakepen.handler
def hoard_later() -> None:
    threading.Timer(0.1, hoard).start()


@snakepen.handler
def start_in_a_session() -> int:
    """A process that the worker's group has nothing to do with."""
    return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid


@snakepen.handler
def hold(seconds: float) -> None:
    time.sleep(seconds)
