"""Handlers that use up what a worker may use."""

import os
import time

import snakepen

_kept: list[object] = []


@snakepen.handler
def pid() -> int:
    return os.getpid()


@snakepen.handler
def keep(mebibytes: int) -> int:
    _kept.append(bytearray(b"x" * (mebibytes << 20)))
    return os.getpid()


@snakepen.handler
def hoard() -> None:
    """Takes more and more, 16 MiB at a time."""
    while True:
        _kept.append(bytearray(b"x" * (16 << 20)))
        time.sleep(0.001)


@snakepen.handler
def open_many(count: int) -> int:
    _kept.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(count))
    return os.getpid()


@snakepen.handler
def spin(seconds: float) -> int:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return os.getpid()


@snakepen.handler
def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()
