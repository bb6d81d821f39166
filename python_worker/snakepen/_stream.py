"""Generators: what a handler yields is a stream of items, or a list for a caller who takes no stream.

A stream has a window. So many items, or bytes, may be on their way that its consumer has not taken; then the generator
stays at its `yield` until Rust says that some were. There it is also ended when its caller no longer waits, by closing
it: its `finally` runs, and nothing is raised at a random point.
"""

from __future__ import annotations

from . import _codec, _json, _wire
from ._cancel import Cancelled
from ._waiter import Awaiter, Waiter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import AsyncGenerator, Generator, Sequence
    from types import AsyncGeneratorType, GeneratorType
    from typing import Any, Protocol

    from ._cancel import Cancellation
    from ._codec import Encoded
    from ._connection import Connection
    from ._input import Input
    from ._request import Request
    from ._wire import Frame

    class Sink(Protocol):
        """Where items go. `put` and `wait` return why there are to be no more, or None."""

        def put(self, item: Any) -> BaseException | None: ...
        def is_full(self) -> bool: ...
        def wait(self) -> BaseException | None: ...
        async def wait_async(self) -> BaseException | None: ...
        def result(self) -> Encoded: ...
else:
    from _collections import deque

# Rust has the same numbers, and ends a worker that sends more.
WINDOW_ITEMS = 64
"""Items on their way. With 16 a small one took three times as long, with 256 two thirds of the time; but what is made
ahead of a consumer who leaves was made in vain."""
WINDOW_BYTES = 1024 * 1024
"""Bytes on their way, beyond which no further item is sent: what a socket's buffers hold several times over."""


def _some() -> Generator[None, None, None]:
    yield


async def _some_async() -> AsyncGenerator[None, None]:
    yield


GENERATOR: Any = type(_some())
ASYNC_GENERATOR: Any = type(_some_async())
GENERATORS = frozenset((GENERATOR, ASYNC_GENERATOR))


class Exchange:
    """What goes to and fro beside a request and its answer."""

    __slots__ = ("_connection", "_request", "flow", "inputs")

    def __init__(
        self, connection: Connection, cancellation: Cancellation, request: Request, flags: int, inputs: Sequence[str]
    ) -> None:
        self._connection = connection
        self._request = request
        self.flow = Flow(connection, cancellation, request) if flags & _wire.STREAM else None
        self.inputs: dict[str, Input] = {}
        if inputs:
            from ._input import Input

            self.inputs = {name: Input(connection, cancellation, request, name) for name in inputs}
        if flags & _wire.WATCH:
            from ._progress import Watch

            request._progress = Watch(connection, request.id)

    def open(self) -> None:
        """The handler is about to be called."""
        self._connection.exchanges[self._request.id] = self

    def close(self) -> None:
        """It has ended, and is about to be answered."""
        self._connection.exchanges.pop(self._request.id, None)
        for it in self.inputs.values():
            it.close()
        if self._request._progress is not None:
            self._request._progress.flush()

    # From whichever thread receives

    def deliver(self, frame: Frame) -> None:
        if frame.kind == _wire.INPUT:
            it = self.inputs.get(frame.name)
            if it is None:
                raise _wire.ProtocolError("unexpected_input", f"an item of {frame.name!r}, which the call doesn't have")
            it.deliver(frame)
        elif self.flow is not None:
            self.flow.deliver(frame)

    def cancel(self, frame: Frame) -> None:
        """The caller no longer waits."""
        self._request.cancelled = True
        self.wake(frame)

    def wake(self, frame: Frame) -> None:
        """Whoever waits looks whether there is any use in it."""
        if self.flow is not None:
            self.flow.wake(frame)
        for it in self.inputs.values():
            it.wake(frame)


class Flow:
    """The items of a stream, and how many of them its consumer has taken."""

    __slots__ = ("_bytes", "_cancellation", "_connection", "_freed", "_request", "_sent", "_sizes", "_taken", "_waiter")

    def __init__(self, connection: Connection, cancellation: Cancellation, request: Request) -> None:
        self._connection = connection
        self._cancellation = cancellation
        self._request = request
        self._sent = 0
        self._taken = 0  # as Rust has said; the one field that another thread may write
        self._freed = 0
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self._waiter: Waiter | Awaiter | None = None

    def deliver(self, frame: Frame) -> None:
        self._taken = frame.arg
        self.wake(frame)

    def wake(self, frame: Frame) -> None:
        waiter = self._waiter
        if waiter is not None:
            waiter.deliver(frame)

    def put(self, item: Any) -> BaseException | None:
        if (over := self._over()) is not None:
            return over if not self._cancellation.is_shielded(self._request) else None
        try:
            json, buffers = encode(item, self._sent, self._connection.max_frame)
        except _json.Unserialisable as fault:
            return fault
        buffers = [view if view.readonly else _own(view) for view in buffers]
        size = len(json) + sum(map(len, buffers))
        self._sent += 1
        self._sizes.append(size)
        self._bytes += size
        self._connection.send(_wire.ITEM, self._request.id, self._sent, b"", json, 0, buffers)
        return None

    def is_full(self) -> bool:
        sizes = self._sizes
        if len(sizes) < WINDOW_ITEMS and self._bytes < WINDOW_BYTES:
            return False
        taken = self._taken
        while self._freed < taken:
            self._freed += 1
            self._bytes -= sizes.popleft()
        return (len(sizes) >= WINDOW_ITEMS or self._bytes >= WINDOW_BYTES) and self._over() is None

    def wait(self) -> BaseException | None:
        """Until there is room, or no use in it. Where calls overlap, the others go on meanwhile."""
        loop = self._connection.overlaps
        if loop is not None:
            cancellation = self._cancellation
            cancellation.awaiting = self._request  # nothing is raised: it is a CANCEL that ends this
            try:
                return loop.run_until_complete(self.wait_async())
            finally:
                cancellation.awaiting = None
        try:
            while True:
                waiter = self._waiter = Waiter()  # before looking: a frame that comes now is not missed
                if not self.is_full():
                    break
                self._connection.wait(waiter)
        finally:
            self._waiter = None
        return self._why_over()

    async def wait_async(self) -> BaseException | None:
        from asyncio import get_running_loop

        loop = get_running_loop()
        try:
            while True:
                waiter = self._waiter = Awaiter(loop)
                if not self.is_full():
                    break
                await waiter.reply()
        finally:
            self._waiter = None
        return self._why_over()

    def result(self) -> Encoded:
        return b"", ()

    def _why_over(self) -> BaseException | None:
        over = self._over()
        return None if over is None or self._cancellation.is_shielded(self._request) else over

    def _over(self) -> Cancelled | None:
        if self._request.cancelled or self._connection.leaving:
            return Cancelled("the caller no longer waits for this stream")
        return None


class Collection:
    """The items of a generator whose caller takes no stream: one list of what fits a frame."""

    __slots__ = ("_beside", "_buffers", "_cancellation", "_count", "_json", "_limit", "_request")

    def __init__(self, limit: int, cancellation: Cancellation, request: Request) -> None:
        self._json = bytearray(b"[")
        self._buffers: list[memoryview] = []
        self._beside = 0  # bytes that they take
        self._count = 0
        self._limit = limit
        self._cancellation = cancellation
        self._request = request

    def put(self, item: Any) -> BaseException | None:
        if self._request.cancelled and not self._cancellation.is_shielded(self._request):
            return Cancelled("the caller no longer waits for this request")
        try:
            json, buffers = encode(item, self._count, self._limit)
        except _json.Unserialisable as fault:
            return fault
        if buffers:
            json = _codec.renumbered(json, len(self._buffers))
            self._buffers += map(_own, buffers)
            self._beside += _codec.beside(buffers)
        if len(self._json) + len(json) + (2 if self._count else 1) + self._beside > self._limit:
            return _json.Unserialisable(
                "generator",
                "$",
                f"its items take over {self._limit} bytes after {self._count} of them, the pool's largest frame "
                "(max_frame): take them one by one, with `stream` instead of `call`",
            )
        if len(self._buffers) > _codec.MAX_BUFFERS:
            return _json.Unserialisable(
                "generator",
                "$",
                f"its items have over {_codec.MAX_BUFFERS} buffers and arrays after {self._count} of them: take them "
                "one by one, with `stream` instead of `call`",
            )
        if self._count:
            self._json += b","
        self._json += json
        self._count += 1
        return None

    def is_full(self) -> bool:
        return False

    def wait(self) -> None:
        return None

    async def wait_async(self) -> None:
        return None

    def result(self) -> Encoded:
        self._json += b"]"
        return bytes(self._json), self._buffers


def encode(item: Any, index: int, limit: int) -> Encoded:
    """An item as it travels. Raises Unserialisable with its index in the path."""
    try:
        json, buffers = _codec.dumps(item, limit)
    except _json.Unserialisable as fault:
        fault.path = f"$[{index}]{fault.path[1:]}"
        fault.message = fault.message.replace("the result", "the item")
        raise
    return json, buffers


def _own(view: memoryview) -> memoryview:
    """What the generator can't write to when it goes on. A view that is read-only may be of memory that isn't."""
    return view if type(view.obj) is bytes else memoryview(bytes(view))


def drive(generator: GeneratorType[Any, Any, Any], sink: Sink, cancellation: Cancellation, request: Request) -> Encoded:
    """Runs a generator to its end. What it returns is of no interest.

    Its code runs on top of this frame: where that is at work itself, or what it calls, nothing of the user's is.
    """
    request._generator = generator
    try:
        for item in generator:
            fault = sink.put(item)
            if fault is None and sink.is_full():
                fault = sink.wait()
            if fault is not None:
                break
        else:
            return sink.result()
        if isinstance(fault, Cancelled):
            cancellation.close(request)
        try:
            raise fault
        finally:
            try:
                generator.close()
            finally:
                if generator.gi_frame is not None:  # it has yielded once more
                    cancellation.spoil(request)
    finally:
        request._generator = None


async def drive_async(
    generator: AsyncGeneratorType[Any, Any], sink: Sink, cancellation: Cancellation, request: Request
) -> Encoded:
    """Likewise; by the request's task, which may be cancelled wherever it waits but while it closes the generator."""
    request._generator = generator
    try:
        async for item in generator:
            fault = sink.put(item)
            if fault is None and sink.is_full():
                fault = await sink.wait_async()
            if fault is not None:
                raise fault
        return sink.result()
    finally:
        request._closing = True
        try:
            await generator.aclose()  # which does nothing if it has ended
        finally:
            request._generator = None
            if generator.ag_frame is not None:  # it has yielded once more
                cancellation.spoil(request)
