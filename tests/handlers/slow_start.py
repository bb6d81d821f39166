"""Takes a while to load."""

import os
import time

import snakepen

time.sleep(1)


@snakepen.handler
def pid() -> int:
    return os.getpid()


@snakepen.handler
def sleep(seconds: float) -> None:
    time.sleep(seconds)
