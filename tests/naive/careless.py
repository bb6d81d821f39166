"""Functions that are careless of what a naive worker answers by: its standard output, and that there is one of it."""

import ctypes
import os
import subprocess


def by_print(text: str) -> str:
    print(text)
    return "answer"


def by_descriptor(text: str) -> str:
    os.write(1, f"{text}\n".encode())
    return "answer"


def by_child(text: str) -> str:
    subprocess.run(["echo", text], check=True)
    return "answer"


def by_c(text: str) -> str:
    libc = ctypes.CDLL(None)
    libc.puts(text.encode())
    libc.fflush(None)
    return "answer"


def megabyte() -> str:
    data = b"m" * (1 << 20)
    while data:
        data = data[os.write(1, data) :]
    return "answer"


def closes_stdout() -> str:
    os.close(1)
    return "answer"


def forks() -> str:
    os.fork()
    return "forked"


def echo(value: object) -> object:
    return value
