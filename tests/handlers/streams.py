"""Generators, in streams of all kinds."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator

import snakepen


def _tell(path: str, text: str) -> None:
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w") as file:
        file.write(text)
    os.rename(draft, path)


@snakepen.handler
def echo(value: object = None) -> object:
    return value


@snakepen.handler
def pid() -> int:
    return os.getpid()


@snakepen.handler
def count(n: int) -> Iterator[int]:
    yield from range(n)


@snakepen.handler
async def count_async(n: int) -> AsyncIterator[int]:
    for i in range(n):
        if i % 10 == 0:
            await asyncio.sleep(0)
        yield i


@snakepen.handler
def tidy(n: int, ended: str) -> Iterator[int]:
    """Says how it ended."""
    error = "nothing"
    try:
        yield from range(n)
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        _tell(ended, f"{error} {snakepen.current().cancelled}")


@snakepen.handler
def tidy_large(n: int, ended: str) -> Iterator[tuple[int, str]]:
    try:
        for i in range(n):
            yield i, "x" * 400_000
    except GeneratorExit:
        _tell(ended, "GeneratorExit")
        raise


@snakepen.handler
async def tidy_large_async(n: int, ended: str) -> AsyncIterator[tuple[int, str]]:
    try:
        for i in range(n):
            yield i, "x" * 400_000
    except GeneratorExit:
        await asyncio.sleep(0)
        _tell(ended, "GeneratorExit")
        raise


@snakepen.handler
async def tidy_async(n: int, ended: str) -> AsyncIterator[int]:
    try:
        for i in range(n):
            yield i
    finally:
        await asyncio.sleep(0)
        _tell(ended, "closed")


@snakepen.handler
def large(n: int, size: int) -> Iterator[tuple[int, str]]:
    """Its session knows how far it is."""
    session = snakepen.session()
    text = "x" * size
    for i in range(n):
        session["made"] = i + 1
        yield i, text


@snakepen.handler
def fails(n: int) -> Iterator[int]:
    yield from range(n)
    raise ValueError(f"after {n}")


@snakepen.handler
async def fails_async(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i
    raise ValueError(f"after {n}")


@snakepen.handler
def bad(n: int) -> Iterator[object]:
    yield from range(n)
    yield {"rows": [{1, 2}]}


@snakepen.handler
def killed(n: int, started: str) -> Iterator[int]:
    """Waits for its end after some items."""
    yield from range(n)
    _tell(started, str(os.getpid()))
    time.sleep(1000)


@snakepen.handler
def slow(n: int, seconds: float, ended: str) -> Iterator[int]:
    """Computes before each item."""
    error = "nothing"
    try:
        for i in range(n):
            yield i
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                pass
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        _tell(ended, error)


@snakepen.handler
def stubborn(started: str) -> Iterator[int]:
    """Never ends by itself when it is closed."""
    try:
        while True:
            yield 1
    finally:
        _tell(started, str(os.getpid()))
        while True:
            try:
                time.sleep(1000)
            except BaseException:
                pass


@snakepen.handler
def remembers(n: int) -> Iterator[int]:
    """Uses its session between items."""
    session = snakepen.session()
    for i in range(n):
        session.update("count", lambda count: count + 1, default=0)
        yield i


@snakepen.handler
def dies_once(mark: str, items: int) -> Iterator[int]:
    if not os.path.exists(mark):
        _tell(mark, "x")
        yield from range(items)
        if items:
            snakepen.global_session().get("nothing")  # the items are gone by then
        os._exit(3)
    yield 42


_at_work = 0


@snakepen.handler
async def overlapping(n: int) -> AsyncIterator[tuple[int, int]]:
    """Numbers, and how many of its kind are at work."""
    global _at_work
    _at_work += 1
    try:
        for i in range(n):
            await asyncio.sleep(0)
            yield i, _at_work
    finally:
        _at_work -= 1


@snakepen.handler
async def asks_between(n: int) -> AsyncIterator[int]:
    session = snakepen.session()
    for _ in range(n):
        yield await session.aupdate("count", lambda count: count + 1, default=0)


@snakepen.handler
def chunks(n: int, size: int) -> Iterator[bytearray]:
    """Each in the memory of the one before."""
    chunk = bytearray(size)
    for i in range(n):
        chunk[:] = bytes([i % 256]) * size
        yield chunk
