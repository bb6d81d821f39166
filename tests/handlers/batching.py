"""Handlers that take several calls at once, as a list."""

import os
import time
from pathlib import Path
from typing import Any

import snakepen

sizes: list[int] = []


@snakepen.handler(batch=32, wait_ms=50)
def double(numbers: list[int]) -> list[int]:
    sizes.append(len(numbers))
    return [2 * number for number in numbers]


@snakepen.handler(batch=8)
def at_once(numbers: list[int]) -> list[int]:
    sizes.append(len(numbers))
    return numbers


@snakepen.handler(batch=16, wait_ms=50)
async def doubled_later(numbers: list[int]) -> list[int]:
    import asyncio

    sizes.append(len(numbers))
    await asyncio.sleep(0.001)
    return [2 * number for number in numbers]


@snakepen.handler
def seen() -> list[int]:
    told = sizes[:]
    sizes.clear()
    return told


@snakepen.handler(batch=4, wait_ms=1000)
def items(items: list[Any]) -> list[Any]:
    return items


@snakepen.handler(batch=4, wait_ms=1000)
def some_fail(numbers: list[int]) -> list[Any]:
    return [ValueError(f"not {number}") if number % 2 else {number} if number == 2 else number for number in numbers]


@snakepen.handler(batch=4, wait_ms=1000)
def all_fail(numbers: list[int]) -> list[int]:
    raise KeyError(f"all of {sorted(numbers)}")


@snakepen.handler(batch=4, wait_ms=1000)
def too_few(numbers: list[int]) -> list[int]:
    return numbers[1:]


@snakepen.handler(batch=4, wait_ms=1000)
def no_list(numbers: list[int]) -> Any:
    return {number: number for number in numbers}


@snakepen.handler(batch=3, wait_ms=1000)
def until_there(paths: list[str]) -> list[int]:
    """At work until the first path is there."""
    try:
        Path(paths[0] + ".started").touch()
        while not Path(paths[0]).exists():
            time.sleep(0.001)
    finally:
        Path(paths[0] + ".ended").touch()
    return [len(paths)] * len(paths)


@snakepen.handler(batch=3, wait_ms=1000)
def dies(paths: list[str]) -> list[int]:
    os._exit(4)


@snakepen.handler
def waits_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.001)
