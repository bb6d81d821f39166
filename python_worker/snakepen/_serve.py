"""The worker's loop: takes calls, runs handlers, answers."""

from __future__ import annotations

import os
import sys

from . import _codec, _directory, _errors, _handlers, _json, _wire
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
        self._handlers = _handlers.table
        self.event_loop: EventLoop | None = None

    def run(self) -> None:
        """Serves until Rust asks to leave."""
        while (call := self._connection.next_call()) is not None:
            self._serve(call)

    def _serve(self, call: Frame) -> None:
        function = self._handlers.get(call.name)
        session = None
        if function is None and "\0" in call.name:
            call.name, _, session = call.name.partition("\0")
            function = self._handlers.get(call.name)
        if function is None:
            known = sorted(self._handlers)
            self._refuse(call, b"unknown_handler", {"name": call.name, "known": known})
            return
        try:
            arguments = _codec.arguments(call)
        except (ValueError, RecursionError) as error:
            self._refuse(call, b"arguments", {"message": f"{type(error).__name__}: {error}"})
            return
        kind, name, json, flags, buffers = self._run(function, arguments, call, session)
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
        del arguments
        self._connection.answer(call, kind, name, json, flags, buffers)
        self._page.idle()

    def _run(
        self, function: Any, arguments: Any, call: Frame, session: str | None = None
    ) -> tuple[int, bytes, bytes, int, Sequence[memoryview]]:
        """What to answer: kind, name, JSON, flags, and the buffers beside the JSON."""
        connection = self._connection
        cancellation = self._cancellation
        request = Request(call.id, call.name, call.arg, self._place, session)
        connection.running = request
        running.set(request)
        self._page.start(call.id)
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
                if type(result) not in _PLAIN and hasattr(type(result), "__await__"):
                    cancellation.awaiting = request
                    result = self._await(result)
            finally:
                # and after this no more. The outer clauses meet the one that comes just before.
                cancellation.request = None
            if connection.abandoned:
                os._exit(0)
            json, buffers = _codec.dumps(result, connection.max_frame)
            return _wire.RESULT, b"", json, 0, buffers
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
            return _wire.ERROR, b"result", self._encode(b"result", fault), 0, ()
        except BaseException as error:
            cancellation.request = None
            if connection.abandoned:
                os._exit(1)
            if request.cancelled and cancellation.caused(error):
                return _wire.ERROR, b"cancelled", b"{}", 0, ()
            # After MemoryError nobody knows what was left half done.
            flags = _wire.RECYCLE if isinstance(error, MemoryError) else 0
            return _wire.ERROR, b"exception", self._encode(b"exception", _errors.describe(error)), flags, ()
        finally:
            connection.running = None
            running.set(None)

    def _await(self, awaitable: Any) -> Any:
        if self.event_loop is None:
            from ._async import EventLoop

            self.event_loop = EventLoop(self._connection, self._cancellation)
        try:
            return self.event_loop.run(awaitable)
        finally:
            self._cancellation.task = None

    def _refuse(self, call: Frame, status: bytes, fault: dict[str, Any]) -> None:
        self._connection.send(_wire.ERROR, call.id, 0, status, self._encode(status, fault))

    def _encode(self, status: bytes, fault: dict[str, Any]) -> bytes:
        return _errors.encode_within(fault, self._connection.max_frame - len(status))
