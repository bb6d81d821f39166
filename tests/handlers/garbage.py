"""Handlers that write to the port behind the worker's back."""

import os
import socket
import struct
import time

import snakepen


def _port() -> int:
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                return int(name)
        except FileNotFoundError:  # the one that listed the directory
            continue
    raise LookupError("no socket")


def _frame(length: int, kind: int, flags: int = 0, name: int = 0, id: int = 0, arg: int = 0) -> bytes:
    return struct.pack("<IBBHQQ", length, kind, flags, name, id, arg)


def _write(data: bytes) -> None:
    port = _port()
    while data:
        data = data[os.write(port, data) :]


_RESULT = 67
_BYTES = {
    "noise": b"\xff" * 64,
    "text": b"Traceback (most recent call last):\n",
    "wrong_direction": _frame(0, 1),
    "oversized": _frame(0xFFFFFFFF, _RESULT),
    "reserved_flags": _frame(0, _RESULT, flags=0x80),
    "long_name": _frame(2, _RESULT, name=3) + b"ab",
    "name_not_utf8": _frame(2, _RESULT, name=2) + b"\xff\xff",
    "buffer_table": _frame(4, _RESULT, flags=1) + b"abcd",
    "strange_id": _frame(4, _RESULT, id=1 << 63) + b"null",
    "second_ready": _frame(2, 65, arg=1) + b"{}",
}


@snakepen.handler
def garbage(name: str) -> None:
    _write(_BYTES[name])
    time.sleep(60)


@snakepen.handler
def bad_answer(status: str, json: str) -> None:
    """An ERROR for this very request that makes no sense."""
    body = status.encode() + json.encode()
    _write(_frame(len(body), 68, name=len(status), id=snakepen.current().id) + body)
    time.sleep(60)


@snakepen.handler
def bad_item(kind: int, numbers: list[int], body: str, name: str) -> None:
    """Frames beside an answer, with these arguments."""
    data = name.encode() + body.encode()
    for number in numbers:
        _write(_frame(len(data), kind, name=len(name), id=snakepen.current().id, arg=number) + data)
    time.sleep(60)


@snakepen.handler
def truncated() -> None:
    """The stream ends within a frame, while the worker lives."""
    _write(_frame(1000, _RESULT, id=snakepen.current().id) + b"12345")
    socket.socket(fileno=os.dup(_port())).shutdown(socket.SHUT_WR)
    time.sleep(60)


@snakepen.handler
def die_within_a_frame(signal: int) -> None:
    """What the out-of-memory killer does to a worker that is writing a large result."""
    _write(_frame(1000, _RESULT, id=snakepen.current().id) + b"12345")
    os.kill(os.getpid(), signal)
    time.sleep(60)


@snakepen.handler
def answer_twice() -> str:
    body = b'"forged"'
    _write(_frame(len(body), _RESULT, id=snakepen.current().id) + body)
    return "real"


@snakepen.handler
def harmless() -> str:
    """A pong that nobody asked for, and a log record that isn't JSON."""
    _write(_frame(0, 69, id=1 << 40) + _frame(3, 70, arg=30) + b"{{{")
    return "fine"


@snakepen.handler
def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@snakepen.handler
def pid() -> int:
    return os.getpid()
