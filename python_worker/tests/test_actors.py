"""Actors: what a worker makes of a class, and when it has its state saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from harness import Answer, Launcher, Port, value

from snakepen import _wire
from snakepen._status import CANCELLED
from snakepen._stream import WINDOW_ITEMS
from snakepen._wire import Frame

COUNTER = """
import asyncio, functools, os, sys, time

@handler
def decorated(): pass

class Counter:
    limit = 10

    def __init__(self, start=0, **named):
        self.count = start
        self.named = named
        self.late = lambda: None

    @property
    def looked_at(self):
        raise AssertionError

    def add(self, n=1):
        self.count += n
        return self.count

    async def aadd(self, n=1):
        self.count += n
        return self.count

    def lazily(self, n):
        return self.aadd(n)

    def fail(self, n):
        self.count += n
        raise ValueError(n)

    def hang(self, n):
        self.count += n
        while True:
            time.sleep(0.001)

    async def ahang(self, n):
        self.count += n
        await asyncio.sleep(1000)

    def exhaust(self):
        raise MemoryError

    def leave(self):
        sys.exit(3)

    @staticmethod
    def double(n): return 2 * n

    @classmethod
    def name(cls): return cls.__name__

    two_more = functools.partialmethod(add, 2)

    @functools.cached_property
    def computed(self):
        raise AssertionError

    def _private(self): pass

class Kept(Counter):
    def dump_state(self): return self.count
    def load_state(self, state):
        self.count = state
        self.loaded = True
    def fork(self):
        self.count += 1
        child = os.fork()
        return os.waitpid(child, 0)[1] if child else None
    def was_loaded(self): return getattr(self, "loaded", False)

class Gives(Kept):
    def each(self, n):
        for _ in range(n):
            self.count += 1
            yield self.count
    async def aeach(self, n):
        for _ in range(n):
            self.count += 1
            yield self.count
    def stubborn(self):
        try:
            while True: yield 1
        except GeneratorExit: yield 2
    async def astubborn(self):
        try:
            while True: yield 1
        except GeneratorExit: yield 2
    def gives_in(self):
        try:
            while True: yield 1
        except GeneratorExit: pass

class Bytes:
    def __init__(self): self.state = bytearray(b"x")
    def dump_state(self): return self.state
    def load_state(self, state): self.state = bytearray(state)
    def append(self, text): self.state += text.encode()
    def get(self): return self.state.decode()

class HalfDump:
    def dump_state(self): pass
    def m(self): pass
class HalfLoad:
    def load_state(self, state): pass
    def m(self): pass
class Async(Kept):
    async def dump_state(self): pass
class NoMethod:
    x = 1
    def _private(self): pass
class Refuses(Kept):
    def load_state(self, state): raise ValueError(state)
def function(): pass
"""

Begin = Callable[..., Port]


@pytest.fixture
def begin(launcher: Launcher, handlers: Callable[[str], dict[str, str]]) -> Begin:
    """A worker that is told what it is to be; its first frame hasn't been read."""

    def start(actor: str, *arguments: Any, every: int = 1, **state: Any) -> Port:
        ready = launcher.configure(handlers=handlers(COUNTER), actor=actor)
        assert ready["op"] == "ready", ready
        port = launcher.spawn()
        port.send(_wire.INIT, 0, every, "actor/demo", json.dumps(arguments).encode())
        if "state" in state:
            port.send(_wire.REPLY, 0, state.get("version", 7), "value", json.dumps(state["state"]).encode())
        elif "buffer" in state:
            frame = _wire.encode_with_buffers(_wire.REPLY, 0, 7, b"value", b"null", [state["buffer"]])
            port.socket.sendall(frame)
        else:
            port.send(_wire.REPLY, 0, 0, "missing")
        return port

    return start


@pytest.fixture
def actor(begin: Begin) -> Begin:
    def start(actor: str, *arguments: Any, every: int = 1, **state: Any) -> Port:
        port = begin(actor, *arguments, every=every, **state)
        frame = port.receive()
        assert frame.kind == _wire.READY, (frame.name, frame.json)
        return port

    return start


def failure(port: Port) -> tuple[str, str]:
    frame = port.receive()
    assert frame.kind == _wire.FAILED, (frame.kind, frame.json)
    return frame.name, json.loads(frame.json)["message"]


def save(port: Port, version: int) -> tuple[Any, int]:
    """Grants a save; what was saved, and the version that was expected."""
    frame = port.receive()
    assert (frame.kind, frame.name) == (_wire.ASK, "put"), (frame.kind, frame.name, frame.json)
    session, space, key, expected, contents = json.loads(frame.json)
    assert (session, space, key) == (None, 0, "actor/demo")
    port.send(_wire.REPLY, frame.id, version, "done")
    return (bytes(frame.buffers[0]) if frame.buffers else contents), expected


def refuse(port: Port, status: str, found: int = 0) -> Frame:
    frame = port.receive()
    assert frame.kind == _wire.ASK, (frame.kind, frame.json)
    port.send(_wire.REPLY, frame.id, found, status, b'"no"')
    return frame


# === What can be called ===


def test_public_methods_and_nothing_else(actor: Begin) -> None:
    port = actor("Counter", 3)
    assert port.call("add", 2) == 5
    assert port.call("add", n=1) == 6
    assert port.call("aadd", 1) == 7
    assert port.call("lazily", 1) == 8
    assert port.call("two_more") == 10
    assert port.call("double", 4) == 8
    assert port.call("name") == "Counter"
    known = ["aadd", "add", "ahang", "double", "exhaust", "fail", "hang", "lazily", "leave", "name", "two_more"]
    for name in ("_private", "__init__", "decorated", "limit", "looked_at", "computed", "late", "count", "add.x"):
        answer = port.call(name)
        assert (answer.status, answer.json["known"]) == ("unknown_handler", known)


def test_hooks_are_no_methods(actor: Begin) -> None:
    port = actor("Kept")
    for name in ("dump_state", "load_state"):
        assert port.call(name).status == "unknown_handler"


@pytest.mark.parametrize(
    ("payload", "count"), [(b"[5]", 5), (b'{"start":6}', 6), (b"7", 7), (b"", 0), (b"null", 0), (b"[]", 0)]
)
def test_arguments_of_init(
    launcher: Launcher, handlers: Callable[[str], dict[str, str]], payload: bytes, count: int
) -> None:
    launcher.configure(handlers=handlers(COUNTER), actor="Counter")
    port = launcher.spawn()
    port.send(_wire.INIT, 0, 1, "actor/demo", payload)
    port.send(_wire.REPLY, 0, 0, "missing")
    assert port.receive().kind == _wire.READY
    assert port.call("add", 0) == count


def test_an_actor_in_a_fresh_interpreter_from_a_module(launcher: Launcher) -> None:
    launcher.configure(handlers={"module": "string"}, actor="Template", fresh=True)
    port = launcher.spawn()
    port.send(_wire.INIT, 0, 1, "actor/demo", b'["$a"]')
    port.send(_wire.REPLY, 0, 0, "missing")
    assert port.receive().kind == _wire.READY
    assert port.call("substitute", a="x") == "x"


@pytest.mark.parametrize("kind", ["Counter", "Kept"])
def test_tracebacks_begin_with_the_users_code(actor: Begin, kind: str) -> None:
    lines = actor(kind).call("fail", 1).json["traceback"].splitlines()
    assert lines[1].endswith("in fail"), lines


# === What cannot be one ===


@pytest.mark.parametrize(
    ("kind", "stage", "says"),
    [
        ("Nothing", "the class `Nothing`", "Nothing"),
        ("function", "the class `function`", "is function"),
        ("Counter.limit", "the class `Counter.limit`", "is int"),
        ("NoMethod", "the class `NoMethod`", "no public method"),
        ("HalfDump", "the class `HalfDump`", "has dump_state and no load_state"),
        ("HalfLoad", "the class `HalfLoad`", "has load_state and no dump_state"),
        ("Async", "the class `Async`", "not an `async def` one"),
        ("Bytes", "`Bytes.__init__`", "takes 1 positional argument"),
    ],
)
def test_what_is_no_actor(begin: Begin, kind: str, stage: str, says: str) -> None:
    at, message = failure(begin(kind, 1))
    assert at == stage and says in message, message


def test_a_state_that_is_refused(begin: Begin) -> None:
    assert failure(begin("Refuses", state=5)) == ("`Refuses.load_state`", "5")


def test_a_state_that_cannot_be_read(launcher: Launcher, handlers: Callable[[str], dict[str, str]]) -> None:
    launcher.configure(handlers=handlers(COUNTER), actor="Kept")
    port = launcher.spawn()
    port.send(_wire.INIT, 0, 1, "actor/demo", b"[]")
    port.send(_wire.REPLY, 0, 0, "error:backend", b'"the store is down"')
    assert failure(port) == ("the state of `Kept`", "the store is down")


def test_rust_that_says_something_else_first(launcher: Launcher, handlers: Callable[[str], dict[str, str]]) -> None:
    launcher.configure(handlers=handlers(COUNTER), actor="Kept")
    port = launcher.spawn()
    port.send(_wire.PING, 1)
    assert port.at_end()
    assert "a frame of kind 3, where one of kind 6 is due" in port.text(port.stderr)


# === State ===


def test_a_forked_child_saves_nothing(actor: Begin) -> None:
    port = actor("Kept", state=1)
    port.start_call("fork")
    assert save(port, 8) == (2, 7)
    assert value(port.receive()) == 0
    assert port.call("was_loaded") is True


def test_a_save_comes_before_the_answer(actor: Begin) -> None:
    port = actor("Kept", 1)
    for method, version, before in (("add", 21, 0), ("aadd", 22, 21), ("lazily", 23, 22)):
        id = port.start_call(method, 2)
        assert save(port, version) == (version - 21 + 3 + (version - 21), before)
        frame = port.receive()
        assert (frame.id, value(frame)) == (id, version - 21 + 3 + (version - 21))


def test_a_state_is_loaded_after_init(actor: Begin) -> None:
    port = actor("Kept", 1, state=5, version=9)
    assert port.call("was_loaded") is True  # and what is as it was is not saved
    port.start_call("add", 1)
    assert save(port, 10) == (6, 9)
    assert value(port.receive()) == 6


def test_none_is_a_state(actor: Begin) -> None:
    assert actor("Kept", 1, state=None).call("was_loaded") is True


def test_without_a_state_nothing_is_loaded(actor: Begin) -> None:
    port = actor("Kept", 1)
    port.start_call("was_loaded")
    assert save(port, 2) == (1, 0)
    assert value(port.receive()) is False
    assert port.call("was_loaded") is False


def test_bytes_that_change_in_place(actor: Begin) -> None:
    port = actor("Bytes", buffer=b"abc")
    assert port.call("get") == "abc"
    port.start_call("append", "d")
    assert save(port, 8) == (b"abcd", 7)
    assert value(port.receive()) is None
    assert port.call("get") == "abcd"


def test_a_message_that_raises_saves_nothing(actor: Begin) -> None:
    port = actor("Kept", state=1)
    assert port.call("fail", 1).json["type"] == "ValueError"
    port.start_call("add", 1)
    assert save(port, 8) == (3, 7)
    assert value(port.receive()) == 3


@pytest.mark.parametrize("method", ["add", "aadd"])
def test_a_save_that_fails(actor: Begin, method: str) -> None:
    port = actor("Kept", state=1)
    port.start_call(method, 1)
    refuse(port, "error:full")
    answer = value(port.receive())
    assert answer.status == "exception" and answer.json["type"] == "StateError" and answer.flags == 0
    assert f"`{method}` has run" in answer.json["message"] and answer.json["cause"]["type"] == "SessionError"
    # It may have been done all the same: that is looked at first.
    port.start_call(method, 1)
    question = port.receive()
    assert (question.kind, question.name) == (_wire.ASK, "get")
    port.send(_wire.REPLY, question.id, 7, "value", b"1")
    assert save(port, 9) == (3, 7)
    assert value(port.receive()) == 3
    port.start_call(method, 1)
    refuse(port, "error:backend")
    assert value(port.receive()).json["type"] == "StateError"
    port.start_call(method, 0)
    question = port.receive()
    port.send(_wire.REPLY, question.id, 10, "value", b"4")
    assert value(port.receive()) == 4  # it was done
    port.start_call(method, 1)
    assert save(port, 11) == (5, 10)
    assert value(port.receive()) == 5


@pytest.mark.parametrize("method", ["add", "aadd"])
def test_a_state_of_somebody_else(actor: Begin, method: str) -> None:
    port = actor("Kept", state=1)
    port.start_call(method, 1)
    refuse(port, "conflict", 8)
    answer = value(port.receive())
    assert answer.json["type"] == "StaleState" and answer.flags == _wire.RECYCLE
    assert f"`{method}` has run, and what it has changed is lost" in answer.json["message"]


def test_after_a_failed_save_a_state_of_somebody_else(actor: Begin) -> None:
    port = actor("Kept", state=1)
    port.start_call("add", 1)
    refuse(port, "error:backend")
    assert value(port.receive()).json["type"] == "StateError"
    port.start_call("add", 1)
    question = port.receive()
    port.send(_wire.REPLY, question.id, 8, "value", b"77")
    answer = value(port.receive())
    assert answer.json["type"] == "StaleState" and answer.flags == _wire.RECYCLE


def test_a_state_is_saved_every_so_often_and_in_the_end(actor: Begin) -> None:
    port = actor("Kept", every=3, state=0)
    assert [port.call("add"), port.call("add")] == [1, 2]
    port.start_call("add")
    assert save(port, 8) == (3, 7)
    assert value(port.receive()) == 3
    assert port.call("aadd") == 4
    port.send(_wire.EXIT, 0)
    assert save(port, 9) == (4, 8)
    assert port.at_end()


def test_a_state_that_cannot_be_saved_in_the_end_is_told_of(actor: Begin) -> None:
    port = actor("Kept", every=3, state=0)
    assert port.call("add") == 1
    port.send(_wire.EXIT, 0)
    refuse(port, "error:full")
    assert port.at_end()
    assert "the state of this actor is not saved" in port.text(port.stderr)


@pytest.mark.parametrize("method", ["hang", "ahang"])
def test_a_message_that_was_cut_off_is_not_saved_in_the_end(actor: Begin, method: str) -> None:
    port = actor("Kept", every=3, state=0)
    assert port.call("add") == 1
    frame = port.answer_to_cancel(port.start_call(method, 100))
    answer = value(frame)
    assert isinstance(answer, Answer) and answer.status == "cancelled"
    assert bool(answer.flags & _wire.RECYCLE) == (method == "hang")
    port.page[CANCELLED] = 0
    port.send(_wire.EXIT, 0)
    assert port.at_end()


@pytest.mark.parametrize("method", ["each", "aeach"])
def test_what_a_generator_has_changed_is_saved_at_its_end(actor: Begin, method: str) -> None:
    port = actor("Gives", state=0)
    id = port.start_call(method, 3)
    assert save(port, 8) == (3, 7)
    frame = port.answer()
    assert frame.id == id and value(frame) == [1, 2, 3]


@pytest.mark.parametrize("method", ["each", "aeach", "gives_in", "stubborn", "astubborn"])
def test_a_generator_that_is_closed_saves_nothing(actor: Begin, method: str) -> None:
    port = actor("Gives", state=0)
    arguments = [1 << 30] if method.endswith("each") else []
    text = json.dumps(arguments).encode()
    port.socket.sendall(_wire.encode(_wire.CALL, 9, 0, method.encode(), text, _wire.STREAM))
    for _ in range(WINDOW_ITEMS):
        assert port.answer().kind == _wire.ITEM
    port.page[CANCELLED] = 9
    port.send(_wire.CANCEL, 9)
    answer = value(port.answer_to_cancel(9))
    assert isinstance(answer, Answer)
    # One that yields on costs its worker.
    assert answer.status == ("exception" if "stubborn" in method else "cancelled")
    assert answer.flags == (_wire.RECYCLE if "stubborn" in method else 0)
    port.page[CANCELLED] = 0
    port.send(_wire.EXIT, 0)
    with pytest.raises(EOFError):
        port.answer()  # asyncio may log that one is left


def test_a_state_that_is_never_saved(actor: Begin) -> None:
    port = actor("Kept", every=0, state=5)
    assert port.call("add") == 6
    port.send(_wire.EXIT, 0)
    assert port.at_end()


def test_memory_errors_and_exits_save_nothing(actor: Begin) -> None:
    port = actor("Kept", every=5, state=0)
    assert port.call("add") == 1
    answer = port.call("exhaust")
    assert answer.json["type"] == "MemoryError" and answer.flags == _wire.RECYCLE
    port.start_call("leave")
    assert port.at_end()
