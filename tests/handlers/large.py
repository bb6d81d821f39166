"""Handlers that take and give megabytes, and some that talk meanwhile."""

import logging
import os
import sys
import threading
import time

import snakepen


@snakepen.handler
def swap(text: str, size: int) -> str:
    """Takes a large text, gives another."""
    return (text[0] + text[-1]) * (size // 2)


@snakepen.handler
async def swap_async(text: str, size: int) -> str:
    return swap(text, size)


@snakepen.handler
def chatter(stop: str) -> None:
    """Logs and prints from threads that stay, also while the next arguments arrive."""

    def write_logs() -> None:
        logger = logging.getLogger("chatter")
        while not os.path.exists(stop):
            logger.error("l" * 60_000)
            time.sleep(0.002)

    def write_lines() -> None:
        while not os.path.exists(stop):
            sys.stdout.write("o" * 60_000 + "\n")
            time.sleep(0.002)

    for target in (write_logs, write_lines):
        threading.Thread(target=target, daemon=True).start()


@snakepen.handler
def give(size: int) -> str:
    return "x" * size


@snakepen.handler
def take(text: str) -> int:
    return len(text)


@snakepen.handler
def fail(size: int) -> None:
    raise ValueError("x" * size)


@snakepen.handler
def pid() -> int:
    return os.getpid()
