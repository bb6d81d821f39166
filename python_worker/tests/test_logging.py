"""Python's logging, as it arrives in Rust."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from harness import Launcher, Port

from snakepen import _wire
from snakepen._wire import Frame

Handlers = Callable[[str], dict[str, str]]
Worker = Callable[[str], Port]

LOGS = """
@handler
def log(level, text, name="app.db"):
    import logging
    logging.getLogger(name).log(level, text)
@handler
def fail():
    import logging
    try: 1 / 0
    except ZeroDivisionError: logging.exception("while %s", "dividing")
@handler
def bad(): import logging; logging.warning("%d apples", "no")
@handler
def nested():
    import logging
    class Chatty:
        def __repr__(self): logging.warning("inner"); return "chatty"
    logging.warning("outer %r", Chatty())
@handler
def thread():
    import logging, threading
    t = threading.Thread(target=logging.warning, args=("from a thread",)); t.start(); t.join()
@handler
def configure():
    import logging
    logging.basicConfig(level=1)
    logging.debug("dropped")
    logging.info("kept")
"""


def receive(port: Port, handler: str, *arguments: object) -> list[Frame]:
    port.start_call(handler, *arguments)
    logs: list[Frame] = []
    while (frame := port.receive()).kind == _wire.LOG:
        logs.append(frame)
    assert frame.kind == _wire.RESULT, frame.json
    return logs


@pytest.mark.parametrize("setting", [{}, {"preload": ["logging"]}, {"fresh": True}], ids=["lazy", "preloaded", "fresh"])
def test_level_name_and_request(launcher: Launcher, handlers: Handlers, setting: dict[str, object]) -> None:
    launcher.configure(handlers=handlers(LOGS), **setting)
    port = launcher.worker()
    (log,) = receive(port, "log", 35, "slow \ud800 query")
    assert (log.arg, log.name, log.id, json.loads(log.json)) == (35, "app.db", 1, "slow \\ud800 query")
    assert receive(port, "log", 10, "below the level") == []
    (log,) = receive(port, "log", 20, "x" * 2_000_000, "n" * 300)
    assert len(log.name) == 256 and 200_000 < len(log.json) < 300_000


def test_lines_that_can_go_wrong(worker: Worker) -> None:
    port = worker(LOGS)
    (log,) = receive(port, "fail")
    lines = json.loads(log.json).splitlines()
    assert lines[0] == "while dividing" and lines[-1] == "ZeroDivisionError: division by zero"
    (log,) = receive(port, "bad")
    assert "%d apples" in json.loads(log.json)
    assert [json.loads(log.json) for log in receive(port, "nested")] == ["inner", "outer chatty"]
    (log,) = receive(port, "thread")
    assert (log.id, json.loads(log.json)) == (0, "from a thread")
    assert [json.loads(log.json) for log in receive(port, "configure")] == ["kept"]


def test_logs_while_loading_come_before_ready(launcher: Launcher, handlers: Handlers) -> None:
    launcher.configure(handlers=handlers("import logging\nlogging.info('loading')\n@handler\ndef f(): pass"))
    port = launcher.spawn()
    log = port.receive()
    assert (log.kind, log.id, json.loads(log.json)) == (_wire.LOG, 0, "loading")
    assert port.receive().kind == _wire.READY


def test_looking_for_logging_isnt_importing_it(launcher: Launcher, handlers: Handlers) -> None:
    launcher.configure(handlers=handlers("import sys, importlib.util\nimportlib.util.find_spec('logging')\n" + LOGS))
    assert len(receive(launcher.worker(), "log", 20, "still arrives")) == 1
