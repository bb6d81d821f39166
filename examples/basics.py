"""The handlers of the examples in the crate's documentation."""

import snakepen


@snakepen.handler
def add(a: int, b: int) -> int:
    return a + b


@snakepen.handler
def divide(a: float, b: float) -> float:
    return a / b
