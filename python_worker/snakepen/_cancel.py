"""Cancellation: how Rust's wish becomes an exception in a sync handler, or the end of an async one's task.

Rust writes the request's id to the status page and sends SIGURG, again every 20 ms until it has the answer. So the
signal's handler does nothing wherever it had better not: it is asked again.

The first time it writes the stack to the dump pipe, and END after it. It is written here, between two instructions,
and not by faulthandler in C: that reads frames which the interpreter is just about to link, and crashes CPython 3.11 to
3.13 within a few hundred signals (python/cpython#116008, #123967). Where C code keeps Python from coming here at all,
the frames hold still, and Rust sends SIGWINCH, which is faulthandler's.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from _thread import get_ident

from . import _handlers, _request
from ._status import NOBODY

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from asyncio import AbstractEventLoop, Task
    from types import CodeType, FrameType
    from typing import Any

    from ._connection import Connection
    from ._request import Request
    from ._status import StatusPage
else:
    import _signal as signal

CANCEL = signal.SIGURG  # by default both are ignored: one that goes astray harms nobody
DUMP = signal.SIGWINCH
BEGIN = "\x16"
END = b"\x17"

_PATIENCE = 0.1
"""Seconds that a generator's own code has to come to its next `yield`, where it is closed, before it is interrupted."""

_MAX_FRAMES = 100
_MAX_STACK = 32 * 1024

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_CALLS_BACK = (
    os.path.join(_HERE, "contrib", ""),
    *(_HERE + name for name in ("_actor.py", "_actors.py", "_programs.py", "_session.py")),
)
"""Of the package, what is like the user's code, or runs it, and is never in the middle of anything by itself."""


class Cancelled(BaseException):
    """Raised in a handler whose caller no longer waits: its deadline has passed, or its future was dropped.

    Let it pass: `finally` clauses and context managers run, for as long as the pool's `cancel_grace`; then the process
    is killed. Like KeyboardInterrupt it isn't an Exception, can come between any two instructions of the main thread,
    and comes once per request at most. It doesn't come during an import, in a `__del__`, or in `shield()`.

    Handlers that are `async def` get asyncio.CancelledError instead, and so do all tasks of a loop that another handler
    runs, by `asyncio.run` for instance. Threads get nothing: they can look at `snakepen.current().cancelled`.
    A generator is closed at its next `yield`, as by close(); it gets this if it takes more than 100 ms to come there.
    """


Cancelled.__module__ = "snakepen"


class shield:
    """`with snakepen.shield():` puts a cancellation off until the block is left, the outermost if they are nested.

    For what must not be left half done, such as a write to a file; in `async def` handlers too, with plain `with`.
    The pool waits for it no longer than its `cancel_grace`, then the process is killed. `snakepen.current().cancelled`
    is true meanwhile. Outside of a request, and in threads, which aren't interrupted, it does nothing.
    """

    __slots__ = ("_case",)

    def __init__(self) -> None:
        self._case: _Case | None = None

    def __enter__(self) -> None:
        if _own is not None and get_ident() == _own.thread:
            self._case = _own.begin_shield()

    def __exit__(self, *_: object) -> None:
        if self._case is not None and _own is not None and get_ident() == _own.thread:
            error = _own.end_shield(self._case, sys._getframe(1))
            if error is not None:
                raise error


class _Case:
    """A request's cancellation, and its shields. There is none for most requests."""

    __slots__ = ("by_task", "patience", "raised", "recycle", "request", "shields", "shown", "spent", "waiting")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.shields = 0
        self.waiting = False  # for the last shield
        self.shown = False
        self.spent = False  # a request is interrupted once, in whichever way
        self.by_task = False
        self.patience: float | None = None  # a generator is interrupted after this
        self.raised: Cancelled | None = None
        self.recycle = False


class Overlapping:
    """A request that is served beside others, and its task."""

    __slots__ = ("case", "request", "task")

    def __init__(self, request: Request, task: Task[Any]) -> None:
        self.request = request
        self.task = task
        self.case = _Case(request)


class Cancellation:
    """A worker's. All of it happens in the main thread; what may be raised is raised while `request` is set."""

    __slots__ = (
        "_connection",
        "_dump",
        "_hook",
        "_page",
        "_reuse",
        "_turned",
        "awaiting",
        "case",
        "driver",
        "floor",
        "overlapping",
        "request",
        "task",
        "thread",
    )

    def __init__(self, connection: Connection, page: StatusPage, dump: int, reuse: bool) -> None:
        self._connection = connection
        self._page = page
        self._dump = dump
        self._reuse = reuse
        self._hook: Any = None
        self._turned = True
        """The event loop has come to what it was given when those who are given up were looked at last."""
        self.thread = get_ident()
        self.request: Request | None = None
        """The request whose handler is at work."""
        self.awaiting: Request | None = None
        """The request whose handler has come to its asynchronous part: from here on nothing is raised in it."""
        self.task: Task[Any] | None = None
        """Its task, once that runs."""
        self.case: _Case | None = None
        """The running request's, if it has one."""
        self.floor: CodeType | None = None
        """The code that calls handlers."""
        self.driver: CodeType | None = None
        """The code that runs generators."""
        self.overlapping: dict[int, Overlapping] = {}
        """The requests that are served beside each other, by id."""

    def install(self) -> None:
        """Before any code of the user's, which may replace all of it."""
        global _own
        _own = self
        signal.signal(CANCEL, self._asked)
        faulthandler.register(DUMP, file=self._dump, all_threads=False)
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._unraisable

    def forget(self) -> None:
        """In a process that a handler has forked."""
        self.request = None
        faulthandler.unregister(DUMP)
        if signal.getsignal(CANCEL) == self._asked:
            signal.signal(CANCEL, signal.SIG_DFL)

    # A request's end

    def caused(self, error: BaseException) -> bool:
        """Whether a cancelled request's error says no more than that it was."""
        if isinstance(error, Cancelled):
            return True
        asyncio = sys.modules.get("asyncio")
        return self.case is not None and self.case.by_task and isinstance(error, asyncio.CancelledError)  # pyright: ignore

    def settle(self) -> bool:
        """Closes the case. Whether the worker is to be replaced: an exception at any point can leave a lock held."""
        case, self.case = self.case, None
        return case is not None and case.recycle and not self._reuse

    # Generators

    def is_shielded(self, request: Request) -> bool:
        """Whether the request is not to be ended yet."""
        case = self._case_of(request)
        if case is None or not case.shields:
            return False
        case.waiting = True
        return True

    def close(self, request: Request) -> None:
        """The request is told in some other way, such as by closing its generator: there is no other interruption."""
        request._closing = True
        overlapping = self.overlapping.get(request.id)
        (self._find(request) if overlapping is None else overlapping.case).spent = True

    def spoil(self, request: Request) -> None:
        """Nobody knows what the request has left half done."""
        overlapping = self.overlapping.get(request.id)
        (self._find(request) if overlapping is None else overlapping.case).recycle = True

    def is_spoilt(self, overlapping: Overlapping) -> bool:
        return overlapping.case.recycle and not self._reuse

    def _case_of(self, request: Request) -> _Case | None:
        overlapping = self.overlapping.get(request.id)
        if overlapping is not None:
            return overlapping.case
        return self.case if self.case is not None and self.case.request is request else None

    # Shields

    def begin_shield(self) -> _Case | None:
        request = self.request
        served = _request.running.get()
        if served is not None and served.id in self.overlapping:
            case = self.overlapping[served.id].case
            case.shields += 1
            return case
        # A task that an earlier request has left behind doesn't shield this one.
        if request is None or (served is not None and served is not request):
            return None
        case = self._find(request)
        case.shields += 1
        return case

    def end_shield(self, case: _Case, frame: FrameType) -> Cancelled | None:
        case.shields -= 1
        overlapping = self.overlapping.get(case.request.id)
        if overlapping is not None:
            if case.waiting and not case.shields:
                overlapping.task.cancel()
            return None
        if case.waiting and not case.shields and self.request is case.request:
            return self._interrupt(case, frame, soon=False)
        return None

    def _find(self, request: Request) -> _Case:
        if self.case is None:
            self.case = _Case(request)
        return self.case

    # The signal

    def _asked(self, _number: int, frame: FrameType | None) -> None:
        overlapping = list(self.overlapping.values())
        if overlapping:
            self._look_for_holder()
        for other in overlapping:
            if self._page.is_cancelled(other.request.id):
                self._end(other, frame)
        request = self._connection.running
        if request is None:
            return
        if request.batch:
            if not self._all_cancelled(request, frame):
                return
        elif not self._page.is_cancelled(request.id):
            return
        request.cancelled = True
        case = self._find(request)
        if not case.shown and not request.batch:
            case.shown = True
            self._show(request.id, frame, generator=request._generator)
        if self.request is request:
            error = self._interrupt(case, frame, soon=True)
            if error is not None:
                raise error

    def _look_for_holder(self) -> None:
        """Tells Rust who keeps the event loop from everything else, if it has not turned since the last look."""
        if not self._turned:
            holder = self._holder()
            self._page.held_up_by(NOBODY if holder is None else holder.id)
            return
        self._page.held_up_by(NOBODY)
        loop = self._connection.overlaps
        if loop is not None:
            self._turned = False
            loop.call_soon_threadsafe(self._turn)

    def _turn(self) -> None:
        self._turned = True

    def _holder(self) -> Request | None:
        """Whose code has the loop's thread just now."""
        if self.awaiting is not None and sys.modules["asyncio"].current_task(self._connection.overlaps) is None:
            return None  # what a plain handler waits for, the loop does too
        return _request.running.get() or self._connection.running

    def _end(self, overlapping: Overlapping, frame: FrameType | None) -> None:
        """Cancels the task of a request that is served beside others, from the loop's side."""
        request, case, task = overlapping.request, overlapping.case, overlapping.task
        ids = request.batch or (request.id,)
        if request.batch:
            if not self._all_cancelled(request, frame, task):
                return
        elif not case.shown:
            case.shown = True
            self._show(request.id, frame, task, request._generator)
        request.cancelled = True
        if not case.spent:
            case.spent = case.by_task = True
            task.get_loop().call_soon_threadsafe(self._end_task, ids[0])

    def _end_task(self, id: int) -> None:
        overlapping = self.overlapping.get(id)
        if overlapping is None or overlapping.request._closing:  # it has come to its end first
            return
        if overlapping.case.shields:
            overlapping.case.waiting = True
        else:
            overlapping.task.cancel()

    def _all_cancelled(self, request: Any, frame: FrameType | None, task: Task[Any] | None = None) -> bool:
        """Whether no caller of a batch waits any more. Those that have just given up are shown the stack."""
        cancelled = [id for id in request.batch if self._page.is_cancelled(id)]
        for id in cancelled:
            if id not in request.shown:
                request.shown.add(id)
                self._show(id, frame, task)
        return len(cancelled) == len(request.batch)

    def _interrupt(self, case: _Case, frame: FrameType | None, soon: bool) -> Cancelled | None:
        """Ends tasks, or returns what the caller is to raise; or neither, and is asked again.

        `soon` is said by a signal, which has to leave it to the loop: that may be at anything.
        """
        if case.spent:
            return None
        if case.shields:
            case.waiting = True
            return None
        loop = None
        if self.awaiting is case.request:
            if self.task is None:
                return None
            loop = self.task.get_loop()
        else:
            loop = _running_loop()
        if loop is not None:
            case.spent = case.by_task = True
            if soon:
                loop.call_soon_threadsafe(self._cancel_tasks, case.request, loop)
            else:
                self._cancel_tasks(case.request, loop)
            return None
        if self._is_unfit(case.request, frame) or self._has_patience(case):
            return None
        case.spent = case.recycle = True
        case.raised = Cancelled("the caller no longer waits for this request")
        return case.raised

    def _cancel_tasks(self, request: Request, loop: AbstractEventLoop) -> None:
        if self.request is not request or request._closing:  # its handler has come to its end first
            return
        if self.awaiting is request:
            if self.task is not None:
                self.task.cancel()
            return
        for task in sys.modules["asyncio"].all_tasks(loop):
            task.cancel()

    def _has_patience(self, case: _Case) -> bool:
        if case.request._generator is None:
            return False
        now = time.monotonic()
        if case.patience is None:
            case.patience = now + _PATIENCE
        return now < case.patience

    def _is_unfit(self, request: Request, frame: FrameType | None) -> bool:
        """Whether it would be lost if raised in this frame (in a finalizer), or do lasting harm: in an import, or in
        this package, which may be in the middle of a frame to Rust."""
        at = frame
        while at is not None:
            code = at.f_code
            if code is self.driver:
                return at is frame
            if code is self.floor:
                # Right there only a function without frames can be at work. An `async def` has returned, or is about to
                # be called: interrupted here, its coroutine would never be awaited.
                return at is frame and _handlers.is_async(_handlers.table.get(request.handler))
            file = code.co_filename
            if code.co_name == "__del__" or file.startswith("<frozen importlib"):
                return True
            if file.startswith(_HERE) and not file.startswith(_CALLS_BACK) and not self._may_leave(code):
                return True
            at = at.f_back
        return False

    def _may_leave(self, code: CodeType) -> bool:
        """Of the port's own code, what waits for the reply to a call can be left at any point."""
        return self._connection.waits and code in self._connection.WAITING

    def _unraisable(self, unraisable: Any) -> None:
        """Callbacks of weak references and of the garbage collector can't be told apart in time: what was raised in one
        is swallowed, and raised again elsewhere."""
        case = self.case
        if case is not None and case.raised is not None and unraisable.exc_value is case.raised:
            case.raised = None
            case.spent = False
            return
        self._hook(unraisable)

    # The stack

    def _show(self, id: int, frame: FrameType | None, task: Task[Any] | None = None, generator: Any = None) -> None:
        """`task` is that of a request beside others: what the thread is at is of interest if it is at that, or if it
        keeps the loop from it."""
        lines = [f"{BEGIN}{id}\n", "Stack (most recent call first):\n"]
        running = _frames(frame)
        if generator is not None:
            lines += _awaited(generator, running)
        awaiting = task or self.task
        if awaiting is not None:
            lines += _awaited(awaiting.get_coro(), running)
        at = frame
        if task is not None:
            current = sys.modules["asyncio"].current_task(task.get_loop())
            if current is not task and len(lines) == 2:
                lines.append("  (it is in no code of its own: it has not begun, or is at its end)\n")
            holder = self._holder()
            if current is None and holder is None:
                at = None
            elif current is not task:
                what = "is" if holder is None else f"runs {ascii(holder.handler)[1:-1]},"
                lines.append(f"Meanwhile the event loop {what} here:\n")
        while at is not None and at.f_code is not self.floor:
            if len(lines) > _MAX_FRAMES:
                lines.append("  ...\n")
                break
            file = at.f_code.co_filename
            if task is not None and file.endswith("/asyncio/events.py"):  # below it is the loop
                break
            if not file.startswith(_HERE):
                lines.append(_line(at))
            at = at.f_back
        try:
            os.write(self._dump, "".join(lines)[:_MAX_STACK].encode("ascii") + END)
        except OSError:  # it is full: Rust has other things to do
            pass


_own: Cancellation | None = None


def _line(frame: FrameType) -> str:
    """As faulthandler has it."""
    code = frame.f_code
    return f'  File "{ascii(code.co_filename)[1:-1]}", line {frame.f_lineno} in {ascii(code.co_name)[1:-1]}\n'


def _frames(frame: FrameType | None) -> set[FrameType]:
    """Those of a thread."""
    frames: set[FrameType] = set()
    while frame is not None:
        frames.add(frame)
        frame = frame.f_back
    return frames


def _awaited(coroutine: Any, running: set[FrameType]) -> list[str]:
    """Where a suspended coroutine or generator waits: the thread's stack doesn't have it."""
    frames: list[FrameType] = []
    while coroutine is not None and len(frames) < _MAX_FRAMES // 2:
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(coroutine, f"{kind}_frame")), None)
        frame = getattr(coroutine, f"{kind}_frame", None)
        if frame is None or frame in running:
            break
        frames.append(frame)
        coroutine = getattr(coroutine, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
    return [_line(frame) for frame in reversed(frames) if not frame.f_code.co_filename.startswith(_HERE)]


def _running_loop() -> Any:
    """The main thread's event loop, if it is at work. asyncio is never imported for this."""
    events = sys.modules.get("asyncio.events")
    running = getattr(events, "_get_running_loop", None)
    return None if running is None else running()
