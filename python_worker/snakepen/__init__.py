"""Functions that a Rust program calls through a Snakepen pool.

import snakepen

@snakepen.handler
def add(a: int, b: int) -> int:
    return a + b

A handler whose caller no longer waits is interrupted: a plain one by `snakepen.Cancelled`, an `async def` one by
asyncio.CancelledError. `with snakepen.shield():` puts that off, and `snakepen.current()` tells how much time is left.

A generator, `async def` or not, is a stream of what it yields. `snakepen.progress()` tells a caller who watches how far
its call is.

Workers keep nothing that matters. State is in sessions, which Rust keeps and all workers share:

@snakepen.handler
def remember(fact: str) -> int:
    return len(snakepen.session().update("facts", lambda facts: facts + [fact], default=[]))

What the Rust program exposes by a name, a handler calls:

@snakepen.handler
def quote(sku: str, count: int) -> float:
    return count * snakepen.actor("pricing").call(sku)
"""

from ._actor import Actor, ActorError, WouldDeadlock, actor
from ._cancel import Cancelled, shield
from ._handlers import handler
from ._input import Input, InputError
from ._programs import Program, Programs
from ._progress import progress
from ._request import Request, current
from ._session import Session, global_session, session
from ._store import Conflict, SessionError, StateError

__all__ = [
    "Actor",
    "ActorError",
    "Cancelled",
    "Conflict",
    "Input",
    "InputError",
    "Program",
    "Programs",
    "Request",
    "Session",
    "SessionError",
    "StateError",
    "WouldDeadlock",
    "__version__",
    "actor",
    "current",
    "global_session",
    "handler",
    "progress",
    "session",
    "shield",
]

__version__ = "0.1.0"
