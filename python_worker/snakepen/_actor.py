"""What the Rust program exposes: called from handlers, over the port."""

from __future__ import annotations

from . import _codec, _json
from ._request import running
from ._store import port_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ._connection import Connection
    from ._wire import Frame


class ActorError(Exception):
    """What was called in Rust has failed, or could not be called.

    `type` is the name of the error's Rust type, and `message` what it says. Snakepen's own types are `NotExposed` (the
    message has the names that there are), `Arguments` (they don't fit), `ActorStopped`, `NoReply`, `Panic`, `Busy` (too
    many at once), `Encode` (the answer can't become JSON), `TooLarge`, `RequestEnded`; and, of a call that Rust makes
    in its turn, the variants of its `snakepen::Error`, such as `Timeout`.
    """

    def __init__(self, type: str, message: str) -> None:
        super().__init__(type, message)
        self.type = type
        self.message = message

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"


class WouldDeadlock(ActorError):
    """What was called in Rust would have called Python in its turn, and waited for a worker, or the turn of a session,
    that is held by this call or by one that waits for it."""


for _class in (ActorError, WouldDeadlock):
    _class.__module__ = "snakepen"  # where they are found


class Actor:
    """What the Rust program exposes by a name, an actor or a function. Obtained from `snakepen.actor(name)`.

    Arguments are either positional or named, and what a handler may return, as is the answer. Threads may use it: what
    they call belongs to the request that is served. In `async def` use `acall` and `acast`: other tasks run meanwhile.

    A call is a part of the request: it has no more time than that, and when the handler ends, or leaves it (as
    `asyncio.timeout` does, or a cancellation), what it does in Rust is dropped.
    """

    __slots__ = ("name",)

    name: str

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"the name of an actor is a str, not {type(name).__name__}")
        self.name = name

    def __repr__(self) -> str:
        return f"<snakepen.Actor {self.name!r}>"

    def call(self, /, *args: Any, **named: Any) -> Any:
        """Calls it, and returns its answer. Raises ActorError if it fails, TypeError for what JSON can't say."""
        port = _port()
        return _answer(port.call(b"call", *self._encode(port, args, named)))

    async def acall(self, /, *args: Any, **named: Any) -> Any:
        port = _port()
        return _answer(await _await(port, b"call", *self._encode(port, args, named)))

    def cast(self, /, *args: Any, **named: Any) -> None:
        """Calls it, and returns when it has accepted the arguments. What becomes of it then is not told: it goes on to
        its end, whatever becomes of the request."""
        port = _port()
        _answer(port.call(b"cast", *self._encode(port, args, named)))

    async def acast(self, /, *args: Any, **named: Any) -> None:
        port = _port()
        _answer(await _await(port, b"cast", *self._encode(port, args, named)))

    def _encode(
        self, port: Connection, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[bytes, Sequence[memoryview]]:
        """As Rust's own arguments are: positional ones an array, but a single one itself; named ones an object."""
        if args and named:
            raise TypeError(f"{self.name!r} is called with positional arguments or with named ones, not with both")
        arguments = args[0] if len(args) == 1 else list(args) or named or None
        try:
            json, buffers = _codec.dumps([self.name, arguments])
        except _json.Unserialisable as error:
            if error.path == "$[0]":
                raise ValueError(f"the name of an actor is text that UTF-8 can say: {error.message}") from None
            path = error.path.replace("$[1]", "$", 1)
            advice = error.message.replace("return ", "pass ")
            raise TypeError(f"can't be passed to {self.name!r}: {error.type_name} at {path}: {advice}") from None
        size = len(json) + sum(len(buffer) + 12 for buffer in buffers) + 64
        if size > port.max_frame:
            raise ActorError(
                "TooLarge",
                f"the arguments take {size} bytes, the pool's largest frame is {port.max_frame} (max_frame)",
            )
        return json, buffers


def actor(name: str) -> Actor:
    """What the Rust program exposes by this name. Nothing is asked before it is called."""
    return Actor(name)


def _port() -> Connection:
    port = port_for("actors")
    if running.get() is None and port.running is None:
        raise RuntimeError("a Rust actor can be called in a request only: no handler is running")
    return port


async def _await(port: Connection, name: bytes, json: bytes, buffers: Sequence[memoryview]) -> Frame:
    import asyncio

    loop = asyncio.get_running_loop()
    if loop is port.served_by:
        waiter = port.call_from(loop, name, json, buffers)
        reply = waiter.reply()
    else:
        # A loop that a handler runs by itself, in a thread perhaps, doesn't read the port.
        waiter = port.begin_call(name, json, buffers)
        reply = asyncio.to_thread(port.end_call, waiter)
    try:
        return await reply
    except BaseException:
        port.leave(waiter)
        raise


def _answer(reply: Frame) -> Any:
    if reply.name == "error:actor":
        error = _json.loads(reply.json)
        kind = WouldDeadlock if error["type"] == "WouldDeadlock" else ActorError
        raise kind(error["type"], error["message"])
    return _codec.loads(reply.json, reply.buffers)
