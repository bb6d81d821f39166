"""Handlers that run until the test lets go of them."""

import os
import time

import snakepen


@snakepen.handler
def hold(directory: str, name: str = "held") -> str:
    """Leaves `<name>` in the directory, then waits for `released` to be there."""
    open(os.path.join(directory, name), "x").close()
    while not os.path.exists(os.path.join(directory, "released")):
        time.sleep(0.005)
    return name


@snakepen.handler
def pid() -> int:
    return os.getpid()
