"""Handlers that look at what a worker has of its own, and what it has inherited."""

import concurrent.futures
import gc
import multiprocessing
import os
import pickle
import random
import signal
import sys

import snakepen


class Point:
    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y


def square(number: int) -> int:
    return number * number


@snakepen.handler
def random_stream() -> list[float]:
    return [random.random() for _ in range(4)]


@snakepen.handler
def numpy_stream() -> list[float]:
    import numpy

    return numpy.random.random(4).tolist()


@snakepen.handler
def main_module() -> list[str]:
    return sorted(name for name in vars(sys.modules["__main__"]) if not name.startswith("__"))


@snakepen.handler
def place() -> list[str]:
    """This module's name, its file's directory, and what is first on sys.path."""
    return [__name__, os.path.dirname(os.path.abspath(__file__)), sys.path[0]]


@snakepen.handler
def pickled() -> list[object]:
    copy = pickle.loads(pickle.dumps(Point(1, 2)))
    return [type(copy) is Point, copy.x, copy.y, pickle.loads(pickle.dumps(square))(3)]


@snakepen.handler
def pool_of_processes(method: str) -> list[int]:
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(square, range(5))


@snakepen.handler
def executor_of_processes(method: str) -> list[int]:
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        points = executor.map(Point, range(5), range(5))
        return [point.x + point.y for point in points]


@snakepen.handler
def dispositions() -> list[str]:
    """How SIGINT, TERM, HUP, CHLD and PIPE are handled, and what is blocked."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE)
    found = [getattr(signal.getsignal(number), "name", "handler") for number in numbers]
    return found + [number.name for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())]


@snakepen.handler
def place_of_process() -> dict[str, int]:
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgid(0),
        "session": os.getsid(0),
    }


@snakepen.handler
def garbage() -> list[int]:
    """Whether the collection is on, and whether what was inherited is out of its way."""
    return [gc.isenabled(), gc.get_freeze_count() > 0]


@snakepen.handler
async def in_event_loop() -> int:
    return os.getpid()
