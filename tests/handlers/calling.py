"""Handlers that call what the Rust program exposes."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import snakepen
from snakepen import actor, handler


@handler
def forward(name: str, *args: Any) -> Any:
    return actor(name).call(*args)


@handler
async def forward_async(name: str, *args: Any) -> Any:
    return await actor(name).acall(*args)


@handler
def forward_named(target: str, **named: Any) -> Any:
    return actor(target).call(**named)


@handler
def cast(name: str, *args: Any) -> None:
    actor(name).cast(*args)


@handler
async def cast_async(name: str, *args: Any) -> None:
    await actor(name).acast(*args)


@handler
def failure(name: str, *args: Any) -> list[str]:
    try:
        actor(name).call(*args)
    except snakepen.ActorError as error:
        return [type(error).__name__, error.type, error.message]
    raise AssertionError("it did not fail")


@handler
def failure_of_cast(name: str, *args: Any) -> list[str]:
    try:
        actor(name).cast(*args)
    except snakepen.ActorError as error:
        return [type(error).__name__, error.type, error.message]
    raise AssertionError("it did not fail")


@handler
def misuse() -> list[str]:
    def refused(use: Any) -> str:
        try:
            use()
        except (TypeError, ValueError, snakepen.ActorError) as error:
            return f"{type(error).__name__}: {error}"
        raise AssertionError("it was not refused")

    wrong: Any = 3
    echo = actor("echo")
    return [
        refused(lambda: actor(wrong)),
        refused(lambda: echo.call(1, a=2)),
        refused(lambda: echo.call({"a": {1}})),
        refused(lambda: echo.call("\ud800")),
        refused(lambda: actor("\ud800").call()),
        refused(lambda: echo.call(float("nan"))),
        refused(lambda: echo.call("x" * (2 << 20))),
    ]


@handler
def by_threads(threads: int, each: int) -> int:
    """By threads that have the handler's context, and by some that have not."""
    double = actor("double")
    totals: list[int] = []

    def work(first: int) -> None:
        totals.append(sum(double.call(first + n) for n in range(each)))

    workers = [threading.Thread(target=work, args=(n * each,)) for n in range(threads // 2)]
    for worker in workers:
        worker.start()
    with ThreadPoolExecutor(threads - len(workers)) as pool:
        futures = [pool.submit(work, n * each) for n in range(len(workers), threads)]
        for future in futures:
            future.result()
    for worker in workers:
        worker.join()
    return sum(totals)


@handler
async def by_tasks(tasks: int) -> int:
    return sum(await asyncio.gather(*(actor("double").acall(n) for n in range(tasks))))


@handler
def own_loop(name: str, *args: Any) -> Any:
    return asyncio.run(actor(name).acall(*args))


@handler
async def leaves_early(name: str) -> str:
    call = asyncio.create_task(actor(name).acall())
    await actor("begun").acall()
    call.cancel()
    try:
        await call
    except asyncio.CancelledError:
        return "left"
    raise AssertionError("it was answered")


@handler
def cleans_up(name: str, last: str) -> Any:
    """The caller gives up while it waits; what it then calls has the grace."""
    try:
        return actor(name).call()
    finally:
        actor(last).call()


@handler
def in_shield(name: str, last: str) -> None:
    with snakepen.shield():
        try:
            actor(last).call(actor(name).call())
        except snakepen.ActorError as error:
            actor(last).call(error.type)


@handler
def remaining() -> float | None:
    return snakepen.current().remaining()


@handler
def nest(depth: int) -> int:
    """So many calls deep."""
    return 1 if depth <= 1 else 1 + actor("nest").call(depth - 1)


@handler
def left_behind() -> None:
    """A thread that calls when its handler has ended."""
    request = snakepen.current()
    context = __import__("contextvars").copy_context()

    def work() -> None:
        try:
            actor("gate").call()
            told = "answered"
        except snakepen.ActorError as error:
            told = error.type
        actor_told.append(told)

    actor_told.clear()
    thread = threading.Thread(target=context.run, args=(work,))
    thread.start()
    left.append(thread)
    actor("started").call(request.id)


left: list[threading.Thread] = []
actor_told: list[str] = []


@handler
def told_behind() -> list[str]:
    left.pop().join()
    return actor_told


@handler
def forked() -> str:
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            actor("double").call(1)
            told = "answered"
        except RuntimeError as error:
            told = str(error)
        os.write(write, told.encode())
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        return pipe.read()
