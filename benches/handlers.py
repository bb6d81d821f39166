"""What the benchmarks call."""

import snakepen


@snakepen.handler
def echo(value: object) -> object:
    return value
