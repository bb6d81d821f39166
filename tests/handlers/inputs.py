"""Handlers whose arguments are streams on the Rust side."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import snakepen


def _tell(path: str, text: str) -> None:
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w") as file:
        file.write(text)
    os.rename(draft, path)


@snakepen.handler
def pid() -> int:
    return os.getpid()


@snakepen.handler
def total(numbers: Iterable[int], start: int = 0) -> int:
    return sum(numbers, start)


@snakepen.handler
async def total_async(numbers: Any) -> int:
    total = 0
    async for number in numbers:
        total += number
    return total


@snakepen.handler
def zipped(left: Iterable[int], right: Iterable[str]) -> list[tuple[int, str]]:
    return list(zip(left, right, strict=True))


@snakepen.handler
def doubled(numbers: Iterable[int]) -> Iterator[int]:
    for number in numbers:
        yield 2 * number


@snakepen.handler
async def doubled_async(numbers: Any) -> AsyncIterator[int]:
    async for number in numbers:
        yield 2 * number


@snakepen.handler
def first(numbers: Iterable[int], n: int) -> list[int]:
    it = iter(numbers)
    return [next(it) for _ in range(n)]


@snakepen.handler
def unused(numbers: Iterable[int]) -> str:
    return type(numbers).__name__


@snakepen.handler
def sizes(texts: Iterable[str], ready: str, go: str) -> list[int]:
    """Takes one, then waits before it takes the others."""
    it = iter(texts)
    found = [len(next(it))]
    _tell(ready, "x")
    while not os.path.exists(go):
        time.sleep(0.001)
    return found + [len(text) for text in it]


@snakepen.handler
def errors(numbers: Iterable[object]) -> tuple[list[object], str]:
    seen: list[object] = []
    try:
        for number in numbers:
            seen.append(number)
    except snakepen.InputError as error:
        return seen, str(error)
    return seen, ""


@snakepen.handler
def waits(numbers: Iterable[int], ended: str) -> None:
    """Says how its wait for an item ends."""
    try:
        for _ in numbers:
            pass
    except BaseException as error:
        _tell(ended, type(error).__name__)
        raise


@snakepen.handler
async def waits_async(numbers: Any, ended: str) -> None:
    try:
        async for _ in numbers:
            pass
    except BaseException as error:
        _tell(ended, type(error).__name__)
        raise


@snakepen.handler
def computes(numbers: Iterable[int], started: str) -> None:
    next(iter(numbers))
    _tell(started, str(os.getpid()))
    time.sleep(1000)


@snakepen.handler
def dies_once(numbers: Iterable[int], mark: str, take: bool) -> int:
    if not os.path.exists(mark):
        _tell(mark, "x")
        if take:
            next(iter(numbers))
        os._exit(3)
    return sum(numbers)


@snakepen.handler
def in_threads(numbers: Iterable[int], n: int) -> list[int]:
    async def all_of_them() -> list[int]:
        found: list[int] = []
        await asyncio.gather(*(asyncio.to_thread(found.extend, numbers) for _ in range(n)))
        return sorted(found)

    return asyncio.run(all_of_them())


@snakepen.handler
def lengths(chunks: Iterable[memoryview]) -> list[tuple[int, int]]:
    """Of each chunk: its length, and its first byte."""
    return [(len(chunk), chunk[0]) for chunk in chunks]
