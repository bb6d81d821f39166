"""A peer's driver: the commands of `driver/rounds.rs`, answered in Python. Callers are threads."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ITEMS = 10_000
"""Of one stream."""

MESSAGE = {"id": 20_260_117, "name": "small calls", "amount": 42.5, "tags": ["echo", "bench"], "done": False}


class Peer:
    """A system under test. What it can't do raises NotImplementedError."""

    def start(self, job: str, workers: int, spin: int) -> None:
        raise NotImplementedError

    def call(self) -> None:
        """One call, to its answer."""
        raise NotImplementedError

    def restart(self) -> None:
        """Kills a worker, and waits until calls are answered by as many as before."""
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


def arguments(job: str, spin: int) -> tuple[str, tuple[Any, ...]]:
    """The function of `work.py` that the job calls, and with what."""
    if job == "sleep5ms":
        return "sleep5ms", ()
    if job == "spin200us":
        return "spin", (spin,)
    if job == "stream":
        return "stream", (ITEMS,)
    if job.startswith("array"):
        import numpy  # pyright: ignore

        return "echo", (numpy.arange({"array1m": 1 << 17, "array16m": 1 << 21}[job], dtype="<f8"),)
    return "echo", (MESSAGE,)


def round_of(peer: Peer, callers: int, seconds: float) -> dict[str, Any]:
    """So many threads call as fast as they get answers."""
    taken: list[list[int]] = [[] for _ in range(callers)]
    errors: list[BaseException] = []
    begin = time.perf_counter_ns()
    end = begin + int(seconds * 1e9)

    def caller(mine: list[int]) -> None:
        now = time.perf_counter_ns()
        try:
            while now < end:
                peer.call()
                then, now = now, time.perf_counter_ns()
                mine.append(now - then)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=caller, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    took = (time.perf_counter_ns() - begin) / 1e9
    everything = sorted(time for mine in taken for time in mine)
    at = [everything[int((len(everything) - 1) * quantile)] / 1e3 for quantile in (0.5, 0.99)]
    return {"calls": len(everything), "seconds": took, "p50_us": at[0], "p99_us": at[1]}


def serve(make: Callable[[], Peer]) -> None:
    """Serves until the end of stdin."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a peer prints is no answer
    peer = make()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            begin = time.perf_counter()
            done: dict[str, Any] = {}
            if command["do"] == "start":
                peer.start(command["job"], command["workers"], command["spin"])
            elif command["do"] == "round":
                done = round_of(peer, command["callers"], command["seconds"])
            elif command["do"] == "restart":
                peer.restart()
            else:
                peer.stop()
            done.setdefault("seconds", time.perf_counter() - begin)
            answer: dict[str, Any] = {"ok": done}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
