"""The loop of a worker whose calls overlap: those of `async def` handlers, one event loop for all of them.

Plain handlers run while the event loop stands still, one after another, so that they find none running: they may run
one of their own.
"""

from __future__ import annotations

import os

from . import _directory, _handlers, _stream, _wire
from ._async import EventLoop
from ._batch import Batch, handler_of, without_given_up
from ._cancel import Cancelled, Overlapping
from ._request import Request, running
from ._serve import Leave, Server, failure
from ._status import CALLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._cancel import Cancellation
    from ._connection import Connection
    from ._request import Place
    from ._serve import Answer
    from ._status import StatusPage
    from ._wire import Frame


class OverlappingServer(Server):
    def __init__(self, connection: Connection, page: StatusPage, place: Place, cancellation: Cancellation) -> None:
        super().__init__(connection, page, place, cancellation)
        self._loop = self.event_loop = EventLoop(connection, cancellation)
        self._loop.received = self._received
        connection.news = self._loop.news
        connection.overlaps = self._loop.loop
        self._overlapping = cancellation.overlapping
        self._places = list(range(CALLS, 0, -1))
        """Free ones of the status page; the first is for plain handlers."""
        self._plain: list[Frame | list[Frame]] = []
        """What waits for its turn alone: calls, and batches."""
        self._gathering: dict[str, _Gathering] = {}
        self._leave: Leave | None = None
        self._left = False
        """No call is served any more."""

    def run(self) -> None:
        """Serves until Rust asks to leave."""
        try:
            self._run_until_left()
        finally:
            # The loop runs once more, for what is left to come to its end: nothing is begun by then, or stops it.
            self._left = True
            self._loop.received = None
            self._connection.news = None

    def _run_until_left(self) -> None:
        connection = self._connection
        while True:
            if self._leave is not None:
                raise self._leave  # first: a call that is begun may count as run
            if connection.given_up:
                self._drop_given_up()
            while (call := connection.take_call()) is not None:
                self._begin(call)
            if self._plain:
                self._run_plain(self._plain.pop(0))
            elif connection.leaving and not self._is_at_work():
                call = connection.next_call()
                if call is None:
                    return
                self._begin(call)
            else:
                # Also where no call is at work: connections that are being closed, and tasks that were left, go on.
                try:
                    self._loop.run_until_stopped()
                except SystemExit as leaving:  # of a task that was left
                    self._leave = Leave(leaving.code)

    def _is_at_work(self) -> bool:
        return bool(self._overlapping or self._gathering)

    def _batch_places(self, calls: int) -> list[int]:
        return [0, *self._places[1 - calls :]] if calls > 1 else [0]

    def _go_home(self) -> None:
        """Calls begin in the pool's working directory, wherever a task that was left has gone meanwhile."""
        if _directory.changed and not self._overlapping and self._connection.running is None:
            _directory.restore()

    def _run_plain(self, call: Frame | list[Frame]) -> None:
        self._go_home()
        try:
            if isinstance(call, list):
                self._serve_batch(call)
            elif self._page.is_cancelled(call.id):
                self._connection.send(_wire.ERROR, call.id, 0, b"cancelled", b"{}")
            else:
                self._serve(call)
        except Leave as leaving:
            # Those that overlap it die with the worker; what cancels them then is none of their answers.
            self._leave = leaving
            raise

    def _received(self) -> None:
        if self._connection.given_up:
            self._drop_given_up()
        while self._leave is None and (call := self._connection.take_call()) is not None:
            self._begin(call)
        self._stop_if_due()

    def _stop_if_due(self) -> None:
        if self._left or self._connection.running is not None:
            return  # a plain handler runs the loop, for a coroutine that it has returned
        if self._plain or self._leave is not None or (self._connection.leaving and not self._is_at_work()):
            self._loop.stop()

    def _begin(self, call: Frame) -> None:
        name = handler_of(call)
        if name in _handlers.batches:
            self._gather(name, call)
        elif not _handlers.is_async(self._handlers.get(name)):
            # One that isn't known is answered there, too.
            self._plain.append(call)
        elif self._page.is_cancelled(call.id):
            self._connection.send(_wire.ERROR, call.id, 0, b"cancelled", b"{}")
        elif (prepared := self._prepare(call)) is not None:
            function, arguments, request = prepared
            self._start(request, function, arguments, self._result, lambda answer: self._answer(call, answer))

    def _start(
        self,
        request: Request,
        function: Any,
        arguments: Any,
        encode: Callable[[Any], Any],
        answer: Callable[[Any], None],
    ) -> None:
        self._go_home()
        ids = request.batch or (request.id,)
        places = [self._places.pop() for _ in ids]
        for id, place in zip(ids, places, strict=True):
            self._page.start(id, place)
        task = self._loop.start(self._overlap(request, function, arguments, encode, answer, places))
        self._overlapping[request.id] = Overlapping(request, task)
        if request._exchange is not None:
            request._exchange.open()

    async def _overlap(
        self,
        request: Request,
        function: Any,
        arguments: Any,
        encode: Callable[[Any], Any],
        answer: Callable[[Any], None],
        places: list[int],
    ) -> None:
        running.set(request)
        connection = self._connection
        outcome: Any = None
        try:
            kind = type(arguments)
            if kind is list:
                result = function(*arguments)
            elif kind is dict:
                result = function(**arguments)
            elif arguments is None:
                result = function()
            else:
                result = function(arguments)
            if type(result) is _stream.ASYNC_GENERATOR:
                driven = _stream.drive_async(result, self._sink(request), self._cancellation, request)
                outcome = self._collected(await driven)
            else:
                outcome = encode(await result)
            del result
        except SystemExit as leaving:
            self._leave = Leave(leaving.code)
        except BaseException as error:
            outcome = self._failed(request, error)
        if connection.abandoned:
            os._exit(0 if outcome is not None and outcome[0] == _wire.RESULT else 1)
        overlapping = self._overlapping.pop(request.id)
        del arguments
        self._places += places
        if request._exchange is not None:
            request._exchange.close()
        if self._leave is None:  # else nobody is answered any more
            self._go_home()
            self._flush()
            if self._cancellation.is_spoilt(overlapping):
                kind, name, json, flags, buffers = outcome
                outcome = kind, name, json, flags | _wire.RECYCLE, buffers
            answer(outcome)
        if not self._left and not self._overlapping and connection.running is None:
            self._page.idle()
        self._stop_if_due()

    def _failed(self, request: Request, error: BaseException) -> Answer:
        import asyncio

        if request.cancelled and isinstance(error, (asyncio.CancelledError, Cancelled)):
            return _wire.ERROR, b"cancelled", b"{}", 0, ()
        return failure(error, self._connection.max_frame)

    def _answer(self, call: Frame, answer: Answer) -> None:
        kind, name, json, flags, buffers = answer
        self._connection.answer(call, kind, name, json, flags, buffers)

    # Batches

    def _gather(self, name: str, call: Frame) -> None:
        gathering = self._gathering.get(name)
        size, wait = _handlers.batches[name]
        if gathering is None:
            gathering = self._gathering[name] = _Gathering()
            gathering.timer = self._loop.later(wait, lambda: self._start_batch(name))
        gathering.calls.append(call)
        if len(gathering.calls) == size:
            self._start_batch(name)

    def _drop_given_up(self) -> None:
        self._connection.given_up = False
        for name, gathering in tuple(self._gathering.items()):
            gathering.calls = without_given_up(self._connection, self._page, gathering.calls)
            if not gathering.calls:
                gathering.timer.cancel()
                del self._gathering[name]

    def _start_batch(self, name: str) -> None:
        gathering = self._gathering.pop(name)
        gathering.timer.cancel()
        if not _handlers.is_async(self._handlers.get(name)):
            self._plain.append(gathering.calls)
            self._stop_if_due()
            return
        batch = Batch(self._connection, self._page, self._place, gathering.calls, self._prepare)
        if batch.request is not None:
            self._start(
                batch.request,
                batch.function,
                [batch.items],
                batch.results,
                lambda answers: batch.answer(answers, 0),
            )
        self._stop_if_due()


class _Gathering:
    """Calls of one handler that wait for others."""

    def __init__(self) -> None:
        self.calls: list[Frame] = []
        self.timer: Any = None
