"""The event loop that runs `async def` handlers: one per worker, kept between calls."""

from __future__ import annotations

import asyncio

from ._worker import leave_for_good

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any, TypeVar

    from ._cancel import Cancellation
    from ._connection import Connection

    Result = TypeVar("Result")


class EventLoop:
    def __init__(self, connection: Connection, cancellation: Cancellation) -> None:
        self._connection = connection
        self._cancellation = cancellation
        self.loop = asyncio.new_event_loop()
        self.loop.add_reader(connection.fileno(), self._readable)
        connection.served_by = self.loop
        self._told = False
        self.received: Callable[[], None] | None = None
        """Called when frames have been read."""

    def run(self, awaitable: Awaitable[Result]) -> Result:
        """The awaitable's result. Frames are read, and PING answered, while it waits.

        Tasks that a handler leaves behind go on when the next one runs.
        """
        # Raised by the loop an error would be part of a cycle: its traceback, the loop's frame, the task.
        # What the handler's frames have, its arguments too, would be there until a garbage collection.
        raised: list[BaseException] = []
        result: Any = None
        try:
            result = self.loop.run_until_complete(self._run(awaitable, raised))
        except BaseException:
            if not raised:  # else the task was to be cancelled when it raised that
                raise
        if raised:
            error = raised.pop()
            try:
                raise error
            finally:
                del error  # its traceback has this frame
        return result

    async def _run(self, awaitable: Awaitable[Result], raised: list[BaseException]) -> Result | None:
        self._cancellation.task = asyncio.current_task()
        try:
            return await awaitable
        except BaseException as error:
            raised.append(error)
            return None

    def news(self) -> None:
        """A frame that is for the main thread was received elsewhere; the loop looks at it as soon as it runs."""
        if self._told:
            return
        self._told = True
        try:
            self.loop.call_soon_threadsafe(self._look)
        except RuntimeError:  # the loop is closed: the worker leaves
            pass

    def _look(self) -> None:
        self._told = False  # first: what comes from here on is told of anew
        self._see(lambda: None)

    def run_until_stopped(self) -> None:
        self.loop.run_forever()

    def stop(self) -> None:
        if self.loop.is_running():  # else it would stop as soon as it runs again, whatever for
            self.loop.stop()

    def later(self, seconds: float, function: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, function)

    def start(self, coroutine: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """A task that goes on while the loop runs; whatever task factory a handler has set, it begins in the loop."""
        return asyncio.Task(coroutine, loop=self.loop)

    def _readable(self) -> None:
        self._see(self._connection.receive_ready)

    def _see(self, receive: Callable[[], None]) -> None:
        try:
            receive()
            if self.received is not None:
                self.received()
        except BaseException as error:
            # The loop would only log it, and the handler, which nobody waits for any more, go on.
            leave_for_good(error, self._connection)

    def close(self) -> None:
        """Cancels what is left, and lets it and the asynchronous generators come to their end."""
        loop = self.loop
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
