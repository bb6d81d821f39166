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


JOBS = (
    Job("echo", SMALL, (2, 4), (1, 16, 64)),
    Job("sleep5ms", PLAIN, (1, 4), (64,)),
    Job("sleep5ms", PLAIN, (4,), (1, 16), quick=False),
    Job("spin200us", SMALL, (2,), (64,)),
    Job("spin200us", SMALL, (4,), (1, 16, 64), quick=False),
    Job("array1m", PLAIN, (4,), (1,)),
    Job("array1m", PLAIN, (4,), (16, 64), quick=False),
    Job("array16m", PLAIN, (4,), (1,), seconds=2.0),
    Job("array16m", PLAIN, (4,), (16,), seconds=2.0, quick=False),
    Job("stream", ("snakepen", "ray", "pyo3", "naive"), (4,), (1,), seconds=2.0),
)

STARTS = ("limit", "snakepen", "mp_pool", "executor", "loky", "ray", "mosec", "pyo3", "naive")
"""Of `import_heavy`: eight workers that have imported NumPy and Pandas."""
START_WORKERS = 8

RESTARTS = ("snakepen", "mp_pool", "executor", "loky", "ray", "naive")
"""Of `restart` and `restart_heavy`: from kill -9 of one of four idle workers until it is made good."""
HEAVY_RESTARTS = ("snakepen", "naive")

NOTES = (
    "`limit` is no system: the same Python workers and the same loop, driven by a bare tokio pool with one request in flight "
    "per worker, without supervision, deadlines, cancellation or statistics. For arrays it is one worker with two shared "
    "segments and a byte for a message; for `import_heavy` it is one interpreter that imports once.",
    "`snakepen-prefetch` is Snakepen with `.prefetch(16)`; all else is its default.",
    "Callers are tokio tasks for `limit`, `snakepen`, `naive`, `mosec` (one HTTP connection each, kept open, from a client "
    "in Rust) and `pyo3` (calls on the runtime's threads for blocking work); threads of a Python process for `mp_pool`, "
    "`executor`, `loky` and `ray`, which are called from Python.",
    "JSON is written and read at both ends in `limit`, `snakepen`, `mosec` and `naive`; `mp_pool`, `executor`, `loky` and `ray` "
    "pickle; `pyo3` converts to and from Python objects.",
    "`pyo3` has one interpreter in the host's process, whatever the number of workers: no isolation, one lock, and a crash is "
    "the host's.",
    "Of peers, none has deadlines that stop the work, sessions or back-pressure; `ray` and `mosec` do more than this in other ways.",
    "`executor` forks, but starts interpreters afresh for `import_heavy`; `mp_pool` forks from a process that has imported.",
    "`restart` of `executor` makes the pool anew, which is what it takes; of `mp_pool` an idle worker is killed, as a task that "
    "is lost with one is never answered; `pyo3` has nothing to restart, and `mosec` is not tried.",
    "`calls_per_s` of `stream` are items, and its latencies those of whole streams of 10 000; of `import_heavy` and `restart` "
    "the latencies are the time that it takes, once per round.",
    "`cpu_us_per_call` is the processor time of all processes of a system; `rss_mb` their proportional set size, in which "
    "shared memory counts once.",
)
