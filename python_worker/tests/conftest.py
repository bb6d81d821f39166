from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from harness import Launcher, Port, until
from hypothesis import settings

# It is large, and may not be there yet for a new interpreter: its tests run where it is installed.
collect_ignore = [] if find_spec("dspy") else ["test_dspy.py", "test_dspy_workers.py"]

settings.register_profile("here", database=None, deadline=None)
settings.load_profile("here")


def children() -> list[str]:
    """Processes that this one has started and not waited for."""
    found: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        try:
            found += (task / "children").read_text().split()
        except FileNotFoundError:  # a thread that has just ended
            pass
    return found


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No child process and no descriptor is left by a test."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert children() == []
    until(lambda: len(os.listdir("/proc/self/fd")) <= before, "a descriptor is left")


@pytest.fixture
def launcher(nothing_left: None) -> Iterator[Launcher]:
    """A launcher that isn't configured yet."""
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture
def handlers(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Writes a handler file; gives the setting that names it."""

    def write(text: str) -> dict[str, str]:
        path = tmp_path / "user_handlers.py"
        path.write_text(f"import snakepen\nfrom snakepen import handler\n{text}")
        return {"file": str(path)}

    return write


@pytest.fixture
def worker(launcher: Launcher, handlers: Callable[[str], dict[str, str]]) -> Callable[[str], Port]:
    """A ready worker with the given handlers."""

    def start(text: str) -> Port:
        answer = launcher.configure(handlers=handlers(text))
        assert answer["op"] == "ready", answer
        return launcher.worker()

    return start
