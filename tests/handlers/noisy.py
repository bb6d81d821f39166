"""Handlers that write to everything that they can reach. Each returns the id of its request."""

import ctypes
import logging
import os
import subprocess
import sys
import threading

import snakepen

_libc = ctypes.CDLL(None)


@snakepen.handler
def everywhere() -> int:
    print("by print")
    print("by print to stderr", file=sys.stderr)
    os.write(1, b"by descriptor 1\n")
    os.write(2, b"by descriptor 2\n")
    subprocess.run(["echo", "by a child"], check=True)
    return snakepen.current().id


@snakepen.handler
def frame_on_stdout() -> int:
    """Looks like a RESULT of this very request."""
    id = snakepen.current().id
    body = b'"forged"'
    header = len(body).to_bytes(4, "little") + bytes([67, 0, 0, 0]) + id.to_bytes(8, "little") + bytes(8)
    os.write(1, header + body + b"\n")
    return id


@snakepen.handler
def by_c(flush: bool) -> int:
    _libc.puts(b"by puts")
    _libc.printf(b"by printf %d\n", 42)
    if flush:
        _libc.fflush(None)
    return snakepen.current().id


@snakepen.handler
def megabyte(fd: int) -> int:
    data = b"m" * (1 << 20)
    while data:
        data = data[os.write(fd, data) :]
    return snakepen.current().id


@snakepen.handler
def half_a_line(text: str) -> int:
    print(text, end="")
    return snakepen.current().id


@snakepen.handler
def a_line(text: str) -> int:
    print(text)
    return snakepen.current().id


@snakepen.handler
def odd_bytes() -> int:
    os.write(1, b"not \xff\xfe UTF-8\n\n\r\nwith a return\r\n\x00zero\n")
    print("half a pair: \ud800")
    return snakepen.current().id


@snakepen.handler
def log() -> int:
    logger = logging.getLogger("shop.orders")
    logger.debug("a %s", "detail")
    logger.info("two\nlines")
    logger.warning("a warning")
    logger.critical("half a pair: \ud800")
    try:
        raise KeyError("missing")
    except KeyError:
        logger.exception("it failed")
    logging.info("%d", "not a number")
    return snakepen.current().id


@snakepen.handler
def later(path: str) -> int:
    """Answers; then, once the file is there, prints."""

    def wait() -> None:
        while not os.path.exists(path):
            threading.Event().wait(0.001)
        print("from a thread that stayed")

    threading.Thread(target=wait, daemon=True).start()
    return snakepen.current().id


@snakepen.handler
def replace_streams() -> int:
    sys.stdout = None  # type: ignore[assignment]
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    os.close(1)
    os.close(2)
    return snakepen.current().id
