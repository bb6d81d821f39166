"""Calls of what Rust exposes: what is asked, what becomes of the reply, and of whoever leaves before it comes."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from harness import PATIENCE, Port, value

import snakepen
from snakepen import _wire
from snakepen._wire import Frame

Worker = Callable[[str], Port]

PLAIN = """
@handler
def call(name, *args, **named):
    return snakepen.actor(name).call(*args, **named)

@handler
def named(**named):
    return snakepen.actor("a").call(**named)

@handler
def cast(name, *args):
    return snakepen.actor(name).cast(*args)

@handler
async def acall(name, *args):
    return await snakepen.actor(name).acall(*args)

@handler
def fails(name, *args):
    try:
        snakepen.actor(name).call(*args)
    except snakepen.ActorError as error:
        return [type(error).__name__, error.type, error.message, str(error)]

@handler
def add(a, b):
    return a + b
"""


def reply(port: Port, asked: Frame, result: Any) -> None:
    port.send(_wire.REPLY, asked.id, 0, "value", json.dumps(result).encode())


def refuse(port: Port, asked: Frame, kind: str, message: str) -> None:
    port.send(_wire.REPLY, asked.id, 0, "error:actor", json.dumps({"type": kind, "message": message}).encode())


def asked(port: Port, name: str = "call") -> Frame:
    frame = port.receive()
    assert (frame.kind, frame.name) == (_wire.ASK, name), (frame.kind, frame.name, frame.json)
    return frame


def test_the_operands_are_the_name_and_the_arguments(worker: Worker) -> None:
    port = worker(PLAIN)
    for handler in ("call", "acall", "cast"):
        for args, wanted in (((), None), ((7,), 7), (([1, 2],), [1, 2]), ((1, "é"), [1, "é"]), ((None,), None)):
            id = port.start_call(handler, "pricing", *args)
            frame = asked(port, "cast" if handler == "cast" else "call")
            assert (frame.arg, json.loads(frame.json)) == (id, ["pricing", wanted])
            reply(port, frame, {"price": 4.5})
            assert value(port.receive()) == (None if handler == "cast" else {"price": 4.5})
    port.start_call("named", sku="cup", count=2)
    frame = asked(port)
    assert json.loads(frame.json) == ["a", {"sku": "cup", "count": 2}]
    reply(port, frame, None)
    assert value(port.receive()) is None


def test_errors_have_a_type_and_a_message(worker: Worker) -> None:
    port = worker(PLAIN)
    for kind, class_name in (("PricingError", "ActorError"), ("WouldDeadlock", "WouldDeadlock")):
        port.start_call("fails", "a")
        refuse(port, asked(port), kind, "no é")
        assert value(port.receive()) == [class_name, kind, "no é", f"{kind}: no é"]
    port.start_call("call", "a")
    refuse(port, asked(port), "NotExposed", "no")
    answer = value(port.receive())
    assert answer.json["type"] == "ActorError" and answer.json["module"] == "snakepen"
    assert issubclass(snakepen.WouldDeadlock, snakepen.ActorError)


def test_outside_of_a_request(worker: Worker) -> None:
    with pytest.raises(RuntimeError, match="outside of a worker"):
        snakepen.actor("a").call()
    port = worker(
        """
import signal
import threading

def try_it():
    try:
        snakepen.actor("a").call()
    except RuntimeError as error:
        return str(error)

first = try_it()
later = []
go = threading.Event()
waiting = []

def wait():
    go.wait()
    later.append(try_it())
    print("told", flush=True)

@handler
def told():
    return first

@handler
def leave_a_thread():
    import _thread
    signal.signal(signal.SIGUSR1, lambda *_: go.set())
    waiting.append(threading.Thread(target=wait))
    waiting[0].start()

@handler
def told_by_thread():
    return later
"""
    )
    assert "not while modules are loaded" in port.call("told")
    port.call("leave_a_thread")
    os.kill(port.pid, signal.SIGUSR1)  # now that no request is served
    assert port.read_line(port.stdout) == "told\n"
    (later,) = port.call("told_by_thread")
    assert "no handler is running" in later


def test_threads_call_for_the_request_that_is_served(worker: Worker) -> None:
    port = worker(
        """
import threading

@handler
def by_thread():
    told = []
    thread = threading.Thread(target=lambda: told.append(snakepen.actor("a").call(1)))
    thread.start()
    thread.join()
    return told
"""
    )
    id = port.start_call("by_thread")
    frame = asked(port)
    assert frame.arg == id
    reply(port, frame, 5)
    assert value(port.receive()) == [5]


@pytest.mark.parametrize("handler", ["call", "acall"])
def test_who_waits_is_cancelled_and_its_late_reply_is_forgotten(worker: Worker, handler: str) -> None:
    port = worker(PLAIN)
    for _ in range(20):
        id = port.start_call(handler, "slow")
        frame = asked(port)
        port.cancel(id)
        left = receive_beside(port, id)
        assert (left.kind, left.name, left.id) == (_wire.ASK, "leave", frame.id)
        answer = port.receive()
        assert (answer.kind, answer.id, answer.name) == (_wire.ERROR, id, "cancelled")
        reply(port, frame, "late")
        assert port.call("add", 1, 2) == 3


def receive_beside(port: Port, id: int) -> Frame:
    """The next frame; asks for the cancellation until then, as Rust does."""
    end = time.monotonic() + PATIENCE
    while not select.select([port.socket], [], [], 0.02)[0]:
        assert time.monotonic() < end, "a cancel isn't answered"
        port.cancel(id)
    return port.receive()


def test_a_loop_of_the_handlers_own_is_left_too(worker: Worker) -> None:
    port = worker(
        """
import asyncio

@handler
def own_loop(limit):
    async def main():
        try:
            return await asyncio.wait_for(snakepen.actor("slow").acall(), limit)
        except asyncio.TimeoutError:
            return "left"
    return asyncio.run(main())

@handler
async def served_loop(limit):
    try:
        return await asyncio.wait_for(snakepen.actor("slow").acall(), limit)
    except asyncio.TimeoutError:
        return "left"
"""
    )
    for handler in ("own_loop", "served_loop"):
        port.start_call(handler, 0.01)
        frame = asked(port)
        left = asked(port, "leave")
        assert left.id == frame.id
        if handler == "own_loop":  # its thread waits until Rust says so
            refuse(port, frame, "RequestEnded", "it has")
            assert value(port.receive()) == "left"
        else:
            assert value(port.receive()) == "left"
            refuse(port, frame, "RequestEnded", "it has")
        port.start_call(handler, 10)
        reply(port, asked(port), "in time")
        assert value(port.receive()) == "in time"


def test_a_signal_of_the_users_leaves_too(worker: Worker) -> None:
    port = worker(
        """
import signal

class Alarm(Exception):
    pass

def ring(*_):
    raise Alarm

@handler
def alarmed():
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    try:
        snakepen.actor("slow").call()
    except Alarm:
        return snakepen.actor("quick").call()
"""
    )
    for _ in range(10):
        id = port.start_call("alarmed")
        slow = asked(port)
        assert asked(port, "leave").id == slow.id
        quick = asked(port)
        assert quick.arg == id and json.loads(quick.json)[0] == "quick"
        reply(port, slow, "late")
        reply(port, quick, "now")
        assert value(port.receive()) == "now"


STORM = """
import threading

@handler
def storm(threads):
    stop = threading.Event()
    def beside():
        while not stop.is_set():
            try:
                snakepen.actor("a").call()
            except snakepen.ActorError:
                pass
    others = [threading.Thread(target=beside) for _ in range(threads)]
    try:
        with snakepen.shield():  # what `threading` locks there is not what is tried here
            for other in others:
                other.start()
        while True:
            snakepen.actor("a").call("x" * 100)
            snakepen.session("s").get("k")
    finally:
        stop.set()
        for other in others:
            if other.ident is not None:  # it may be cancelled before they start
                other.join()

@handler
def add(a, b):
    return a + b
"""


@pytest.mark.parametrize("threads", [0, 2])
def test_a_cancellation_at_any_moment_breaks_nothing(worker: Worker, threads: int) -> None:
    """Where the main thread waits, sends or receives, for itself or for others, the port stays whole."""
    port = worker(STORM)
    dice = random.Random(threads)
    for turn in range(150):
        id = port.start_call("storm", threads)
        due = time.monotonic() + dice.random() * 0.004
        end = time.monotonic() + PATIENCE
        answer = None
        while answer is None:
            now = time.monotonic()
            assert now < end, "a cancel isn't answered"
            if now >= due:
                due = now + 0.02
                port.cancel(id)
            frame = port.decoder.next()
            if frame is None:
                if not select.select([port.socket], [], [], max(0.0, due - now))[0]:
                    continue
                frame = port.receive()
            if frame.kind == _wire.ASK:
                if frame.name == "get":
                    port.send(_wire.REPLY, frame.id, 0, "missing")
                elif frame.name == "call" and dice.random() < 0.9:
                    reply(port, frame, turn)
                elif frame.name == "call" and threads:
                    refuse(port, frame, "Busy", "later")
                elif frame.name == "call":
                    reply(port, frame, turn)
            elif frame.kind != _wire.LOG:
                answer = frame
        assert (answer.kind, answer.id) == (_wire.ERROR, id), (answer.kind, answer.name, answer.json)
        # A thread's error is none of the handler's.
        assert answer.name == "cancelled" or "Busy" in str(answer.json), answer.json
        assert port.call("add", turn, 1) == turn + 1
