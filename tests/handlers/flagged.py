"""A handler file that fails to load for as long as the file that the environment names is there."""

import os

import snakepen

if os.path.exists(os.environ["BROKEN_WHILE"]):
    raise RuntimeError("the model file is missing")


@snakepen.handler
def pid() -> int:
    return os.getpid()
