"""What every system runs: the same functions, whoever calls them."""

from __future__ import annotations

import time

TYPE_CHECKING = False  # `typing` itself takes longer to import than a worker to start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def echo(value: Any) -> Any:
    return value


def sleep5ms() -> None:
    time.sleep(0.005)


def spin(turns: int) -> int:
    """Pure Python work."""
    total = 0
    for turn in range(turns):
        total += turn & 3
    return total


def stream(items: int) -> Iterator[int]:
    for item in range(items):  # noqa: UP028  (`yield from` makes no generator of it for Ray)
        yield item
