"""Ray: an actor per worker, called in turn."""

# ruff: noqa: E402  (what is beside this file is found by its path)
from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "work")]
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")

import ray  # pyright: ignore
import rounds

WORK = str(Path(__file__).resolve().parents[1] / "work")


@ray.remote(max_restarts=-1, max_task_retries=-1)  # pyright: ignore
class Actor:
    def __init__(self, work_path: str, heavy: bool) -> None:
        sys.path.insert(0, work_path)
        if heavy:
            import numpy  # noqa: F401  # pyright: ignore
            import pandas  # noqa: F401  # pyright: ignore
        import work

        self.work = work

    def pid(self) -> int:
        return os.getpid()

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        return getattr(self.work, name)(*arguments)

    def echo(self, value: Any) -> Any:
        return value

    def stream(self, items: int) -> Any:
        yield from self.work.stream(items)


class Ray(rounds.Peer):
    def start(self, job: str, workers: int, spin: int) -> None:
        if not ray.is_initialized():
            ray.init(
                num_cpus=64, include_dashboard=False, logging_level="error", log_to_driver=False,
                object_store_memory=2 << 30,
            )  # fmt: skip
        self.job = job
        self.name, self.arguments = rounds.arguments(job, spin)
        heavy = job == "import_heavy"
        self.actors: list[Any] = [Actor.options(num_cpus=0.1).remote(WORK, heavy) for _ in range(workers)]  # pyright: ignore
        ray.get([actor.pid.remote() for actor in self.actors])
        self.next = itertools.count()

    def call(self) -> None:
        actor = self.actors[next(self.next) % len(self.actors)]
        if self.job == "stream":
            got = sum(
                1
                for item in actor.stream.options(num_returns="streaming").remote(*self.arguments)
                if ray.get(item) >= 0
            )
            assert got == rounds.ITEMS
        elif self.job.startswith("array"):
            # As an argument of its own it goes through the object store, without a copy in the actor.
            ray.get(actor.echo.remote(self.arguments[0]))
        else:
            ray.get(actor.call.remote(self.name, self.arguments))

    def restart(self) -> None:
        actor = self.actors[0]
        before = ray.get(actor.pid.remote())
        os.kill(before, signal.SIGKILL)
        while True:
            try:
                if ray.get(actor.pid.remote(), timeout=30) != before:
                    return
            except ray.exceptions.RayError:  # pyright: ignore
                pass

    def stop(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []


if __name__ == "__main__":
    try:
        rounds.serve(Ray)
    finally:
        ray.shutdown()
