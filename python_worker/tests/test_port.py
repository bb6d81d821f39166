"""The demultiplexer: what a worker answers while it waits, and how its port ends."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import Launcher, Port, value

from snakepen import _wire
from snakepen._connection import Connection, PortEnded
from snakepen._wire import Decoder

Worker = Callable[[str], Port]

WAITS = """
import asyncio, os, snakepen
@handler
def block(path):
    print("in", flush=True)
    with open(path) as pipe: pipe.read()
    return snakepen.current().cancelled
@handler
async def until_cancelled():
    while not snakepen.current().cancelled: await asyncio.sleep(0.001)
    return "seen"
@handler
def one(x): return x
@handler
async def later(x):
    await asyncio.sleep(0)
    return x
"""


def test_an_idle_worker_answers_pings(worker: Worker) -> None:
    port = worker(WAITS)
    for token in (0, 2**64 - 1):
        port.ping(token)


def test_an_awaiting_handler_lets_pings_and_cancels_in(worker: Worker) -> None:
    port = worker(WAITS)
    id = port.start_call("until_cancelled")
    port.ping(77)
    queued = port.start_call("one", 5)
    dropped = port.start_call("one", 6)
    port.send(_wire.CANCEL, dropped)
    frame = port.receive()
    assert (frame.kind, frame.id, frame.name) == (_wire.ERROR, dropped, "cancelled")
    port.send(_wire.CANCEL, id)
    frame = port.receive()
    assert (frame.id, value(frame)) == (id, "seen")
    frame = port.receive()
    assert (frame.id, value(frame)) == (queued, 5)
    port.send(_wire.CANCEL, 12345)  # long gone
    port.ping(78)


def test_a_blocked_handler_answers_afterwards(worker: Worker, tmp_path: Any) -> None:
    os.mkfifo(tmp_path / "gate")
    port = worker(WAITS)
    id = port.start_call("block", str(tmp_path / "gate"))
    port.read_line(port.stdout)
    port.send(_wire.PING, 5)
    queued = port.start_call("one", 1)
    port.send(_wire.CANCEL, queued)
    port.send(_wire.EXIT, 0)
    with open(tmp_path / "gate", "w"):
        pass
    kinds = [(frame.kind, frame.id) for frame in (port.receive() for _ in range(3))]
    assert kinds == [(_wire.RESULT, id), (_wire.PONG, 5), (_wire.ERROR, queued)]
    assert port.at_end()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (_wire.encode(99, 1), "unknown kind 99"),
        (_wire.encode(_wire.RESULT, 1), "the wrong way"),
        (_wire.encode(_wire.CALL, 1, flags=0x40), "0x40"),
        (_wire.encode(_wire.REPLY, 5), "isn't waited for"),
        (b"\xff" * 24, "unknown kind 255"),
        (b"\xff\xff\xff\xff\x01" + bytes(19), "4294967295 bytes"),
        (_wire.encode(_wire.CALL, 1, json=b"[1]")[:-1], "26 bytes into a frame"),
    ],
)
@pytest.mark.parametrize("awaiting", [False, True])
def test_broken_rules_end_the_port(launcher: Launcher, worker: Worker, data: bytes, says: str, awaiting: bool) -> None:
    port = worker(WAITS)
    other = launcher.worker(1)
    if awaiting:
        port.start_call("until_cancelled")
        port.ping(1)
    port.socket.sendall(data)
    port.socket.shutdown(socket.SHUT_WR)
    assert launcher.hear() == {"op": "exited", "pid": port.pid, "code": 70, "signal": None}
    errors = port.text(port.stderr)
    assert errors.count("\n") == 1 and says in errors
    other.ping(2)


@pytest.mark.parametrize("awaiting", [False, True])
def test_the_end_between_frames_is_a_quiet_exit(launcher: Launcher, worker: Worker, awaiting: bool) -> None:
    port = worker(WAITS)
    if awaiting:
        port.start_call("until_cancelled")
        port.ping(1)
    port.socket.shutdown(socket.SHUT_RDWR)
    assert launcher.hear()["code"] == 0
    assert port.text(port.stderr) == ""


def test_an_async_handler_after_sync_ones_and_the_other_way_round(worker: Worker) -> None:
    port = worker(WAITS)
    for number in range(20):
        assert port.call("one" if number % 2 else "later", number) == number


def test_async_errors_and_ways_out(launcher: Launcher, worker: Worker) -> None:
    port = worker(
        "import asyncio, sys, contextlib\n"
        "@handler\nasync def fail():\n await asyncio.sleep(0)\n raise ValueError('x')\n"
        "@handler\ndef wrapped(): return asyncio.sleep(0, 'slept')\n"
        "@handler\nasync def gone(): raise asyncio.CancelledError\n"
        "@handler\nasync def same(): return id(asyncio.get_running_loop())\n"
        "async def background():\n try: await asyncio.sleep(1000)\n finally: print('cleaned up')\n"
        "TASKS = []\n"
        "@handler\nasync def leave():\n"
        " TASKS.append(asyncio.create_task(background()))\n await asyncio.sleep(0)\n sys.exit(4)\n"
    )
    error = port.call("fail").json
    lines = error["traceback"].splitlines()
    assert error["type"] == "ValueError" and lines[1].endswith("in fail")
    assert port.call("wrapped") == "slept"
    assert port.call("gone").json["type"] == "CancelledError"
    assert port.call("same") == port.call("same")
    port.start_call("leave")
    assert launcher.hear()["code"] == 4
    assert port.text(port.stdout) == "cleaned up\n"
    assert port.text(port.stderr) == ""


def test_an_interrupt_while_idle_ends_the_worker(launcher: Launcher, worker: Worker) -> None:
    port = worker(WAITS)
    os.kill(port.pid, signal.SIGINT)
    assert launcher.hear()["code"] == 1
    assert "KeyboardInterrupt" in port.text(port.stderr)


# The connection itself.


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    near, far = socket.socketpair()
    connection = Connection(near.detach(), 1 << 24)
    far.settimeout(15)
    yield connection, far
    connection.abandon()
    far.close()


def test_the_end(pair: tuple[Connection, socket.socket]) -> None:
    connection, far = pair
    far.close()
    connection.send(_wire.PONG, 1)  # swallowed
    with pytest.raises((PortEnded, ConnectionResetError)):
        connection.next_call()


def test_frames_of_many_threads_never_mix(pair: tuple[Connection, socket.socket]) -> None:
    connection, far = pair
    sizes = [0, 10, 50_000, 400_000]

    def send(number: int) -> None:
        for turn in range(40):
            size = sizes[(turn + number) % len(sizes)]
            connection.send(_wire.LOG, turn, number, b"t%d" % number, b"%d" % (number % 10) * size)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    decoder = Decoder(1 << 24, _wire.TO_RUST)
    seen: dict[int, list[int]] = {number: [] for number in range(6)}
    while sum(map(len, seen.values())) < 240:
        decoder.received(far.recv_into(decoder.space()))
        while (frame := decoder.next()) is not None:
            assert set(frame.json) <= {str(frame.arg)} and frame.name == f"t{frame.arg}"
            seen[frame.arg].append(frame.id)
    for thread in threads:
        thread.join()
    assert all(turns == list(range(40)) for turns in seen.values())


def test_a_sender_that_interrupts_a_send(pair: tuple[Connection, socket.socket]) -> None:
    connection, far = pair
    interrupted: list[int] = []

    def interrupt(_number: int, _frame: object) -> None:
        connection.send(_wire.PONG, 1000 + len(interrupted))
        interrupted.append(1)

    main = threading.main_thread().ident
    assert main is not None
    got: list[_wire.Frame] = []

    def read() -> None:
        decoder = Decoder(1 << 24, _wire.TO_RUST)
        while sum(frame.kind == _wire.LOG for frame in got) < 50:
            signal.pthread_kill(main, signal.SIGUSR1)
            decoder.received(far.recv_into(decoder.space()))
            while (frame := decoder.next()) is not None:
                got.append(frame)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        reader = threading.Thread(target=read)
        reader.start()
        for number in range(50):
            connection.send(_wire.LOG, number, json=b"x" * 300_000)
        reader.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    logs = [frame for frame in got if frame.kind == _wire.LOG]
    assert [frame.id for frame in logs] == list(range(50))
    assert all(len(frame.json) == 300_000 for frame in logs) and interrupted
