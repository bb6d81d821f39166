"""The event loop that runs `async def` handlers: one per worker, kept between calls."""

from __future__ import annotations

import asyncio

from ._worker import leave_for_good

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import TypeVar

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

    def run(self, awaitable: Awaitable[Result]) -> Result:
        """The awaitable's result. Frames are read, and PING answered, while it waits.

        Tasks that a handler leaves behind go on when the next one runs.
        """
        return self.loop.run_until_complete(self._run(awaitable))

    async def _run(self, awaitable: Awaitable[Result]) -> Result:
        self._cancellation.task = asyncio.current_task()
        return await awaitable

    def _readable(self) -> None:
        try:
            self._connection.receive_ready()
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
