"""Workers' cgroups, in which the kernel holds them to the pool's memory limit.

Rust has found where they can be made, and removes each when its worker has ended. The launcher makes them, and removes
what a dead host has left.
"""

from __future__ import annotations

import os
import sys
from time import monotonic, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Processes that were killed have left their cgroup long before.
_PATIENCE = 1.0
_TRY_AGAIN = 0.002


class Cgroups:
    """Those of one pool; another launcher of it may use the same directory."""

    __slots__ = ("_directory", "_memory")

    def __init__(self, raw: dict[str, Any]) -> None:
        self._directory: str = raw["directory"]
        self._memory: int = raw["memory"]

    def make(self, slot: int, epoch: int) -> str | None:
        """One for a worker; None if there can't be one, which Rust finds out, and watches the worker's size instead."""
        directory = f"{self._directory}/{slot}.{epoch}"
        try:
            self._make_parent()
            os.mkdir(directory)
        except OSError as error:
            _explain("can't make a cgroup", error)
            return None
        try:
            _write(directory, "memory.max", str(self._memory))
            if os.path.exists(f"{directory}/memory.swap.max"):  # the kernel may be without swap
                _write(directory, "memory.swap.max", "0")
            _write(directory, "memory.oom.group", "1")
        except OSError as error:
            _explain("can't limit a cgroup", error)
            discard(directory)
            return None
        return directory

    def _make_parent(self) -> None:
        try:
            os.mkdir(self._directory)
        except FileExistsError:
            pass
        _write(self._directory, "cgroup.subtree_control", "+memory")

    def leave(self) -> None:
        """This launcher's workers have ended: the directory goes, unless another launcher's are there."""
        discard(self._directory)

    def remove(self) -> None:
        """Kills whatever is left in the pool's cgroups, and removes them."""
        end = monotonic() + _PATIENCE
        while os.path.exists(self._directory):
            try:
                _write(self._directory, "cgroup.kill", "1")  # and all that is below; there since Linux 5.14
            except OSError:
                pass
            for directory, _, _ in os.walk(self._directory, topdown=False):
                discard(directory)
            if monotonic() > end:
                return
            sleep(_TRY_AGAIN)


def enter(directory: str) -> None:
    """Moves this process there. One that can't be moved serves without, as Rust finds out."""
    try:
        _allow_killing()
        _write(directory, "cgroup.procs", "0")
    except OSError as error:
        _explain("can't enter the worker's cgroup", error)


def discard(directory: str) -> None:
    try:
        os.rmdir(directory)
    except OSError:
        pass


def _allow_killing() -> None:
    """A process that must never be killed for want of memory, as the host may be one, hangs at its limit instead."""
    with open("/proc/self/oom_score_adj") as file:
        never = file.read().strip() == "-1000"
    if never:
        _write("/proc/self", "oom_score_adj", "-999")


def _write(directory: str, name: str, value: str) -> None:
    fd = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _explain(what: str, error: OSError) -> None:
    print(f"snakepen: {what}, so a worker's resident size is watched instead: {error}", file=sys.stderr)
