"""Handlers that tell how far they are."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import copy_context

import snakepen


@snakepen.handler
def steps(gates: list[str]) -> str:
    """A step for each file, once it is there."""
    for number, gate in enumerate(gates):
        snakepen.progress(number, len(gates), f"waits for {os.path.basename(gate)}")
        while not os.path.exists(gate):
            time.sleep(0.001)
    return "done"


@snakepen.handler
async def steps_async(gates: list[str]) -> str:
    for number, gate in enumerate(gates):
        snakepen.progress(number, len(gates), f"waits for {os.path.basename(gate)}")
        while not os.path.exists(gate):
            await asyncio.sleep(0.001)
    return "done"


@snakepen.handler
def loop(n: int) -> int:
    for number in range(n):
        snakepen.progress(number + 1, n)
    return n


@snakepen.handler
def fails() -> None:
    snakepen.progress(1, message="nearly")
    raise ValueError


@snakepen.handler
def items(n: int) -> Iterator[int]:
    for number in range(n):
        snakepen.progress(number + 1, n)
        yield number


@snakepen.handler
async def items_async(n: int) -> AsyncIterator[int]:
    for number in range(n):
        snakepen.progress(number + 1, n)
        yield number


@snakepen.handler
def in_a_thread() -> None:
    thread = threading.Thread(target=copy_context().run, args=(snakepen.progress, 1, 2, "ä" * 5000))
    thread.start()
    thread.join()


@snakepen.handler
def left_behind(n: int, ended: str) -> None:
    """Its thread goes on telling for a while, and says when it has ended."""

    def tell() -> None:
        for number in range(n):
            snakepen.progress(number)
            time.sleep(0.001)
        open(ended, "x").close()

    threading.Thread(target=copy_context().run, args=(tell,), daemon=True).start()


@snakepen.handler
def wrong() -> None:
    snakepen.progress(float("nan"))
