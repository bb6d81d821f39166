"""Questions to Rust at the worst moment: signal handlers that raise or ask, threads that are a little too late."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from harness import until

from snakepen import _wire
from snakepen._connection import Connection
from snakepen._wire import Decoder, Frame


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    near, far = socket.socketpair()
    connection = Connection(near.detach(), 1 << 24)
    far.settimeout(15)
    faulthandler.dump_traceback_later(30, exit=True)  # what fails here waits for ever
    yield connection, far
    faulthandler.cancel_dump_traceback_later()
    connection.abandon()
    far.close()


@pytest.fixture
def on_alarm() -> Iterator[Callable[[Any], None]]:
    before = signal.getsignal(signal.SIGALRM)
    faulthandler.dump_traceback_later(30, exit=True)

    def install(handler: Any) -> None:
        signal.signal(signal.SIGALRM, handler)

    yield install
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Echo(threading.Thread):
    """Replies to each question at once, until the end."""

    def __init__(self, far: socket.socket) -> None:
        super().__init__()
        self.far = far

    def run(self) -> None:
        decoder = Decoder(1 << 24, _wire.TO_RUST)
        while count := self.far.recv_into(decoder.space()):
            decoder.received(count)
            out = b""
            while (frame := decoder.next()) is not None:
                if frame.kind == _wire.ASK:
                    out += _wire.encode(_wire.REPLY, frame.id, 0, b"value", str(frame.json).encode())
            with contextlib.suppress(BrokenPipeError):
                self.far.sendall(out)


def asked(far: socket.socket, decoder: Decoder) -> Frame:
    while (frame := decoder.next()) is None:
        decoder.received(far.recv_into(decoder.space()))
    assert frame.kind == _wire.ASK
    return frame


class Late:
    """A lock that another thread has had, and released just before it is taken."""

    def __init__(self, lock: Any, before: Callable[[], None]) -> None:
        self._lock = lock
        self._before = before

    def acquire(self, *arguments: Any) -> bool:
        self._before()
        return self._lock.acquire(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)


def test_a_call_that_another_thread_has_just_received(pair: tuple[Connection, socket.socket]) -> None:
    connection, _ = pair
    call = Frame(_wire.CALL, 0, 1, 0, "f", "")
    connection._receiving = Late(connection._receiving, lambda: connection._calls.append(call))
    assert connection.next_call() is call


def test_a_signal_handler_that_asks_just_as_its_thread_takes_the_place(
    pair: tuple[Connection, socket.socket], on_alarm: Callable[[Any], None]
) -> None:
    connection, far = pair
    refused: list[RuntimeError] = []

    def ask(*_: object) -> None:
        try:
            connection.ask(b"get", b"2")
        except RuntimeError as error:
            refused.append(error)

    on_alarm(ask)

    class Interrupted(Late):
        def acquire(self, *arguments: Any) -> bool:
            taken = self._lock.acquire(*arguments)
            connection._receiving = self._lock  # once
            signal.raise_signal(signal.SIGALRM)
            return taken

    connection._receiving = Interrupted(connection._receiving, lambda: None)
    far.sendall(_wire.encode(_wire.REPLY, 1, json=b"1"))
    assert connection.ask(b"get", b"1").json == "1"
    assert len(refused) == 1


def test_a_signal_handler_that_asks_while_its_thread_sleeps(
    pair: tuple[Connection, socket.socket], on_alarm: Callable[[Any], None]
) -> None:
    """Another thread receives, and leaves: the one that the handler has interrupted can't take its place."""
    connection, far = pair
    decoder = Decoder(1 << 24, _wire.TO_RUST)
    found: list[Any] = []
    on_alarm(lambda *_: found.append(connection.ask(b"get", b"3").json))
    other = threading.Thread(target=lambda: found.append(connection.ask(b"get", b"1").json))
    other.start()
    first = asked(far, decoder)

    def waiting() -> list[Any]:
        return connection._sleepers  # pyright: ignore[reportPrivateUsage]

    def rust() -> None:
        second = asked(far, decoder)
        until(lambda: len(waiting()) == 2, "the main thread waits")
        signal.pthread_kill(main, signal.SIGALRM)
        third = asked(far, decoder)
        until(lambda: len(waiting()) == 3, "the signal handler waits")
        far.sendall(_wire.encode(_wire.REPLY, first.id, json=b"1"))
        other.join()
        far.sendall(_wire.encode(_wire.REPLY, third.id, json=b"3") + _wire.encode(_wire.REPLY, second.id, json=b"2"))

    main = threading.get_ident()
    server = threading.Thread(target=rust)
    server.start()
    start = time.monotonic()
    found.append(connection.ask(b"get", b"2").json)
    assert time.monotonic() - start < 0.7
    server.join()
    assert found == ["1", "3", "2"]


def test_a_signal_handler_that_asks_while_its_thread_sends(
    pair: tuple[Connection, socket.socket], on_alarm: Callable[[Any], None]
) -> None:
    """Its question would go out after the frame that it has interrupted, and so never."""
    connection, far = pair
    refused: list[RuntimeError] = []

    def ask(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            connection.ask(b"get", b"2")
        except RuntimeError as error:
            refused.append(error)
        reader.start()

    on_alarm(ask)
    reader = Echo(far)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    connection.send(_wire.LOG, 0, json=b'"%s"' % (b"x" * (1 << 20)))  # until it is read
    assert len(refused) == 1
    far.shutdown(socket.SHUT_RDWR)
    reader.join()


def test_a_reply_for_a_loop_that_is_closed(pair: tuple[Connection, socket.socket]) -> None:
    """A task asked, and was cancelled as the worker leaves; a thread asks still."""
    import asyncio

    connection, far = pair
    loop = asyncio.new_event_loop()
    connection.ask_from(loop, b"get", b"1").cancel()
    loop.close()
    found: list[Any] = []
    far.sendall(_wire.encode(_wire.REPLY, 1, json=b"1") + _wire.encode(_wire.REPLY, 2, json=b"2"))
    thread = threading.Thread(target=lambda: found.append(connection.ask(b"get", b"2").json))
    thread.start()
    thread.join()
    assert found == ["2"]


def test_nothing_follows_half_a_frame(pair: tuple[Connection, socket.socket]) -> None:
    """A signal handler raises after a part of a frame has gone: that is the end, before another thread has its turn."""
    connection, _ = pair
    held: list[bool] = []

    class Interrupted:
        def __init__(self, socket: Any) -> None:
            self._socket = socket

        def send(self, frame: bytes, flags: int) -> int:
            self._socket.send(frame[:3], flags)
            raise TimeoutError("by a signal handler")

        def shutdown(self, how: int) -> None:
            held.append(connection._sending._is_owned())  # pyright: ignore[reportPrivateUsage]
            self._socket.shutdown(how)

        def close(self) -> None:
            self._socket.close()

    connection._socket = cast(Any, Interrupted(connection._socket))  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(TimeoutError):
        connection.send(_wire.LOG, 0, json=b'"a record"')
    assert held[0]


def test_what_an_exception_has_left_held_ends_with_the_request(pair: tuple[Connection, socket.socket]) -> None:
    """As a signal handler's may that comes where nothing can give a lock back."""
    connection, far = pair
    echo = Echo(far)
    echo.start()
    for lock in (connection._sending, connection._receiving):  # pyright: ignore[reportPrivateUsage]
        lock.acquire()
        with pytest.raises(RuntimeError, match="can't wait for Rust"):
            connection.ask(b"get", b"1")
        connection.recover()
        assert connection.ask(b"get", b"1").json == "1"
    far.shutdown(socket.SHUT_RDWR)
    echo.join()
