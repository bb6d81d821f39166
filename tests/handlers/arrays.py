"""Handlers that take and give buffers and arrays."""

import os
from typing import Any

import snakepen


@snakepen.handler
def echo(value: Any) -> Any:
    return value


@snakepen.handler
async def echo_async(value: Any) -> Any:
    return value


@snakepen.handler
def look(value: Any) -> list[Any]:
    """What a buffer or an array is here."""
    if isinstance(value, memoryview):
        return ["memoryview", value.format, list(value.shape or ()), value.readonly, value.tolist()]
    return ["ndarray", value.dtype.str, list(value.shape), not value.flags.writeable, value.tolist()]


@snakepen.handler(writable=True)
def increment(value: Any) -> Any:
    """Writes to what it was given."""
    value[0] += 1
    return value


@snakepen.handler
def overwrite(value: Any) -> None:
    value[0] += 1


@snakepen.handler
def count(*values: Any, **named: Any) -> list[int]:
    return [len(value) for value in (*values, *named.values())]


@snakepen.handler
def give(size: int, byte: int = 7) -> Any:
    return bytes([byte]) * size


@snakepen.handler
def give_many(count: int, size: int) -> Any:
    return [bytes([n % 256]) * size for n in range(count)]


_kept: list[Any] = []


@snakepen.handler
def keep(value: Any) -> int:
    """Keeps what it was given beyond its request."""
    _kept.append(value)
    return len(value)


@snakepen.handler
def kept() -> Any:
    return [bytes(value) for value in _kept]


@snakepen.handler
def forget() -> None:
    _kept.clear()


@snakepen.handler
def make(what: str) -> Any:
    import numpy

    made = {
        "matrix": lambda: {"name": "m", "rows": [numpy.arange(6.0).reshape(2, 3)], "raw": b"abc"},
        "transposed": lambda: numpy.arange(6.0).reshape(2, 3).T,
        "scalar": lambda: [numpy.int64(7), numpy.float32(0.5)],
        "big-endian": lambda: {"a": [1, numpy.arange(3, dtype=">f8")]},
        "objects": lambda: [numpy.array([{}, None], dtype=object)],
        "fields": lambda: numpy.zeros(2, dtype=[("x", "f8")]),
        "half": lambda: numpy.arange(3, dtype="f2"),
    }
    return made[what]()


@snakepen.handler
def pid() -> int:
    return os.getpid()


_parts: list[Any] = []


@snakepen.handler
def keep_part(array: Any, part: str) -> None:
    """Keeps an array of numbers, or some of it."""
    if part == "slice":
        array = array[1000:2000]
    elif part == "strided":
        array = array[::7]
    elif part == "memoryview":
        array = memoryview(array)[5:]
    _parts.append(array)


@snakepen.handler
def kept_parts() -> list[tuple[float, float]]:
    """The least and the greatest of each that was kept."""
    return [(float(min(part)), float(max(part))) for part in _parts]
