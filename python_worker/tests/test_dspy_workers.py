"""The DSPy handlers in forked workers: one import for all, real HTTP, cancellation."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dspy_stub import Stub
from fake_session import Store, call
from harness import Launcher, Port

from snakepen import _wire
from snakepen._wire import Frame

HERE = Path(__file__).parent

HANDLERS = f"""
import os, sys
os.environ["STUB_KEY"] = "k"
sys.path.append({str(HERE)!r})
"""
NAMES = ("configure_lm", "create_program", "execute", "history", "optimize")


@pytest.fixture
def start(launcher: Launcher, handlers: Callable[[str], dict[str, str]]) -> Callable[[], Port]:
    """A ready worker; the launcher has imported DSPy."""
    expose = {f"dspy.{name}": f"snakepen.contrib.dspy:{name}" for name in NAMES}
    answer = launcher.configure(handlers=handlers(HANDLERS), preload=["snakepen.contrib.dspy"], expose=expose)
    assert answer["op"] == "ready", answer
    return launcher.worker


@pytest.fixture
def store() -> Store:
    return Store()


def test_forked_workers_share_the_import_and_the_store(
    launcher: Launcher, start: Callable[[], Port], store: Store
) -> None:
    """And one of them is killed in between."""
    first, second = start(), start()
    assert len(os.listdir(f"/proc/{launcher.process.pid}/task")) == 1
    with Stub() as stub:
        config = {"model": "openai/stub", "api_base": stub.url, "api_key_env": "STUB_KEY"}
        call(store, first, "dspy.configure_lm", config=config, scope="global")
        call(store, first, "dspy.create_program", "ann", id="qa", kind="Predict", signature="question -> answer")
        for number, port in enumerate((first, second, first, second)):
            answer = call(store, port, "dspy.execute", "ann", id="qa", inputs={"question": f"q{number}"})
            assert answer["outputs"] == {"answer": f"Q{number}"}, answer
        examples = [{"question": name, "answer": name.upper()} for name in "abc"]
        new = call(store, first, "dspy.optimize", "ann", id="qa", optimizer="LabeledFewShot", trainset=examples)
        os.kill(first.pid, signal.SIGKILL)
        for port in (second, start()):
            answer = call(store, port, "dspy.execute", "ann", id="qa", inputs={"question": "who"})
            assert answer == {"outputs": {"answer": "WHO (3 demos)"}, "version": new["version"]}
        calls = call(store, second, "dspy.history", "ann")
        assert [entry["version"] == new["version"] for entry in calls] == [False] * 4 + [True] * 2
        error = call(store, second, "dspy.execute", "ben", id="qa", inputs={"question": "who"})
        assert error.json["type"] == "NoSuchProgram"


@pytest.mark.parametrize("how", ["loop", "tool"])
def test_a_program_that_runs_on_is_cancelled(start: Callable[[], Port], store: Store, how: str) -> None:
    port = start()
    call(store, port, "dspy.configure_lm", config={"model": "dummy", "answers": []})
    call(store, port, "dspy.create_program", id="x", kind="Module", module="dspy_programs:Endless")
    frame = cancel(store, port, id="x", inputs={"how": how})
    assert (frame.kind, frame.name) == (_wire.ERROR, "cancelled"), frame.json


def test_a_call_that_waits_for_its_model_is_cancelled(start: Callable[[], Port], store: Store) -> None:
    port = start()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        config = {"model": "openai/stub", "api_base": url, "api_key_env": "STUB_KEY"}
        call(store, port, "dspy.configure_lm", config=config)
        call(store, port, "dspy.create_program", id="qa", kind="Predict", signature="question -> answer")
        frame = cancel(store, port, silent, id="qa", inputs={"question": "who"})
        assert (frame.kind, frame.name) == (_wire.ERROR, "cancelled"), frame.json


def cancel(store: Store, port: Port, begun: socket.socket | None = None, **arguments: Any) -> Frame:
    """Starts `execute`, and cancels it once it has said "in", or come to that socket."""
    id = port.start_call("dspy.execute", **arguments)
    wanted = begun or port.stdout
    while wanted not in select.select([port.socket, wanted], [], [], 10)[0]:
        frame = port.receive()
        assert frame.kind == _wire.ASK, (frame.name, frame.json)
        name, arg, result = store.reply(frame.name, json.loads(frame.json))
        port.send(_wire.REPLY, frame.id, arg, name, json.dumps(result).encode())
    before = time.monotonic()
    frame = port.answer_to_cancel(id)
    assert time.monotonic() - before < 2
    return frame
