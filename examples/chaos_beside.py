"""More handlers of the chaos run: what travels beside arguments and answers, what calls Rust, and what is gathered."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn

from chaos_notes import answer, mixed, note, piece

import snakepen

# A stream of so many items is not to come to its end.
ENDLESS = 2000

Answer = tuple[int, int, str]
Item = tuple[int, int, int, str, list[Any]]


# === Streams ===


def item(nonce: int, index: int, size: int, beside: int) -> Item:
    unit = f"{nonce + index:016x}"
    buffers = [piece(nonce, index, beside)] if beside else []
    return nonce, snakepen.current().slot, index, unit * size, buffers


@snakepen.handler
def streams(nonce: int, count: int, size: int, beside: int, fails: int) -> Iterator[Item]:
    note("ran", nonce)
    try:
        for index in range(count):
            yield item(nonce, index, size, beside)
        if fails:
            raise LookupError(f"nothing more for {nonce}")
        if count >= ENDLESS:
            note("ended", nonce)
    finally:
        note("tidied", nonce)


@snakepen.handler
async def streams_async(nonce: int, count: int, size: int, beside: int, fails: int) -> AsyncIterator[Item]:
    note("ran", nonce)
    try:
        for index in range(count):
            yield item(nonce, index, size, beside)
            if index % 8 == 7:
                await asyncio.sleep(0.001)
        if fails:
            raise LookupError(f"nothing more for {nonce}")
        if count >= ENDLESS:
            note("ended", nonce)
    finally:
        note("tidied", nonce)


@snakepen.handler
def streams_slowly(nonce: int, count: int, seconds: float) -> Iterator[Item]:
    """Some items, and then none for too long."""
    note("ran", nonce)
    for index in range(count):
        yield item(nonce, index, 1, 0)
    time.sleep(seconds)
    note("ended", nonce)


@snakepen.handler
async def streams_slowly_async(nonce: int, count: int, seconds: float) -> AsyncIterator[Item]:
    note("ran", nonce)
    for index in range(count):
        yield item(nonce, index, 1, 0)
    await asyncio.sleep(seconds)
    note("ended", nonce)


@snakepen.handler
def dies_in_stream(nonce: int, count: int, status: int) -> Iterator[Item]:
    note("ran", nonce)
    for index in range(count):
        yield item(nonce, index, 1, 0)
    os._exit(status)


# === Inputs and progress ===


@snakepen.handler
def sums(nonce: int, most: int, items: snakepen.Input) -> Answer:
    note("ran", nonce)
    count, total, end = 0, 0, ""
    try:
        while count < most:
            total ^= int(next(items), 16)
            count += 1
    except StopIteration:
        end = " all"
    except snakepen.InputError as error:
        end = " failed" if str(nonce) in str(error) else f" failed by {error}"
    return answer(nonce, f"{count} {total:x}{end}")


@snakepen.handler
async def sums_async(nonce: int, most: int, items: snakepen.Input) -> Answer:
    note("ran", nonce)
    count, total, end = 0, 0, ""
    try:
        while count < most:
            total ^= int(await anext(items), 16)
            count += 1
    except StopAsyncIteration:
        end = " all"
    except snakepen.InputError as error:
        end = " failed" if str(nonce) in str(error) else f" failed by {error}"
    return answer(nonce, f"{count} {total:x}{end}")


@snakepen.handler
def echoes(nonce: int, items: snakepen.Input) -> Iterator[Item]:
    """A stream of what is read from another one."""
    note("ran", nonce)
    for index, text in enumerate(items):
        yield nonce, snakepen.current().slot, index, text, []


@snakepen.handler
async def echoes_async(nonce: int, items: snakepen.Input) -> AsyncIterator[Item]:
    note("ran", nonce)
    index = 0
    async for text in items:
        yield nonce, snakepen.current().slot, index, text, []
        index += 1


@snakepen.handler
def progresses(nonce: int, steps: int, seconds: float) -> Answer:
    note("ran", nonce)
    for step in range(1, steps + 1):
        snakepen.progress(step, steps, str(nonce))
        time.sleep(seconds)
    return answer(nonce, "")


@snakepen.handler
async def progresses_async(nonce: int, steps: int, seconds: float) -> Answer:
    note("ran", nonce)
    for step in range(1, steps + 1):
        snakepen.progress(step, steps, str(nonce))
        await asyncio.sleep(seconds)
    return answer(nonce, "")


# === Buffers and arrays ===

kept: list[tuple[int, int, Any]] = []
"""Views of what was in earlier calls: they must never change."""


def check(nonce: int, index: int, view: Any) -> None:
    found = bytes(view)
    if found != piece(nonce, index, len(found)):
        raise AssertionError(f"buffer {index} of {nonce}, {len(found)} bytes, does not hold what it should")


def checked(nonce: int, views: list[Any]) -> None:
    for index, view in enumerate(views):
        check(nonce, index, view)


def made(nonce: int, sizes: list[int]) -> list[Any]:
    kinds = (bytes, bytearray, memoryview)
    return [kinds[at % 3](piece(nonce, 100 + at, size)) for at, size in enumerate(sizes)]


@snakepen.handler
def buffers(nonce: int, views: list[Any], sizes: list[int]) -> tuple[int, int, str, list[Any]]:
    note("ran", nonce)
    checked(nonce, views)
    return *answer(nonce, ""), made(nonce, sizes)


@snakepen.handler
async def buffers_async(nonce: int, views: list[Any], sizes: list[int]) -> tuple[int, int, str, list[Any]]:
    """Others come and go while it has its views."""
    note("ran", nonce)
    checked(nonce, views)
    await asyncio.sleep(0.003)
    checked(nonce, views)
    return *answer(nonce, ""), made(nonce, sizes)


@snakepen.handler
def keeps_buffers(nonce: int, views: list[Any], sizes: list[int]) -> tuple[int, int, str, list[Any]]:
    note("ran", nonce)
    for of, index, view in kept:
        check(of, index, view)
    checked(nonce, views)
    kept.extend((nonce, index, view) for index, view in enumerate(views))
    del kept[:-6]
    return *answer(nonce, ""), made(nonce, sizes)


@snakepen.handler(writable=True)
def writes_buffers(nonce: int, views: list[Any], sizes: list[int]) -> tuple[int, int, str, list[Any]]:
    """Gives back what it has written into what it was given; sizes are those of the views."""
    note("ran", nonce)
    checked(nonce, views)
    for index, (view, size) in enumerate(zip(views, sizes, strict=True)):
        view[:] = piece(nonce, 100 + index, size)
    return *answer(nonce, ""), views


@snakepen.handler
def arrays(nonce: int, arrays: list[Any]) -> tuple[int, int, str, list[Any], list[Any]]:
    note("ran", nonce)
    checked(nonce, arrays)
    return *answer(nonce, ""), [], arrays


@snakepen.handler
def too_much(nonce: int, size: int) -> tuple[int, int, str, list[Any]]:
    note("ran", nonce)
    return *answer(nonce, ""), [bytes(size)]


# === Calls to Rust ===


@snakepen.handler
def asks(nonce: int, number: int) -> Answer:
    note("ran", nonce)
    return answer(nonce, snakepen.actor("mix").call(nonce, number))


@snakepen.handler
async def asks_async(nonce: int, number: int) -> Answer:
    note("ran", nonce)
    mix = snakepen.actor("mix")
    texts = await asyncio.gather(*(mix.acall(nonce, number + more) for more in range(4)))
    if texts != [mixed(nonce, number + more) for more in range(4)]:
        raise AssertionError(f"other calls' answers: {texts}")
    return answer(nonce, texts[0])


@snakepen.handler
def asks_mortal(nonce: int, number: int) -> Answer:
    note("ran", nonce)
    try:
        return answer(nonce, snakepen.actor("mortal").call(nonce, number))
    except snakepen.ActorError as error:
        return answer(nonce, error.type)


@snakepen.handler
async def asks_mortal_async(nonce: int, number: int) -> Answer:
    note("ran", nonce)
    try:
        return answer(nonce, await snakepen.actor("mortal").acall(nonce, number))
    except snakepen.ActorError as error:
        return answer(nonce, error.type)


@snakepen.handler
def asks_failing(nonce: int, panics: int) -> Answer:
    note("ran", nonce)
    return answer(nonce, snakepen.actor("fails").call(nonce, bool(panics)))


@snakepen.handler
def casts(nonce: int) -> Answer:
    note("ran", nonce)
    snakepen.actor("tally").cast(nonce)
    note("cast", nonce)
    return answer(nonce, "")


@snakepen.handler
async def casts_async(nonce: int) -> Answer:
    note("ran", nonce)
    await snakepen.actor("tally").acast(nonce)
    note("cast", nonce)
    return answer(nonce, "")


@snakepen.handler
def waits(nonce: int, seconds: float) -> Answer:
    note("ran", nonce)
    snakepen.actor("wait").call(nonce, seconds)
    note("ended", nonce)
    return answer(nonce, "")


@snakepen.handler
async def waits_async(nonce: int, seconds: float) -> Answer:
    note("ran", nonce)
    await snakepen.actor("wait").acall(nonce, seconds)
    note("ended", nonce)
    return answer(nonce, "")


@snakepen.handler
async def leaves_early(nonce: int, seconds: float) -> Answer:
    """Does not wait for what it has called, and goes on."""
    note("ran", nonce)
    try:
        await asyncio.wait_for(snakepen.actor("wait").acall(nonce, 60.0), seconds)
    except asyncio.TimeoutError:
        return answer(nonce, "left")
    return answer(nonce, "waited")


@snakepen.handler
def nests(nonce: int, depth: int, where: str) -> Answer:
    """Calls Rust, which calls Python."""
    note("ran", nonce)
    try:
        return answer(nonce, snakepen.actor(where).call(nonce, depth, snakepen.current().slot))
    except snakepen.ActorError as error:
        return answer(nonce, told(error))


@snakepen.handler
async def nests_async(nonce: int, depth: int, where: str) -> Answer:
    note("ran", nonce)
    try:
        return answer(nonce, await snakepen.actor(where).acall(nonce, depth, snakepen.current().slot))
    except snakepen.ActorError as error:
        return answer(nonce, told(error))


def told(error: snakepen.ActorError) -> str:
    if isinstance(error, snakepen.WouldDeadlock) != (error.type == "WouldDeadlock"):
        raise AssertionError(f"a {type(error).__name__} of type {error.type}")
    return f"inner {error.type}"


# === Batches ===


def one(nonce: int, number: int) -> Any:
    if number == 1:
        return LookupError(f"nothing for {nonce}")
    return {nonce} if number == 2 else answer(nonce, mixed(nonce, number))


@snakepen.handler(batch=16, wait_ms=3)
def batches(items: list[list[int]]) -> list[Any]:
    for nonce, _ in items:
        note("ran", nonce)
    return [one(nonce, number) for nonce, number in items]


@snakepen.handler(batch=8, wait_ms=2)
async def batches_async(items: list[list[int]]) -> list[Any]:
    for nonce, _ in items:
        note("ran", nonce)
    await asyncio.sleep(0.002)
    return [one(nonce, number) for nonce, number in items]


@snakepen.handler(batch=6, wait_ms=5)
def batches_fail(items: list[list[int]]) -> NoReturn:
    for nonce, _ in items:
        note("ran", nonce)
    raise LookupError(f"nothing for {[nonce for nonce, _ in items]}")


@snakepen.handler(batch=4, wait_ms=5)
def batches_sleep(items: list[list[Any]]) -> list[Any]:
    """Longer than any of its callers has."""
    for nonce, _ in items:
        note("ran", nonce)
    time.sleep(max(seconds for _, seconds in items))
    for nonce, _ in items:
        note("ended", nonce)
    return [answer(nonce, "") for nonce, _ in items]


@snakepen.handler(batch=8, wait_ms=5)
def batches_die(items: list[list[int]]) -> list[Any]:
    for nonce, _ in items:
        note("ran", nonce)
    if any(dies for _, dies in items):
        os._exit(6)
    return [answer(nonce, "") for nonce, _ in items]


# === What holds up a loop ===


@snakepen.handler
async def holds_loop(nonce: int, seconds: float) -> Answer:
    note("ran", nonce)
    time.sleep(seconds)
    note("ended", nonce)
    return answer(nonce, "")


@snakepen.handler
async def swallows(nonce: int, seconds: float) -> Answer:
    """A task that is cancelled, and does not mind."""
    note("ran", nonce)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            await asyncio.sleep(min(left, 0.02))
        except asyncio.CancelledError:
            continue
    note("ended", nonce)
    return answer(nonce, "")
