"""Functions that a Rust program calls through a Snakepen pool.

import snakepen

@snakepen.handler
def add(a: int, b: int) -> int:
    return a + b

A handler whose caller no longer waits is interrupted: a plain one by `snakepen.Cancelled`, an `async def` one by
asyncio.CancelledError. `with snakepen.shield():` puts that off, and `snakepen.current()` tells how much time is left.
"""

from ._cancel import Cancelled, shield
from ._handlers import handler
from ._request import Request, current

__all__ = ["Cancelled", "Request", "__version__", "current", "handler", "shield"]

__version__ = "0.1.0"
