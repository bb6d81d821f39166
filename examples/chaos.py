"""The handlers of the chaos run: honest ones, and ones that do to their worker what user code can do.

Every handler gets the call's nonce first and notes it in a file, which tells at the end what has run, and how often.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
import threading
import time
from typing import NoReturn

import chaos_beside  # noqa: F401 (its handlers)
from chaos_notes import answer, mixed, note

import snakepen


def own_port() -> int:
    """The descriptor of the protocol: the only socket that is open while this file is loaded."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                return int(name)
        except FileNotFoundError:  # the one that listed the directory
            continue
    raise LookupError("no socket")


PORT = own_port()


# === Honest work ===


@snakepen.handler
def plain(nonce: int, number: int) -> tuple[int, int, str]:
    note("ran", nonce)
    return answer(nonce, mixed(nonce, number))


@snakepen.handler(prefetch=8)
def short(nonce: int, number: int) -> tuple[int, int, str]:
    return plain(nonce, number)


@snakepen.handler
async def plain_async(nonce: int, number: int, seconds: float) -> tuple[int, int, str]:
    note("ran", nonce)
    await asyncio.sleep(seconds)
    return answer(nonce, mixed(nonce, number))


@snakepen.handler
def large(nonce: int, text: str, units: int) -> tuple[int, int, str]:
    note("ran", nonce)
    unit = f"{nonce:016x}"
    if text != unit * (len(text) // len(unit)):
        raise AssertionError("the arguments are not what was sent")
    return answer(nonce, unit * units)


# === State in sessions ===


@snakepen.handler
def counts(nonce: int) -> tuple[int, int, str]:
    note("ran", nonce)
    snakepen.session().update("count", lambda count: count + 1, default=0)
    return answer(nonce, "")


@snakepen.handler
async def counts_async(nonce: int) -> tuple[int, int, str]:
    note("ran", nonce)
    await snakepen.session().aupdate("count", lambda count: count + 1, default=0)
    return answer(nonce, "")


@snakepen.handler
def counts_alone(nonce: int) -> tuple[int, int, str]:
    """Called in order: nobody else of its session is at work."""
    note("ran", nonce)
    session = snakepen.session()
    other = session.get("at work")
    if other is not None and started(other[0]) == other[1]:
        raise AssertionError(f"{other} is still at work, beside {os.getpid()}")
    session["at work"] = [os.getpid(), started(os.getpid())]
    try:
        session["count"] = session.get("count", 0) + 1
    finally:
        del session["at work"]
    return answer(nonce, "")


def started(pid: int) -> str | None:
    """When a process was started, as the kernel counts; None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


# === Results that are none ===


@snakepen.handler
def raises(nonce: int) -> NoReturn:
    note("ran", nonce)
    raise LookupError(f"nothing for {nonce}")


@snakepen.handler
def unserialisable(nonce: int) -> object:
    note("ran", nonce)
    return {"rows": [1, {nonce}]}


@snakepen.handler
def out_of_memory(nonce: int) -> NoReturn:
    note("ran", nonce)
    raise MemoryError(f"no room for {nonce}")


# === Work without an end ===


@snakepen.handler
def sleeps(nonce: int, seconds: float) -> tuple[int, int, str]:
    note("ran", nonce)
    time.sleep(seconds)
    note("ended", nonce)
    return answer(nonce, "")


@snakepen.handler
async def sleeps_async(nonce: int, seconds: float) -> tuple[int, int, str]:
    note("ran", nonce)
    await asyncio.sleep(seconds)
    note("ended", nonce)
    return answer(nonce, "")


@snakepen.handler
def stuck(nonce: int, seconds: float) -> tuple[int, int, str]:
    """In C, with the interpreter's lock held. A signal that is for a call beside it ends a sleep."""
    note("ran", nonce)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        ctypes.PyDLL(None).sleep(int(left) + 1)
    note("ended", nonce)
    return answer(nonce, "")


@snakepen.handler
def stubborn(nonce: int, seconds: float) -> tuple[int, int, str]:
    note("ran", nonce)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
        except BaseException:
            continue
    note("ended", nonce)
    return answer(nonce, "")


@snakepen.handler
def tidies(nonce: int, seconds: float) -> tuple[int, int, str]:
    note("ran", nonce)
    try:
        time.sleep(seconds)
        note("ended", nonce)
    finally:
        note("tidied", nonce)
    return answer(nonce, "")


@snakepen.handler
async def tidies_async(nonce: int, seconds: float) -> tuple[int, int, str]:
    note("ran", nonce)
    try:
        await asyncio.sleep(seconds)
        note("ended", nonce)
    finally:
        await asyncio.sleep(0.005)
        note("tidied", nonce)
    return answer(nonce, "")


@snakepen.handler
def shields(nonce: int, seconds: float) -> tuple[int, int, str]:
    note("ran", nonce)
    with snakepen.shield():
        time.sleep(0.1)
        note("tidied", nonce)
    time.sleep(seconds)
    note("ended", nonce)
    return answer(nonce, "")


@snakepen.handler
async def shields_async(nonce: int, seconds: float) -> tuple[int, int, str]:
    note("ran", nonce)
    with snakepen.shield():
        await asyncio.sleep(0.1)
        note("tidied", nonce)
    await asyncio.sleep(seconds)
    note("ended", nonce)
    return answer(nonce, "")


# === What may be done twice ===


@snakepen.handler
def naps(nonce: int, seconds: float) -> tuple[int, int, str]:
    note("ran", nonce)
    time.sleep(seconds)
    return answer(nonce, "")


# === Deaths ===


@snakepen.handler
def segfaults(nonce: int) -> NoReturn:
    note("ran", nonce)
    ctypes.string_at(0)
    raise AssertionError("alive after a segfault")


@snakepen.handler
def exits(nonce: int, status: int) -> NoReturn:
    note("ran", nonce)
    os._exit(status)


@snakepen.handler
def leaves(nonce: int, status: int) -> NoReturn:
    note("ran", nonce)
    sys.exit(status)


@snakepen.handler
def exits_beside_child(nonce: int, status: int, seconds: float) -> NoReturn:
    note("ran", nonce)
    if os.fork() == 0:
        time.sleep(seconds)
        os._exit(0)
    os._exit(status)


# === What a worker survives ===


@snakepen.handler
def hogs(nonce: int, megabytes: int) -> tuple[int, int, str]:
    note("ran", nonce)
    block = b"x" * (megabytes << 20)
    return answer(nonce, str(len(block) >> 20))


@snakepen.handler
def gorges(nonce: int, megabytes: int) -> NoReturn:
    note("ran", nonce)
    blocks = []
    while True:
        if len(blocks) < megabytes // 10:
            blocks.append(b"x" * (10 << 20))
        time.sleep(0.01)


@snakepen.handler
def fork_returns(nonce: int) -> tuple[int, int, str]:
    """Both processes return into the worker's loop; only one may answer."""
    note("ran", nonce)
    os.fork()
    return answer(nonce, "forked")


@snakepen.handler
def fork_lingers(nonce: int, seconds: float) -> tuple[int, int, str]:
    note("ran", nonce)
    if os.fork() == 0:
        time.sleep(seconds)
        os._exit(0)
    return answer(nonce, "forked")


@snakepen.handler
def starts_process(nonce: int, seconds: float) -> tuple[int, int, str]:
    note("ran", nonce)
    subprocess.Popen(["sleep", str(seconds)])
    return answer(nonce, "started")


@snakepen.handler
def starts_threads(nonce: int, count: int, seconds: float) -> tuple[int, int, str]:
    note("ran", nonce)
    for _ in range(count):
        threading.Thread(target=time.sleep, args=(seconds,)).start()
    return answer(nonce, "started")


@snakepen.handler
def floods(nonce: int, kilobytes: int) -> tuple[int, int, str]:
    note("ran", nonce)
    for stream in (1, 2):
        for _ in range(kilobytes):
            os.write(stream, b"x" * 1024)
    return answer(nonce, "flooded")


# === The protocol's descriptor ===


@snakepen.handler
def garbage(nonce: int, garbage: str) -> tuple[int, int, str]:
    note("ran", nonce)
    os.write(PORT, bytes.fromhex(garbage))
    return answer(nonce, "")


@snakepen.handler
def late_garbage(nonce: int, garbage: str, seconds: float) -> tuple[int, int, str]:
    """Hits whatever call its worker runs by then."""
    note("ran", nonce)

    def write() -> None:
        time.sleep(seconds)
        os.write(PORT, bytes.fromhex(garbage))

    threading.Thread(target=write, daemon=True).start()
    return answer(nonce, "started")


@snakepen.handler
def closes_port(nonce: int, seconds: float) -> tuple[int, int, str]:
    note("ran", nonce)
    os.close(PORT)
    time.sleep(seconds)
    return answer(nonce, "")
