"""The last calls of language models, in the session that made them.

DSPy keeps them in the process, in lists that grow to 10 000 entries for each module. Here they go into the store,
bounded, and the worker forgets them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from snakepen import SessionError
from snakepen._errors import shorten

from ._library import dspy, global_history
from ._places import Place
from ._programs import Built
from ._values import anyhow_plain

KEY = "dspy.history"

MAX_ENTRIES = 100
MAX_BYTES = 256 * 1024
"""Of all entries of a session together, as JSON. The oldest go first."""
MAX_TEXT = 16 * 1024
"""Of one message or output, in bytes; longer ones are cut in the middle."""

logger = logging.getLogger("snakepen.contrib.dspy")


def recorded(module: Any, run: Callable[[], Any]) -> tuple[Any, list[Any], Exception | None]:
    """Runs it, and takes from DSPy's lists what it has written there: result, calls, error."""
    everything = global_history()
    before = len(everything)
    result, failure = None, None
    try:
        try:
            # A limit that no program of sense reaches: DSPy's own would hold whole runs of an optimizer.
            with dspy.context(max_history_size=1000):
                result = run()
        except Exception as error:
            failure = error
        return result, [*getattr(module, "history", ())], failure
    finally:
        for _, part in module.named_sub_modules():
            history = getattr(part, "history", None)
            if isinstance(history, list):
                history.clear()
        del everything[before:]


def store(place: Place, built: Built, calls: list[Any], redact: Callable[[str], str]) -> None:
    """Adds them. A full store doesn't spoil a result that has been paid for: it is logged."""
    new = [_entry(call, built, redact) for call in calls]
    try:
        place.session.update(KEY, lambda old: _bounded([*(old or []), *new]), default=[])
    except SessionError as error:
        logger.warning("the history of program %r can't be stored: %s", built.id, error)


def last(place: Place, n: int) -> list[dict[str, Any]]:
    entries = place.session.get(KEY) or []
    return entries[-n:] if n > 0 else []


def _entry(call: dict[str, Any], built: Built, redact: Callable[[str], str]) -> dict[str, Any]:
    entry = {
        "program": built.id,
        "version": built.version,
        "model": call.get("model"),
        "timestamp": call.get("timestamp"),
        "messages": call.get("messages") or [{"role": "user", "content": call.get("prompt")}],
        "outputs": call.get("outputs"),
        "usage": call.get("usage") or {},
    }
    return _tidy(anyhow_plain(entry), redact)


def _tidy(value: Any, redact: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return shorten(redact(value), MAX_TEXT)
    if isinstance(value, dict):
        return {key: _tidy(item, redact) for key, item in value.items()}
    if isinstance(value, list):
        return [_tidy(item, redact) for item in value]
    return value


def _bounded(entries: list[Any]) -> list[Any]:
    entries = entries[-MAX_ENTRIES:]
    sizes = [len(json.dumps(entry)) for entry in entries]
    total, first = sum(sizes), 0
    while total > MAX_BYTES and first < len(entries):
        total -= sizes[first]
        first += 1
    return entries[first:]
