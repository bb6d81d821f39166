"""Workers in interpreters of their own, for what must not be forked: both ends of their start."""

from __future__ import annotations

import os
import sys

from . import _cgroup, _fork, _json
from ._config import Birth, Config, Descriptors
from ._request import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Where a fresh worker finds its own.
_PORT, _DUMP, _STATUS, _LANE, _BIRTH = 3, 4, 5, 6, 7
_CLEAR_OF_THOSE = 16


def spawn(birth: Birth) -> int:
    """Starts one with posix_spawn, which is safe beside threads. Returns its pid."""
    from fcntl import F_DUPFD_CLOEXEC, fcntl
    from signal import SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM

    own = birth.descriptors
    note = os.memfd_create("snakepen-birth")
    copies: list[int] = []
    try:
        place = birth.place
        text = {
            "config": birth.config.raw,
            "worker": place.worker,
            "slot": place.slot,
            "epoch": place.epoch,
            "launcher": os.getpid(),
            "cgroup": birth.cgroup,
        }
        with open(note, "wb", closefd=False) as file:
            file.write(_json.dumps(text))
        actions: list[tuple[Any, ...]] = []
        for fd, place_in_worker in (
            (own.stdout, 1),
            (own.stderr, 2),
            (own.port, _PORT),
            (own.dump, _DUMP),
            (own.status, _STATUS),
            (own.lane, _LANE),
            (note, _BIRTH),
        ):
            copies.append(fcntl(fd, F_DUPFD_CLOEXEC, _CLEAR_OF_THOSE))
            actions.append((os.POSIX_SPAWN_DUP2, copies[-1], place_in_worker))
        return os.posix_spawn(
            sys.executable,
            [sys.executable, *sys.orig_argv[1:-1], "worker"],
            os.environ,
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
            setsigdef=(SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCHLD),
        )
    finally:
        for fd in (note, *copies):
            os.close(fd)


def receive() -> Birth:
    """The worker's end: what it was started with. Only its own descriptors are open afterwards."""
    from . import _linux, _startup

    with open(_BIRTH, "rb") as file:
        file.seek(0)
        text = _json.loads(file.read())
    if text["cgroup"] is not None:
        _cgroup.enter(text["cgroup"])
    _linux.die_with_parent(text["launcher"])
    own = (_PORT, _DUMP, _STATUS, _LANE)
    _fork.close_all_but({0, 1, 2, *own})
    for fd in own:
        os.set_inheritable(fd, False)
    _startup.line_buffer_output()
    config = Config(text["config"])
    place = Place(config.pool, text["worker"], text["slot"], text["epoch"])
    return Birth(config, place, Descriptors(_PORT, 1, 2, _DUMP, _STATUS, _LANE))
