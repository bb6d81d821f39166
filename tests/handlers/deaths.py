"""Handlers that end their worker, in every way that user code has."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable

import snakepen


@snakepen.handler
def exit_at_once(status: int) -> None:
    sys.stderr.write("last words\n")
    os._exit(status)


@snakepen.handler
def leave(*status: object) -> None:
    sys.exit(*status)


@snakepen.handler
async def leave_async(status: int) -> None:
    sys.exit(status)


@snakepen.handler
def read_address_zero() -> None:
    ctypes.string_at(0)


@snakepen.handler
def abort() -> None:
    os.abort()


@snakepen.handler
def signal_itself(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


@snakepen.handler
def out_of_memory() -> int:
    return len(bytearray(1 << 62))


@snakepen.handler
def recurse() -> None:
    recurse()


@snakepen.handler
def overflow_the_stack() -> str:
    """Each level passes through C: on CPython before 3.12 nothing but the raised limit stops it."""

    class Endless:
        def __repr__(self) -> str:
            return repr([self])

    sys.setrecursionlimit(1 << 30)
    return repr(Endless())


@snakepen.handler
def close_descriptors() -> None:
    os.closerange(3, 256)


@snakepen.handler
def close_descriptors_and_stay() -> None:
    os.closerange(3, 256)
    while True:
        signal.pause()


@snakepen.handler
def exit_when(path: str) -> int:
    """Answers; the worker ends once it is idle and the file is there."""

    def watch() -> None:
        while not os.path.exists(path):
            threading.Event().wait(0.001)
        os._exit(7)

    threading.Thread(target=watch, daemon=True).start()
    return os.getpid()


@snakepen.handler
def mark_and_die(path: str) -> None:
    with open(path, "a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


@snakepen.handler
def pid() -> int:
    return os.getpid()


_ways: dict[str, Callable[[], object]] = {"exit": lambda: os._exit(1), "abort": os.abort}


@snakepen.handler
def mark_and(path: str, way: str) -> None:
    with open(path, "a") as file:
        file.write("x")
    _ways[way]()
