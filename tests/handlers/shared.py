"""Handlers that abuse the memory that they share with Rust, or lose it in the middle."""

import ctypes
import gc
import mmap
import os
import signal
import sys
import threading
from typing import Any

import snakepen

KEPT: list[Any] = []


def segments() -> list[str]:
    """The shared segments that this process has mapped, by inode."""
    with open("/proc/self/maps") as maps:
        return sorted({line.split()[4] for line in maps if "snakepen-segment" in line})


@snakepen.handler
def mapped(*_: Any) -> list[str]:
    return segments()


@snakepen.handler
async def mapped_async(*_: Any) -> list[str]:
    return segments()


@snakepen.handler
def echo(value: Any) -> Any:
    return value


@snakepen.handler
async def echo_async(value: Any) -> Any:
    return value


@snakepen.handler
def keep(value: memoryview, start: int, stop: int) -> list[str]:
    """Keeps a part of what it was given."""
    KEPT.append(value[start:stop])
    return segments()


@snakepen.handler
def keep_array(value: memoryview) -> None:
    """Keeps an array that refers to what is behind the view, and not to the view."""
    import numpy

    KEPT.append(numpy.ndarray((10,), "u1", value))


@snakepen.handler
def descriptors(*_: Any) -> int:
    return len(os.listdir("/proc/self/fd"))


@snakepen.handler
def refill(size: int) -> Any:
    """Yields one buffer again and again, which it shows as if it could not be written to."""
    buffer = bytearray(size)
    for byte in (1, 2, 3):
        buffer[:] = bytes([byte]) * size
        yield memoryview(buffer).toreadonly()


@snakepen.handler
async def fail_async(value: Any) -> None:
    raise ValueError(len(value))


@snakepen.handler
def collects(on: bool) -> None:
    (gc.enable if on else gc.disable)()


@snakepen.handler
def kept() -> list[list[int]]:
    """What was kept: its length, and the bytes that are in it."""
    return [[len(view), *sorted(set(view))] for view in KEPT]


@snakepen.handler
def forget() -> list[str]:
    KEPT.clear()
    gc.collect()
    return segments()


@snakepen.handler
def fail(value: Any) -> None:
    raise ValueError(len(value))


@snakepen.handler
def die(value: memoryview, moment: str) -> Any:
    """Is killed: with its arguments in its hands, or while its result is on its way."""
    if moment == "at work":
        os.kill(os.getpid(), signal.SIGKILL)
    # The result is larger than the socket takes: it is being sent when this comes.
    threading.Timer(0.002, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return [value] * 3


@snakepen.handler
def fork(value: memoryview, path: str) -> None:
    """A child outlives the request, and looks at its arguments when a file says so."""
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            os.setsid()
            os.close(write)
            os.read(read, 1)
            with open(path + ".new", "w") as file:
                file.write(repr(sorted(set(value))))
            os.rename(path + ".new", path)
        finally:
            os._exit(0)
    os.close(read)
    KEPT.append(write)


@snakepen.handler
def wake() -> None:
    for fd in KEPT:
        os.close(fd)
    KEPT.clear()


def _own() -> Any:
    """The lane: no handler of good faith does this."""
    return sys.modules["snakepen._store"]._connection.lane  # type: ignore[attr-defined]


def _descriptors() -> list[int]:
    found: list[int] = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if "snakepen-segment" in os.readlink(f"/proc/self/fd/{name}"):
                found.append(int(name))
        except OSError:  # the one that read the directory
            pass
    return found


@snakepen.handler
def truncate(value: Any) -> list[str]:
    """Tries to take the pages away under the host."""
    said: list[str] = []
    for fd in _descriptors():
        for size in (0, 1 << 30):
            try:
                os.ftruncate(fd, size)
                said.append("done")
            except PermissionError:
                said.append("refused")
    return said


@snakepen.handler
def scribble(size: int) -> Any:
    """Writes to the segment of its results from a thread, for as long as the worker lives."""
    lane = _own()
    result = bytes(size)

    def write() -> None:
        ours: mmap.mmap = lane._ours
        start = ctypes.addressof(ctypes.c_char.from_buffer(ours))
        for byte in range(1, 1 << 30):
            ctypes.memset(start, byte % 256, size)

    if lane._ours is not None and not KEPT:
        KEPT.append(threading.Thread(target=write, daemon=True))
        KEPT[0].start()
    return result


@snakepen.handler
def lie(how: str) -> Any:
    """Says that its result lies where it doesn't."""
    lane = _own()
    honest = lane.place

    def place(buffers: Any) -> Any:
        generation, serial, places = honest(buffers)
        (index, _, length) = places[0]
        if how == "offset":
            return generation, serial, {0: (index, 1 << 36, length)}
        if how.startswith("end"):
            return generation, serial, {0: (index, len(lane._ours) - 64, length)}
        if how == "generation":
            return generation + 7, serial, places
        if how in ("unsealed", "pipe", "other generation"):
            from _socket import SCM_RIGHTS, SOL_SOCKET

            fd = os.memfd_create("unsealed") if how != "pipe" else os.pipe()[0]
            if how != "pipe":
                os.ftruncate(fd, 1 << 20)
            said = generation + (2 if how == "other generation" else 1)
            rights = [(SOL_SOCKET, SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))]
            lane._socket.sendmsg([said.to_bytes(4, "little")], rights)
            return generation + 1, serial, places
        raise AssertionError(how)

    lane.place = place
    if how == "end, and then the truth":
        from snakepen import _wire

        connection = sys.modules["snakepen._store"]._connection  # type: ignore[attr-defined]
        post = connection._post
        truth = _wire.encode(_wire.RESULT, snakepen.current().id, 0, b"", b"null")
        connection._post = lambda frame: post(b"".join((*frame, truth)))
    return bytes(300_000)


@snakepen.handler
def release_early(value: memoryview) -> int:
    """Gives its arguments back before it has ended, as a broken package might."""
    words = sys.modules["snakepen._store"]._connection.lane._page._words
    for serial in range(1, 100):
        words[65] = serial << 1
    return len(value)


@snakepen.handler
def pid() -> int:
    return os.getpid()
