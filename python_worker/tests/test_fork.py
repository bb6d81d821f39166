"""What a forked worker has of the launcher's, and what it hasn't."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Launcher, Port

from snakepen._status import PHASE

Handlers = Callable[[str], dict[str, str]]


def masks(pid: int) -> dict[str, int]:
    """Without the C library's own signals, which its `posix_spawn` has a child ignore."""
    valid = sum(map(bit, signal.valid_signals()))
    lines = (line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: int(value, 16) & valid for name, value in lines if name in ("SigBlk", "SigIgn", "SigCgt")}


def bit(number: int) -> int:
    return 1 << (number - 1)


def test_descriptors(launcher: Launcher) -> None:
    launcher.configure()
    ports = [launcher.worker(slot) for slot in range(3)]
    for port in ports:
        open_now = port.descriptors()
        assert len(open_now) == 7, open_now
        assert open_now[0] == "/dev/null"
        for fd, near in ((1, port.stdout), (2, port.stderr)):
            assert open_now[fd] == os.readlink(f"/proc/self/fd/{near}")
    # Standard input is the same file everywhere; nothing else is.
    others = [set(port.descriptors().values()) - {"/dev/null", "/memfd:status (deleted)"} for port in ports]
    assert not others[0] & others[1] and not others[1] & others[2]
    launcher.say({"op": "ping", "token": 1})
    assert launcher.hear()["op"] == "pong"
    assert len(os.listdir(f"/proc/{launcher.process.pid}/fd")) == 6


def test_numbers_of_a_preloaded_module_stay_taken(launcher: Launcher, tmp_path: Path, handlers: Handlers) -> None:
    (tmp_path / "opens.py").write_text("FILE = open(__file__)\n")
    launcher.configure(
        handlers=handlers("import opens, os\n@handler\ndef look(): return [opens.FILE.fileno(), opens.FILE.read()]"),
        preload=["opens"],
    )
    port = launcher.worker()
    number, text = port.call("look")
    assert (port.descriptors()[number], text) == ("/dev/null", "")


def test_signals_and_group(launcher: Launcher) -> None:
    launcher.configure()
    port = launcher.worker()
    assert os.getpgid(port.pid) == port.pid
    assert os.getsid(port.pid) == os.getsid(0)
    seen = masks(port.pid)
    assert seen["SigBlk"] == 0
    assert seen["SigIgn"] == bit(signal.SIGPIPE) | bit(signal.SIGXFSZ)
    assert seen["SigCgt"] & 0xFFFF & ~(
        bit(signal.SIGSEGV) | bit(signal.SIGFPE) | bit(signal.SIGABRT) | bit(signal.SIGBUS) | bit(signal.SIGILL)
    ) == bit(signal.SIGINT)


def test_random_streams_differ(launcher: Launcher, handlers: Handlers) -> None:
    pytest.importorskip("numpy")
    launcher.configure(
        handlers=handlers(
            "import random, numpy.random\n@handler\ndef draw(): return [random.random(), float(numpy.random.random())]"
        ),
        preload=["random", "numpy"],
    )
    if launcher.process.poll() is None:
        draws = [launcher.worker(slot).call("draw") for slot in range(3)]
        for stream in zip(*draws, strict=True):
            assert len(set(stream)) == 3


INHERITS = """
import atexit, weakref, logging, multiprocessing.util, tempfile
class Thing: pass
THING = Thing()
atexit.register(print, "inherited atexit")
weakref.finalize(THING, print, "inherited finalizer")
multiprocessing.util.Finalize(THING, print, ("inherited multiprocessing finalizer",), exitpriority=1)
"""

LEAVES = """
import atexit, weakref, multiprocessing.util, inherits
atexit.register(print, "own atexit")
weakref.finalize(inherits.THING, print, "own finalizer")
multiprocessing.util.Finalize(None, print, ("own multiprocessing finalizer",), exitpriority=1)
@handler
def leave(code):
    print("leaving", end="")
    raise SystemExit(code)
"""


def leaving(launcher: Launcher, tmp_path: Path, handlers: Handlers) -> Port:
    (tmp_path / "inherits.py").write_text(INHERITS)
    answer = launcher.configure(handlers=handlers(LEAVES), preload=["inherits"])
    assert answer["op"] == "ready", answer
    return launcher.worker()


def test_exit_runs_its_own_handlers_only(launcher: Launcher, tmp_path: Path, handlers: Handlers) -> None:
    port = leaving(launcher, tmp_path, handlers)
    port.leave()
    lines = port.text(port.stdout).splitlines()
    assert sorted(lines) == ["own atexit", "own finalizer", "own multiprocessing finalizer"]
    assert port.page[PHASE] == 3


@pytest.mark.parametrize(
    ("code", "status", "says"), [(None, 0, ""), (3, 3, ""), ("sorry", 1, "sorry\n"), (-1, 255, "")]
)
def test_sys_exit_leaves_in_order(
    launcher: Launcher, tmp_path: Path, handlers: Handlers, code: object, status: int, says: str
) -> None:
    port = leaving(launcher, tmp_path, handlers)
    port.start_call("leave", code)
    assert launcher.hear() == {"op": "exited", "pid": port.pid, "code": status, "signal": None}
    assert port.at_end()
    text = port.text(port.stdout)
    assert text.startswith("leaving") and "own atexit" in text and "inherited" not in text
    assert port.text(port.stderr) == says


def test_an_event_loop_of_a_preloaded_module_is_forgotten(
    launcher: Launcher, tmp_path: Path, handlers: Handlers
) -> None:
    (tmp_path / "loops.py").write_text(
        "import asyncio\nLOOP = asyncio.new_event_loop()\n"
        "asyncio.set_event_loop(LOOP)\nasyncio._set_running_loop(LOOP)\n"
    )
    launcher.configure(
        handlers=handlers(
            "import asyncio, loops\n@handler\nasync def here(): return asyncio.get_running_loop() is loops.LOOP"
        ),
        preload=["loops"],
    )
    assert launcher.worker().call("here") is False
