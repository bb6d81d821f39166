"""Calls and answers of a worker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from harness import Launcher, Port, value, wait_gone

from snakepen import _wire
from snakepen._status import PHASE, STARTED

Worker = Callable[[str], Port]

BASIC = """
import os, sys, time
@handler
def echo(*args, **named): return [args, named]
@handler
def one(x): return x
@handler
def say(text, stream="stdout"): print(text, end="", file=getattr(sys, stream))
@handler
def big(size): return "x" * size
"""


@pytest.mark.parametrize(
    ("payload", "result"),
    [
        (b"[1,2]", [[1, 2], {}]),
        (b'{"a":1}', [[], {"a": 1}]),
        (b"", [[], {}]),
        (b"null", [[], {}]),
        (b"7", [[7], {}]),
        (b'"text"', [["text"], {}]),
        (b" [ 1 ] ", [[1], {}]),
        (b"false", [[False], {}]),
    ],
)
def test_arguments(worker: Worker, payload: bytes, result: Any) -> None:
    port = worker(BASIC)
    port.send(_wire.CALL, 5, 0, "echo", payload)
    frame = port.receive()
    assert (frame.id, value(frame)) == (5, result)


@pytest.mark.parametrize("payload", [b"[1", b"NaN", b'"\xff"', b"[" * 100_000, b"9" * 10_000])
def test_arguments_that_are_no_json(worker: Worker, payload: bytes) -> None:
    port = worker(BASIC)
    port.send(_wire.CALL, 5, 0, "one", payload)
    frame = port.receive()
    if payload.startswith(b"9") and frame.kind == _wire.RESULT:
        return  # no limit on digits in this version
    answer = value(frame)
    assert answer.status in ("arguments", "result") and answer.json["message"]
    assert port.page[STARTED] == (5 if answer.status == "result" else 0)
    assert port.call("one", 1) == 1


def test_an_unknown_handler(worker: Worker) -> None:
    answer = worker(BASIC).call("ohne", 1)
    assert answer.status == "unknown_handler"
    assert answer.json == {"name": "ohne", "known": ["big", "echo", "one", "say"]}


def test_buffers_are_refused_for_now(worker: Worker) -> None:
    port = worker(BASIC)
    port.socket.sendall(_wire.encode_with_buffers(_wire.CALL, 1, 0, b"one", b"[1]", [b"x"]))
    assert value(port.receive()).status == "arguments"


def test_an_exception_with_its_chain(worker: Worker) -> None:
    port = worker(
        "def inner(): return {}['k']\n"
        "@handler\ndef f():\n try: inner()\n except KeyError as e: raise OSError(2, 'no') from e\n"
        "@handler\ndef g():\n try: inner()\n except KeyError: [].x\n"
        "@handler\ndef h():\n try: inner()\n except KeyError: raise ValueError from None\n"
    )
    answer = port.call("f")
    assert (answer.status, answer.flags) == ("exception", 0)
    error = answer.json
    assert (error["type"], error["module"]) == ("FileNotFoundError", "builtins")
    assert (error["message"], error["relation"]) == ("[Errno 2] no", "cause")
    lines = error["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].endswith('user_handlers.py", line 7, in f')
    assert lines[-1] == "FileNotFoundError: [Errno 2] no"
    cause = error["cause"]
    assert (cause["type"], cause["cause"], cause["relation"]) == ("KeyError", None, None)
    assert "in inner" in cause["traceback"] and "direct cause" not in error["traceback"]
    assert port.call("g").json["relation"] == "context"
    assert port.call("h").json["cause"] is None


def test_a_read_only_argument_that_is_written_to(worker: Worker) -> None:
    port = worker(
        "@handler\ndef f():\n memoryview(b'x')[0] = 1\n@handler\ndef g():\n raise ValueError('a read-only account')\n"
    )
    assert port.call("g").json["traceback"].endswith("ValueError: a read-only account\n")
    answer = port.call("f")
    assert answer.json["message"] == "cannot modify read-only memory"
    assert answer.json["traceback"].splitlines()[-1].endswith("@snakepen.handler(writable=True).)")


def test_wrong_arguments_show_none_of_our_frames(worker: Worker) -> None:
    error = worker(BASIC).call("one", 1, 2).json
    assert error["type"] == "TypeError" and "File" not in error["traceback"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("def f(): f()\n    f()", "RecursionError"),
        ("class E(Exception):\n        def __str__(self): raise SystemExit\n    raise E", "boom.<locals>.E"),
        ("raise ValueError('\\udc80' * 3)", "ValueError"),
        ("a, b = ValueError('a'), ValueError('b')\n    a.__cause__, b.__cause__ = b, a\n    raise a", "ValueError"),
        ("raise ValueError('\\0' * 20_000_000)", "ValueError"),
        ("raise type('Odd', (Exception,), {'__module__': 5})", "Odd"),
    ],
)
def test_odd_exceptions(worker: Worker, body: str, kind: str) -> None:
    port = worker(f"@handler\ndef boom():\n    {body}\n{BASIC}")
    answer = port.call("boom")
    assert (answer.status, answer.json["type"]) == ("exception", kind)
    assert port.call("one", 1) == 1


def test_a_long_chain_is_cut(worker: Worker) -> None:
    port = worker(
        "@handler\ndef f(n=100):\n try: f(n - 1) if n else 1 / 0\n except Exception as e: raise ValueError(n) from e"
    )
    error = port.call("f").json
    depth = 0
    while error is not None:
        depth, error = depth + 1, error["cause"]
    assert depth == 16


def test_memory_error_asks_for_a_replacement(worker: Worker) -> None:
    answer = worker("@handler\ndef f(): raise MemoryError").call("f")
    assert (answer.json["type"], answer.flags) == ("MemoryError", _wire.RECYCLE)


def test_after_memory_error_what_was_written_ahead_is_not_started(worker: Worker) -> None:
    port = worker("import snakepen\n@snakepen.handler(prefetch=2)\ndef f(): raise MemoryError")
    spoils, ahead = port.start_call("f"), port.start_call("f")
    answer = port.receive()
    assert (answer.id, answer.flags) == (spoils, _wire.RECYCLE)
    answer = port.receive()
    assert (answer.kind, answer.id, answer.name) == (_wire.ERROR, ahead, "unstarted")
    assert port.page[STARTED] == spoils


def test_results_that_cant_be_json(worker: Worker) -> None:
    port = worker(f"@handler\ndef f(): return {{'a': [0, {{1}}]}}\n{BASIC}")
    answer = port.call("f")
    assert answer.status == "result"
    assert (answer.json["type"], answer.json["path"]) == ("set", "$.a[1]")
    assert port.call("one", 1) == 1


def test_a_result_over_the_limit(launcher: Launcher, handlers: Callable[[str], dict[str, str]]) -> None:
    launcher.configure(handlers=handlers(BASIC), max_frame=1000)
    port = launcher.worker()
    assert port.call("big", 998) == "x" * 998
    answer = port.call("big", 999)
    assert answer.status == "result" and "1001 bytes" in answer.json["message"] and "1000" in answer.json["message"]


def test_large_both_ways(worker: Worker) -> None:
    port = worker(BASIC)
    text = "ä" * (4 << 20)
    for _ in range(2):
        assert port.call("one", text) == text
    assert port.call("one", 1) == 1


def test_many_calls_in_one_piece_are_answered_in_order(worker: Worker) -> None:
    port = worker(BASIC)
    port.socket.sendall(b"".join(_wire.encode(_wire.CALL, id, 0, b"one", b"[%d]" % id) for id in range(1, 501)))
    assert [value(port.receive()) for _ in range(500)] == list(range(1, 501))


REQUEST = """
import snakepen, threading
@handler
def here():
    r = snakepen.current()
    return [r.id, r.handler, r.worker, r.slot, r.pool, r.deadline, r.remaining(), r.cancelled, repr(r)]
@handler
def elsewhere():
    out = []
    def look():
        try: out.append(snakepen.current().id)
        except RuntimeError as e: out.append(str(e))
    t = threading.Thread(target=look); t.start(); t.join()
    return out
"""


def test_the_current_request(launcher: Launcher, handlers: Callable[[str], dict[str, str]]) -> None:
    launcher.configure(handlers=handlers(REQUEST))
    port = launcher.worker(3)
    seen = port.call("here")
    assert seen[:8] == [1, "here", "demo/worker/3", 3, "demo", None, None, False]
    end = time.monotonic_ns() + 60 * 10**9
    port.start_call("here", deadline=end)
    seen = value(port.receive())
    assert seen[5] == pytest.approx(end / 1e9) and 0 < seen[6] < 60
    (past,) = [port.start_call("here", deadline=1)]
    assert value(port.receive())[:7] == [past, "here", "demo/worker/3", 3, "demo", 1e-9, 0.0]
    assert "outside of a request" in port.call("elsewhere")[0]


def test_the_status_page(worker: Worker) -> None:
    port = worker("import time\n@handler\ndef wait():\n print('in', flush=True)\n time.sleep(1000)\n" + BASIC)
    assert port.page[STARTED] == 0 and port.page[PHASE] == 1
    port.call("one", 1)
    port.ping(1)
    assert (port.page[STARTED], port.page[PHASE]) == (1, 1)
    port.call("nope")
    assert port.page[STARTED] == 1
    id = port.start_call("wait")
    port.read_line(port.stdout)
    assert (port.page[STARTED], port.page[PHASE]) == (id, 2)
    os.kill(port.pid, signal.SIGKILL)
    wait_gone(port.pidfd)
    assert (port.page[STARTED], port.page[PHASE]) == (id, 2)


def test_output_arrives_before_the_answer(worker: Worker) -> None:
    port = worker(BASIC)
    for stream, near in (("stdout", port.stdout), ("stderr", port.stderr)):
        port.call("say", "no newline, \ud800 é", stream)
        os.set_blocking(near, False)
        assert os.read(near, 100).decode() == "no newline, \\ud800 é"


def test_odd_standard_streams(worker: Worker) -> None:
    port = worker(
        "import sys\nclass Odd:\n def flush(self): raise OSError\n"
        "@handler\ndef odd(): sys.stdout = None; sys.stderr = Odd()\n@handler\ndef shut(): sys.__stdout__.close()\n"
        + BASIC
    )
    assert port.call("odd") is None
    assert port.call("shut") is None
    assert port.call("one", 1) == 1


def test_standard_input_is_empty(worker: Worker) -> None:
    assert worker("import sys\n@handler\ndef read(): return sys.stdin.read()").call("read") == ""


@pytest.mark.parametrize(
    ("body", "code", "number"),
    [
        ("os._exit(3)", 3, None),
        ("os.abort()", None, signal.SIGABRT),
        ("import ctypes; ctypes.string_at(0)", None, signal.SIGSEGV),
        ("os.kill(os.getpid(), 15)", None, signal.SIGTERM),
    ],
)
def test_deaths(launcher: Launcher, worker: Worker, body: str, code: int | None, number: int | None) -> None:
    port = worker(f"import os\n@handler\ndef die(): {body}")
    port.start_call("die")
    assert launcher.hear() == {"op": "exited", "pid": port.pid, "code": code, "signal": number}
    assert port.at_end() and port.page[STARTED] == 1
    if number in (signal.SIGABRT, signal.SIGSEGV):
        dump = port.text(port.dump)
        assert dump.startswith("Fatal Python error") and "in die" in dump


def test_a_closed_descriptor_is_named(launcher: Launcher, worker: Worker) -> None:
    port = worker("import os\n@handler\ndef close(): os.closerange(3, 100)")
    port.start_call("close")
    assert launcher.hear()["code"] == 70
    assert "did a handler close it" in port.text(port.stderr)


FORKS = """
import os, sys, logging, time
@handler
def fork_and_return(how):
    pid = os.fork()
    if pid == 0:
        logging.warning("from the child")
        if how == "raise": raise ValueError
        if how == "exit": sys.exit(5)
        return "a child's answer"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
@handler
async def fork_async():
    pid = os.fork()
    if pid == 0: return "a child's answer"
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
@handler
def multiprocess():
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(2) as pool: return pool.map(abs, [-1, -2])
def double(x): return 2 * x
@handler
def multiprocess_anew():
    import multiprocessing
    with multiprocessing.get_context("spawn").Pool(1) as pool: return pool.map(double, [1, 2])
@handler
def linger():
    pid = os.fork()
    if pid == 0:
        time.sleep(1000)
    return [pid, sorted(os.listdir(f"/proc/{pid}/fd"), key=int)]
"""


def test_a_forked_child_answers_nothing(launcher: Launcher, worker: Worker) -> None:
    port = worker(FORKS)
    assert port.call("fork_and_return", "return") == 0
    assert port.call("fork_and_return", "raise") == 1
    assert port.call("fork_and_return", "exit") == 5
    assert port.call("fork_async") == 0
    assert port.call("multiprocess") == [1, 2]
    assert port.call("multiprocess_anew") == [2, 4]
    port.ping(9)
    port.leave()
    assert port.text(port.stderr).splitlines() == ["WARNING:root:from the child"] * 3
    assert launcher.hear()["code"] == 0


def test_a_forked_child_doesnt_hold_the_port(worker: Worker) -> None:
    port = worker(FORKS)
    child = os.pidfd_open(port.call("linger")[0])
    os.kill(port.pid, signal.SIGKILL)
    assert port.at_end()
    wait_gone(child)
    os.close(child)


def test_a_file_that_forks_while_it_loads(worker: Worker) -> None:
    port = worker("import os\nif os.fork() == 0: CHILD = True\n" + BASIC)
    assert port.call("one", 1) == 1
    port.leave()
    assert port.text(port.stderr) == ""


def test_threads_are_waited_for_at_exit(worker: Worker) -> None:
    port = worker(
        "import threading\nGO = threading.Event()\ndef late():\n GO.wait()\n print('late')\n"
        "@handler\ndef start(): threading.Thread(target=late).start(); threading.Timer(0.05, GO.set).start()\n"
    )
    port.call("start")
    port.leave()
    assert port.text(port.stdout) == "late\n"
