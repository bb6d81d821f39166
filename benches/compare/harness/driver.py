"""A system's process: told what to do by lines of JSON, and looked at from outside."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from . import environment

TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A system that can't do a job, or fails in it."""


class Driver:
    """A driver's process, in a session of its own so that all of it can be ended."""

    def __init__(self, system: str) -> None:
        command, extra = environment.command(system)
        self.system = system
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by end)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**os.environ, **extra}, start_new_session=True, cwd=environment.TARGET,
        )  # fmt: skip
        self._seen: dict[int, str] = {}

    def do(self, patience: float, **command: Any) -> dict[str, Any]:
        """The answer to a command; Failed if there is none in so many seconds."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps(command).encode() + b"\n")
            stdin.flush()
        except OSError:
            raise Failed(f"its driver has ended: {self.last_words()}") from None
        if not select.select([stdout], [], [], patience)[0]:
            raise Failed(f"no answer to {command['do']!r} in {patience:.0f} s")
        line = stdout.readline()
        if not line:
            raise Failed(f"its driver has ended: {self.last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["ok"]

    def last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()[-400:]

    def processes(self) -> list[int]:
        """The driver and all that descend from it."""
        started: dict[int, str] = {}
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            pid = int(entry.name)
            fields = stat(pid)
            if fields:
                started[pid] = fields[19]
                children.setdefault(int(fields[1]), []).append(pid)
        found: list[int] = []
        queue = [self._process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            queue += children.get(pid, [])
        self._seen.update((pid, started[pid]) for pid in found if pid in started)
        return found

    def cpu(self) -> float:
        """Seconds that they have used."""
        return sum(sum(cpu_of(pid)) for pid in self.processes())

    def host_cpu(self) -> tuple[float, float]:
        """Seconds that the driver itself has used, in its own code and in the kernel."""
        return cpu_of(self._process.pid)

    def memory_mb(self) -> float:
        """The proportional set size of all of them: what is shared counts once."""
        total = 0
        for pid in self.processes():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return total / 1024

    def switches(self) -> dict[Path, int]:
        """How often each of their threads has gone to sleep."""
        found: dict[Path, int] = {}
        for pid in self.processes():
            for status in Path(f"/proc/{pid}/task").glob("*/status"):
                try:
                    text = status.read_text()
                except OSError:
                    continue
                found[status] = sum(
                    int(line.split()[1]) for line in text.splitlines() if line.startswith("voluntary_ctxt")
                )
        return found

    def end(self) -> None:
        """Ends all of it, whatever state it is in."""
        self.processes()
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        for pid, started in self._seen.items():
            if stat(pid)[19:20] == [started]:  # else the number is another's by now
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
        self._process.wait()
        self._errors.close()


def stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the third on; none if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def cpu_of(pid: int) -> tuple[float, float]:
    """Seconds in its own code and in the kernel."""
    fields = stat(pid)
    return (int(fields[11]) / TICK, int(fields[12]) / TICK) if fields else (0.0, 0.0)
