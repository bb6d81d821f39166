"""Statistics over arrays that Rust sends and gets without a copy in JSON."""

from __future__ import annotations

from array import array
from typing import Any

import snakepen


@snakepen.handler
def scale(matrix: Any, factor: float) -> dict[str, Any]:
    """With NumPy, `matrix` is an array over the very memory that came; without it, a memoryview of the same shape."""
    if isinstance(matrix, memoryview):
        numbers = array("d", (factor * number for row in matrix.tolist() for number in row))
        return {"scaled": memoryview(numbers).cast("B").cast("d", list(matrix.shape)), "sum": sum(numbers)}
    return {"scaled": matrix * factor, "sum": float(matrix.sum() * factor)}


@snakepen.handler
def invert(image: memoryview) -> bytes:
    """Bytes come as a memoryview, which can only be read."""
    return bytes(image).translate(bytes(range(255, -1, -1)))


@snakepen.handler(writable=True)
def clear(image: memoryview) -> memoryview:
    """Declared so, a handler gets bytes of its own, which it may write to."""
    image[:4] = b"none"
    return image
