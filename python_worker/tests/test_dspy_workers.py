"""The DSPy handlers in forked workers: one import for all, real HTTP, cancellation."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dspy_stub import Stub
from harness import Launcher, Port

from snakepen import _wire

HERE = Path(__file__).parent

HANDLERS = f"""
import os, sys
os.environ["STUB_KEY"] = "k"
sys.path.append({str(HERE)!r})
from fake_session import Store, Worker
Worker(Store(), "ann").enter(snakepen)
"""
NAMES = ("configure_lm", "create_program", "execute", "history", "info", "list")


@pytest.fixture
def start(launcher: Launcher, handlers: Callable[[str], dict[str, str]]) -> Callable[[], Port]:
    """A ready worker. Each has a store of its own here; the launcher has imported DSPy."""
    expose = {f"dspy.{name}": f"snakepen.contrib.dspy:{name}" for name in NAMES}
    answer = launcher.configure(handlers=handlers(HANDLERS), preload=["snakepen.contrib.dspy"], expose=expose)
    assert answer["op"] == "ready", answer
    return launcher.worker


def test_forked_workers_share_the_import_and_call_models(launcher: Launcher, start: Callable[[], Port]) -> None:
    assert len(os.listdir(f"/proc/{launcher.process.pid}/task")) == 1
    with Stub() as stub:
        for number in range(2):
            port = start()
            port.call(
                "dspy.configure_lm", config={"model": "openai/stub", "api_base": stub.url, "api_key_env": "STUB_KEY"}
            )
            port.call("dspy.create_program", id="qa", kind="Predict", signature="question -> answer")
            for _ in range(2):
                answer = port.call("dspy.execute", id="qa", inputs={"question": f"w{number}"})
                assert answer["outputs"] == {"answer": f"W{number}"}, answer
            assert len(port.call("dspy.history")) == 2
        assert len(stub.requests) == 4


@pytest.mark.parametrize("how", ["loop", "tool"])
def test_a_program_that_runs_on_is_cancelled(start: Callable[[], Port], how: str) -> None:
    port = start()
    port.call("dspy.configure_lm", config={"model": "dummy", "answers": []})
    port.call("dspy.create_program", id="x", kind="Module", module="dspy_programs:Endless")
    id = port.start_call("dspy.execute", id="x", inputs={"how": how})
    assert port.read_line(port.stdout) == "in\n"
    frame = port.answer_to_cancel(id)
    assert (frame.kind, frame.name) == (_wire.ERROR, "cancelled"), frame.json


def test_a_call_that_waits_for_its_model_is_cancelled(start: Callable[[], Port]) -> None:
    port = start()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        port.call("dspy.configure_lm", config={"model": "openai/stub", "api_base": url, "api_key_env": "STUB_KEY"})
        port.call("dspy.create_program", id="qa", kind="Predict", signature="question -> answer")
        id = port.start_call("dspy.execute", id="qa", inputs={"question": "who"})
        assert select.select([silent], [], [], 10)[0]
        before = time.monotonic()
        frame = port.answer_to_cancel(id)
        assert (frame.kind, frame.name) == (_wire.ERROR, "cancelled"), frame.json
        assert time.monotonic() - before < 1
