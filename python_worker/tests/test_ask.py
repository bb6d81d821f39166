"""Questions to Rust: asked by the main thread, by others and by tasks, all over one socket."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import Launcher, Port, value

from snakepen import _wire
from snakepen._connection import Connection
from snakepen._wire import Decoder, Frame, ProtocolError

Worker = Callable[[str], Port]


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    near, far = socket.socketpair()
    connection = Connection(near.detach(), 1 << 24)
    far.settimeout(15)
    yield connection, far
    connection.abandon()
    far.close()


class Rust(threading.Thread):
    """Replies to each question with its JSON, in any order and in any pieces."""

    def __init__(self, far: socket.socket, questions: int, calls: int) -> None:
        super().__init__()
        self.far = far
        self.questions = questions
        self.calls = calls
        self.pongs = 0

    def run(self) -> None:
        decoder = Decoder(1 << 24, _wire.TO_RUST)
        dice = random.Random(self.questions)
        open: list[Frame] = []
        while self.questions:
            decoder.received(self.far.recv_into(decoder.space()))
            while (frame := decoder.next()) is not None:
                if frame.kind == _wire.ASK:
                    open.append(frame)
            dice.shuffle(open)
            out = bytearray()
            while open:
                frame = open.pop()
                self.questions -= 1
                out += _wire.encode(_wire.REPLY, frame.id, 7, b"value", str(frame.json).encode())
                if self.calls and dice.random() < 0.2:
                    self.calls -= 1
                    out += _wire.encode(_wire.CALL, self.calls + 1, name=b"f")
                    out += _wire.encode(_wire.PING, 1)
            while out:
                size = dice.randint(1, len(out))
                self.far.sendall(out[:size])
                del out[:size]
        while self.calls:
            self.far.sendall(_wire.encode(_wire.CALL, self.calls, name=b"f"))
            self.calls -= 1


def test_threads_get_their_own_replies_while_calls_arrive(pair: tuple[Connection, socket.socket]) -> None:
    connection, far = pair
    threads, turns, calls = 6, 300, 200
    wrong: list[Any] = []

    def ask(number: int) -> None:
        for turn in range(turns):
            reply = connection.ask(b"get", f"[{number},{turn}]".encode())
            if (reply.json, reply.arg, reply.name) != (f"[{number},{turn}]", 7, "value"):
                wrong.append((number, turn, reply.json))

    rust = Rust(far, threads * turns + calls, calls)
    rust.start()
    others = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
    for thread in others:
        thread.start()
    served = 0
    for turn in range(calls):  # the main thread waits for calls, and asks within each
        call = connection.next_call()
        served += call is not None and call.kind == _wire.CALL
        reply = connection.ask(b"get", b"[%d]" % turn)
        assert reply.json == f"[{turn}]"
    for thread in others:
        thread.join()
    rust.join()
    assert served == calls and not wrong


def test_tasks_ask_beside_threads(pair: tuple[Connection, socket.socket]) -> None:
    connection, far = pair
    tasks, threads, turns = 8, 2, 100
    rust = Rust(far, (tasks + threads) * turns, 0)
    rust.start()

    def ask_by_thread() -> None:
        for turn in range(turns):
            assert connection.ask(b"get", b"%d" % turn).json == str(turn)

    async def ask(number: int) -> int:
        loop = asyncio.get_running_loop()
        right = 0
        for turn in range(turns):
            reply = await connection.ask_from(loop, b"get", b"[%d,%d]" % (number, turn))
            right += reply.json == f"[{number},{turn}]"
        return right

    async def main() -> list[int]:
        asyncio.get_running_loop().add_reader(connection.fileno(), connection.receive_ready)
        gone = asyncio.create_task(ask(99))
        await asyncio.sleep(0)
        gone.cancel()  # its reply is nobody's
        rust.questions += 1
        return await asyncio.gather(*(ask(number) for number in range(tasks)))

    others = [threading.Thread(target=ask_by_thread) for _ in range(threads)]
    for thread in others:
        thread.start()
    assert asyncio.run(main()) == [turns] * tasks
    for thread in others:
        thread.join()
    rust.join()


def test_a_reply_that_nobody_waits_for(pair: tuple[Connection, socket.socket]) -> None:
    connection, far = pair
    far.sendall(_wire.encode(_wire.REPLY, 1))
    with pytest.raises(ProtocolError, match="a reply to 1"):
        connection.next_call()


def test_a_signal_handler_that_raises_loses_no_reply(pair: tuple[Connection, socket.socket]) -> None:
    connection, far = pair

    def alarm(_number: int, _frame: object) -> None:
        raise TimeoutError("too late")

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(TimeoutError, match="too late"):
            connection.ask(b"get", b"1")
    finally:
        signal.signal(signal.SIGALRM, before)
    decoder = Decoder(1 << 24, _wire.TO_RUST)
    decoder.received(far.recv_into(decoder.space()))
    late = decoder.next()
    assert late is not None and late.kind == _wire.ASK
    far.sendall(_wire.encode(_wire.REPLY, late.id, json=b"1") + _wire.encode(_wire.REPLY, late.id + 1, json=b"2"))
    assert connection.ask(b"get", b"2").json == "2"


# In a worker.

STATE = """
import asyncio, os, threading, snakepen
@handler
def get(key): return snakepen.session().get(key)
@handler
async def aget(key): return await snakepen.session().aget(key)
@handler
def foreign(key): return asyncio.run(snakepen.session().aget(key))
@handler
def whose(): return snakepen.current().session
@handler
def thread(key):
    found = []
    thread = threading.Thread(target=lambda: found.append(snakepen.session("s").get(key)))
    thread.start(); thread.join()
    return found
@handler
def child(key):
    pid = os.fork()
    if pid == 0:
        try: snakepen.session("s").get(key)
        except RuntimeError as error: os._exit("forked" in str(error))
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
@handler
def put(key, value): return snakepen.session("s").put(key, eval(value))
@handler
def update(key): return snakepen.session("s").update(key, lambda old: old + 1, default=0)
@handler
def built(id): return snakepen.session("s").programs.built(id, lambda program: [program.kind, program.version])
"""


def start(port: Port, handler: str, *arguments: Any, session: str | None = None) -> int:
    return port.start_call(handler if session is None else f"{handler}\0{session}", *arguments)


def asked(port: Port, id: int) -> Frame:
    """The next question, asked for this call."""
    frame = port.receive()
    assert (frame.kind, frame.arg) == (_wire.ASK, id), (frame.kind, frame.name, frame.json)
    return frame


@pytest.mark.parametrize("handler", ["get", "aget", "foreign"])
def test_a_value_of_the_calls_session(worker: Worker, handler: str) -> None:
    port = worker(STATE)
    assert port.call("whose") is None
    assert port.call("whose\0user-42") == "user-42"
    id = start(port, handler, "k", session="user-42")
    question = asked(port, id)
    assert (question.name, json.loads(question.json)) == ("get", ["user-42", 0, "k", None])
    port.ping(5)
    port.send(_wire.REPLY, question.id, 3, "value", b'{"a":[1]}')
    assert value(port.receive()) == {"a": [1]}
    question = asked(port, start(port, handler, "k", session="user-42"))
    port.send(_wire.REPLY, question.id, 0, "missing")
    assert value(port.receive()) is None
    question = asked(port, start(port, handler, "k", session="user-42"))
    port.send(_wire.REPLY, question.id, 0, "error:backend", b'"the store is gone"')
    error = value(port.receive())
    assert (error.json["type"], error.json["message"]) == ("SessionError", "the store is gone")
    error = port.call("get", "k")
    assert error.json["type"] == "LookupError" and "pool.session" in error.json["message"]


def test_threads_and_children(worker: Worker) -> None:
    port = worker(STATE)
    id = port.start_call("thread", "k")
    question = port.receive()
    assert (question.kind, question.arg) == (_wire.ASK, 0)
    port.send(_wire.REPLY, question.id, 3, "value", b"1")
    frame = port.receive()
    assert (frame.id, value(frame)) == (id, [1])
    assert port.call("child", "k") == 1


def test_writes(worker: Worker) -> None:
    port = worker(STATE)
    question = asked(port, port.start_call("put", "k", "{'a': 1}"))
    assert (question.name, json.loads(question.json)) == ("put", ["s", 0, "k", -1, {"a": 1}])
    port.send(_wire.REPLY, question.id, 12, "done")
    assert value(port.receive()) == 12
    question = asked(port, port.start_call("put", "k", "b'12'"))
    assert json.loads(question.json) == ["s", 0, "k", -1, None] and [bytes(b) for b in question.buffers] == [b"12"]
    port.send(_wire.REPLY, question.id, 13, "done")
    assert value(port.receive()) == 13
    error = port.call("put", "k", "{'a': {1}}")
    assert error.json["type"] == "TypeError" and "set at $.a" in error.json["message"], error
    error = port.call("put", "k", "'x' * (17 << 20)")
    assert error.json["type"] == "SessionError" and "max_frame" in error.json["message"], error


def test_an_update_is_tried_again_after_a_conflict(worker: Worker) -> None:
    port = worker(STATE)
    id = port.start_call("update", "k")
    for found in (None, 5, 9):
        question = asked(port, id)
        assert question.name == "get"
        if found is None:
            port.send(_wire.REPLY, question.id, 0, "missing")
        else:
            port.send(_wire.REPLY, question.id, found, "value", b"%d" % (found * 10))
        question = asked(port, id)
        assert json.loads(question.json) == ["s", 0, "k", found or 0, 1 if found is None else found * 10 + 1]
        if found != 9:
            port.send(_wire.REPLY, question.id, 5 if found is None else 9, "conflict", b'"it has changed"')
    port.send(_wire.REPLY, question.id, 10, "done")
    assert value(port.receive()) == 91


def test_a_built_program_is_kept_until_it_changes(worker: Worker) -> None:
    port = worker(STATE)
    stored = b'{"kind":"a","definition":1,"state":null,"metadata":null}'
    question = asked(port, port.start_call("built", "p"))
    assert json.loads(question.json) == ["s", 1, "p", None]
    port.send(_wire.REPLY, question.id, 4, "value", stored)
    assert value(port.receive()) == ["a", 4]
    question = asked(port, port.start_call("built", "p"))
    assert json.loads(question.json) == ["s", 1, "p", 4]
    port.send(_wire.REPLY, question.id, 4, "unchanged")
    assert value(port.receive()) == ["a", 4]
    question = asked(port, port.start_call("built", "p"))
    port.send(_wire.REPLY, question.id, 5, "value", stored)
    assert value(port.receive()) == ["a", 5]
    id = port.start_call("built", "q")
    question = asked(port, id)
    port.send(_wire.REPLY, question.id, 0, "missing")
    question = asked(port, id)
    assert question.name == "keys"
    port.send(_wire.REPLY, question.id, 0, "value", b'["p"]')
    error = value(port.receive())
    assert error.json["type"] == "LookupError" and "'p'" in error.json["message"]


def test_the_end_within_a_question_ends_the_worker(launcher: Launcher, worker: Worker) -> None:
    port = worker(STATE)
    asked(port, start(port, "get", "k", session="s"))
    port.socket.shutdown(socket.SHUT_RDWR)
    assert launcher.hear()["code"] == 0
