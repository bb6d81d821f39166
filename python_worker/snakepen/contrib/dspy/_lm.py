"""Language models: their configuration in the store, and the clients that are built from it."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from typing import Any

from ._errors import ConfigurationError
from ._library import DummyLM, dspy
from ._places import Place
from ._values import refuse_secrets

KEY = "dspy.lm"

MAX_BUILT = 32
"""Clients that a worker keeps; each has connections of its own."""

MIN_SECRET = 8
"""A shorter value is a placeholder, for a server that asks for some key; taking it out of texts would garble them."""

_OBJECTS = frozenset({"callbacks", "provider", "async_engine"})
_DUMMY_KEYS = frozenset({"model", "answers", "follow_examples", "reasoning"})

_built: OrderedDict[str, LanguageModel] = OrderedDict()


class LanguageModel:
    """A checked configuration, and its client."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.secrets: list[str] = []
        self._client: Any = None
        if config["model"] == "dummy":
            _check_dummy(config)
            self.for_call()
            return
        settings = dict(config)
        for key in [key for key in settings if key.endswith("_env")]:
            variable = settings.pop(key)
            value = os.environ.get(variable) if isinstance(variable, str) else None
            if not value:
                raise ConfigurationError(
                    f"{key} names the environment variable {variable!r}, which the workers don't have: set it for the "
                    f"Rust program, or with the pool's builder"
                )
            settings[key.removesuffix("_env")] = value
            if len(value) >= MIN_SECRET:
                self.secrets.append(value)
        # DSPy's cache of answers doesn't look at api_base and api_key: what one session's endpoint has said would be
        # said to another session.
        settings.setdefault("cache", False)
        try:
            self._client = dspy.LM(**settings)
        except Exception as error:
            raise ConfigurationError(f"the language model {config['model']!r}: {self.redact(str(error))}") from None

    def for_call(self) -> Any:
        """A client with a history of its own. DummyLM gives its list of answers from the start, in each call:
        a call's result must not depend on what its worker has done before."""
        if self._client is not None:
            return self._client.copy()
        return DummyLM(
            self.config["answers"],
            follow_examples=self.config.get("follow_examples", False),
            reasoning=self.config.get("reasoning", False),
        )

    def redact(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "[secret]")
        return text

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def _check_dummy(config: dict[str, Any]) -> None:
    if unknown := sorted(set(config) - _DUMMY_KEYS):
        raise ConfigurationError(f'the model "dummy" has no {unknown}, only {sorted(_DUMMY_KEYS)}')
    answers: Any = config.get("answers")
    each = answers.values() if isinstance(answers, dict) else answers
    if not isinstance(answers, list | dict) or not all(isinstance(answer, dict) for answer in each):
        raise ConfigurationError(
            'the model "dummy" needs "answers": a list of objects by output field, or an object from a part of the '
            "prompt to such an object"
        )


def check(config: Any) -> LanguageModel:
    """Raises ConfigurationError for what can't be used or must not be stored."""
    if not isinstance(config, dict):
        raise ConfigurationError(f"a language model's configuration is an object, not {type(config).__name__}")
    if not isinstance(config.get("model"), str):
        raise ConfigurationError('a language model\'s configuration names its "model", such as "openai/gpt-4o-mini"')
    model: str = config["model"]
    if model and model != "dummy" and "/" not in model:
        raise ConfigurationError(
            f'a "model" is a provider and a name, such as "openai/gpt-4o-mini", not {model!r:.100}'
        )
    if objects := sorted(_OBJECTS.intersection(config)):
        raise ConfigurationError(f"{objects} of a language model can't be configured: they are Python objects")
    refuse_secrets({key: value for key, value in config.items() if key != "answers"}, "lm")
    key = json.dumps(config, sort_keys=True)
    found = _built.get(key)
    if found is None:
        found = _built[key] = LanguageModel(config)
        while len(_built) > MAX_BUILT:
            _built.popitem(last=False)[1].close()
    _built.move_to_end(key)
    return found


def stored(places: list[Place]) -> tuple[dict[str, Any], Place] | None:
    """The configuration that holds here: read in each call, so that a change reaches every worker at its next one."""
    for place in places:
        config = place.session.get(KEY)
        if config is not None:
            return config, place
    return None


def resolve(places: list[Place], override: Any) -> LanguageModel:
    """The call's: the override alone if it names a model, else the stored one with what the override changes.

    An override that names another model must not meet the stored one's address and secrets.
    """
    if not isinstance(override, dict | None):
        raise ConfigurationError(f"`lm` is an object, not {type(override).__name__}")
    if override and "model" in override:
        return check(override)
    found = stored(places)
    if found is None:
        raise ConfigurationError('no language model is configured, for this session or globally: call "configure_lm"')
    if not override:
        return check(found[0])
    return check({key: value for key, value in {**found[0], **override}.items() if value is not None})
