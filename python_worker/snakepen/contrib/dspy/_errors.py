"""What callers of these handlers may get. The messages name the culprit and the way out."""

from __future__ import annotations


class SignatureError(ValueError):
    """A signature, or a field of one, that DSPy can't use."""


class ConfigurationError(ValueError):
    """An argument that isn't as it should be: the kind of a program, its parameters, a language model's settings."""


class FieldError(ValueError):
    """Inputs, demos, or examples that don't fit the program's signature."""


class ProgramError(RuntimeError):
    """A program that can't be built, or whose stored state doesn't fit it, or that gave no proper result."""


class NoSuchProgram(LookupError):
    """No program has this id."""


for _error in (SignatureError, ConfigurationError, FieldError, ProgramError, NoSuchProgram):
    _error.__module__ = "snakepen.contrib.dspy"  # where it is found
