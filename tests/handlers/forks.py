"""Handlers that fork, and whose children come back to where they do not belong."""

import os
import subprocess
import sys
import time

import snakepen


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@snakepen.handler
def child_returns() -> list[object]:
    """The child's exit status."""
    pid = os.fork()
    if pid == 0:
        return ["child"]
    return ["parent", _wait(pid)]


@snakepen.handler
def child_raises() -> list[object]:
    pid = os.fork()
    if pid == 0:
        raise ValueError("from the child")
    return ["parent", _wait(pid)]


@snakepen.handler
def child_leaves() -> list[object]:
    pid = os.fork()
    if pid == 0:
        sys.exit(5)
    return ["parent", _wait(pid)]


@snakepen.handler
async def async_child_returns() -> list[object]:
    pid = os.fork()
    if pid == 0:
        return ["child"]
    return ["parent", _wait(pid)]


@snakepen.handler
def late_child_returns(seconds: float) -> int:
    """The parent has answered long before the child comes back."""
    pid = os.fork()
    if pid == 0:
        time.sleep(seconds)
    return pid


@snakepen.handler
def collect(pid: int) -> int:
    return _wait(pid)


@snakepen.handler
def dies_before_its_child() -> None:
    if os.fork() == 0:
        time.sleep(300)
    os._exit(3)


@snakepen.handler
def chatty_child() -> int:
    """Writes all over whatever it has inherited."""
    pid = os.fork()
    if pid == 0:
        for fd in range(3, 64):
            try:
                os.write(fd, b"\xff" * 64)
            except OSError:
                pass
        print("child says hello")
        return -1
    return _wait(pid)


@snakepen.handler
def start_process() -> int:
    """One that outlives the call, and ignores being asked to leave."""
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(300)"
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", script],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process.pid


@snakepen.handler
def double_fork() -> int:
    """A daemon of the old school, without setsid."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        grandchild = os.fork()
        if grandchild == 0:
            time.sleep(300)
            os._exit(0)
        os.write(write, str(grandchild).encode())
        os._exit(0)
    _wait(pid)
    return int(os.read(read, 32))


@snakepen.handler
def pid() -> int:
    return os.getpid()
