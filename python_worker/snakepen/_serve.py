"""The worker's loop: takes calls, runs handlers, answers."""

from __future__ import annotations

import os
import sys

from . import _directory, _errors, _handlers, _json, _stream, _wire
from ._request import Request, running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ._async import EventLoop
    from ._cancel import Cancellation
    from ._connection import Connection
    from ._request import Place
    from ._status import StatusPage
    from ._stream import Exchange, Sink
    from ._wire import Frame

_PLAIN = frozenset((dict, list, str, int, float, bool, type(None), tuple))


class Leave(Exception):
    """The handler has called sys.exit()."""

    def __init__(self, code: Any) -> None:
        self.code = code


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

    def run(self) -> None:
        """Serves until Rust asks to leave."""
        while (call := self._connection.next_call()) is not None:
            self._serve(call)

    def _serve(self, call: Frame) -> None:
        function = self._handlers.get(call.name)
        session = None
        inputs: list[str] = []
        if function is None and "\0" in call.name:
            call.name, session, *inputs = call.name.split("\0")
            function = self._handlers.get(call.name)
        if function is None:
            known = sorted(self._handlers)
            self._refuse(call, b"unknown_handler", {"name": call.name, "known": known})
            return
        if call.buffers:
            self._refuse(call, b"arguments", {"message": "this version of snakepen takes no buffers"})
            return
        try:
            arguments = _json.loads(call.json) if call.json else None
        except (ValueError, RecursionError) as error:
            self._refuse(call, b"arguments", {"message": f"{type(error).__name__}: {error}"})
            return
        kind, name, json, flags = self._run(function, arguments, call, session or None, inputs)
        if self._cancellation.case is not None and self._cancellation.settle():
            flags |= _wire.RECYCLE
        if _directory.changed and not _directory.restore():
            flags |= _wire.RECYCLE
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()  # what print(end="") has left
            except Exception:  # the handler has put something of its own there
                pass
        self._connection.recover()
        self._connection.send(kind, call.id, 0, name, json, flags)
        self._page.idle()

    def _exchange(self, request: Request, flags: int, inputs: Sequence[str]) -> Exchange:
        """What the caller wants beside an answer."""
        connection = self._connection
        exchange = _stream.Exchange()
        if flags & _wire.STREAM:
            exchange.flow = _stream.Flow(connection, self._cancellation, request)
        if inputs:
            from ._input import Input

            exchange.inputs = {name: Input(connection, self._cancellation, request, name) for name in inputs}
        if flags & _wire.WATCH:
            from ._progress import Watch

            request._progress = Watch(connection, request.id)
        return exchange

    def _run(
        self, function: Any, arguments: Any, call: Frame, session: str | None = None, inputs: Sequence[str] = ()
    ) -> tuple[int, bytes, bytes, int]:
        """What to answer: kind, name, JSON, flags."""
        connection = self._connection
        cancellation = self._cancellation
        request = Request(call.id, call.name, call.arg, self._place, session)
        exchange = None
        json = None
        if call.flags or inputs:
            exchange = connection.exchanges[call.id] = self._exchange(request, call.flags, inputs)
        connection.running = request
        running.set(request)
        self._page.start(call.id)
        try:
            try:
                kind = type(arguments)
                # From here on Cancelled may be raised at any point, but only once,
                cancellation.request = request
                if exchange is not None and exchange.inputs:
                    result = _with_inputs(function, arguments, exchange.inputs)
                elif kind is list:
                    result = function(*arguments)
                elif kind is dict:
                    result = function(**arguments)
                elif arguments is None:
                    result = function()
                else:
                    result = function(arguments)
                kind = type(result)
                if kind not in _PLAIN:
                    if hasattr(kind, "__await__"):
                        cancellation.awaiting = request
                        result = self._await(result)
                        kind = type(result)
                    if kind is _stream.GENERATOR:
                        json = _stream.drive(result, self._sink(request, exchange), cancellation, request)
                    elif kind is _stream.ASYNC_GENERATOR:
                        cancellation.awaiting = request
                        json = self._iterate(result, self._sink(request, exchange), request)
            finally:
                # and after this no more. The outer clauses meet the one that comes just before.
                cancellation.request = None
            if connection.abandoned:
                os._exit(0)
            if json is not None:
                return _wire.RESULT, b"", json, 0
            if exchange is not None and exchange.flow is not None:
                fault = exchange.flow.put(result)
                if fault is not None:
                    raise fault
                return _wire.RESULT, b"", b"", 0
            json = _json.dumps(result)
            if len(json) > connection.max_frame:
                raise _json.Unserialisable(
                    type(result).__name__,
                    "$",
                    f"the result takes {len(json)} bytes as JSON, the pool's largest frame is {connection.max_frame}",
                )
            return _wire.RESULT, b"", json, 0
        except SystemExit as leaving:
            if connection.abandoned:
                os._exit(leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None))
            raise Leave(leaving.code) from None
        except _json.Unserialisable as error:
            fault = {
                "type": _errors.sound(error.type_name),
                "path": error.path,
                "message": _errors.sound(error.message),
            }
            return _wire.ERROR, b"result", self._encode(b"result", fault), 0
        except BaseException as error:
            cancellation.request = None
            if connection.abandoned:
                os._exit(1)
            if request.cancelled and cancellation.caused(error):
                return _wire.ERROR, b"cancelled", b"{}", 0
            # After MemoryError nobody knows what was left half done.
            flags = _wire.RECYCLE if isinstance(error, MemoryError) else 0
            return _wire.ERROR, b"exception", self._encode(b"exception", _errors.describe(error)), flags
        finally:
            connection.running = None
            running.set(None)
            if exchange is not None:
                self._close(request, exchange)

    def _await(self, awaitable: Any) -> Any:
        try:
            return self._loop().run(awaitable)
        finally:
            self._cancellation.task = None

    def _loop(self) -> EventLoop:
        if self.event_loop is None:
            from ._async import EventLoop

            self.event_loop = EventLoop(self._connection, self._cancellation)
        return self.event_loop

    def _iterate(self, generator: Any, sink: Sink, request: Request) -> bytes:
        loop = self._loop().loop
        return self._await(_stream.drive_async(generator, sink, self._cancellation, request, loop))

    def _sink(self, request: Request, exchange: Exchange | None) -> Sink:
        if exchange is not None and exchange.flow is not None:
            return exchange.flow
        return _stream.Collection(self._connection.max_frame, self._cancellation, request)

    def _close(self, request: Request, exchange: Exchange) -> None:
        self._connection.exchanges.pop(request.id, None)
        exchange.close()
        if request._progress is not None:
            request._progress.flush()

    def _refuse(self, call: Frame, status: bytes, fault: dict[str, Any]) -> None:
        self._connection.send(_wire.ERROR, call.id, 0, status, self._encode(status, fault))

    def _encode(self, status: bytes, fault: dict[str, Any]) -> bytes:
        return _errors.encode_within(fault, self._connection.max_frame - len(status))


def _with_inputs(function: Any, arguments: Any, inputs: dict[str, Any]) -> Any:
    if isinstance(arguments, list):
        return function(*arguments, **inputs)
    if isinstance(arguments, dict):
        return function(**arguments, **inputs)
    return function(**inputs) if arguments is None else function(arguments, **inputs)
