"""The worker's loop: takes calls, runs handlers, answers."""

from __future__ import annotations

import os
import sys
from time import monotonic_ns

from . import _codec, _directory, _errors, _handlers, _json, _stream, _wire
from ._request import Request, running
from ._store import StaleState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ._async import EventLoop
    from ._cancel import Cancellation
    from ._codec import Encoded
    from ._connection import Connection
    from ._request import Place
    from ._status import StatusPage
    from ._stream import Sink
    from ._wire import Frame

_BESIDE = _wire.STREAM | _wire.WATCH
_PLAIN = frozenset((dict, list, str, int, float, bool, type(None), tuple))


class Leave(Exception):
    """The handler has called sys.exit()."""

    def __init__(self, code: Any) -> None:
        self.code = code


Answer = tuple[int, bytes, bytes, int, "Sequence[memoryview]"]
"""Kind, name, JSON, flags, and the buffers beside the JSON."""


class Server:
    def __init__(self, connection: Connection, page: StatusPage, place: Place, cancellation: Cancellation) -> None:
        self._connection = connection
        self._page = page
        self._place = place
        self._cancellation = cancellation
        cancellation.floor = Server._run.__code__
        cancellation.driver = _stream.drive.__code__
        self._handlers = _handlers.table
        self.event_loop: EventLoop | None = None
        self.ahead = False
        """Calls may be written ahead, and be taken back."""
        self._spoilt = False
        """Rust has been told that this worker starts no more."""

    def run(self) -> None:
        """Serves until Rust asks to leave."""
        batches = _handlers.batches
        while (call := self._connection.next_call()) is not None:
            if batches and call.name.partition("\0")[0] in batches:
                from ._batch import gather

                self._serve_batch(gather(self._connection, self._page, call))
            else:
                self._serve(call)

    def _serve(self, call: Frame) -> None:
        if self.ahead and not self._starts(call):
            return
        prepared = self._prepare(call)
        if prepared is None:
            self._page.idle()
            return
        function, arguments, request = prepared
        del prepared
        kind, name, json, flags, buffers = self._run(function, arguments, request, self._result)
        flags |= self._tidy()
        self._spoilt = flags & _wire.RECYCLE != 0
        del arguments
        if call.held is None:
            self._connection.send(kind, call.id, 0, name, json, flags, buffers)
        else:
            self._connection.answer(call, kind, name, json, flags, buffers)
        self._page.idle()

    def _starts(self, call: Frame) -> bool:
        """Whether a call is to be started that may have been written ahead."""
        page = self._page
        if not self._spoilt:  # after it Rust gives what it knows to be written ahead to others
            page.start(call.id)
            if not page.is_withdrawn(call.id) and not 0 < call.arg <= monotonic_ns():
                return True
        self._connection.send(_wire.ERROR, call.id, 0, b"unstarted", b"{}")
        page.idle()
        return False

    def _prepare(self, call: Frame) -> tuple[Any, Any, Request] | None:
        """The function, its arguments, and the request; None for a call that is answered already."""
        function = self._handlers.get(call.name)
        session = None
        inputs: list[str] = []
        if function is None and "\0" in call.name:
            call.name, session, *inputs = call.name.split("\0")
            function = self._handlers.get(call.name)
        if function is None:
            known = sorted(self._handlers)
            self._refuse(call, b"unknown_handler", {"name": call.name, "known": known})
            return None
        wrong = None
        try:
            if call.buffers or not isinstance(text := call.json, str):
                arguments = _codec.arguments(call)
            else:
                arguments = _json.from_text(text) if text else None
        except (ValueError, RecursionError) as error:
            arguments = None
            wrong = f"{type(error).__name__}: {error}"
        if wrong is not None:  # nothing refers to what came any more
            self._refuse(call, b"arguments", {"message": wrong})
            return None
        request = Request(call.id, call.name, call.arg, self._place, session or None)
        if inputs and call.name in _handlers.batches:
            del arguments
            self._refuse(call, b"arguments", {"message": "a batch handler takes no inputs"})
            return None
        if call.flags & _BESIDE or inputs:
            exchange = _stream.Exchange(self._connection, self._cancellation, request, call.flags, inputs)
            twice = exchange.inputs.keys() & arguments if isinstance(arguments, dict) else None
            if twice:
                del arguments
                self._refuse(call, b"arguments", {"message": f"{min(twice)!r} is both an argument and an input"})
                return None
            request._exchange = exchange
            if inputs:
                from functools import partial

                function = partial(function, **exchange.inputs)
        return function, arguments, request

    def _tidy(self) -> int:
        """After a handler, and before its answer. Returns the flags for that."""
        flags = 0
        if self._cancellation.case is not None and self._cancellation.settle():
            flags = _wire.RECYCLE
        if _directory.changed and not _directory.restore():
            flags = _wire.RECYCLE
        self._flush()
        return flags

    def _flush(self) -> None:
        try:
            sys.stdout.flush()  # what print(end="") has left
        except Exception:  # the handler has put something of its own there
            pass
        try:
            sys.stderr.flush()
        except Exception:
            pass
        self._connection.recover()

    def _serve_batch(self, calls: list[Frame]) -> None:
        from ._batch import Batch

        batch = Batch(self._connection, self._page, self._place, calls, self._prepare)
        if batch.request is None:
            return
        ids = batch.request.batch
        for id, place in zip(ids, self._batch_places(len(ids)), strict=True):
            self._page.start(id, place)
        answers = self._run(batch.function, [batch.items], batch.request, batch.results)
        batch.answer(answers, self._tidy())
        self._page.idle()

    def _batch_places(self, calls: int) -> Sequence[int]:
        """Places of the status page that are free, of which the first is that of plain handlers."""
        return range(calls)

    def _run(self, function: Any, arguments: Any, request: Request, encode: Callable[[Any], Any]) -> Any:
        """What to answer: what `encode` makes of the result, or an error."""
        connection = self._connection
        cancellation = self._cancellation
        connection.running = request
        running.set(request)
        self._page.start(request.id)
        exchange = request._exchange
        if exchange is not None:
            exchange.open()
            if self._page.is_cancelled(request.id):  # its CANCEL may have come to another thread before
                request.cancelled = True
        try:
            try:
                kind = type(arguments)
                # From here on Cancelled may be raised at any point, but only once,
                cancellation.request = request
                if kind is list:
                    result = function(*arguments)
                elif kind is dict:
                    result = function(**arguments)
                elif arguments is None:
                    result = function()
                else:
                    result = function(arguments)
                kind = type(result)
                if kind not in _PLAIN and not (request.batch and kind in _stream.GENERATORS):
                    if kind is _stream.GENERATOR:
                        result = _stream.drive(result, self._sink(request), cancellation, request)
                        encode = self._collected
                    elif kind is _stream.ASYNC_GENERATOR:
                        cancellation.awaiting = request
                        result = self._await(_stream.drive_async(result, self._sink(request), cancellation, request))
                        encode = self._collected
                    elif hasattr(kind, "__await__"):
                        cancellation.awaiting = request
                        result = self._await(result)
            finally:
                # and after this no more. The outer clauses meet the one that comes just before.
                cancellation.request = None
            if connection.abandoned:
                os._exit(0)
            return encode(result)
        except SystemExit as leaving:
            if connection.abandoned:
                os._exit(leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None))
            raise Leave(leaving.code) from None
        except BaseException as error:
            cancellation.request = None
            if connection.abandoned:
                os._exit(1)
            return self._failure(request, error)
        finally:
            connection.running = None
            running.set(None)
            if exchange is not None:
                exchange.close()

    def _result(self, result: Any) -> Answer:
        json, buffers = _codec.dumps(result, self._connection.max_frame)
        return _wire.RESULT, b"", json, 0, buffers

    def _collected(self, result: Encoded) -> Answer:
        return _wire.RESULT, b"", result[0], 0, result[1]

    def _sink(self, request: Request) -> Sink:
        """Where the items of a generator go."""
        exchange = request._exchange
        if exchange is not None and exchange.flow is not None:
            return exchange.flow
        return _stream.Collection(self._connection.max_frame, self._cancellation, request)

    def _failure(self, request: Request, error: BaseException) -> Answer:
        if request.cancelled and self._cancellation.caused(error):
            return _wire.ERROR, b"cancelled", b"{}", 0, ()
        return failure(error, self._connection.max_frame)

    def _await(self, awaitable: Any) -> Any:
        if self.event_loop is None:
            from ._async import EventLoop

            self.event_loop = EventLoop(self._connection, self._cancellation)
        try:
            return self.event_loop.run(awaitable)
        finally:
            self._cancellation.task = None

    def _refuse(self, call: Frame, status: bytes, fault: dict[str, Any]) -> None:
        max_bytes = self._connection.max_frame - len(status)
        call.buffers = ()
        self._connection.answer(call, _wire.ERROR, status, _errors.encode_within(fault, max_bytes), 0, ())


def success(result: Any, max_frame: int) -> Answer:
    """The answer of a handler that has returned this."""
    json, buffers = _codec.dumps(result, max_frame)
    return _wire.RESULT, b"", json, 0, buffers


def failure(error: BaseException, max_frame: int) -> Answer:
    """The answer of a handler that has raised this."""
    flags = 0
    if isinstance(error, _json.Unserialisable):
        status = b"result"
        fault: Any = {
            "type": _errors.sound(error.type_name),
            "path": error.path,
            "message": _errors.sound(error.message),
        }
    else:
        status = b"exception"
        fault = _errors.describe(error)
        # After MemoryError nobody knows what was left half done; and an actor whose state is stale is of no use.
        flags = _wire.RECYCLE if isinstance(error, (MemoryError, StaleState)) else 0
    return _wire.ERROR, status, _errors.encode_within(fault, max_frame - len(status)), flags, ()
