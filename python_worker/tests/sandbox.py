"""What a sandbox that filters system calls does to a process."""

from __future__ import annotations

import ctypes
import errno
from struct import Struct

SECCOMP_KILL = 0x8000_0000
SECCOMP_REFUSE = 0x0005_0000 | errno.EPERM
SECCOMP_ALLOW = 0x7FFF_0000

SCHED_SETSCHEDULER = {"x86_64": 144, "aarch64": 119}
"""The call's number."""

_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_MODE_FILTER = 2

_INSTRUCTION = Struct("HBBI")
_LOAD_WORD = 0x20
_JUMP_IF_EQUAL = 0x15
_RETURN = 0x06


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def sandbox(call: int, verdict: int) -> None:
    """From here on this process and its children get that verdict on that system call, and all others are allowed."""
    instructions = b"".join(
        (
            _INSTRUCTION.pack(_LOAD_WORD, 0, 0, 0),  # the call's number
            _INSTRUCTION.pack(_JUMP_IF_EQUAL, 0, 1, call),
            _INSTRUCTION.pack(_RETURN, 0, 0, verdict),
            _INSTRUCTION.pack(_RETURN, 0, 0, SECCOMP_ALLOW),
        )
    )
    program = _Program(len(instructions) // _INSTRUCTION.size, instructions)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)
    for option, argument, pointer in (
        (_PR_SET_NO_NEW_PRIVS, 1, None),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(program)),
    ):
        if prctl(option, argument, pointer, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
