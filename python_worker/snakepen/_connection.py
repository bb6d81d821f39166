"""The port's Python end: wherever it waits, it answers what can be answered at once."""

from __future__ import annotations

import os
from _socket import AF_UNIX, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, SHUT_RDWR, SOCK_STREAM, socket
from _thread import RLock, _count, get_ident
from itertools import count
from time import monotonic

from . import _wire
from ._request import running
from ._waiter import Awaiter, Waiter
from ._wire import CALL, CANCEL, CREDIT, EXIT, INPUT, PING, REPLY, Decoder, Frame, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future
    from collections import deque
    from collections.abc import Callable, Sequence
    from types import CodeType
    from typing import Any

    from ._request import Request
    from ._segment import Lane
    from ._stream import Exchange
else:
    from _collections import deque

_pack = _wire.HEADER.pack
_SMALL = 32 * 1024
_PIECES = 64
"""So many pieces of a frame are sent at once."""
_PATIENCE = 0.1


class PortEnded(Exception):
    """Rust has closed its end."""


class Connection:
    """A demultiplexer over the socket to Rust.

    Any thread may ask Rust something and wait for the reply; one of those that wait receives, for all of them: the main
    one where no other does. Any thread may send, also from a finalizer or a signal handler
    that interrupts a send: a frame is never split by another, and no sender waits for one that it interrupted.
    """

    WAITING: frozenset[CodeType]
    """The code in which the main thread is while `waits` is set."""

    def __init__(self, fd: int, max_frame: int) -> None:
        os.set_blocking(fd, True)
        self._socket = socket(AF_UNIX, SOCK_STREAM, 0, fd)  # named, so that they aren't asked of the kernel
        self._socket.settimeout(None)  # a preloaded module may have set a default
        self._decoder = Decoder(max_frame)
        self._calls: deque[Frame] = deque()
        self._asked: dict[int, Waiter | Awaiter] = {}
        self._tokens = count(1)
        self._receiving: Any = RLock()  # it knows its thread as soon as it is taken; nobody takes it twice
        self._sleepers: list[Waiter] = []
        self.waits = False
        """The main thread does nothing but wait for a reply, and may leave it."""
        self._main = Waiter()
        self._thread = get_ident()
        self.overlaps: AbstractEventLoop | None = None
        """The loop in which calls overlap, if they do. It stands still while a plain handler is at work."""
        self.served_by: AbstractEventLoop | None = None
        """The loop that receives while it is at work."""
        self.ready = False
        """Rust answers questions."""
        self._outgoing: deque[bytes | tuple[bytes | memoryview, ...]] = deque()
        self._sending: Any = RLock()
        self.leaving = False
        """Rust has asked the worker to leave, and grants no more credit."""
        self.exchanges: dict[int, Exchange] = {}
        """What goes to and fro beside the requests that are at work, by their ids."""
        self.given_up = False
        """A call may have been given up that waits for others of its batch."""
        self.news: Callable[[], None] | None = None
        """Called when a frame for the main thread was received elsewhere than in its loop, where it runs one."""
        self.max_frame = max_frame
        self.running: Request | None = None
        self.lane: Lane | None = None
        """Where large buffers are."""
        self.abandoned = False
        """True in a process that a handler forked: the port isn't its own."""

    def fileno(self) -> int:
        return self._socket.fileno()

    def abandon(self) -> None:
        self.abandoned = True
        self._outgoing.clear()
        try:
            self._socket.close()
            if self.lane is not None:
                self.lane.close()
        except OSError:  # the handler has closed it already
            pass

    # Receiving

    def expect(self, kind: int) -> Frame:
        """The next frame, for what Rust sends before the worker is ready: nobody else receives then."""
        while (frame := self._decoder.next()) is None:
            size = self._socket.recv_into(self._decoder.space())
            if not size:
                self._decoder.finish()
                raise PortEnded
            self._decoder.received(size)
        if frame.kind != kind:
            raise ProtocolError("unexpected_frame", f"a frame of kind {frame.kind}, where one of kind {kind} is due")
        return frame

    def next_call(self) -> Frame | None:
        """Waits for a call; None once Rust has asked to leave and no call is left."""
        calls = self._calls
        while True:
            if calls:
                try:
                    return calls.popleft()
                except IndexError:  # another thread has just taken out one that was given up
                    continue
            if self.leaving:
                return None
            if not self._receiving.acquire(False):
                self._receive_or_sleep(self._main)
                continue
            try:
                if not calls and not self.leaving:  # whoever had the place before may have received it just now
                    self._receive(0)
            finally:
                self._receiving.release()
            if self._sleepers:
                self._wake_one()

    def take_call(self) -> Frame | None:
        """A call that has been received."""
        try:
            return self._calls.popleft() if self._calls else None
        except IndexError:  # another thread has just taken out one that was given up
            return None

    def next_call_of(self, handler: str, seconds: float) -> Frame | None:
        """A call of this handler, if there is one within that time, and before one of another, or news that some were
        given up."""
        from select import POLLIN, poll

        calls = self._calls
        end = monotonic() + seconds
        while not calls and not self.leaving and not self.given_up:
            left = end - monotonic()
            if left <= 0:
                return None
            if not self._receiving.acquire(False):
                self._main.sleep(left)  # a thread is at it, and wakes this one
                continue
            try:
                poller = poll()
                poller.register(self._socket, POLLIN)
                if not calls and not self.given_up and poller.poll(left * 1000):
                    self._receive(MSG_DONTWAIT)
            except BlockingIOError:
                pass
            finally:
                self._receiving.release()
            if self._sleepers:
                self._wake_one()
        try:
            return calls.popleft() if calls[0].name.partition("\0")[0] == handler else None
        except IndexError:
            return None

    def receive_ready(self) -> None:
        """For the event loop that found the socket readable."""
        if not self._receiving.acquire(False):
            return  # a thread is at it
        try:
            self._receive(MSG_DONTWAIT)
        except BlockingIOError:
            pass
        finally:
            self._receiving.release()
            self._wake_one()

    def _receive_or_sleep(self, waiter: Waiter) -> None:
        """Receives once, for all that wait; or sleeps until whoever does has something for it, or gives it up."""
        try:
            try:
                self._sleepers.append(waiter)  # first: who finds the place taken must be seen by the one that has it
                if not self._receiving.acquire(False):
                    self._wait(waiter, waiter.sleep)
                # Whoever had the place before may have received what this one waits for.
                elif waiter is self._main:
                    if not self._calls and not self.leaving:
                        self._receive(0)
                elif waiter.frame is None:
                    # A signal handler may raise while this waits: nothing is lost then.
                    self._wait(waiter, self._peek)
                    self._receive(0)
            finally:
                self._step_back(waiter)
        except BaseException:
            # It may be a signal handler's, and have come while this one stepped back.
            self._step_back(waiter)
            raise

    def _wait(self, waiter: Waiter, wait: Callable[[], object]) -> None:
        if not waiter.may_leave:
            wait()
            return
        # Of the main thread alone. A signal handler that has interrupted it here may come here, too.
        before = self.waits
        try:
            self.waits = True
            wait()
        finally:
            self.waits = before

    def _peek(self) -> None:
        self._socket.recv(1, MSG_PEEK)

    def _step_back(self, waiter: Waiter) -> None:
        if self._receiving._is_owned():
            self._receiving.release()
        if waiter in self._sleepers:
            self._sleepers.remove(waiter)
        self._wake_one()
        # Who asks in the loop, without `await`, has received it, which the loop has not seen.
        news = self.news  # read once: the main thread may be leaving
        if news is not None and (self._calls or self.given_up or self.leaving):
            news()

    def _wake_one(self) -> None:
        """The place of the receiver is free: one of those that wait takes it. The last: a signal handler that asks
        comes after the thread that it has interrupted, which can't take it."""
        for waiter in self._sleepers[-1:]:
            waiter.wake()

    def _receive(self, flags: int) -> None:
        decoder = self._decoder
        try:
            size = self._socket.recv_into(decoder.space(), 0, flags)
            if not size:
                decoder.finish()
                raise PortEnded
            decoder.received(size)
            while decoder.filled and (frame := decoder.next()) is not None:
                if frame.placed is not None:
                    self._resolve(frame)
                if frame.kind == CALL:
                    self._calls.append(frame)
                    if get_ident() != self._thread:
                        self._wake_main()
                else:
                    self._take(frame)
        except (BlockingIOError, PortEnded, ProtocolError):
            raise
        except BaseException:
            # A signal handler of the user's has raised: a part of the stream may be lost.
            self._end()
            raise

    def _resolve(self, frame: Frame) -> None:
        try:
            if self.lane is None:
                raise ProtocolError("segment", "a frame with a segment came too early")
            self.lane.resolve(frame)
        except (OSError, ValueError) as error:  # not BlockingIOError, which says that no frame has come
            raise ProtocolError("segment", f"a segment can't be had: {error}") from None

    def _take(self, frame: Frame) -> None:
        kind = frame.kind
        if kind == REPLY:
            waiter = self._asked.pop(frame.id, None)
            if waiter is None:
                raise ProtocolError("unexpected_reply", f"a reply to {frame.id}, which isn't waited for")
            waiter.deliver(frame)
        elif kind in (CREDIT, INPUT):
            exchange = self.exchanges.get(frame.id)
            if exchange is not None:  # else its answer and this frame have crossed
                exchange.deliver(frame)
        elif kind == PING:
            self.send(_wire.PONG, frame.id)
        elif kind == CANCEL:
            self._cancel(frame)
        elif kind == EXIT:
            self.leaving = True
            self._wake_main()
            for exchange in tuple(self.exchanges.values()):
                exchange.wake(frame)

    def _cancel(self, frame: Frame) -> None:
        id = frame.id
        exchange = self.exchanges.get(id)
        if exchange is not None:
            exchange.cancel(frame)
            return
        if self.running is not None and self.running.id == id and not self.running.batch:
            self.running.cancelled = True
            return
        for call in tuple(self._calls):
            if call.id == id:
                try:
                    self._calls.remove(call)
                except ValueError:  # the main thread has just taken it, and sees that it was given up
                    break
                self.send(_wire.ERROR, id, name=b"cancelled", json=b"{}")
                return
        # It is gathered with others, or its answer and this frame have crossed.
        self.given_up = True
        self._wake_main()

    def _wake_main(self) -> None:
        """There is something for the main thread, and another one may have received it."""
        if get_ident() != self._thread:
            self._main.wake()
            news = self.news
            if news is not None:
                news()

    # Asking

    def ask(self, name: bytes, json: bytes, buffers: Sequence[bytes | memoryview] = ()) -> Frame:
        """Asks Rust, and waits for the reply."""
        waiter = Waiter()
        self._check_place()
        self._ask(waiter, name, json, buffers)
        return self._reply(waiter)

    def call(self, name: bytes, json: bytes, buffers: Sequence[memoryview] = ()) -> Frame:
        """Calls what Rust exposes, and waits for the reply. A cancellation may come meanwhile; who leaves says so."""
        waiter = Waiter(get_ident() == self._thread)
        self._check_place()
        try:
            self._ask(waiter, name, json, buffers)
            return self._reply(waiter)
        except BaseException:
            self.leave(waiter)
            raise

    def call_from(
        self, loop: AbstractEventLoop, name: bytes, json: bytes, buffers: Sequence[memoryview] = ()
    ) -> Awaiter:
        """Likewise, for a task of the loop that receives. Whoever doesn't await the reply calls `leave`."""
        waiter = Awaiter(loop)
        self._ask(waiter, name, json, buffers)
        return waiter

    def begin_call(self, name: bytes, json: bytes, buffers: Sequence[memoryview] = ()) -> Waiter:
        """Likewise, for a thread that is to wait by `end_call`."""
        waiter = Waiter()
        self._ask(waiter, name, json, buffers)
        return waiter

    def end_call(self, waiter: Waiter) -> Frame:
        return self._reply(waiter)

    def leave(self, waiter: Waiter | Awaiter) -> None:
        """Nobody waits for this reply any more. It comes all the same, and then is forgotten."""
        if waiter.token in self._asked and not self.abandoned:
            self.send(_wire.ASK, waiter.token, 0, b"leave")

    def wait(self, waiter: Waiter) -> Frame:
        """Waits until the waiter has a frame; PING is answered meanwhile, and other threads get what they wait for."""
        self._check_place()
        return self._reply(waiter)

    def _check_place(self) -> None:
        if self._receiving._is_owned() or self._sending._is_owned():
            raise RuntimeError("a signal handler or finalizer can't wait for Rust while its thread sends or receives")

    def _reply(self, waiter: Waiter) -> Frame:
        while waiter.frame is None:
            try:
                self._receive_or_sleep(waiter)
            except (PortEnded, ProtocolError, OSError) as error:
                # A signal handler of the user's may raise TimeoutError.
                if isinstance(error, OSError) and error.errno is None:
                    raise
                # Not left to the handler, which might catch it, or to a thread, which would end alone.
                from ._worker import leave_for_good

                leave_for_good(error, self)
        return waiter.frame

    def ask_from(
        self, loop: AbstractEventLoop, name: bytes, json: bytes, buffers: Sequence[bytes | memoryview] = ()
    ) -> Future[Frame]:
        """Asks Rust; for a task of the loop that receives."""
        waiter = Awaiter(loop)
        self._ask(waiter, name, json, buffers)
        return waiter.reply()

    def _ask(self, waiter: Waiter | Awaiter, name: bytes, json: bytes, buffers: Sequence[bytes | memoryview]) -> None:
        request = running.get()
        if request is None and name in (b"call", b"cast"):
            request = self.running  # of a thread that has no context: there is one request at most
        arg = 0 if request is None else request.id
        token = waiter.token = next(self._tokens)
        self._asked[token] = waiter
        if buffers:
            self._post(_wire.encode_with_buffers(_wire.ASK, token, arg, name, json, buffers))
        else:
            self.send(_wire.ASK, token, arg, name, json)

    # Sending

    def send(
        self,
        kind: int,
        id: int,
        arg: int = 0,
        name: bytes = b"",
        json: bytes = b"",
        flags: int = 0,
        buffers: Sequence[memoryview] = (),
    ) -> None:
        """Sends a frame, or leaves it to the sender that is at it. A port that has ended swallows it."""
        if buffers:
            placed = None if self.lane is None else self.lane.place(buffers)
            pieces = _wire.encode_pieces(kind, id, arg, name, json, buffers, flags, placed)
            # A generator may write to what it has yielded as soon as it goes on, and the next call to what this one has
            # returned; another thread may still have this frame to send then.
            self._post(b"".join(pieces) if _count() else pieces)
        elif len(json) < _SMALL:
            self._post(_pack(len(name) + len(json), kind, flags, len(name), id, arg) + name + json)
        else:
            self._post((_wire.encode_head(kind, id, arg, name, len(json), flags), json))

    def answer(
        self, call: Frame, kind: int, name: bytes, json: bytes, flags: int, buffers: Sequence[memoryview]
    ) -> None:
        """Sends the answer to a call, and before that gives back what the call's arguments lay in.

        Nothing but the answer may refer to them any more; what does, the handler has kept.
        """
        held = call.held
        if held is None:
            self.send(kind, call.id, 0, name, json, flags, buffers)
            return
        if not buffers:
            held.release()
            self.send(kind, call.id, 0, name, json, flags)
            return
        placed = None if self.lane is None else self.lane.place(buffers)
        pieces = _wire.encode_pieces(kind, call.id, 0, name, json, buffers, flags, placed)
        # Rust may write to the arguments as soon as it has the answer; their memory is given back before that.
        frame = b"".join(pieces)
        del pieces
        if isinstance(buffers, list):
            buffers.clear()
        held.release()
        self._post(frame)

    def _post(self, frame: bytes | tuple[bytes | memoryview, ...]) -> None:
        self._outgoing.append(frame)
        # Whoever releases the lock looks once more, so nothing stays behind that was added meanwhile. Other senders
        # are waited for, so that threads can't add frames faster than Rust reads them. A finalizer or a signal handler
        # that has interrupted this very thread's send leaves its frame to that.
        sending = self._sending
        while self._outgoing and not sending._is_owned():
            try:
                try:
                    if not sending.acquire(False) and not sending.acquire(True, _PATIENCE):
                        return
                    while self._outgoing:
                        try:
                            frame = self._outgoing.popleft()
                        except IndexError:  # abandon() or flush() got there first
                            break
                        if not isinstance(frame, bytes):
                            self._write(frame, 0)
                        elif (sent := self._socket.send(frame, MSG_NOSIGNAL)) < len(frame):
                            self._write((frame,), sent)
                except BaseException as error:
                    # The port has ended or lost its descriptor, or a signal handler of the user's has raised. Nothing
                    # follows half a frame, of another thread neither, and the next receive says that it is over.
                    self._outgoing.clear()
                    self._end()
                    if not isinstance(error, OSError) or error.errno is None:
                        raise
                finally:
                    if sending._is_owned():
                        sending.release()
            except BaseException:
                # A signal handler of the user's has raised: a frame, of another thread's perhaps, may be lost.
                if sending._is_owned():
                    sending.release()
                self._end()
                raise

    def _end(self) -> None:
        try:
            self._socket.shutdown(SHUT_RDWR)
        except OSError:  # it is closed already
            pass

    def recover(self) -> None:
        """Gives back the locks that a signal handler's exception has left held, where nothing could give them back.

        Between two requests nothing of the main thread's is under way.
        """
        self.waits = False
        if self._sending._is_owned():
            self._sending.release()
        if self._receiving._is_owned():
            self._receiving.release()

    def flush(self) -> None:
        """Waits until what other threads are sending has gone out, for a second at most."""
        if self._sending.acquire(True, 1.0):
            self._sending.release()

    def _write(self, frame: tuple[bytes | memoryview, ...], sent: int) -> None:
        """Sends the rest of a frame, of which so many bytes have gone. Who calls it sees to what it raises."""
        parts = [memoryview(part) for part in frame]
        first = 0
        while True:
            while first < len(parts) and sent >= len(parts[first]):
                sent -= len(parts[first])
                first += 1
            if first == len(parts):
                return
            parts[first] = parts[first][sent:]
            sent = self._socket.sendmsg(parts[first : first + _PIECES], (), MSG_NOSIGNAL)


Connection.WAITING = frozenset(
    function.__code__
    for function in (
        Connection.call,
        Connection._reply,
        Connection._receive_or_sleep,
        Connection._wait,
        Connection._peek,
        Waiter.sleep,
    )
)
