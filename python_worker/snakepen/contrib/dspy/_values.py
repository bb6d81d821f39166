"""Between JSON, Python objects and their names."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from ._errors import ConfigurationError

# What may follow "key" or "token" in the name of a setting that holds no secret.
_HARMLESS = frozenset({"prompt_cache_key", "cache_key", "stop_token", "eos_token", "bos_token", "pad_token"})
_SECRET_WORDS = frozenset(
    {
        "authorization",
        "bearer",
        "cookie",
        "credential",
        "credentials",
        "passphrase",
        "passwd",
        "password",
        "secret",
        "secrets",
        "token",
        "apikey",
    }
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_SECRET_VALUE = re.compile(r"\s*(?:sk-|(?:Bearer|Basic)\s)|[a-z][a-z0-9+.-]*://[^/?#\s]*@", re.IGNORECASE)


def reference(text: Any, what: str) -> Any:
    """What `module:attribute` names. `what` says in errors what it was for."""
    module, colon, path = text.partition(":") if isinstance(text, str) else ("", "", "")
    if not (module and colon and path):
        raise ConfigurationError(f'{what} is named as "module:attribute", not {text!r:.200}')
    try:
        found: Any = import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{what} {text!r} can't be imported: {error}") from error
    return found


def refuse_secrets(value: Any, where: str) -> None:
    """Raises ConfigurationError for what is, or looks like, a literal secret: what is stored must not hold any."""
    if isinstance(value, dict):
        for key, item in value.items():
            path = f"{where}.{key}"
            if _names_secret(str(key)) and item is not None:
                raise ConfigurationError(
                    f"{path} would be stored as it is: put the secret into an environment variable of the workers and "
                    f'name it: "api_key_env": "OPENAI_API_KEY" (any setting can be given as NAME_env)'
                )
            refuse_secrets(item, path)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            refuse_secrets(item, f"{where}[{index}]")
    elif isinstance(value, str) and _SECRET_VALUE.match(value):
        raise ConfigurationError(
            f"{where} looks like a secret, which would be stored: put it into an environment variable of the workers "
            f'and name that, as with "api_key_env": "OPENAI_API_KEY"'
        )


def _names_secret(key: str) -> bool:
    if key.endswith("_env") or key.lower() in _HARMLESS:
        return False
    words = [word.lower() for word in _WORD.findall(key)]
    return bool(_SECRET_WORDS.intersection(words)) or words[-1:] == ["key"]


def plain(value: Any, what: str) -> Any:
    """The value as JSON has it: pydantic models as objects, enums as their values, sets as arrays, …"""
    try:
        return to_jsonable_python(value)
    except PydanticSerializationError as error:
        raise ConfigurationError(f"{what} can't become JSON: {error}") from error


def anyhow_plain(value: Any) -> Any:
    """The same for what need only be readable."""
    return to_jsonable_python(value, fallback=repr, inf_nan_mode="strings")
