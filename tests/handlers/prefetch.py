"""Short handlers, and some that only say so."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import snakepen


@snakepen.handler(prefetch=8)
def echo(value: Any) -> Any:
    return value


@snakepen.handler(prefetch=8)
def note(path: str, what: str, seconds: float = 0) -> int:
    """Says that it has run."""
    with open(path, "a") as log:
        log.write(f"{what}\n")
    time.sleep(seconds)
    return os.getpid()


@snakepen.handler(prefetch=8)
def hold(started: str, gate: str) -> int:
    """At work until somebody opens the gate, a named pipe."""
    try:
        with open(started, "w"):
            pass
        with open(gate) as pipe:
            pipe.read()
    finally:
        with open(started + ".ended", "w"):
            pass
    return os.getpid()


@snakepen.handler(prefetch=8)
def exhaust(started: str, gate: str) -> None:
    hold(started, gate)
    raise MemoryError


@snakepen.handler(prefetch=8)
def spoil() -> None:
    raise MemoryError


@snakepen.handler(prefetch=8)
def leave(started: str, gate: str) -> None:
    hold(started, gate)
    sys.exit(3)


@snakepen.handler(prefetch=8)
def ask(name: str, value: Any) -> Any:
    """Calls what Rust exposes."""
    return snakepen.actor(name).call(value)


@snakepen.handler(prefetch=8)
async def later(value: Any) -> Any:
    return value


@snakepen.handler(prefetch=8)
def count(n: int) -> Any:
    yield from range(n)


@snakepen.handler(prefetch=0)
def never_ahead(value: Any) -> Any:
    return value


@snakepen.handler
def plain(value: Any) -> Any:
    return value


@snakepen.handler(batch=4)
def gathered(values: list[Any]) -> list[Any]:
    return values
