"""Handlers that most tests use."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator

import snakepen


@snakepen.handler
def echo(value: object = None) -> object:
    return value


@snakepen.handler
def add(a: int, b: int) -> int:
    return a + b


@snakepen.handler
def pid() -> int:
    return os.getpid()


@snakepen.handler
def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@snakepen.handler
async def async_sleep(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@snakepen.handler
def fail(message: str) -> None:
    raise ValueError(message)


@snakepen.handler
def touch(path: str, seconds: float = 0.0) -> None:
    """Leaves a mark that it has started, then takes its time."""
    with open(path, "a") as file:
        file.write("x")
    time.sleep(seconds)


@snakepen.handler
def count_up(n: int) -> Iterator[int]:
    yield from range(n)


@snakepen.handler
async def async_count_up(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


@snakepen.handler
def total(numbers: Iterable[int]) -> int:
    return sum(numbers)


@snakepen.handler
def pass_on(numbers: Iterable[int]) -> Iterator[int]:
    yield from numbers
