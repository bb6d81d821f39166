"""Generators, inputs and progress, from Rust's end of the port."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from harness import Launcher, Port, value, wait_gone

import snakepen
from snakepen import _wire
from snakepen._status import CANCELLED
from snakepen._stream import WINDOW_BYTES, WINDOW_ITEMS

Worker = Callable[[str], Port]
Handlers = Callable[[str], dict[str, str]]

BASIC = """
import asyncio, contextvars, os, sys, threading, time
from snakepen import Cancelled, current, progress, shield
def say(text): print(text, flush=True)
@handler
def one(x): return x
@handler
def count(n):
    try:
        for i in range(n): yield i
    finally: say("closed")
@handler
async def acount(n):
    try:
        for i in range(n):
            await asyncio.sleep(0)
            yield i
    finally:
        await asyncio.sleep(0)
        say("closed")
@handler
def large(n, size):
    for i in range(n): yield "x" * size
"""


def start(port: Port, handler: str, *arguments: Any, flags: int = _wire.STREAM, inputs: str = "") -> int:
    port._last_id += 1
    name = handler.encode() + inputs.encode()
    text = json.dumps(arguments).encode()
    port.socket.sendall(_wire.encode(_wire.CALL, port._last_id, 0, name, text, flags))
    return port._last_id


def take(port: Port, id: int, count: int, first: int = 1) -> list[Any]:
    """So many items, which are there."""
    items: list[Any] = []
    for number in range(first, first + count):
        frame = port.answer()
        assert (frame.kind, frame.id, frame.arg) == (_wire.ITEM, id, number), (frame.kind, frame.arg, frame.json)
        items.append(json.loads(frame.json))
    return items


def all_items(port: Port, id: int) -> list[Any]:
    """Items until the end, with credit for each."""
    items: list[Any] = []
    while (frame := port.answer()).kind == _wire.ITEM:
        items.append(json.loads(frame.json))
        assert frame.arg == len(items)
        port.send(_wire.CREDIT, id, len(items))
    assert (frame.kind, frame.json) == (_wire.RESULT, ""), (frame.name, frame.json)
    return items


def nothing_comes(port: Port) -> None:
    """A PONG is next: the worker waits and has sent no more."""
    port.ping(77)


@pytest.mark.parametrize("handler", ["count", "acount"])
def test_items_come_one_by_one_and_then_the_end(worker: Worker, handler: str) -> None:
    port = worker(BASIC)
    for n in (0, 1, 10, WINDOW_ITEMS, 500):
        assert all_items(port, start(port, handler, n)) == list(range(n))
    assert port.call("one", 1) == 1


@pytest.mark.parametrize("handler", ["count", "acount"])
def test_a_call_collects_them(worker: Worker, handler: str) -> None:
    port = worker(BASIC)
    assert port.call(handler, 0) == []
    assert port.call(handler, 1000) == list(range(1000))


def test_what_is_no_generator_has_a_result(worker: Worker) -> None:
    """Which Rust takes for the one item. The answer of a generator is empty."""
    port = worker(BASIC)
    assert value_of_stream(port, start(port, "one", {"a": 1})) == {"a": 1}


@pytest.mark.parametrize("handler", ["count", "acount"])
def test_the_window_stops_the_generator(worker: Worker, handler: str) -> None:
    port = worker(BASIC)
    id = start(port, handler, 10 * WINDOW_ITEMS)
    assert take(port, id, WINDOW_ITEMS) == list(range(WINDOW_ITEMS))
    nothing_comes(port)
    port.send(_wire.CREDIT, id, 3)
    take(port, id, 3, WINDOW_ITEMS + 1)
    nothing_comes(port)
    # It is the sum that counts.
    port.send(_wire.CREDIT, id, 3)
    nothing_comes(port)
    port.send(_wire.CREDIT, id, 5)
    take(port, id, 2, WINDOW_ITEMS + 4)
    nothing_comes(port)


def test_the_window_counts_bytes(worker: Worker) -> None:
    port = worker(BASIC)
    size = WINDOW_BYTES // 4
    id = start(port, "large", 20, size)
    take(port, id, 4)
    nothing_comes(port)
    port.send(_wire.CREDIT, id, 4)
    take(port, id, 4, 5)
    nothing_comes(port)
    port.cancel(id)
    port.send(_wire.CANCEL, id)
    assert value(port.answer()).status == "cancelled"
    # One item is always let through.
    id = start(port, "large", 3, 3 * WINDOW_BYTES)
    for number in (1, 2, 3):
        take(port, id, 1, number)
        if number < 3:
            nothing_comes(port)
        port.send(_wire.CREDIT, id, number)
    assert port.answer().kind == _wire.RESULT


def test_questions_are_answered_while_the_window_is_full(worker: Worker) -> None:
    """Those of another thread, by the generator that waits."""
    port = worker(
        f"""{BASIC}
@handler
def asks():
    context = contextvars.copy_context()
    gate = threading.Event()
    def ask():
        gate.wait()
        say(snakepen.global_session().get("key"))
    thread = threading.Thread(target=context.run, args=(ask,))
    thread.start()
    for i in range({WINDOW_ITEMS}):
        if i == {WINDOW_ITEMS - 1}: gate.set()
        yield i
    thread.join()
    yield "asked"
"""
    )
    id = start(port, "asks")
    frames = [port.answer() for _ in range(WINDOW_ITEMS + 1)]
    (ask,) = [frame for frame in frames if frame.kind == _wire.ASK]
    port.socket.sendall(_wire.encode(_wire.REPLY, ask.id, 1, b"value", b'"answer"'))
    assert port.read_line(port.stdout) == "answer\n"
    port.send(_wire.CREDIT, id, WINDOW_ITEMS)
    assert take(port, id, 1, WINDOW_ITEMS + 1) == ["asked"]
    assert port.answer().kind == _wire.RESULT


@pytest.mark.parametrize("handler", ["count", "acount"])
def test_one_that_waits_for_room_is_closed_by_a_cancel(worker: Worker, handler: str) -> None:
    port = worker(BASIC)
    for _ in range(5):
        id = start(port, handler, 10**9)
        take(port, id, WINDOW_ITEMS)
        if handler == "acount":
            port.cancel(id)
        port.send(_wire.CANCEL, id)  # which is enough for a plain one
        frame = port.answer()
        assert (frame.kind, frame.name, frame.flags) == (_wire.ERROR, "cancelled", 0)
        assert port.read_line(port.stdout) == "closed\n"
    assert port.call("one", 1) == 1


def test_one_that_was_cancelled_as_it_began_is_closed(worker: Worker) -> None:
    """As where another thread has received the CANCEL, after the call was taken and before it was at work."""
    port = worker(BASIC)
    port.page[CANCELLED] = 1
    id = start(port, "count", 1000)
    frame = port.answer()
    assert (frame.kind, frame.id, frame.name) == (_wire.ERROR, id, "cancelled")
    assert port.read_line(port.stdout) == "closed\n"
    port.page[CANCELLED] = 0
    assert port.call("one", 1) == 1


def test_one_that_comes_to_its_yield_in_time_is_closed_there(worker: Worker) -> None:
    port = worker(
        f"""{BASIC}
@handler
def slow():
    try:
        for i in range(10**9):
            say("in")
            end = time.monotonic() + 0.05
            while time.monotonic() < end: pass
            yield i
    except BaseException as error:
        say(type(error).__name__)
        raise
"""
    )
    id = start(port, "slow")
    assert port.read_line(port.stdout) == "in\n"
    while (frame := port.answer_to_cancel(id)).kind == _wire.ITEM:
        pass
    assert (frame.name, frame.flags) == ("cancelled", 0)
    while (line := port.read_line(port.stdout)) == "in\n":
        pass
    assert line == "GeneratorExit\n"


@pytest.mark.parametrize("fresh", [False, True])
def test_one_that_does_not_is_interrupted(launcher: Launcher, handlers: Handlers, fresh: bool) -> None:
    source = f"""{BASIC}
@handler
def stuck():
    yield 1
    say("in")
    try:
        while True: time.sleep(0.001)
    except BaseException as error:
        say(type(error).__name__)
        raise
"""
    launcher.configure(handlers=handlers(source), fresh=fresh)
    port = launcher.worker()
    for stream in (_wire.STREAM, 0):
        id = start(port, "stuck", flags=stream)
        if stream:
            take(port, id, 1)
        assert port.read_line(port.stdout) == "in\n"
        frame = port.answer_to_cancel(id)
        assert (frame.name, frame.flags) == ("cancelled", _wire.RECYCLE)
        assert port.read_line(port.stdout) == "Cancelled\n"


def test_the_stack_has_the_generator_that_waits(worker: Worker) -> None:
    port = worker(f"{BASIC}\n@handler\ndef outer():\n    yield from count(10**9)\n")
    id = start(port, "outer")
    take(port, id, WINDOW_ITEMS)
    port.cancel(id)
    stack = port.stack()
    assert stack.index("in count") < stack.index("in outer"), stack
    port.send(_wire.CANCEL, id)
    assert value(port.answer()).status == "cancelled"


def test_nothing_is_raised_while_it_is_being_closed(worker: Worker) -> None:
    port = worker(
        f"""{BASIC}
@handler
def tidy():
    try:
        while True: yield 1
    finally:
        say("in")
        end = time.monotonic() + 0.5
        try:
            while time.monotonic() < end: time.sleep(0.001)
            say("undisturbed")
        except BaseException as error:
            say(repr(error))
"""
    )
    id = start(port, "tidy")
    take(port, id, WINDOW_ITEMS)
    port.send(_wire.CANCEL, id)
    frame = port.answer_to_cancel(id)
    assert (frame.name, frame.flags) == ("cancelled", 0)
    assert (port.read_line(port.stdout), port.read_line(port.stdout)) == ("in\n", "undisturbed\n")


@pytest.mark.parametrize(("head", "word"), [("def", ""), ("async def", "await asyncio.sleep(0)")])
def test_one_that_yields_on_when_it_is_closed_costs_its_worker(worker: Worker, head: str, word: str) -> None:
    port = worker(
        f"""{BASIC}
@handler
{head} stubborn():
    for i in range({10 * WINDOW_ITEMS}):
        try:
            {word or "pass"}
            yield i
        except GeneratorExit: pass
"""
    )
    id = start(port, "stubborn")
    take(port, id, WINDOW_ITEMS)
    nothing_comes(port)  # it waits
    port.cancel(id)
    port.send(_wire.CANCEL, id)
    assert port.answer().flags == _wire.RECYCLE


def test_a_shield_puts_it_off(worker: Worker) -> None:
    port = worker(
        f"""{BASIC}
@handler
def shielded(n):
    try:
        with shield():
            for i in range(n): yield i
            say("whole")
        yield "never"
    except BaseException as error:
        say(type(error).__name__)
        raise
"""
    )
    id = start(port, "shielded", 10 * WINDOW_ITEMS)
    take(port, id, WINDOW_ITEMS)
    port.cancel(id)
    port.send(_wire.CANCEL, id)
    frame = port.answer()
    assert frame.name == "cancelled"
    assert (port.read_line(port.stdout), port.read_line(port.stdout)) == ("whole\n", "GeneratorExit\n")


@pytest.mark.parametrize("head", ["def", "async def"])
def test_an_exception_comes_after_the_items_before_it(worker: Worker, head: str) -> None:
    port = worker(f"{BASIC}\n@handler\n{head} fails(n):\n for i in range(n): yield i\n raise ValueError('five')\n")
    id = start(port, "fails", 5)
    assert take(port, id, 5) == [0, 1, 2, 3, 4]
    answer = value(port.answer())
    assert (answer.status, answer.json["message"]) == ("exception", "five")
    lines = answer.json["traceback"].splitlines()
    assert lines[1].endswith("in fails") and len(lines) == 4, lines
    assert port.call("fails", 5).json["message"] == "five"


@pytest.mark.parametrize("head", ["def", "async def"])
def test_an_item_that_cant_be_json_is_named(worker: Worker, head: str) -> None:
    port = worker(
        f"{BASIC}\n@handler\n{head} bad():\n try:\n  for i in range(3): yield i\n  yield {{'a': {{1, 2}}}}\n"
        " finally: say('closed')\n"
    )
    id = start(port, "bad")
    take(port, id, 3)
    for answer in (value(port.answer()), port.call("bad")):
        assert (answer.status, answer.json["type"], answer.json["path"]) == ("result", "set", "$[3].a")
        assert port.read_line(port.stdout) == "closed\n"


def test_items_beyond_the_frame_limit(launcher: Launcher, handlers: Handlers) -> None:
    launcher.configure(handlers=handlers(BASIC), max_frame=10_000)
    port = launcher.worker()
    answer = value_of_stream(port, start(port, "large", 1, 10_000))
    assert answer.json["path"] == "$[0]" and "10002 bytes" in answer.json["message"]
    assert port.call("large", 9, 1000) == ["x" * 1000] * 9
    answer = port.call("large", 10**9, 1000)
    assert (answer.status, answer.json["type"], answer.json["path"]) == ("result", "generator", "$")
    assert "max_frame" in answer.json["message"] and "`stream`" in answer.json["message"]
    # To the byte.
    assert len(port.call("large", 1, 10_000 - 4)[0]) == 9996
    assert port.call("large", 1, 10_000 - 3).status == "result"


def value_of_stream(port: Port, id: int) -> Any:
    frame = port.answer()
    assert frame.id == id
    return value(frame)


def test_a_generator_has_its_context(worker: Worker) -> None:
    port = worker(
        f"{BASIC}\n@handler\ndef ids():\n for _ in range(3): yield current().id\n"
        "@handler\nasync def aids():\n for _ in range(3):\n  await asyncio.sleep(0)\n  yield current().id\n"
    )
    for handler in ("ids", "aids"):
        id = start(port, handler)
        assert all_items(port, id) == [id] * 3


def test_a_worker_that_is_asked_to_leave_closes_what_waits(worker: Worker) -> None:
    port = worker(BASIC)
    id = start(port, "count", 10**9)
    take(port, id, WINDOW_ITEMS)
    port.send(_wire.EXIT, 0)
    assert value(port.answer()).status in ("cancelled", "exception")
    assert port.read_line(port.stdout) == "closed\n"
    wait_gone(port.pidfd)


def test_a_forked_child_yields_nothing(worker: Worker) -> None:
    port = worker(
        f"{BASIC}\n@handler\ndef forks():\n yield 1\n child = os.fork()\n"
        " yield child and os.waitpid(child, 0)[1]\n yield 3\n"
    )
    id = start(port, "forks")
    assert all_items(port, id)[::2] == [1, 3]


def test_credit_for_a_stream_that_has_ended_is_ignored(worker: Worker) -> None:
    port = worker(BASIC)
    id = start(port, "count", 3)
    assert all_items(port, id) == [0, 1, 2]
    port.send(_wire.CREDIT, id, 3)
    port.send(_wire.INPUT, id, 0, "x", b"1")
    assert port.call("one", 1) == 1


# Inputs

INPUTS = f"""{BASIC}
@handler
def total(numbers): return sum(numbers)
@handler
async def atotal(numbers):
    sum = 0
    async for number in numbers: sum += number
    return sum
@handler
def both(left, right, *, more=0): return [list(left), list(right), more]
@handler
def first(numbers): return next(numbers)
@handler
def doubled(numbers):
    for number in numbers: yield 2 * number
@handler
def in_a_loop(numbers):
    async def sum():
        total = 0
        async for number in numbers: total += number
        return total
    return asyncio.run(sum())
@handler
def fails(numbers):
    it, seen = iter(numbers), []
    try:
        for number in it: seen.append(number)
    except snakepen.InputError as error: seen.append(str(error))
    return [seen, list(it)]
@handler
def in_threads(numbers, n):
    found = []
    threads = [threading.Thread(target=lambda: found.extend(numbers)) for _ in range(n)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return sorted(found)
@handler
def keeps(numbers):
    global kept
    kept = numbers
@handler
def uses(): return next(kept)
"""


def wish(port: Port, id: int, name: str = "numbers", taken: int = 0) -> None:
    frame = port.answer()
    assert (frame.kind, frame.id, frame.name, frame.arg) == (_wire.WANT, id, name, taken)


def give(port: Port, id: int, *items: Any, name: str = "numbers", end: bool = True) -> None:
    for item in items:
        port.send(_wire.INPUT, id, 0, name, json.dumps(item).encode())
    if end:
        port.send(_wire.INPUT, id, 1, name)


@pytest.mark.parametrize("handler", ["total", "atotal", "in_a_loop"])
def test_an_input_is_iterated(worker: Worker, handler: str) -> None:
    port = worker(INPUTS)
    for n in (0, 1, 20):
        id = start(port, handler, flags=0, inputs="\0\0numbers")
        wish(port, id)
        give(port, id, *range(n))
        assert value(port.answer()) == sum(range(n))


def test_several_inputs_beside_arguments(worker: Worker) -> None:
    port = worker(INPUTS)
    port._last_id += 1
    id = port._last_id
    port.send(_wire.CALL, id, 0, "both\0\0left\0right", b'{"more":5}')
    wish(port, id, "left")
    give(port, id, 1, name="right")
    give(port, id, 2, 3, name="left")
    wish(port, id, "right")
    assert value(port.answer()) == [[2, 3], [1], 5]
    answer = value_of_stream(port, start(port, "total", 7, flags=0, inputs="\0\0numbers"))
    assert answer.json["type"] == "TypeError" and "multiple values" in answer.json["message"]


def test_more_is_asked_for_as_items_are_taken(worker: Worker) -> None:
    port = worker(INPUTS)
    id = start(port, "total", flags=0, inputs="\0\0numbers")
    wish(port, id)
    give(port, id, *range(WINDOW_ITEMS), end=False)
    wish(port, id, taken=WINDOW_ITEMS // 2)
    wish(port, id, taken=WINDOW_ITEMS)
    nothing_comes(port)
    give(port, id)
    assert value(port.answer()) == sum(range(WINDOW_ITEMS))


def test_an_input_that_is_not_used_is_not_asked_for(worker: Worker) -> None:
    port = worker(INPUTS)
    id = start(port, "keeps", flags=0, inputs="\0\0numbers")
    assert value(port.answer()) is None
    answer = port.call("uses")
    assert answer.json["type"] == "RuntimeError" and "'numbers'" in answer.json["message"]
    id = start(port, "first", flags=0, inputs="\0\0numbers")
    wish(port, id)
    give(port, id, 1, 2, 3)
    assert value(port.answer()) == 1
    assert port.call("one", 1) == 1


def test_an_error_of_an_input_is_raised_after_its_items(worker: Worker) -> None:
    port = worker(INPUTS)
    id = start(port, "fails", flags=0, inputs="\0\0numbers")
    wish(port, id)
    give(port, id, 1, 2, end=False)
    port.send(_wire.INPUT, id, 2, "numbers", b'"the disk is full"')
    assert value(port.answer()) == [[1, 2, "input 'numbers', after 2 items: the disk is full"], []]


def test_an_item_that_python_cant_read(worker: Worker) -> None:
    port = worker(INPUTS)
    id = start(port, "fails", flags=0, inputs="\0\0numbers")
    wish(port, id)
    port.send(_wire.INPUT, id, 0, "numbers", b"[" * 100_000)
    give(port, id)
    (message,), rest = value(port.answer())
    assert message.startswith("input 'numbers', item 0: ") and rest == []


def test_a_stream_over_an_input(worker: Worker) -> None:
    port = worker(INPUTS)
    id = start(port, "doubled", inputs="\0\0numbers")
    wish(port, id)
    give(port, id, 1, 2, 3)
    assert all_items(port, id) == [2, 4, 6]


def test_several_threads_may_iterate_one(worker: Worker) -> None:
    port = worker(INPUTS)
    id = start(port, "in_threads", flags=0, inputs="\0\0numbers")
    port.socket.sendall(b"")
    answer = value_of_stream(port, id)
    assert answer.json["type"] == "TypeError"
    port._last_id += 1
    id = port._last_id
    port.send(_wire.CALL, id, 0, "in_threads\0\0numbers", b'{"n":4}')
    total = 500
    sent = 0
    while True:
        while (frame := port.answer()).kind == _wire.WANT:
            until_count = min(total, frame.arg + WINDOW_ITEMS)
            give(port, id, *range(sent, until_count), end=until_count == total > sent)
            sent = until_count
        break
    assert value(frame) == list(range(total))


@pytest.mark.parametrize("handler", ["total", "atotal", "doubled"])
def test_a_handler_that_waits_for_an_input_is_cancelled(worker: Worker, handler: str) -> None:
    port = worker(INPUTS)
    for _ in range(3):
        id = start(port, handler, flags=_wire.STREAM if handler == "doubled" else 0, inputs="\0\0numbers")
        wish(port, id)
        port.cancel(id)
        port.send(_wire.CANCEL, id)
        frame = port.answer()
        assert (frame.kind, frame.name, frame.flags) == (_wire.ERROR, "cancelled", 0)
    assert port.call("one", 1) == 1


def test_an_item_of_an_input_that_there_is_none_of_breaks_the_protocol(worker: Worker) -> None:
    port = worker(INPUTS)
    id = start(port, "total", flags=0, inputs="\0\0numbers")
    wish(port, id)
    with contextlib.suppress(BrokenPipeError):  # it may have left before all is sent
        give(port, id, 1, name="letters")
    assert port.at_end()
    wait_gone(port.pidfd)


# Progress

PROGRESS = f"""{BASIC}
@handler
def works(n):
    for i in range(n): progress(i + 1, n, f"step {{i}}")
    return n
@handler
async def aworks(n):
    for i in range(n):
        progress(i + 1)
        await asyncio.sleep(0)
@handler
def in_a_thread():
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(progress, 1, 2, "there"))
    thread.start()
    thread.join()
    other = threading.Thread(target=progress, args=(5,))
    other.start()
    other.join()
@handler
def wrong(done): progress(done)
@handler
def fails():
    progress(1)
    raise ValueError
"""


def reports(port: Port) -> tuple[list[Any], _wire.Frame]:
    found: list[Any] = []
    while (frame := port.answer()).kind == _wire.PROGRESS:
        found.append(json.loads(frame.json))
    return found, frame


def test_progress_is_told_to_a_caller_who_watches(worker: Worker) -> None:
    port = worker(PROGRESS)
    id = start(port, "works", 3, flags=_wire.WATCH)
    found, answer = reports(port)
    assert found == [[1.0, 3.0, "step 0"], [2.0, 3.0, "step 1"], [3.0, 3.0, "step 2"]]
    assert (answer.id, value(answer)) == (id, 3)
    assert port.call("works", 3) == 3
    start(port, "aworks", 2, flags=_wire.WATCH)
    assert reports(port)[0] == [[1.0, None, ""], [2.0, None, ""]]
    start(port, "in_a_thread", flags=_wire.WATCH)
    assert reports(port)[0] == [[1.0, 2.0, "there"]]
    start(port, "fails", flags=_wire.WATCH)
    found, answer = reports(port)
    assert (found, answer.name) == ([[1.0, None, ""]], "exception")


def test_a_tight_loop_sends_few_and_the_last(worker: Worker) -> None:
    port = worker(PROGRESS)
    start(port, "works", 20_000, flags=_wire.WATCH)
    found, _ = reports(port)
    assert found[-1] == [20_000.0, 20_000.0, "step 19999"]
    assert len(found) < 2000, len(found)
    assert [report[0] for report in found] == sorted(report[0] for report in found)


@pytest.mark.parametrize("done", [float("nan"), float("inf"), 10**400])
def test_numbers_that_are_none_are_refused(done: float) -> None:
    with pytest.raises(ValueError, match="done of a progress is a finite number"):
        snakepen.progress(done)
    with pytest.raises(ValueError, match="total of a progress is a finite number"):
        snakepen.progress(1, done)


def test_other_types_are_refused_and_outside_of_a_worker_nothing_happens() -> None:
    wrong: Any = "5"
    with pytest.raises(TypeError, match="done of a progress is a number, not str"):
        snakepen.progress(wrong)
    with pytest.raises(TypeError, match="message of a progress is a str, not bytes"):
        snakepen.progress(1, message=b"x")  # pyright: ignore
    assert snakepen.progress(1, 2, "three") is None
