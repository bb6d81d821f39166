"""Handlers that keep their state in sessions."""

import asyncio
import os
import threading
import time
from typing import Any

import snakepen


@snakepen.handler
def remember(fact: str) -> list[str]:
    return snakepen.session().update("facts", lambda facts: [*facts, fact], default=[])


@snakepen.handler
async def remember_async(fact: str) -> list[str]:
    return await snakepen.session().aupdate("facts", lambda facts: [*facts, fact], default=[])


@snakepen.handler
def recall(key: str) -> Any:
    return snakepen.session()[key]


@snakepen.handler
def increment(times: int) -> int:
    for _ in range(times):
        value = snakepen.session().update("count", lambda count: count + 1, default=0)
    return value


@snakepen.handler
async def increment_async(times: int) -> int:
    for _ in range(times):
        value = await snakepen.session().aupdate("count", lambda count: count + 1, default=0)
    return value


@snakepen.handler
def increment_by_threads(threads: int, times: int) -> None:
    session = snakepen.session()

    def work() -> None:
        for _ in range(times):
            session.update("count", lambda count: count + 1, default=0)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for _ in range(times):
        session.update("count", lambda count: count + 1, default=0)
    for worker in workers:
        worker.join()


@snakepen.handler
def kinds() -> list[Any]:
    session = snakepen.session()
    session["json"] = {"a": [1, 2.5, None, "é"]}
    session["bytes"] = b"\x00\xff"
    before = sorted(session)
    assert "json" in session and "other" not in session and len(session) == 2
    assert session["bytes"] == b"\x00\xff" and session.get("other", 7) == 7
    found = session.get_versioned("json")
    assert found is not None
    value, version = found
    try:
        session.compare_and_set("json", 1, version + 1000)
    except snakepen.Conflict as conflict:
        assert conflict.found == version and conflict.kind == "conflict"
    else:
        raise AssertionError("no conflict")
    newer = session.compare_and_set("json", 2, version)
    assert newer > version and session["json"] == 2
    del session["json"]
    assert not session.delete("json")
    try:
        session["json"]
    except KeyError:
        pass
    shared = snakepen.global_session()
    shared["seen by"] = snakepen.current().session
    return [before, value]


@snakepen.handler
def array() -> list[Any]:
    import numpy

    session = snakepen.session()
    wide = numpy.arange(12, dtype=">i4").reshape(3, 4)
    session["array"] = wide[:, ::2]
    session["empty"] = numpy.zeros((0, 3))
    session["scalar"] = numpy.array(2.5)
    back = session["array"]
    back += 1
    assert session["empty"].shape == (0, 3) and session["scalar"] == 2.5
    return [back.tolist(), back.dtype.str]


@snakepen.handler
def errors() -> list[list[str]]:
    seen: list[list[str]] = []

    def tell(what: Any) -> None:
        try:
            what()
        except Exception as error:
            seen.append([type(error).__name__, str(error)])

    session = snakepen.session()
    tell(lambda: session.put("k", {1, 2}))
    tell(lambda: session.put("", 1))
    tell(lambda: session.put("k" * 2000, 1))
    tell(lambda: session.put("k", b"x" * (2 << 20)))
    tell(lambda: session.put("k", "x" * (2 << 20)))
    tell(lambda: snakepen.session("\x00").get("k"))
    tell(lambda: session.put("k", float("nan")))
    wrong: Any = "1"
    tell(lambda: session.compare_and_set("k", 1, wrong))
    tell(lambda: session.compare_and_set("k", 1, True))
    tell(lambda: session.compare_and_set("k", 1, 2**70))
    wrong = 3
    tell(lambda: session.programs.get(wrong))
    tell(lambda: session.programs.delete(wrong))
    tell(lambda: session.programs.create("p", wrong, 1))
    tell(lambda: snakepen.Session(wrong))
    tell(lambda: session.get("\ud800"))
    return seen


@snakepen.handler
def life() -> list[Any]:
    session = snakepen.session("short")
    session["k"] = 1
    before = session.info()
    assert session.expire() and not session.expire()
    return [before, session.info()]


@snakepen.handler
def hold(path: str, gate: str) -> None:
    try:
        with open(path, "a") as log:
            log.write(f"begin {os.getpid()}\n")
        with open(gate) as pipe:
            pipe.read()
    finally:
        time.sleep(0.05)
        with open(path, "a") as log:
            log.write(f"end {os.getpid()}\n")


@snakepen.handler
def note(path: str, text: str) -> None:
    with open(path, "a") as log:
        log.write(f"{text}\n")


@snakepen.handler
def program(id: str) -> list[Any]:
    """What it was built from, and how often this worker has built it."""
    built = snakepen.session().programs.built(id, _build)
    return [*built, os.getpid(), len(_builds)]


_builds: list[int] = []


def _build(program: snakepen.Program) -> tuple[Any, int]:
    _builds.append(program.version)
    return program.definition, program.version


@snakepen.handler
def programs() -> list[Any]:
    programs = snakepen.session().programs
    first = programs.create("p", "echo", {"text": "a"}, metadata={"by": "test"})
    try:
        programs.create("p", "echo", {})
    except snakepen.Conflict:
        pass
    second = programs.update("p", state=[1])
    assert second.version > first.version and second.metadata == {"by": "test"}
    assert programs.list() == ["p"] and programs.get("q") is None
    assert programs.delete("p") and not programs.delete("p")
    try:
        programs.update("p", state=1)
    except LookupError as error:
        return [str(error)]
    return []


@snakepen.handler
def flood(count: int) -> int:
    """Asks from a loop, all at once."""

    async def ask(number: int) -> None:
        await snakepen.session().aput(f"key {number}", number)

    async def all_of_them() -> None:
        await asyncio.gather(*(ask(number) for number in range(count)))

    asyncio.run(all_of_them())
    return len(snakepen.session())


@snakepen.handler
async def flood_async(count: int) -> int:
    session = snakepen.session()
    await asyncio.gather(*(session.aput(f"key {number}", number) for number in range(count)))
    return len(await session.akeys())


@snakepen.handler
def forever() -> None:
    session = snakepen.session()
    number = 0
    while True:
        number += 1
        session["number"] = number


@snakepen.handler
def at_exit() -> None:
    import atexit

    session = snakepen.session()
    atexit.register(lambda: session.put("last words", os.getpid()))


@snakepen.handler
def slow_update(started: str, ended: str) -> None:
    def change(_old: Any) -> None:
        try:
            with open(started, "w"):
                pass
            time.sleep(1000)
        finally:
            with open(ended, "w"):
                pass

    snakepen.session().update("slow", change)


@snakepen.handler
def slow_build(started: str, ended: str) -> None:
    def build(_program: snakepen.Program) -> None:
        try:
            with open(started, "w"):
                pass
            time.sleep(1000)
        finally:
            with open(ended, "w"):
                pass

    programs = snakepen.session().programs
    if programs.get("slow") is None:
        programs.create("slow", "slow", None)
    programs.built("slow", build)
