"""Handlers of which one worker runs several at once."""

import asyncio
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import snakepen

gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
arrived: defaultdict[str, int] = defaultdict(int)
plain = threading.Lock()


def tell(path: str, text: str) -> None:
    """The file is there when its text is."""
    draft = Path(f"{path}.draft")
    draft.write_text(text)
    draft.rename(path)


@snakepen.handler
async def pid() -> int:
    return os.getpid()


@snakepen.handler
async def wait_for(gate: str) -> list[object]:
    await gates[gate].wait()
    return [gate, snakepen.current().id, os.getpid()]


@snakepen.handler
async def open_gate(gate: str) -> None:
    gates[gate].set()


@snakepen.handler
async def count(gate: str) -> int:
    return arrived[gate]


@snakepen.handler
async def meet(gate: str, others: int) -> int:
    """Returns when so many are here at once."""
    arrived[gate] += 1
    if arrived[gate] == others:
        gates[gate].set()
    await gates[gate].wait()
    return snakepen.current().id


@snakepen.handler
async def tidies(path: str, gate: str) -> None:
    arrived[gate] += 1
    try:
        await asyncio.sleep(1000)
    finally:
        tell(path, f"{snakepen.current().cancelled}")


@snakepen.handler
async def shielded(path: str, gate: str) -> None:
    with snakepen.shield():
        arrived[gate] += 1
        while not snakepen.current().cancelled:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        tell(path, "whole")
    await asyncio.sleep(1000)


@snakepen.handler
async def remembers(number: int) -> int:
    session = snakepen.session()
    for _ in range(10):
        await session.aupdate("sum", lambda held: held + number, default=0)
        await asyncio.sleep(0)
    return await session.aget("sum")


@snakepen.handler
def alone() -> int:
    """Nothing like it is at work, and no event loop runs."""
    assert plain.acquire(blocking=False), "another one is at work"
    try:
        return asyncio.run(nested())
    finally:
        plain.release()


async def nested() -> int:
    await asyncio.sleep(0.001)
    return snakepen.current().id


@snakepen.handler
def holds(path: str) -> None:
    """A plain one that is at work until it is ended."""
    Path(path).touch()
    time.sleep(1000)


@snakepen.handler
async def blocks(path: str) -> None:
    """Keeps the event loop from everything else."""
    Path(path).touch()
    time.sleep(1000)


@snakepen.handler
def counts_plainly() -> Iterator[int]:
    yield from range(1_000_000)


@snakepen.handler
async def stubborn(gate: str) -> None:
    arrived[gate] += 1
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass


@snakepen.handler
async def fails(number: int) -> None:
    await asyncio.sleep(0)
    raise ValueError(f"number {number}")


@snakepen.handler
async def dies() -> None:
    os._exit(3)


@snakepen.handler
async def leaves() -> None:
    raise SystemExit(5)


@snakepen.handler
def leaves_plain() -> None:
    raise SystemExit(6)
