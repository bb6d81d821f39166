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
async def asks_in_a_thread(name: str) -> Any:
    return await asyncio.to_thread(snakepen.actor(name).call)


@snakepen.handler(batch=8, wait_ms=3_000)
def gathered(numbers: list[int]) -> list[int]:
    return numbers


@snakepen.handler(batch=8, wait_ms=3_000)
async def gathered_later(numbers: list[int]) -> list[int]:
    return numbers
