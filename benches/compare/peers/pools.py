"""The pools of the standard library, and loky: `pools.py mp_pool | executor | loky`."""

# ruff: noqa: E402  (what is beside this file is found by its path)
from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "work")]

import rounds
import work


def heavy() -> int:
    """Imports in a worker, and stays long enough for each worker to have one."""
    import numpy  # noqa: F401  # pyright: ignore
    import pandas  # noqa: F401  # pyright: ignore

    time.sleep(0.02)
    return os.getpid()


class MpPool(rounds.Peer):
    """Forks."""

    def start(self, job: str, workers: int, spin: int) -> None:
        import multiprocessing

        if job == "import_heavy":
            heavy()  # in the parent: what is forked from it has imported
        name, self.arguments = rounds.arguments(job, spin)
        self.function = getattr(work, name)
        self.pool: Any = multiprocessing.get_context("fork").Pool(workers)
        self.workers = workers
        self.pool.map(time.sleep, [0.01] * workers, chunksize=1)

    def call(self) -> None:
        self.pool.apply(self.function, self.arguments)

    def restart(self) -> None:
        # A task that is lost with a worker is never answered: only an idle one is killed.
        before = [process.pid for process in self.pool._pool]
        os.kill(before[0], signal.SIGKILL)
        while True:
            now = [process.pid for process in self.pool._pool if process.is_alive()]
            if len(now) == self.workers and before[0] not in now:
                break
            time.sleep(0.0001)
        self.pool.apply(work.echo, (1,))

    def stop(self) -> None:
        self.pool.terminate()
        self.pool.join()


class Executor(rounds.Peer):
    """Starts interpreters afresh ("spawn") for imports, so that it stands for that; else forks, which is faster."""

    executor: Any = None

    def start(self, job: str, workers: int, spin: int) -> None:
        name, self.arguments = rounds.arguments(job, spin)
        self.function = getattr(work, name)
        self.heavy = job == "import_heavy"
        self.workers = workers
        self.make()

    def make(self) -> None:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        context = multiprocessing.get_context("spawn" if self.heavy else "fork")
        self.executor = ProcessPoolExecutor(self.workers, mp_context=context)
        self.warm()

    def warm(self) -> None:
        """Until each worker has answered."""
        seen: set[int] = set()
        while len(seen) < self.workers:
            futures = [self.executor.submit(heavy if self.heavy else nap) for _ in range(4 * self.workers)]
            seen.update(future.result() for future in futures)

    def call(self) -> None:
        self.executor.submit(self.function, *self.arguments).result()

    def restart(self) -> None:
        # The pool is broken, as the next call finds, and has to be made anew.
        os.kill(next(iter(self.executor._processes)), signal.SIGKILL)
        try:
            while True:
                self.executor.submit(nap).result()
        except BrokenProcessPool:
            self.executor.shutdown(wait=False)
        self.make()

    def stop(self) -> None:
        self.executor.shutdown()


class Loky(Executor):
    """Starts interpreters afresh; its pool heals itself when it is asked for again."""

    def make(self) -> None:
        import loky  # pyright: ignore

        self.executor = loky.get_reusable_executor(max_workers=self.workers, timeout=None)
        self.warm()

    def stop(self) -> None:
        self.executor.shutdown(wait=True, kill_workers=True)


def nap() -> int:
    time.sleep(0.005)
    return os.getpid()


if __name__ == "__main__":
    rounds.serve({"mp_pool": MpPool, "executor": Executor, "loky": Loky}[sys.argv[1]])
