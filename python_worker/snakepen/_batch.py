"""A batch: calls of one handler that it takes at once, as a list."""

from __future__ import annotations

from time import monotonic

from . import _handlers, _wire
from ._request import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._connection import Connection
    from ._request import Place
    from ._serve import Answer
    from ._status import StatusPage
    from ._wire import Frame

    Prepare = Callable[[Frame], "tuple[Any, Any, Request] | None"]


class BatchRequest(Request):
    """The request of a batch is that of its first call, with the time that the most patient caller has."""

    def __init__(self, calls: list[Frame], place: Place) -> None:
        first = calls[0]
        deadlines = [call.arg for call in calls]
        super().__init__(first.id, first.name, 0 if 0 in deadlines else max(deadlines), place)
        self.batch = tuple(call.id for call in calls)
        self.shown: set[int] = set()


class Batch:
    def __init__(
        self, connection: Connection, page: StatusPage, place: Place, gathered: list[Frame], prepare: Prepare
    ) -> None:
        self._connection = connection
        self.function: Any = None
        self.items: list[Any] = []
        self._calls: list[Frame] = []
        for call in without_given_up(connection, page, gathered):
            if (prepared := prepare(call)) is not None:
                self.function, arguments, _ = prepared
                self.items.append(_item(arguments))
                self._calls.append(call)
        self.request = BatchRequest(self._calls, place) if self._calls else None
        """None if no call is left."""

    def results(self, result: Any) -> list[Answer]:
        """Each caller's own."""
        from ._serve import failure, success

        count = len(self.items)
        if not isinstance(result, (list, tuple)) or len(result) != count:
            found = f"{len(result)} results" if isinstance(result, (list, tuple)) else type(result).__name__
            raise TypeError(f"a batch handler that is given a list of {count} returns a list of {count}, not {found}")
        max_frame = self._connection.max_frame
        answers: list[Answer] = []
        for value in result:
            try:
                if isinstance(value, BaseException):
                    answers.append(failure(value, max_frame))
                else:
                    answers.append(success(value, max_frame))
            except Exception as error:
                answers.append(failure(error, max_frame))
        return answers

    def answer(self, answers: list[Answer] | Answer, flags: int) -> None:
        self.items = []  # what the arguments lie in is given back with each answer; the list is the handler's
        if isinstance(answers, tuple):
            answers = [answers] * len(self._calls)
        for call, (kind, name, json, own, buffers) in zip(self._calls, answers, strict=True):
            self._connection.answer(call, kind, name, json, own | flags, buffers)


def handler_of(call: Frame) -> str:
    """The name of its handler; behind that there may be a session."""
    return call.name.partition("\0")[0]


def without_given_up(connection: Connection, page: StatusPage, calls: list[Frame]) -> list[Frame]:
    """Those whose callers still wait; the others are answered."""
    left: list[Frame] = []
    for call in calls:
        if page.is_cancelled(call.id):
            connection.send(_wire.ERROR, call.id, 0, b"cancelled", b"{}")
        else:
            left.append(call)
    return left


def gather(connection: Connection, page: StatusPage, first: Frame) -> list[Frame]:
    """The calls of the handler that have come, and come within its time. None, if all are given up meanwhile."""
    name = handler_of(first)
    size, wait = _handlers.batches[name]
    calls = [first]
    end = monotonic() + wait
    while calls and len(calls) < size:
        call = connection.next_call_of(name, end - monotonic())
        if call is not None:
            calls.append(call)
        elif connection.given_up:
            connection.given_up = False
            calls = without_given_up(connection, page, calls)
        else:
            break
    return calls


def _item(arguments: Any) -> Any:
    """What one call is in the list: its argument, or all of them where it has several."""
    if type(arguments) is list and len(arguments) == 1:
        return arguments[0]
    return arguments
