"""What the benchmarks call."""

import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator

import snakepen


@snakepen.handler
def echo(value: object) -> object:
    return value


@snakepen.handler
def session(job: str, times: int) -> float:
    """Nanoseconds for one operation on a session."""
    session = snakepen.session()
    value = {"name": "small", "numbers": [1, 2, 3], "done": False}
    session["value"] = value
    session["count"] = 0
    session["large"] = bytes(64 << 10)
    programs = session.programs
    if programs.get("p") is None:
        programs.create("p", "echo", value)

    def once() -> object:
        if job == "get":
            return session.get("value")
        if job == "put":
            return session.put("value", value)
        if job == "update":
            return session.update("count", lambda count: count + 1)
        if job == "get 64 KiB":
            return session.get("large")
        return programs.built("p", lambda program: program.definition)

    once()
    start = time.perf_counter_ns()
    for _ in range(times):
        once()
    return (time.perf_counter_ns() - start) / times


@snakepen.handler
async def session_async(_job: str, times: int) -> float:
    session = snakepen.session()
    await session.aput("value", {"name": "small", "numbers": [1, 2, 3], "done": False})
    start = time.perf_counter_ns()
    for _ in range(times):
        await session.aget("value")
    return (time.perf_counter_ns() - start) / times


@snakepen.handler
def kind(value: object) -> str:
    return type(value).__name__


@snakepen.handler
async def async_echo(value: object) -> object:
    return value


@snakepen.handler
async def sleep_5ms(value: object) -> object:
    import asyncio

    await asyncio.sleep(0.005)
    return value


def spin_200us() -> None:
    end = time.perf_counter_ns() + 200_000
    while time.perf_counter_ns() < end:
        pass


@snakepen.handler
def pass_1(value: object) -> object:
    spin_200us()
    return value


@snakepen.handler(batch=8, wait_ms=1)
def pass_8(values: list[object]) -> list[object]:
    spin_200us()
    return values


@snakepen.handler(batch=32, wait_ms=1)
def pass_32(values: list[object]) -> list[object]:
    spin_200us()
    return values


@snakepen.handler
def items(n: int, size: int) -> Iterator[str]:
    item = "x" * size
    for _ in range(n):
        yield item


@snakepen.handler
async def items_async(n: int, size: int) -> AsyncIterator[str]:
    item = "x" * size
    for _ in range(n):
        yield item


@snakepen.handler
def take_all(texts: Iterable[str]) -> int:
    return sum(1 for _ in texts)


@snakepen.handler
def call_rust(job: str, times: int) -> float:
    """Nanoseconds for one call of what Rust exposes."""
    actor = snakepen.actor("actor" if job == "actor" else "echo")
    argument = "x" * (64 << 10) if job == "64 KiB" else {"name": "small", "numbers": [1, 2, 3], "done": False}
    once = actor.cast if job == "cast" else actor.call
    once(argument)
    start = time.perf_counter_ns()
    for _ in range(times):
        once(argument)
    return (time.perf_counter_ns() - start) / times


@snakepen.handler
async def call_rust_async(_job: str, times: int) -> float:
    actor = snakepen.actor("echo")
    argument = {"name": "small", "numbers": [1, 2, 3], "done": False}
    await actor.acall(argument)
    start = time.perf_counter_ns()
    for _ in range(times):
        await actor.acall(argument)
    return (time.perf_counter_ns() - start) / times


@snakepen.handler
def compute(work: bool) -> None:
    """Has a thread compute from now on, beside all calls; or ends it."""
    global computes
    computes = work
    if work:
        threading.Thread(target=_compute, daemon=True).start()


computes = False


def _compute() -> None:
    number = 0
    while computes:
        number += 1
