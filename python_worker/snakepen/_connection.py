"""The port's Python end: wherever it waits, it answers what can be answered at once."""

from __future__ import annotations

import os
from _socket import AF_UNIX, MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_RDWR, SOCK_STREAM, socket
from _thread import allocate_lock

from . import _wire
from ._wire import CALL, CANCEL, EXIT, PING, REPLY, Decoder, Frame, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque

    from ._request import Request
else:
    from _collections import deque

_SMALL = 32 * 1024
_PATIENCE = 0.1


class PortEnded(Exception):
    """Rust has closed its end."""


class Connection:
    """A demultiplexer over the socket to Rust.

    One thread receives, the worker's main one. Any thread may send, also from a finalizer or a signal handler
    that interrupts a send: a frame is never split by another, and no sender waits for one that it interrupted.
    """

    def __init__(self, fd: int, max_frame: int) -> None:
        os.set_blocking(fd, True)
        self._socket = socket(AF_UNIX, SOCK_STREAM, 0, fd)  # named, so that they aren't asked of the kernel
        self._socket.settimeout(None)  # a preloaded module may have set a default
        self._decoder = Decoder(max_frame)
        self._calls: deque[Frame] = deque()
        self._replies: dict[int, Frame | None] = {}
        self._outgoing: deque[bytes | tuple[bytes, bytes]] = deque()
        self._sending = allocate_lock()
        self._leaving = False
        self.max_frame = max_frame
        self.running: Request | None = None
        self.abandoned = False
        """True in a process that a handler forked: the port isn't its own."""

    def fileno(self) -> int:
        return self._socket.fileno()

    def abandon(self) -> None:
        self.abandoned = True
        self._outgoing.clear()
        try:
            self._socket.close()
        except OSError:  # the handler has closed it already
            pass

    # Receiving

    def next_call(self) -> Frame | None:
        """Waits for a call; None once Rust has asked to leave and no call is left."""
        while not self._calls:
            if self._leaving:
                return None
            self._receive(0)
        return self._calls.popleft()

    def expect_reply(self, id: int) -> None:
        """To be said before the request goes out whose reply `wait_for_reply` will wait for."""
        self._replies[id] = None

    def wait_for_reply(self, id: int) -> Frame:
        while True:
            reply = self._replies[id]
            if reply is not None:
                del self._replies[id]
                return reply
            self._receive(0)

    def receive_ready(self) -> None:
        """For an event loop that found the socket readable."""
        try:
            self._receive(MSG_DONTWAIT)
        except BlockingIOError:
            pass

    def _receive(self, flags: int) -> None:
        count = self._socket.recv_into(self._decoder.space(), 0, flags)
        if not count:
            self._decoder.finish()
            raise PortEnded
        self._decoder.received(count)
        while (frame := self._decoder.next()) is not None:
            kind = frame.kind
            if kind == CALL:
                self._calls.append(frame)
            elif kind == PING:
                self.send(_wire.PONG, frame.id)
            elif kind == CANCEL:
                self._cancel(frame.id)
            elif kind == EXIT:
                self._leaving = True
            elif kind == REPLY:
                if self._replies.get(frame.id, frame) is not None:
                    raise ProtocolError("unexpected_reply", f"a reply to {frame.id}, which isn't waited for")
                self._replies[frame.id] = frame

    def _cancel(self, id: int) -> None:
        if self.running is not None and self.running.id == id:
            self.running.cancelled = True
            return
        for call in self._calls:
            if call.id == id:
                self._calls.remove(call)
                self.send(_wire.ERROR, id, name=b"cancelled", json=b"{}")
                return
        # Neither: its answer and this frame have crossed.

    # Sending

    def send(self, kind: int, id: int, arg: int = 0, name: bytes = b"", json: bytes = b"", flags: int = 0) -> None:
        """Sends a frame, or leaves it to the sender that is at it. A port that has ended swallows it."""
        if len(json) < _SMALL:
            self._outgoing.append(_wire.encode(kind, id, arg, name, json, flags))
        else:
            self._outgoing.append((_wire.encode_head(kind, id, arg, name, len(json), flags), json))
        # Whoever releases the lock looks once more, so nothing stays behind that was added meanwhile. Other senders
        # are waited for, so that threads can't add frames faster than Rust reads them; but not for ever, since it may
        # be this very thread's send that a finalizer or a signal handler has interrupted.
        sending = self._sending
        while self._outgoing and (sending.acquire(False) or sending.acquire(True, _PATIENCE)):
            try:
                while self._outgoing:
                    self._write(self._outgoing.popleft())
            except OSError:
                # Whether the port has ended or lost its descriptor, the next receive says so.
                self._outgoing.clear()
            except IndexError:  # abandon() or flush() got there first
                pass
            finally:
                self._sending.release()

    def flush(self) -> None:
        """Waits until what other threads are sending has gone out, for a second at most."""
        if self._sending.acquire(True, 1.0):
            self._sending.release()

    def _write(self, frame: bytes | tuple[bytes, bytes]) -> None:
        if isinstance(frame, bytes):
            sent = self._socket.send(frame, MSG_NOSIGNAL)
            parts = [memoryview(frame)] if sent < len(frame) else []
        else:
            sent = 0
            parts = [memoryview(part) for part in frame]
        try:
            while parts:
                while parts and sent >= len(parts[0]):
                    sent -= len(parts[0])
                    del parts[0]
                if parts:
                    parts[0] = parts[0][sent:]
                    sent = self._socket.sendmsg(parts, (), MSG_NOSIGNAL)
        except BaseException:
            # A signal handler of the user's may raise here. Nothing must follow half a frame.
            self._socket.shutdown(SHUT_RDWR)
            raise
