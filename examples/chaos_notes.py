"""What all handlers of the chaos run use: notes, answers, and contents that tell whose they are."""

from __future__ import annotations

import mmap
import os

import snakepen

LOG = os.environ["CHAOS_LOG"]


def note(what: str, nonce: int) -> None:
    log = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(log, f"{what} {nonce}\n".encode())
    finally:
        os.close(log)


def answer(nonce: int, text: str) -> tuple[int, int, str]:
    return nonce, snakepen.current().slot, text


def mixed(nonce: int, number: int) -> str:
    return f"{((nonce ^ number) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF:x}"


def pattern() -> mmap.mmap:
    """Random bytes that Rust has as well."""
    file = os.open(os.environ["CHAOS_PATTERN"], os.O_RDONLY | os.O_CLOEXEC)
    try:
        return mmap.mmap(file, 0, prot=mmap.PROT_READ)
    finally:
        os.close(file)


PATTERN = pattern()
STARTS = 1 << 20


def piece(nonce: int, index: int, size: int) -> bytes:
    """What a buffer of this call is to hold: hardly any two are the same. As in values.rs."""
    start = (nonce * 0x9E3779B1 + index * 0x85EBCA6B) % STARTS
    return PATTERN[start : start + size]
