"""A worker whose calls overlap, and calls that are gathered: the Python end, over the bare protocol."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest
from harness import Answer, Launcher, Port, until, value, wait_gone

from snakepen import _wire
from snakepen._status import CALLS, CANCELLED, STARTED

Handlers = Callable[[str], dict[str, str]]

SOURCE = """
import asyncio, os, signal, sys, time
from snakepen import current, session, shield
gates = {}
log = []
@handler
async def waits(gate):
    log.append(gate)
    try:
        await gates.setdefault(gate, asyncio.Event()).wait()
    finally:
        log.append(f"{gate} ends")
    return [gate, current().id]
@handler
async def opens(gate): gates.setdefault(gate, asyncio.Event()).set()
@handler
async def told(): return log
@handler
def plain(*gates):
    assert asyncio.run(asyncio.sleep(0, True))
    return current().id
@handler
async def shields():
    with shield():
        log.append("shielded")
        while not current().cancelled: await asyncio.sleep(0.001)
    await asyncio.sleep(1000)
@handler
async def yields_often():
    while True: await asyncio.sleep(0)
@handler
async def blocks():
    print("in", flush=True)
    time.sleep(1000)
@handler
def returns_a_coroutine(): return asyncio.sleep(0.001, "slept")
@handler
async def fails(): raise KeyError("mine")
@handler
async def leaves(): raise SystemExit(7)
left = set()
def leave(coroutine): left.add(asyncio.get_running_loop().create_task(coroutine))
@handler
async def asks_later():
    async def later(): print(session("s").get("k"), flush=True)
    leave(later())
@handler
async def exits_later():
    async def later():
        import atexit
        atexit.register(print, "in order", flush=True)
        sys.exit(3)
    leave(later())
@handler
async def exits_when_told():
    async def later():
        session("s").get("k")
        sys.exit(3)
    leave(later())
@handler
async def moves_later():
    async def later():
        os.chdir("/")
        print("moved", flush=True)
    leave(later())
@handler
async def where(): return os.getcwd()
@handler
def moves_for_itself():
    os.chdir("/")
    async def later():
        gates["moved"].set()
        while len(asyncio.all_tasks()) > 1: await asyncio.sleep(0)
        return os.getcwd()
    return later()
@handler
async def tidies_later():
    async def later():
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, told.set)
        print("begun", flush=True)
        try: await asyncio.sleep(1000)
        finally:
            print("tidies", flush=True)
            await told.wait()
            print("tidied", flush=True)
    leave(later())
@handler
async def is_eager(): asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
@handler
async def closes_later(port):
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    asyncio.get_running_loop().call_later(0.01, writer.close)
@handler
async def closes(port):
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
@handler(batch=3, wait_ms=500)
def doubles(numbers): return [2 * number for number in numbers]
@handler(batch=3, wait_ms=500)
async def doubles_later(numbers):
    await asyncio.sleep(0)
    return [2 * number for number in numbers]
"""


@pytest.fixture
def port(launcher: Launcher, handlers: Handlers) -> Port:
    launcher.configure(handlers=handlers(SOURCE), concurrency=CALLS)
    return launcher.worker()


@pytest.mark.parametrize("handler", ["closes", "closes_later"])
def test_what_a_call_leaves_behind_goes_on_without_another(port: Port, handler: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        port.call(handler, server.getsockname()[1])
        connection, _ = server.accept()
        with connection:
            connection.settimeout(20)
            assert connection.recv(1) == b""
    assert isinstance(port.call("plain"), int)  # and the worker serves as before


def test_exit_comes_while_a_task_that_was_left_asks(port: Port) -> None:
    port.call("asks_later")
    asked = port.answer()
    assert asked.kind == _wire.ASK
    port.socket.sendall(
        _wire.encode(_wire.EXIT, 0, 0, b"", b"") + _wire.encode(_wire.REPLY, asked.id, 0, b"missing", b"")
    )
    assert port.read_line(port.stdout) == "None\n"
    wait_gone(port.pidfd)


def test_a_task_that_was_left_exits(launcher: Launcher, port: Port) -> None:
    port.call("exits_later")
    assert port.read_line(port.stdout) == "in order\n"
    assert launcher.hear()["code"] == 3


def test_no_call_begins_once_a_task_that_was_left_exits(launcher: Launcher, port: Port) -> None:
    port.call("exits_when_told")
    asked = port.answer()
    assert asked.kind == _wire.ASK
    port.socket.sendall(
        _wire.encode(_wire.CALL, 77, 0, b"told", b"[]") + _wire.encode(_wire.REPLY, asked.id, 0, b"missing", b"")
    )
    assert launcher.hear()["code"] == 3
    assert 77 not in port.page[STARTED : STARTED + 1 + CALLS]


def test_calls_begin_where_the_first_did(port: Port) -> None:
    home = port.call("where")
    port.call("moves_later")
    assert port.read_line(port.stdout) == "moved\n"
    assert port.call("where") == home != "/"


def test_a_plain_handler_has_its_directory_to_itself(port: Port) -> None:
    home = port.call("where")
    waiting = port.start_call("waits", "moved")
    until(lambda: waiting in port.page[STARTED + 1 : STARTED + 1 + CALLS], "it doesn't start")
    moving = port.start_call("moves_for_itself")
    assert answers(port, 2) == {waiting: ["moved", waiting], moving: "/"}
    assert port.call("where") == home != "/"


def test_what_is_left_comes_to_its_end_whatever_is_received(port: Port) -> None:
    port.call("tidies_later")
    assert port.read_line(port.stdout) == "begun\n"
    port.send(_wire.EXIT, 0)
    assert port.read_line(port.stdout) == "tidies\n"
    port.send(_wire.PING, 9)
    assert port.receive().kind == _wire.PONG
    os.kill(port.pid, signal.SIGUSR1)
    assert port.read_line(port.stdout) == "tidied\n"
    wait_gone(port.pidfd)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no eager task factory")
def test_a_task_factory_that_begins_at_once(port: Port) -> None:
    port.call("is_eager")
    assert port.call("told") == []


def answers(port: Port, count: int) -> dict[int, Any]:
    """The next answers, by id."""
    found: dict[int, Any] = {}
    for _ in range(count):
        frame = port.answer()
        assert frame.id not in found
        found[frame.id] = value(frame)
    return found


def end(port: Port, ids: list[int]) -> dict[int, Answer]:
    """Cancels these until all are answered."""
    for place, id in enumerate(ids):
        port.page[CANCELLED + place] = id
    signal.pidfd_send_signal(port.pidfd, signal.SIGURG)
    found = answers(port, len(ids))
    for place in range(len(ids)):
        port.page[CANCELLED + place] = 0
    return found


def test_ready_says_which_overlap_and_which_take_batches(launcher: Launcher, handlers: Handlers) -> None:
    launcher.configure(handlers=handlers(SOURCE), concurrency=2)
    ready = launcher.spawn().receive()
    assert ready.kind == _wire.READY
    told = json.loads(ready.json)
    assert set(told["handlers"]) - set(told["async"]) == {
        "plain",
        "doubles",
        "returns_a_coroutine",
        "moves_for_itself",
    }
    assert told["batches"] == {"doubles": [3, 500_000], "doubles_later": [3, 500_000]}


def test_as_many_as_it_may_have_overlap(port: Port) -> None:
    ids = [port.start_call("waits", "a") for _ in range(CALLS - 1)]
    until(lambda: set(ids) <= set(port.page[STARTED + 1 : STARTED + 1 + CALLS]), "they don't start")
    opens = port.start_call("opens", "a")
    found = answers(port, CALLS)
    assert found.pop(opens) is None
    assert found == {id: ["a", id] for id in ids}


def test_plain_ones_come_between(port: Port) -> None:
    waiting = [port.start_call("waits", "a") for _ in range(5)]
    for _ in range(50):
        id = port.start_call("plain")
        assert answers(port, 1) == {id: id}
        assert port.page[STARTED] == id
        port.ping(id)
    opens = port.start_call("opens", "a")
    assert answers(port, 6) == {opens: None, **{id: ["a", id] for id in waiting}}


def test_each_is_cancelled_by_itself(port: Port) -> None:
    kept = [port.start_call("waits", "kept") for _ in range(5)]
    for _ in range(20):
        gone = [port.start_call("waits", "gone") for _ in range(random.randint(1, 5))]
        port.call("told")  # its task comes after theirs: they wait by then
        found = end(port, gone)
        assert sorted(found) == gone and all(answer.status == "cancelled" for answer in found.values())
        stacks = "".join(port.stack() for _ in gone)
        assert all(f"\x16{id}\n" in stacks for id in gone)
        assert stacks.count(" in waits\n") == len(gone) and "kept" not in stacks
    log = port.call("told")
    assert log.count("gone") == log.count("gone ends") and "kept ends" not in log
    opens = port.start_call("opens", "kept")
    assert answers(port, 6) == {opens: None, **{id: ["kept", id] for id in kept}}


def test_cancels_at_random_moments_meet_their_own_call_only(port: Port) -> None:
    waiting = port.start_call("waits", "kept")
    for round in range(300):
        id = port.start_call(random.choice(["yields_often", "waits"]), *(["x"] if round % 2 else []))
        for _ in range(random.randint(0, 3000)):
            pass
        frame = port.answer_to_cancel(id)
        assert value(frame).status in ("cancelled", "exception")
        port.page[CANCELLED] = 0
    opens = port.start_call("opens", "kept")
    assert answers(port, 2) == {opens: None, waiting: ["kept", waiting]}


def test_one_that_is_cancelled_before_it_starts_never_does(port: Port) -> None:
    port.page[CANCELLED] = 1
    assert port.start_call("waits", "never") == 1
    assert answers(port, 1)[1].status == "cancelled"
    port.page[CANCELLED] = 0
    assert port.call("told") == []


def test_a_shield_holds_it_off(port: Port) -> None:
    id = port.start_call("shields")
    until(lambda: "shielded" in port.call("told"), "it doesn't start")
    assert end(port, [id])[id].status == "cancelled"


def test_an_exception_and_a_bad_call_are_their_own(port: Port) -> None:
    waiting = port.start_call("waits", "a")
    failing, unknown = port.start_call("fails"), port.start_call("nope")
    missing = port.start_call("waits")
    found = answers(port, 3)
    assert found[failing].json["type"] == "KeyError"
    assert "test_overlap" not in found[failing].json["traceback"]
    assert "snakepen/_" not in found[failing].json["traceback"]
    assert found[unknown].status == "unknown_handler"
    assert found[missing].json["type"] == "TypeError"
    opens = port.start_call("opens", "a")
    assert answers(port, 2) == {opens: None, waiting: ["a", waiting]}


def test_it_leaves_when_its_calls_have_ended(port: Port) -> None:
    waiting = port.start_call("waits", "a")
    opens = port.start_call("opens", "a")
    port.send(_wire.EXIT, 0)
    assert answers(port, 2) == {opens: None, waiting: ["a", waiting]}
    wait_gone(port.pidfd)


def test_sys_exit_ends_it_and_answers_nobody(launcher: Launcher, port: Port) -> None:
    port.start_call("waits", "a")
    port.start_call("leaves")
    assert port.at_end()
    wait_gone(port.pidfd)
    assert launcher.hear() == {"op": "exited", "pid": port.pid, "code": 7, "signal": None}


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("handler", ["doubles", "doubles_later"])
def test_a_batch_is_begun_when_it_is_full_or_its_time_is_over(
    launcher: Launcher, handlers: Handlers, handler: str, concurrency: int
) -> None:
    launcher.configure(handlers=handlers(SOURCE), concurrency=concurrency)
    port = launcher.worker()
    ids = [port.start_call(handler, number) for number in range(5)]
    assert answers(port, 3) == {id: 2 * number for number, id in enumerate(ids[:3])}
    assert answers(port, 2) == {ids[3]: 6, ids[4]: 8}


@pytest.mark.parametrize("concurrency", [1, 8])
def test_those_that_have_been_given_up_are_not_in_the_batch(
    launcher: Launcher, handlers: Handlers, concurrency: int
) -> None:
    launcher.configure(handlers=handlers(SOURCE), concurrency=concurrency)
    port = launcher.worker()
    ids = [port.start_call("doubles", number) for number in range(2)]
    port.page[CANCELLED] = ids[0]
    found = answers(port, 2)
    assert found[ids[0]].status == "cancelled" and found[ids[1]] == 2


def test_a_batch_that_is_full_while_the_loop_stands_still_stops_nothing_later(port: Port) -> None:
    """They arrive in one piece, at a worker that has nothing to do."""
    calls = [("doubles", b"[1]"), ("doubles", b"[2]"), ("doubles", b"[3]"), ("returns_a_coroutine", b"[]")]
    for round in range(0, 400, 4):
        frames = [
            _wire.encode(_wire.CALL, round + number, 0, handler.encode(), arguments)
            for number, (handler, arguments) in enumerate(calls, start=1)
        ]
        port.socket.sendall(b"".join(frames))
        found = answers(port, 4)
        assert list(dict(sorted(found.items())).values()) == [2, 4, 6, "slept"]
