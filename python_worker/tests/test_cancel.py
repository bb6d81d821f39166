"""Cancellation: where a handler is interrupted, where it isn't, and what is answered."""

from __future__ import annotations

import os
import random
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from harness import Launcher, Port, until, value, wait_gone

from snakepen import Cancelled, _handlers, _wire
from snakepen._cancel import Cancellation
from snakepen._request import Place, Request
from snakepen._serve import Leave, Server
from snakepen._status import CANCELLED, STARTED, StatusPage

Worker = Callable[[str], Port]
Handlers = Callable[[str], dict[str, str]]

BASIC = """
import asyncio, ctypes, logging, os, re, sys, threading, time, weakref
from snakepen import Cancelled, current, shield
def ready(): print("in", flush=True)
def wait_for_cancel():
    while not current().cancelled: time.sleep(0.001)
def for_ever():
    ready()
    while True: time.sleep(0.001)
@handler
def one(x): return x
@handler
async def later(x):
    await asyncio.sleep(0)
    return x
"""


def begin(port: Port, handler: str, *arguments: object) -> int:
    """Calls a handler, and waits until it says "in"."""
    id = port.start_call(handler, *arguments)
    assert port.read_line(port.stdout) == "in\n"
    return id


def is_cancelled(frame: _wire.Frame, recycle: bool = True) -> bool:
    assert (frame.kind, frame.name, frame.json) == (_wire.ERROR, "cancelled", "{}"), (frame.name, frame.json)
    assert frame.flags == (_wire.RECYCLE if recycle else 0)
    return True


# The stack

PLACES = f"""{BASIC}
@handler
def sleeps(): ready(); time.sleep(1000)
@handler
def acquires():
    lock = threading.Lock()
    lock.acquire()
    ready()
    lock.acquire()
@handler
def loops():
    ready()
    while True: pass
@handler
def calls_back():
    ready()
    while True: sorted(range(100), key=lambda x: -x)
@handler
async def awaits():
    async def inner():
        asyncio.get_running_loop().call_soon(ready)
        await asyncio.sleep(1000)
    await inner()
@handler
def holds_the_gil():
    read, write = os.pipe()
    ready()
    ctypes.PyDLL(None).read(read, ctypes.create_string_buffer(1), 1)
    time.sleep(1000)
@handler
def backtracks(): ready(); re.match("(a+)+$", "a" * 64 + "b")
@handler
def adds(): ready(); sum(range(10**15))
"""


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("place", ["sleeps", "acquires", "loops", "calls_back", "awaits"])
def test_the_stack_comes_once_and_with_its_end(launcher: Launcher, handlers: Handlers, place: str, fresh: bool) -> None:
    launcher.configure(handlers=handlers(PLACES), fresh=fresh)
    port = launcher.worker()
    id = begin(port, place)
    assert is_cancelled(port.answer_to_cancel(id), recycle=place != "awaits")
    whose, *lines = port.stack().splitlines()
    assert whose == f"\x16{id}"
    assert lines[0] == "Stack (most recent call first):" and lines[-1] == "\x17"
    assert any(line.endswith(f" in {place}") and "user_handlers.py" in line for line in lines), lines
    assert not any("/snakepen/_" in line for line in lines), lines
    if place == "awaits":
        assert [line.rpartition(" ")[2] for line in lines[1:4]] == ["sleep", "inner", "awaits"]
    assert not select.select([port.dump], [], [], 0)[0]


@pytest.mark.parametrize("place", ["sleeps", "acquires", "awaits", "holds_the_gil", "backtracks", "adds"])
def test_the_other_signal_shows_the_stack_in_c_code(worker: Worker, place: str) -> None:
    port = worker(PLACES)
    id = begin(port, place)
    until(lambda: _in_c(port, place), "it isn't there")
    for _ in range(20):
        signal.pidfd_send_signal(port.pidfd, signal.SIGWINCH)
        text = port.stack(b" in <module>\n")
        assert text.startswith("Stack (most recent call first):\n")
        assert place == "awaits" or f"in {place}\n" in text
    if place in ("backtracks", "adds"):  # they can't be helped
        os.kill(port.pid, signal.SIGKILL)
        wait_gone(port.pidfd)
    else:
        assert is_cancelled(port.answer_to_cancel(id), recycle=place != "awaits")


def _in_c(port: Port, place: str) -> bool:
    """Asleep, or in the loop that takes all of its time."""
    state = Path(f"/proc/{port.pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == ("R" if place in ("backtracks", "adds") else "S")


def test_a_child_writes_no_stack(worker: Worker) -> None:
    port = worker(
        f"""{BASIC}
import signal
@handler
def fork():
    pid = os.fork()
    if pid == 0:
        for number in (signal.SIGURG, signal.SIGWINCH): os.kill(os.getpid(), number)
        with shield(): pass
        os._exit(signal.getsignal(signal.SIGURG) is not signal.SIG_DFL)
    return os.waitpid(pid, 0)[1]
"""
    )
    port.page[CANCELLED] = 1
    assert port.call("fork") == 0
    assert not select.select([port.dump], [], [], 0)[0]


# What a handler makes of it

TAKES = f"""{BASIC}
class Manager:
    def __enter__(self): return self
    def __exit__(self, kind, *_): print("exit", kind.__name__, current().cancelled)
@handler
def lets_it_out():
    with Manager():
        try: for_ever()
        finally:
            for _ in range(10): time.sleep(0.01)  # asked again and again
            print("finally", flush=True)
@handler
def swallows():
    try: for_ever()
    except BaseException: pass
    return "swallowed"
@handler
def turns():
    try: for_ever()
    except Cancelled as error: raise ValueError from error
@handler
def its_own(): raise Cancelled
@handler
def its_own_when_asked():
    with shield():
        ready()
        wait_for_cancel()
        raise Cancelled
@handler
async def its_own_async(): raise asyncio.CancelledError
"""


def test_what_a_handler_makes_of_it(worker: Worker) -> None:
    port = worker(TAKES)
    assert is_cancelled(port.answer_to_cancel(begin(port, "lets_it_out")))
    assert port.read_line(port.stdout) == "finally\n"
    assert port.read_line(port.stdout) == "exit Cancelled True\n"
    frame = port.answer_to_cancel(begin(port, "swallows"))
    assert (value(frame), frame.flags) == ("swallowed", _wire.RECYCLE)
    answer = value(port.answer_to_cancel(begin(port, "turns")))
    assert (answer.status, answer.flags, answer.json["type"]) == ("exception", _wire.RECYCLE, "ValueError")
    assert answer.json["cause"]["type"] == "Cancelled" and answer.json["cause"]["module"] == "snakepen"
    answer = port.call("its_own")
    assert (answer.status, answer.flags, answer.json["type"]) == ("exception", 0, "Cancelled")
    answer = port.call("its_own_async")
    assert (answer.status, answer.flags, answer.json["type"]) == ("exception", 0, "CancelledError")
    assert is_cancelled(port.answer_to_cancel(begin(port, "its_own_when_asked")))
    assert port.call("one", 1) == 1


def test_a_pool_may_keep_its_workers(launcher: Launcher, handlers: Handlers) -> None:
    launcher.configure(handlers=handlers(TAKES), reuse_after_cancel=True)
    port = launcher.worker()
    assert is_cancelled(port.answer_to_cancel(begin(port, "lets_it_out")), recycle=False)
    assert [port.read_line(port.stdout) for _ in range(2)] == ["finally\n", "exit Cancelled True\n"]
    assert port.answer_to_cancel(begin(port, "swallows")).flags == 0
    assert port.call("one", 1) == 1


def test_functions_without_frames_are_interrupted(launcher: Launcher, handlers: Handlers) -> None:
    launcher.configure(handlers=handlers(BASIC), expose={"sleep": "time:sleep"})
    port = launcher.worker()
    id = port.start_call("sleep", 1000)
    until(lambda: port.page[STARTED] == id, "it doesn't start")
    assert is_cancelled(port.answer_to_cancel(id))


def test_another_id_interrupts_nothing(worker: Worker, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    port = worker(
        f"""{BASIC}
@handler
def block(path):
    ready()
    with open(path) as pipe: pipe.read()
    return current().cancelled
"""
    )
    id = begin(port, "block", str(tmp_path / "gate"))
    for other in (0, id - 1, id + 1, id + 2**32, 2**64 - 1) * 20:
        port.cancel(other)
    with open(tmp_path / "gate", "w"):
        pass
    frame = port.answer()
    assert (value(frame), frame.flags) == (False, 0)
    assert not select.select([port.dump], [], [], 0)[0]


# Where nothing is raised

UNFIT = f"""{BASIC}
@handler
def shields(same):
    first = shield()
    with first:
        with first if same else shield():
            ready()
            wait_for_cancel()
        print("inner")
        time.sleep(0)
        print("outer", flush=True)
    print("beyond")
@handler
def leaks_a_shield():
    shield().__enter__()
@handler
def shields_in_a_thread():
    entered, go = threading.Event(), threading.Event()
    mine = shield()
    def run():
        with mine, shield():
            entered.set()
            go.wait()
    thread = threading.Thread(target=run)
    thread.start()
    entered.wait()
    try: for_ever()
    finally:
        go.set()
        thread.join()
@handler
def shields_beside_a_thread():
    mine = shield()
    def run():
        with mine, shield(): pass
    with mine:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        ready()
        wait_for_cancel()
        print("whole", flush=True)
    print("beyond")
@handler
def imports():
    import slow
    print(slow.DONE, flush=True)
    while True: time.sleep(0.001)
@handler
def finalizes():
    class Thing:
        def __del__(self):
            ready()
            wait_for_cancel()
            print("whole", flush=True)
    Thing()
    while True: time.sleep(0.001)
class Target: pass
@handler
def calls_back():
    target = Target()
    def gone(_):
        ready()
        for _ in range(100):
            wait_for_cancel()
            time.sleep(0.01)
        print("never", flush=True)
    reference = weakref.ref(target, gone)
    try: del target
    finally: print("after", flush=True)
    while True: time.sleep(0.001)
class Slow(dict):
    def items(self):
        ready()
        wait_for_cancel()
        return [("a", 1)]
@handler
def encodes(): return Slow(a=2)
@handler
def blocks_signals():
    import signal
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ready()
    sys.stdin.read()
    for _ in range(100): time.sleep(0.001)
    return current().cancelled
@handler
def complains():
    class Thing:
        def __del__(self): raise ValueError("a finalizer's own")
    Thing()
with shield(): pass
"""


@pytest.mark.parametrize("same", [False, True])
def test_a_shield_puts_it_off(worker: Worker, same: bool) -> None:
    port = worker(UNFIT)
    assert port.call("leaks_a_shield") is None
    id = begin(port, "shields", same)
    port.cancel(id)  # once: the shield remembers it
    assert is_cancelled(port.answer())
    assert [port.read_line(port.stdout) for _ in range(2)] == ["inner\n", "outer\n"]
    assert port.call("one", 1) == 1
    port.leave()
    assert port.text(port.stdout) == ""


def test_threads_shield_nothing(worker: Worker) -> None:
    port = worker(UNFIT)
    assert is_cancelled(port.answer_to_cancel(begin(port, "shields_in_a_thread")))
    id = begin(port, "shields_beside_a_thread")
    port.cancel(id)
    assert is_cancelled(port.answer())
    assert port.read_line(port.stdout) == "whole\n"
    port.leave()
    assert port.text(port.stdout) == ""


def test_an_import_is_finished_first(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import user_handlers as u\nu.ready()\nu.wait_for_cancel()\nDONE = 'whole'\n")
    port = worker(UNFIT)
    assert is_cancelled(port.answer_to_cancel(begin(port, "imports")))
    assert port.read_line(port.stdout) == "whole\n"


def test_a_finalizer_is_finished_first(worker: Worker) -> None:
    port = worker(UNFIT)
    assert is_cancelled(port.answer_to_cancel(begin(port, "finalizes")))
    assert port.read_line(port.stdout) == "whole\n"
    port.leave()
    assert port.text(port.stderr) == ""


def test_what_a_callback_swallows_is_raised_again(worker: Worker) -> None:
    port = worker(UNFIT)
    assert is_cancelled(port.answer_to_cancel(begin(port, "calls_back")))
    assert port.read_line(port.stdout) == "after\n"
    assert port.call("complains") is None
    port.leave()
    text = port.text(port.stderr)
    assert "Cancelled" not in text and "a finalizer's own" in text


def test_a_result_is_encoded_in_peace(worker: Worker) -> None:
    port = worker(UNFIT)
    frame = port.answer_to_cancel(begin(port, "encodes"))
    assert (value(frame), frame.flags) == ({"a": 1}, 0)


def test_blocked_signals_are_never_seen(worker: Worker) -> None:
    port = worker(UNFIT)
    frame = port.answer_to_cancel(begin(port, "blocks_signals"))
    assert (value(frame), frame.flags) == (False, 0)
    assert not select.select([port.dump], [], [], 0)[0]


# Event loops

LOOPS = f"""{BASIC}
@handler
async def waits():
    try:
        ready()
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        print("error", current().cancelled)
        raise
    finally:
        for _ in range(10): await asyncio.sleep(0.01)
        print("finally", flush=True)
@handler
async def swallows():
    try:
        ready()
        await asyncio.sleep(1000)
    except asyncio.CancelledError: return "swallowed"
@handler
async def computes():
    ready()
    wait_for_cancel()
    print("whole", flush=True)
    await asyncio.sleep(1000)
@handler
async def shields():
    with shield():
        ready()
        while not current().cancelled: await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        print("whole", flush=True)
    await asyncio.sleep(1000)
    print("beyond")
@handler
async def leaves_a_shield():
    async def stay():
        with shield(): await asyncio.sleep(1000)
    asyncio.ensure_future(stay())
    await asyncio.sleep(0.01)
@handler
def runs():
    async def side():
        try: await asyncio.sleep(1000)
        finally: print("side")
    async def main():
        task = asyncio.ensure_future(side())
        await asyncio.sleep(0)
        ready()
        try: await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.1)
            print("main", task.done(), flush=True)
    asyncio.run(main())
@handler
def runs_and_goes_on():
    try: asyncio.run(waits())
    except asyncio.CancelledError: pass
    return "went on"
@handler
def shields_a_run():
    async def main():
        ready()
        while not current().cancelled: await asyncio.sleep(0.001)
        return "whole"
    with shield(): print(asyncio.run(main()), flush=True)
    print("beyond")
"""


def test_an_async_handler_gets_its_own_kind(worker: Worker) -> None:
    port = worker(LOOPS)
    for _ in range(3):
        assert is_cancelled(port.answer_to_cancel(begin(port, "waits")), recycle=False)
        assert [port.read_line(port.stdout) for _ in range(2)] == ["error True\n", "finally\n"]
        assert port.call("later", 7) == 7
    frame = port.answer_to_cancel(begin(port, "swallows"))
    assert (value(frame), frame.flags) == ("swallowed", 0)
    assert is_cancelled(port.answer_to_cancel(begin(port, "computes")), recycle=False)
    assert port.read_line(port.stdout) == "whole\n"
    assert port.call("one", 7) == 7
    port.leave()
    assert port.text(port.stderr) == ""


def test_a_shield_in_an_async_handler(worker: Worker) -> None:
    port = worker(LOOPS)
    assert port.call("leaves_a_shield") is None
    id = begin(port, "shields")
    port.cancel(id)
    assert is_cancelled(port.answer(), recycle=False)
    assert port.read_line(port.stdout) == "whole\n"
    assert port.call("later", 7) == 7
    port.leave()
    assert port.text(port.stdout) == ""


def test_a_loop_that_a_sync_handler_runs(worker: Worker) -> None:
    port = worker(LOOPS)
    assert is_cancelled(port.answer_to_cancel(begin(port, "runs")), recycle=False)
    assert [port.read_line(port.stdout) for _ in range(2)] == ["side\n", "main True\n"]
    frame = port.answer_to_cancel(begin(port, "runs_and_goes_on"))
    assert (value(frame), frame.flags) == ("went on", 0)
    assert [port.read_line(port.stdout) for _ in range(2)] == ["error True\n", "finally\n"]
    id = begin(port, "shields_a_run")
    port.cancel(id)
    assert is_cancelled(port.answer())
    assert port.read_line(port.stdout) == "whole\n"
    port.leave()
    assert (port.text(port.stdout), port.text(port.stderr)) == ("", "")


# Random moments

SHORT = f"""{BASIC}
LOCK = threading.Lock()
SUM = 0
def step():
    with LOCK: logging.info("a line")
    sorted(range(50), key=lambda x: -x)
@handler
def short():
    for _ in range(3): step()
    return "done"
@handler
def long():
    while True: step()
@handler
async def short_async():
    for _ in range(3):
        await asyncio.sleep(0)
        step()
    return "done"
@handler
async def long_async():
    while True:
        await asyncio.sleep(0)
        step()
@handler
def free():
    with LOCK: logging.info("free")
    return sorted(range(3), key=lambda x: -x)
"""


@pytest.mark.parametrize("seed", range(4))
def test_the_next_request_is_never_hit(worker: Worker, seed: int) -> None:
    choose = random.Random(seed)
    port = worker(SHORT)
    seen = 0
    for _ in range(500):
        name = choose.choice(["short"] * 6 + ["short_async"] * 2 + ["long", "long_async"])
        id = port.start_call(name)
        # Of the length of a short call: some cancels come before it, some after it.
        for _ in range(choose.randrange(400)):
            select.select([], [], [], 0)
        frame = port.answer_to_cancel(id)
        if frame.kind == _wire.RESULT:
            assert name.startswith("short") and value(frame) == "done" and not frame.flags & ~_wire.RECYCLE
        else:
            assert is_cancelled(frame, recycle=not name.endswith("async"))
            seen += 1
        next = port.start_call("free")
        for _ in range(choose.randrange(3)):
            port.cancel(id)
        frame = port.answer()
        assert (frame.id, value(frame), frame.flags) == (next, [2, 1, 0], 0)
        while select.select([port.dump], [], [], 0)[0]:
            os.read(port.dump, 65536)
    assert seen
    port.leave()
    assert port.text(port.stderr) == ""


# Every moment


class Socketless:
    """What a server needs of its connection."""

    def __init__(self) -> None:
        self.running: Any = None
        self.abandoned = False
        self.max_frame = 1 << 20


class Steps:
    """Runs a coroutine that waits for nothing."""

    def run(self, awaitable: Any) -> Any:
        try:
            awaitable.send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("it waits")


def raises() -> None:
    raise ValueError


def swallows() -> str:
    try:
        return "".join(["as", "it is"])
    except Cancelled:
        return "swallowed"


async def awaits() -> int:
    return 7


def exits() -> None:
    sys.exit(3)


@pytest.mark.parametrize("function", [abs, raises, swallows, awaits, exits])
def test_no_instruction_of_the_loop_lets_it_through(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    """The signal is handled before every single one of the instructions that run a handler and the loop around it."""
    page = StatusPage.__new__(StatusPage)
    page._words = memoryview(bytearray(8192)).cast("Q")
    page._words[CANCELLED] = 1
    dump = os.open(os.devnull, os.O_WRONLY)
    connection: Any = Socketless()
    monkeypatch.setitem(_handlers.table, "it", function)
    call = _wire.Frame(_wire.CALL, 0, 1, 0, "it", "")
    arguments = -5 if function is abs else None
    cancellation = Cancellation(connection, page, dump, False)
    place = Place("demo", "demo/worker/0", 0, 1)
    server = Server(connection, page, place, cancellation)
    loop: Any = Steps()
    server.event_loop = loop
    traced = (Server._run.__code__, getattr(function, "__code__", None))
    left = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code not in traced:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                cancellation._asked(signal.SIGURG, frame)
        return trace

    outcomes: set[tuple[object, bool]] = set()
    before = sys.gettrace()
    moment = 0
    # The first round is for CPython 3.12, which traces no instructions in it.
    while moment <= 1 or left <= 0:
        left = moment
        moment += 1
        sys.settrace(trace)
        try:
            request = Request(call.id, call.name, call.arg, place)
            outcome: object = server._run(function, arguments, request, server._result)[:3]
        except Leave as leave:
            outcome = leave.code
        finally:
            sys.settrace(before)
        case = cancellation.case
        raised = case is not None and case.raised is not None
        assert cancellation.settle() == raised
        assert connection.running is None and cancellation.request is None
        outcomes.add((outcome, raised))
    os.close(dump)
    end = (_wire.ERROR, b"cancelled", b"{}")
    if function is awaits:
        assert outcomes == {((_wire.RESULT, b"", b"7"), False)}
    elif function is abs:
        assert outcomes == {((_wire.RESULT, b"", b"5"), False), (end, True)}
    elif function is swallows:
        usual = (_wire.RESULT, b"", b'"asit is"')
        assert outcomes == {(usual, False), ((_wire.RESULT, b"", b'"swallowed"'), True), (end, True)}
    elif function is exits:
        assert outcomes == {(3, False), (end, True)}
    else:
        names = {(outcome[1] if isinstance(outcome, tuple) else outcome, raised) for outcome, raised in outcomes}
        assert names == {(b"exception", False), (b"cancelled", True)}
