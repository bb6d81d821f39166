"""Handlers that most tests use."""

import asyncio
import os
import time

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
