"""Programs: from a stored definition and state to a DSPy module, and back."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from shutil import which
from typing import Any

from snakepen import Program

from . import _signatures
from ._errors import ConfigurationError, FieldError, NoSuchProgram, ProgramError, SignatureError
from ._library import dspy, version
from ._places import Place
from ._values import plain, reference, refuse_secrets

STORED_KIND = "dspy"
"""How the store's programs of this module are told from others."""

KINDS = ("Predict", "ChainOfThought", "ReAct", "ProgramOfThought", "Module")


class Built:
    """A program as this worker runs it. Kept by the session API, by session, id and version."""

    def __init__(self, stored: Program) -> None:
        if stored.kind != STORED_KIND:
            raise ConfigurationError(f"program {stored.id!r} isn't one of DSPy: its kind is {stored.kind!r}")
        self.id: str = stored.id
        self.version: int = stored.version
        self.definition: dict[str, Any] = stored.definition
        fields = self.definition["signature"]
        self.signature: Any = None if fields is None else _signatures.build(fields)
        self.module = build(self.definition)
        load(self.module, stored.state, f"program {stored.id!r} (version {stored.version})")

    def inputs(self, values: Any, what: str) -> dict[str, Any]:
        """JSON values as the program takes them. Raises FieldError."""
        definition = self.definition["signature"]
        if definition is not None:
            return _signatures.convert(self.signature.input_fields, definition["inputs"], values, what)
        if not isinstance(values, dict):
            raise FieldError(f"{what} are an object by name, not {type(values).__name__}")
        try:
            inspect.signature(type(self.module).forward).bind(self.module, **values)
        except TypeError as error:
            raise FieldError(
                f"{what}: {self.definition['module']}.forward() can't be called with {[*values]}: {error}"
            ) from None
        return values

    def input_names(self) -> list[str]:
        definition = self.definition["signature"]
        if definition is not None:
            return [field["name"] for field in definition["inputs"]]
        return [*inspect.signature(type(self.module).forward).parameters][1:]

    def output_names(self) -> list[str] | None:
        """None: its code only knows."""
        definition = self.definition["signature"]
        return None if definition is None else [field["name"] for field in definition["outputs"]]


def _build_stored(stored: Program) -> Built:
    """What goes wrong in it must not be taken for the LookupError of a program that isn't there."""
    try:
        return Built(stored)
    except LookupError as error:
        raise ProgramError(f"program {stored.id!r} can't be built: {type(error).__name__}: {error}") from error


def find(id: str, places: list[Place]) -> tuple[Built, Place]:
    """Built anew in this worker only if its version is new here."""
    for place in places:
        try:
            return place.session.programs.built(id, _build_stored), place
        except LookupError:
            continue
    raise missing(id, places)


def fetch(id: str, places: list[Place]) -> tuple[Program, Place]:
    """What is stored."""
    for place in places:
        stored = place.session.programs.get(id)
        if stored is not None:
            if stored.kind != STORED_KIND:
                raise ConfigurationError(f"program {id!r} isn't one of DSPy: its kind is {stored.kind!r}")
            return stored, place
    raise missing(id, places)


def missing(id: str, places: list[Place]) -> NoSuchProgram:
    where = {"session": "in this session", "global": "globally"}
    known = sorted({name for place in places for name in place.session.programs.list()})
    return NoSuchProgram(
        f"there is no program {id!r} {' or '.join(where[place.scope] for place in places)}; "
        f"there are: {', '.join(map(repr, known[:20])) or 'none'}"
    )


# === Definitions


def define(
    kind: str,
    signature: dict[str, Any] | None,
    tools: list[str] | None,
    module: str | None,
    params: dict[str, Any] | None,
) -> dict[str, Any]:
    """What is stored. Raises for what doesn't go together; what can't be built is found by `build`."""
    if kind not in KINDS:
        raise ConfigurationError(f"there is no kind {kind!r:.100} of program, but {', '.join(KINDS)}")
    if (kind == "Module") != (module is not None):
        raise ConfigurationError('`module` ("module:Class") is given with the kind "Module", and with no other')
    if (kind == "Module") == (signature is not None):
        raise SignatureError("a Module has its signatures in its code; all other kinds are given one")
    if (kind == "ReAct") != (tools is not None):
        raise ConfigurationError('`tools` (a list of "module:function") are given with the kind "ReAct", and no other')
    if not isinstance(params, dict | None) or not isinstance(tools, list | None):  # pyright: ignore
        raise ConfigurationError("`params` is an object, and `tools` is a list")
    refuse_secrets(params, "params")
    return {"kind": kind, "signature": signature, "tools": tools, "module": module, "params": params or {}}


def build(definition: dict[str, Any]) -> Any:
    """A module of DSPy, without its state."""
    kind, params = definition["kind"], definition["params"]
    if kind == "Module":
        return _build_own(definition["module"], params)
    signature = _signatures.build(definition["signature"])
    if kind == "ReAct":
        params = {**params, "tools": [_tool(name) for name in _distinct(definition["tools"])]}
    elif kind == "ProgramOfThought":
        _require_deno()
    with warnings.catch_warnings():
        # Of what this version of DSPy still has, and the next one won't; whoever updates DSPy is told by the error.
        warnings.simplefilter("ignore", DeprecationWarning)
        return _construct(getattr(dspy, kind, None), (signature,), params, f"dspy.{kind}")


def _build_own(name: str, params: dict[str, Any]) -> Any:
    found = reference(name, "module")
    if not isinstance(found, type) or not issubclass(found, dspy.Module):
        raise ConfigurationError(f"{name!r} isn't a class derived from dspy.Module")
    return _construct(found, (), params, name)


def _construct(
    function: Callable[..., Any] | None, arguments: tuple[Any, ...], params: dict[str, Any], what: str
) -> Any:
    if function is None:
        raise ConfigurationError(f"DSPy {version} has no {what}")
    try:
        return function(*arguments, **params)
    except Exception as error:
        raise ProgramError(
            f"{what} can't be made with the parameters {params}: {type(error).__name__}: {error}"
        ) from error


def _distinct(names: list[Any]) -> list[str]:
    short = [str(name).rpartition(":")[2].rpartition(".")[2] for name in names]
    for name in short:
        # DSPy would keep the last of them, or its own `finish`, without a word.
        if short.count(name) > 1 or name == "finish":
            raise ConfigurationError(f"a ReAct program can't have two tools called {name!r} (it has its own `finish`)")
    return names


def _tool(name: str) -> Any:
    function = reference(name, "tool")
    if not callable(function):
        raise ConfigurationError(f"tool {name!r} is {type(function).__name__}, which can't be called")
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"tool {name!r} is an `async def`: DSPy calls tools from plain code here")
    try:
        return dspy.Tool(function)
    except Exception as error:
        raise ConfigurationError(f"tool {name!r} can't be used: {type(error).__name__}: {error}") from error


def _require_deno() -> None:
    if find_spec("deno") is None and which("deno") is None:
        raise ProgramError(
            "ProgramOfThought runs the code that the model writes in Deno, which isn't there. Install it: "
            f'{sys.executable} -m pip install "dspy[deno]", or put `deno` on the PATH of the workers'
        )


# === State
#
# Demos, instructions, and what else an optimizer changes: the module's own dump_state(), without language models.
# Those are configured for the session, or set by the module's code, which runs again wherever it is built.


def dump(module: Any, what: str) -> dict[str, Any]:
    parameters = [parameter for _, parameter in module.named_parameters()]
    models = [(parameter, parameter.lm) for parameter in parameters if getattr(parameter, "lm", None) is not None]
    try:
        for parameter, _ in models:
            parameter.lm = None
        state = module.dump_state()
    finally:
        for parameter, model in models:
            parameter.lm = model
    parts = {"self": state} if _is_predictor(module) else state
    return {
        "dspy": version,
        "predictors": {name: plain(part, f"the state of {what}.{name}") for name, part in parts.items()},
    }


def load(module: Any, state: Any, what: str) -> None:
    """Raises ProgramError unless all of the state has found its place: what ran must be what was compiled."""
    try:
        stored, parts = state["dspy"], state["predictors"]
    except (TypeError, KeyError):
        raise ProgramError(f"{what} has no state of a DSPy program in the store") from None
    problem = f"the state of {what}, stored by DSPy {stored}, doesn't load in DSPy {version}"
    parameters = dict(module.named_parameters())
    # A module with a dump_state of its own may have other parts.
    if _is_predictor(module) or type(module).dump_state is dspy.Module.dump_state:
        if parts.keys() != parameters.keys():
            raise ProgramError(f"{problem}: it has the predictors {[*parts]}, the program has {[*parameters]}")
        for name, part in parts.items():
            _check_fields(part, parameters[name], f"{problem}: {name}")
    models = {name: getattr(parameter, "lm", None) for name, parameter in parameters.items()}
    try:
        module.load_state(parts["self"] if _is_predictor(module) else parts)
    except Exception as error:
        raise ProgramError(f"{problem}: {type(error).__name__}: {error}") from error
    for name, parameter in module.named_parameters():
        if models.get(name) is not None:
            parameter.lm = models[name]
    now = dump(module, what)["predictors"]
    for name, part in parts.items():
        if part != now.get(name) and (lost := _lost(part, now.get(name))):
            raise ProgramError(f"{problem}: {lost} of {name} would be lost or changed")


def _is_predictor(module: Any) -> bool:
    """Whether it is one itself, and its state not that of its parts."""
    return any(parameter is module for parameter in module.parameters())


def _lost(part: Any, now: Any) -> list[str]:
    if not isinstance(part, dict) or not isinstance(now, dict):
        return ["all"]
    return [key for key in part if key not in now or now[key] != part[key]]


def _check_fields(part: Any, parameter: Any, problem: str) -> None:
    # DSPy pairs the stored fields with the signature's for as long as both go on.
    signature = getattr(parameter, "signature", None)
    if signature is None or not isinstance(part, dict) or "signature" not in part:
        return
    fields = part["signature"].get("fields", [])
    if len(fields) != len(signature.fields):
        raise ProgramError(f"{problem} has {len(fields)} fields there, and {[*signature.fields]} in the program")


def add_demos(module: Any, definition: dict[str, Any], demos: Any) -> None:
    """Examples that are given with the program."""
    if definition["kind"] not in ("Predict", "ChainOfThought"):
        raise ConfigurationError("`demos` can be given with the kinds Predict and ChainOfThought only")
    if not isinstance(demos, list):
        raise FieldError(f"`demos` are a list, not {type(demos).__name__}")
    (predictor,) = module.predictors()
    known = [*predictor.signature.fields]
    for index, demo in enumerate(demos):
        if not isinstance(demo, dict) or not demo:
            raise FieldError(f"demo {index} is an object by field name")
        if unknown := [name for name in demo if name not in known]:
            raise FieldError(f"demo {index}: unknown {unknown}, the signature has {known}")
    predictor.demos = [dspy.Example(**demo) for demo in demos]


def summarize(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Per predictor: instructions, and how many demos it has."""
    return [
        {
            "name": name,
            "instructions": part.get("signature", {}).get("instructions"),
            "demos": len(part.get("demos") or []),
        }
        for name, part in state["predictors"].items()
    ]
