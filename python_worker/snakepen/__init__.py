"""Functions that a Rust program calls through a Snakepen pool.

import snakepen

@snakepen.handler
def add(a: int, b: int) -> int:
    return a + b

A handler whose caller no longer waits is interrupted: a plain one by `snakepen.Cancelled`, an `async def` one by
asyncio.CancelledError. `with snakepen.shield():` puts that off, and `snakepen.current()` tells how much time is left.

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
from ._programs import Program, Programs
from ._request import Request, current
from ._session import Session, global_session, session
from ._store import Conflict, SessionError, StateError

__all__ = [
    "Actor",
    "ActorError",
    "Cancelled",
    "Conflict",
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
    "session",
    "shield",
]

__version__ = "0.1.0"
