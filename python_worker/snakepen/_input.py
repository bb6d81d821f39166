"""Arguments that are streams on the Rust side: iterators whose items are sent as the handler takes them."""

from __future__ import annotations

from _thread import allocate_lock

from . import _codec, _handlers, _json, _wire
from ._cancel import Cancelled
from ._waiter import Awaiter, Waiter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from typing import Any

    from ._cancel import Cancellation
    from ._connection import Connection
    from ._request import Request
    from ._wire import Frame
else:
    from _collections import deque

# What an INPUT is.
_ITEM = 0
_END = 1
_ERROR = 2

# Half of Rust's window: it never waits for what isn't told yet. A character takes four of its bytes at most.
_TELL_ITEMS = 32
_TELL_TEXT = 128 * 1024


class InputError(Exception):
    """The stream behind an input has failed, in Rust. There are no more items."""


InputError.__module__ = "snakepen"  # where it is found


class Input:
    """An argument that is a stream: `for item in numbers`, or `async for item in numbers` in an `async def` handler.

    Nothing is asked of the stream before the first item is, and then no more than some items ahead. It ends with the
    request: who goes on iterating gets RuntimeError.
    """

    __slots__ = (
        "_cancellation",
        "_closed",
        "_connection",
        "_items",
        "_lock",
        "_name",
        "_over",
        "_request",
        "_taken",
        "_text",
        "_told",
        "_waiters",
    )

    def __init__(self, connection: Connection, cancellation: Cancellation, request: Request, name: str) -> None:
        self._connection = connection
        self._cancellation = cancellation
        self._request = request
        self._name = name
        self._items: deque[Frame] = deque()
        self._waiters: list[Waiter | Awaiter] = []
        self._lock = allocate_lock()  # of the sums below; several threads may iterate
        self._taken = 0
        self._told = -1
        self._text = 0
        self._over = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<snakepen.Input {self._name!r}>"

    def __iter__(self) -> Input:
        return self

    def __next__(self) -> Any:
        while (frame := self._ready()) is None:
            if self._over:
                raise StopIteration
            self._end_if_cancelled()
            self._wait()
        return self._value(frame)

    def __aiter__(self) -> Input:
        return self

    async def __anext__(self) -> Any:
        from asyncio import get_running_loop, to_thread

        loop = get_running_loop()
        while (frame := self._ready()) is None:
            if self._over:
                raise StopAsyncIteration
            if loop is not self._connection.served_by:
                # A loop that a handler runs by itself, in a thread perhaps, doesn't read the port.
                await to_thread(self._wait)
                continue
            waiter = Awaiter(loop)
            self._waiters.append(waiter)
            try:
                if self._has_to_wait():
                    await waiter.reply()
            finally:
                self._waiters.remove(waiter)
        return self._value(frame)

    # From the receiving thread

    def deliver(self, frame: Frame) -> None:
        self._items.append(frame)
        self.wake(frame)

    def wake(self, frame: Frame) -> None:
        for waiter in tuple(self._waiters):
            waiter.deliver(frame)

    def close(self) -> None:
        """The request has ended."""
        self._closed = True
        self._items.clear()
        if self._waiters:
            self.wake(_wire.Frame(_wire.CANCEL, 0, self._request.id, 0, "", ""))

    # From the handler

    def _ready(self) -> Frame | None:
        """The next frame, if it is there and there is to be another."""
        if self._closed:
            raise RuntimeError(f"the input {self._name!r} was iterated after its request had ended")
        if self._told < 0:
            self._tell()
        if self._over:
            return None
        try:
            frame = self._items.popleft()
        except IndexError:
            return None
        if frame.arg != _ITEM:
            self._over = True
            self.wake(frame)  # other threads that wait
            return None if frame.arg == _END else frame
        return frame

    def _has_to_wait(self) -> bool:
        over = self._over or self._closed or self._connection.leaving
        return not self._items and not over

    def _wait(self) -> None:
        waiter = Waiter()
        self._waiters.append(waiter)  # before looking: a frame that comes now is not missed
        try:
            if self._has_to_wait() and not self._request.cancelled:
                self._connection.wait(waiter)
        finally:
            self._waiters.remove(waiter)

    def _end_if_cancelled(self) -> None:
        if not self._request.cancelled and not self._connection.leaving:
            return
        self._cancellation.close(self._request)
        raise Cancelled("the caller no longer waits for this request, and sends no more items")

    def _value(self, frame: Frame) -> Any:
        """The item, or why there are no more."""
        if frame.arg == _ERROR:
            raise InputError(f"input {self._name!r}, after {self._taken} items: {_json.loads(frame.json)}")
        with self._lock:
            self._taken += 1
            self._text += len(frame.json) + sum(map(len, frame.buffers))
            if self._taken - self._told >= _TELL_ITEMS or self._text >= _TELL_TEXT:
                self._tell()
        try:
            return _codec.loads(frame.json, frame.buffers, self._request.handler in _handlers.writable)
        except (ValueError, RecursionError) as error:
            raise InputError(f"input {self._name!r}, item {self._taken - 1}: {type(error).__name__}: {error}") from None

    def _tell(self) -> None:
        """How many items were taken; Rust sends so many ahead of that."""
        self._told = self._taken
        self._text = 0
        self._connection.send(_wire.WANT, self._request.id, self._taken, self._name.encode())
