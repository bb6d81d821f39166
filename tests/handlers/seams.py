"""Handlers for what no single part of Snakepen has in mind: where streams, inputs, batches, calls to Rust, sessions and
actors meet."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import snakepen


@snakepen.handler
async def count() -> int:
    return 1


@snakepen.handler
async def waits_for(path: str) -> str:
    while not Path(path).exists():
        await asyncio.sleep(0.001)
    return path


_ended = asyncio.Event()


@snakepen.handler
async def ends() -> None:
    try:
        await asyncio.sleep(1000)
    finally:
        _ended.set()


@snakepen.handler
async def blocks_after_its_end(seconds: float) -> float:
    await _ended.wait()
    time.sleep(seconds)
    return seconds


def plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """What decorators do that know nothing of `async def`: what they return is a plain function."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(*args)

    return call


@snakepen.handler
@plainly
async def asks(name: str) -> Any:
    return await snakepen.actor(name).acall()


@snakepen.handler
async def asks_and_blocks(name: str) -> Any:
    return snakepen.actor(name).call()


@snakepen.handler
async def asks_in_a_thread(name: str) -> Any:
    return await asyncio.to_thread(snakepen.actor(name).call)


@snakepen.handler
@plainly
async def counts_up(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number


@snakepen.handler(batch=8, wait_ms=3_000)
def gathered(numbers: list[int]) -> list[int]:
    return numbers


@snakepen.handler(batch=8, wait_ms=3_000)
async def gathered_later(numbers: list[int]) -> list[int]:
    return numbers


@snakepen.handler(batch=2, wait_ms=20_000)
def burns(numbers: list[int]) -> list[int]:
    while True:
        pass


@snakepen.handler(batch=2, wait_ms=20_000)
def looks_up_late(paths: list[str]) -> list[Any]:
    """Each is a file that is waited for before Rust is asked."""
    for path in paths:
        while not Path(path).exists():
            time.sleep(0.001)
    return [snakepen.actor("left").call() for _ in paths]


@snakepen.handler
def pairs(first: Iterator[str], second: Iterator[str]) -> int:
    return sum(len(one) + len(other) for one, other in zip(first, second, strict=True))


@snakepen.handler
async def reads_and_blocks(numbers: Iterator[int], path: str) -> None:
    """Iterates as if it were a plain handler."""
    Path(path).touch()
    for _ in numbers:
        pass


@snakepen.handler
def spins(path: str) -> None:
    try:
        while True:
            time.sleep(0.001)
    except snakepen.Cancelled:
        Path(path).touch()
        raise


@snakepen.handler
async def within_its_turn(handler: str, path: str) -> Any:
    """Calls the handler in its own session, through Rust, once the file is there."""
    while not Path(path).exists():
        await asyncio.sleep(0.001)
    try:
        return await snakepen.actor("in_session").acall(handler)
    except snakepen.ActorError as error:
        return error.type


class Ledger:
    """An actor whose methods are generators."""

    def __init__(self) -> None:
        self.entries: list[int] = []

    def add(self, *numbers: int) -> Iterator[int]:
        for number in numbers:
            self.entries.append(number)
            yield len(self.entries)

    async def aadd(self, *numbers: int) -> AsyncIterator[int]:
        for number in numbers:
            self.entries.append(number)
            yield len(self.entries)

    def crash(self) -> None:
        import os

        os._exit(3)

    def all(self) -> list[int]:
        return self.entries

    def dump_state(self) -> list[int]:
        return self.entries

    def load_state(self, state: list[int]) -> None:
        self.entries = state


@snakepen.handler
async def items(count: int, size: int) -> AsyncIterator[Any]:
    for number in range(count):
        if number % 7 == 3:
            await asyncio.sleep(0.0005)
        yield bytes([number % 256]) * size if size else number


@snakepen.handler
def plain_items(count: int, size: int) -> Iterator[Any]:
    for number in range(count):
        yield bytes([number % 256]) * size if size else number


@snakepen.handler
async def echo(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


@snakepen.handler
async def sums(numbers: AsyncIterator[int]) -> int:
    return sum([number async for number in numbers])


@snakepen.handler(batch=16, wait_ms=2)
async def sizes(values: list[bytes]) -> list[int]:
    await asyncio.sleep(0.001)
    return [len(value) for value in values]


@snakepen.handler(batch=16, wait_ms=2)
def echoes(values: list[bytes]) -> list[bytes]:
    return values


@snakepen.handler
async def nested(depth: int) -> int:
    return 0 if depth == 0 else 1 + await snakepen.actor("nested").acall(depth - 1)


@snakepen.handler
async def nested_in_a_thread(name: str, argument: Any) -> Any:
    return await asyncio.to_thread(snakepen.actor(name).call, argument)


@snakepen.handler
async def in_its_session(key: str) -> int:
    return snakepen.session().get(key, 0)
