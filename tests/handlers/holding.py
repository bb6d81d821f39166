"""Handlers that hold their worker until they are told otherwise."""

import atexit
import os
import subprocess
import time

import snakepen

_remembered: object = None


def _tell(path: str, text: str) -> None:
    """Whoever waits for the file never sees half of it."""
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w") as file:
        file.write(text)
    os.rename(draft, path)


@snakepen.handler
def pid() -> int:
    return os.getpid()


@snakepen.handler
def hold(started: str, release: str) -> int:
    """Says that it has started, then waits for the other file to appear."""
    _tell(started, str(os.getpid()))
    while not os.path.exists(release):
        time.sleep(0.001)
    return os.getpid()


@snakepen.handler
def work(value: int, seconds: float = 0.001) -> int:
    time.sleep(seconds)
    return value


@snakepen.handler
def spin_beside_children(started: str) -> None:
    """Starts a process, which starts another, and never comes back, nor looks at anything."""
    script = "sleep 1000 & echo $!; wait"
    child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    _tell(started, f"{os.getpid()} {child.pid} {grandchild}")
    while True:
        pass


@snakepen.handler
def remember(value: object, seconds: float = 0.0) -> None:
    global _remembered
    _remembered = value
    time.sleep(seconds)


@snakepen.handler
def recall() -> object:
    return _remembered


@snakepen.handler
def tell_at_exit(directory: str) -> int:
    """Leaves a file there when this worker exits in order."""
    me = os.getpid()
    atexit.register(_tell, os.path.join(directory, f"left-{me}"), "in order")
    return me
