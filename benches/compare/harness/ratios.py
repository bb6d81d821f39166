"""What is to be reached, as ratios within the run."""

from __future__ import annotations

from statistics import median
from typing import Any

from .measure import Run

PEERS = ("mp_pool", "executor", "loky", "ray", "mosec", "naive")
"""Those that cross a process."""
FACTORS = {"executor": 7.0, "mp_pool": 4.5, "mosec": 9.0, "ray": 30.0}
"""By which `echo` is to be ahead of each at 64 callers; with prefetch by twice that."""
WIDE = 0.1
"""An interval that is wider than this part of its median is wide: the bare loop's rate is reached then if 0.9 of it is,
and else if 0.95 is."""


def ratios(run: Run) -> list[dict[str, Any]]:
    """Rows of `what`, `ratio`, `low`, `high` (of neighbouring rounds), `reach`, `reached`, and `bound`.

    That is the same of `limit`; None where `limit` is what it is a ratio to, or does no such thing.
    """
    found: list[dict[str, Any]] = []

    def add(what: str, each: list[float], reach: float, most: bool = False, bound: list[float] | None = None) -> None:
        middle = median(each)
        reached = middle <= reach if most else middle >= reach
        found.append({
            "what": what, "ratio": round(middle, 3), "low": round(min(each), 3), "high": round(max(each), 3),
            "reach": f"at {'most' if most else 'least'} {reach:g}", "reached": reached,
            "bound": round(median(bound), 3) if bound else None,
        })  # fmt: skip

    def rounds(job: str, system: str, workers: int, callers: int) -> list[dict[str, Any]]:
        return run.by_round.get((job, system, workers, callers), [])

    def rate(one: dict[str, Any]) -> float:
        return one["calls"] / one["seconds"]

    def best(job: str, system: str, callers: int) -> list[dict[str, Any]]:
        """The rounds with the number of workers that is best for the system."""
        all_of = [rounds(job, system, workers, callers) for workers in (2, 4)]
        return max(all_of, key=lambda found: median(map(rate, found)) if found else 0.0)

    def against(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[float]:
        return [rate(our) / rate(their) for our, their in zip(ours, theirs, strict=False)]

    for workers in (2, 4):
        limit = rounds("echo", "limit", workers, 64)
        for system, times in (("snakepen", 1), ("snakepen-prefetch", 2)):
            each = against(rounds("echo", system, workers, 64), limit)
            if each:
                wide = max(each) - min(each) > WIDE * median(each)
                reach = times * (0.9 if wide else 0.95)
                add(f"`echo`, 64 callers, {workers} workers: {system} to `limit`", each, reach)
    for system, times in (("snakepen", 1.0), ("snakepen-prefetch", 2.0)):
        ours = best("echo", system, 64)
        for peer, factor in FACTORS.items():
            each = against(ours, best("echo", peer, 64))
            # That of one request in flight per worker.
            bound = against(best("echo", "limit", 64), best("echo", peer, 64)) if times == 1.0 else None
            if each:
                add(f"`echo`, 64 callers, each at its best: {system} to `{peer}`", each, factor * times, bound=bound)
        each = against(ours, best("echo", "pyo3", 64))
        if each:
            add(f"`echo`, 64 callers: {system} to `pyo3`", each, 1.0)
    for workers in (2, 4):
        ours, limit = rounds("echo", "snakepen", workers, 1), rounds("echo", "limit", workers, 1)
        each = [our["p50_us"] / their["p50_us"] for our, their in zip(ours, limit, strict=False)]
        if each:
            add(f"`echo`, one caller, {workers} workers: median latency of snakepen to `limit`", each, 1.5, most=True)
    each, bound = (
        [ratio / 4 for ratio in against(rounds("sleep5ms", system, 4, 64), rounds("sleep5ms", system, 1, 64))]
        for system in ("snakepen", "limit")
    )
    if each:
        add("`sleep5ms`: four workers to four times one", each, 0.97, bound=bound)
    for workers in (2, 4):
        each = against(rounds("spin200us", "snakepen", workers, 64), rounds("spin200us", "limit", workers, 64))
        if each:
            add(f"`spin200us`, 64 callers, {workers} workers: snakepen to `limit`", each, 0.93)
    for job in ("array1m", "array16m"):
        ours = rounds(job, "snakepen", 4, 1)
        each = against(ours, rounds(job, "limit", 4, 1))
        if each:
            add(f"`{job}`, one caller: snakepen to `limit`", each, 0.67)
        for peer in PEERS:
            each, bound = (
                against(rounds(job, system, 4, 1), rounds(job, peer, 4, 1)) for system in ("snakepen", "limit")
            )
            if each:
                add(f"`{job}`, one caller: snakepen to `{peer}`", each, 8.0, bound=bound)
    starts = {system: rounds("import_heavy", system, 8, 1) for system in (*PEERS, "snakepen")}
    ours = starts["snakepen"]
    if ours:
        for peer in ("executor", "loky", "ray", "mosec", "naive"):
            each = against(ours, starts[peer])
            if each:
                add(f"`import_heavy`: snakepen to `{peer}`, which starts afresh", each, 2.5)
        if starts["mp_pool"]:
            add("`import_heavy`: snakepen to `mp_pool`, which forks", against(ours, starts["mp_pool"]), 1.0)
        limit = rounds("import_heavy", "limit", 1, 1)
        if limit:
            each = [our["seconds"] / their["seconds"] for our, their in zip(ours, limit, strict=False)]
            add("`import_heavy`: time of snakepen to one import", each, 1.3, most=True)
        if starts["naive"]:
            each = [our["mb"] / their["mb"] for our, their in zip(ours, starts["naive"], strict=False)]
            add("`import_heavy`: memory to that of 8 interpreters (`naive`)", each, 1 / 3, most=True)
    for job, reach in (("restart", 10.0), ("restart_heavy", 30.0)):
        ours = rounds(job, "snakepen", 4, 1)
        if ours:
            add(
                f"`{job}`: milliseconds from kill -9 to ready", [one["seconds"] * 1e3 for one in ours], reach, most=True
            )
    for workers in (2, 4):
        of = {system: run.overhead.get(f"{system}, {workers} workers") for system in ("snakepen", "limit")}
        each, bound = ([figures["user_us"]] if figures else [] for figures in of.values())
        if each:
            what = f"`echo`, 64 callers, {workers} workers: the host's own µs per call"
            add(what, each, 5.0, most=True, bound=bound)
    return found
