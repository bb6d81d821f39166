"""Who does what, with how many workers and callers."""

from __future__ import annotations

from dataclasses import dataclass

SYSTEMS = ("limit", "snakepen", "snakepen-prefetch", "mp_pool", "executor", "loky", "ray", "mosec", "pyo3", "naive")
PREFETCH = 16
"""The calls that `snakepen-prefetch` writes ahead."""

SMALL = ("limit", "snakepen", "snakepen-prefetch", "mp_pool", "executor", "loky", "ray", "mosec", "pyo3", "naive")
PLAIN = tuple(system for system in SMALL if system != "snakepen-prefetch")


@dataclass(frozen=True)
class Job:
    name: str
    systems: tuple[str, ...]
    workers: tuple[int, ...]
    callers: tuple[int, ...]
    seconds: float = 1.0
    """Of a round, in shares of the usual."""
    quick: bool = True
    """Part of a quick run."""
    slow: tuple[str, ...] = ()
    """Systems that a quick run passes over here: their starts or calls would take a good part of its time."""


JOBS = (
    Job("echo", SMALL, (2, 4), (1, 64), seconds=2.0),
    Job("echo", SMALL, (2, 4), (16,), quick=False),
    Job("sleep5ms", PLAIN, (1, 4), (64,), slow=("loky", "ray")),
    Job("sleep5ms", PLAIN, (4,), (1, 16), quick=False),
    Job("spin200us", SMALL, (2,), (64,), slow=("loky", "ray")),
    Job("spin200us", SMALL, (4,), (1, 16, 64), quick=False),
    Job("array1m", PLAIN, (4,), (1,)),
    Job("array1m", PLAIN, (4,), (16, 64), quick=False),
    Job("array16m", PLAIN, (4,), (1,), seconds=2.0, slow=("naive",)),
    Job("array16m", PLAIN, (4,), (16,), seconds=2.0, quick=False),
    Job("stream", ("snakepen", "ray", "pyo3", "naive"), (4,), (1,), seconds=2.0, slow=("ray",)),
)

STARTS = ("limit", "snakepen", "mp_pool", "executor", "loky", "ray", "mosec", "pyo3", "naive")
"""Of `import_heavy`: eight workers that have imported NumPy and Pandas."""
QUICK_STARTS = ("limit", "snakepen", "mp_pool", "naive")
"""Of a quick run: the others take half a minute a round."""
START_WORKERS = 8

RESTARTS = ("snakepen", "mp_pool", "executor", "loky", "ray", "naive")
"""Of `restart` and `restart_heavy`: from kill -9 of one of four idle workers until it is made good."""
QUICK_RESTARTS = ("snakepen", "executor", "naive")
"""Of a quick run: that of `mp_pool` may never end, as the one that is killed may hold the lock of its queue."""
HEAVY_RESTARTS = ("snakepen", "naive")
