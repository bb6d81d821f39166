"""The rounds, in turn."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from . import jobs
from .driver import Driver, Failed
from .environment import COMPARE, PYTHON, say

PATIENCE = 120.0
"""Seconds for whatever a driver is told to do, beside the time that it is told to take."""
RESTART_PATIENCE = 20.0
"""A pool whose worker was killed while it held a lock of the pool's never comes back."""


def _order(systems: list[str], number: int) -> list[str]:
    """That of a round. Forwards and backwards, so that each has each neighbour before it and after it, and from another
    one each time, so that none has two turns in a row: its caches would be warm in the second."""
    at = number % max(len(systems), 1)
    turned = systems[at:] + systems[:at]
    return turned if number % 2 == 0 else turned[::-1]


class Run:
    """One run of the comparison."""

    def __init__(self, systems: tuple[str, ...], rounds: int, seconds: float, quick: bool, spin: int) -> None:
        self.systems = systems
        self.rounds = rounds
        self.seconds = seconds
        self.quick = quick
        self.spin = spin
        self.rows: list[dict[str, Any]] = []
        self.by_round: dict[tuple[str, str, int, int], list[dict[str, Any]]] = {}
        self.failures: list[dict[str, str]] = []
        self.overhead: dict[str, dict[str, float]] = {}
        self._drivers: dict[str, Driver] = {}

    def all(self) -> None:
        try:
            for job in jobs.JOBS:
                if job.quick or not self.quick:
                    for workers in job.workers:
                        self._job(job, workers)
            self._idle()
            self._starts()
            self._restarts("restart", jobs.QUICK_RESTARTS if self.quick else jobs.RESTARTS)
            self._restarts("restart_heavy", jobs.HEAVY_RESTARTS)
        finally:
            for driver in self._drivers.values():
                driver.end()

    def _driver(self, system: str) -> Driver:
        if system not in self._drivers:
            self._drivers[system] = Driver(system)
        return self._drivers[system]

    def _fail(self, system: str, job: str, error: Failed) -> None:
        if str(error) != "not applicable":
            say(f"{system}, {job}: {error}")
            self.failures.append({"system": system, "job": job, "error": str(error)})
        driver = self._drivers.pop(system, None)
        if driver is not None:
            driver.end()

    def _start(self, system: str, job: str, workers: int) -> dict[str, Any]:
        prefetch = jobs.PREFETCH if system == "snakepen-prefetch" else 0
        return self._driver(system).do(
            PATIENCE, do="start", job=job, workers=workers, spin=self.spin, prefetch=prefetch,
            python=str(PYTHON), work=str(COMPARE / "work"),
        )  # fmt: skip

    def _job(self, job: jobs.Job, workers: int) -> None:
        ready: list[str] = []
        for system in self.systems:
            if system in job.systems and not (self.quick and system in job.slow):
                try:
                    self._start(system, job.name, workers)
                    self._round(system, job.name, max(job.callers), 0.05)
                    ready.append(system)
                except Failed as error:
                    self._fail(system, job.name, error)
        for callers in job.callers:
            say(f"{job.name}: {workers} workers, {callers} callers")
            found: dict[str, list[dict[str, Any]]] = {system: [] for system in ready}
            for number in range(self.rounds):
                for system in _order(ready, number):
                    try:
                        found[system].append(self._round(system, job.name, callers, self.seconds * job.seconds))
                    except Failed as error:
                        self._fail(system, job.name, error)
                        ready.remove(system)
            for system in ready:
                self._row(job.name, system, workers, callers, found[system])
        for system in ready:
            try:
                self._driver(system).do(PATIENCE, do="stop")
            except Failed as error:
                self._fail(system, job.name, error)

    def _round(self, system: str, job: str, callers: int, seconds: float) -> dict[str, Any]:
        driver = self._driver(system)
        cpu, host = driver.cpu(), driver.host_cpu()
        done = driver.do(PATIENCE + seconds, do="round", callers=callers, seconds=seconds)
        host = [after - before for before, after in zip(host, driver.host_cpu(), strict=True)]
        done["cpu"], done["host"], done["mb"] = driver.cpu() - cpu, host, driver.memory_mb()
        if job == "stream":
            done["calls"] *= 10_000
        return done

    def _row(self, job: str, system: str, workers: int, callers: int, found: list[dict[str, Any]]) -> None:
        calls = sum(one["calls"] for one in found)
        self.by_round[job, system, workers, callers] = found
        self.rows.append({
            "job": job,
            "system": system,
            "workers": workers,
            "callers": callers,
            "calls_per_s": round(median(one["calls"] / one["seconds"] for one in found), 1),
            "p50_us": round(median(one["p50_us"] for one in found), 1),
            "p99_us": round(median(one["p99_us"] for one in found), 1),
            "cpu_us_per_call": round(sum(one["cpu"] for one in found) * 1e6 / calls, 1),
            "rss_mb": round(median(one["mb"] for one in found), 1),
            "rounds": len(found),
        })  # fmt: skip
        if job == "echo" and system in ("limit", "snakepen", "snakepen-prefetch") and callers == 64:
            own, kernel = (sum(one["host"][at] for one in found) * 1e6 / calls for at in (0, 1))
            self.overhead[f"{system}, {workers} workers"] = {"user_us": round(own, 2), "kernel_us": round(kernel, 2)}

    def _idle(self) -> None:
        """How often an idle pool wakes up, in a second."""
        if "snakepen" not in self.systems:
            return
        self._start("snakepen", "echo", 4)
        driver = self._driver("snakepen")
        time.sleep(0.5)
        seconds = 3.0 if self.quick else 10.0
        before = driver.switches()
        time.sleep(seconds)
        # Of a thread that has ended meanwhile, as those of earlier jobs do, nothing is known.
        woken = sum(switches - before.get(thread, 0) for thread, switches in driver.switches().items())
        self.overhead["idle pool"] = {"wake_ups_per_s": round(woken / seconds, 2)}
        driver.do(PATIENCE, do="stop")

    def _starts(self) -> None:
        found: dict[str, list[dict[str, Any]]] = {}
        starts = jobs.QUICK_STARTS if self.quick else jobs.STARTS
        ready = [system for system in self.systems if system in starts]
        rounds = min(self.rounds, 5)
        for number in range(rounds):
            say(f"import_heavy: round {number + 1} of {rounds}")
            for system in list(ready):
                # What it has imported once, its process keeps; and any keeps memory of earlier jobs.
                if number == 0 or system in ("mp_pool", "executor", "loky", "pyo3"):
                    driver = self._drivers.pop(system, None)
                    if driver is not None:
                        driver.end()
                workers = 1 if system == "limit" else jobs.START_WORKERS
                try:
                    seconds = self._start(system, "import_heavy", workers)["seconds"]
                    one = {"calls": 1, "seconds": seconds, "p50_us": seconds * 1e6, "p99_us": seconds * 1e6, "cpu": 0.0}
                    one["mb"] = self._driver(system).memory_mb()
                    found.setdefault(system, []).append(one)
                    self._driver(system).do(PATIENCE, do="stop")
                except Failed as error:
                    self._fail(system, "import_heavy", error)
                    ready.remove(system)
        for system in ready:
            workers = 1 if system == "limit" else jobs.START_WORKERS
            self._row("import_heavy", system, workers, 1, found[system])

    def _restarts(self, job: str, systems: tuple[str, ...]) -> None:
        say(job)
        for system in self.systems:
            if system not in systems:
                continue
            found: list[dict[str, Any]] = []
            try:
                self._start(system, job, 4)
                for _ in range(self.rounds):
                    seconds = self._driver(system).do(RESTART_PATIENCE, do="restart")["seconds"]
                    one = {"calls": 1, "seconds": seconds, "p50_us": seconds * 1e6, "p99_us": seconds * 1e6, "cpu": 0.0}
                    found.append({**one, "mb": self._driver(system).memory_mb()})
                    time.sleep(0.2)
                self._driver(system).do(PATIENCE, do="stop")
                self._row(job, system, 4, 1, found)
            except Failed as error:
                self._fail(system, job, error)
