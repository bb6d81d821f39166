"""Optimizers of DSPy: from a program and examples to a new version of it."""

from __future__ import annotations

import inspect
from typing import Any

from . import _handlers, _history, _lm, _places, _programs, _signatures
from ._errors import ConfigurationError, FieldError, ProgramError
from ._library import dspy, version
from ._values import reference, refuse_secrets

OPTIMIZERS = (
    "LabeledFewShot",
    "BootstrapFewShot",
    "BootstrapFewShotWithRandomSearch",
    "BootstrapFewShotWithOptuna",
    "MIPROv2",
    "COPRO",
    "SIMBA",
    "InferRules",
    "GEPA",
)
"""Those whose result is all in the program's state. (BootstrapFinetune makes a model, KNNFewShot replaces code.)"""

_MODELS = frozenset({"prompt_model", "task_model", "reflection_lm"})
_OURS = frozenset({"self", "student", "trainset", "valset", "metric", "teacher", "args", "kwargs"})


def optimize(
    id: str,
    optimizer: str,
    trainset: list[dict[str, Any]],
    metric: str | None = None,
    *,
    params: dict[str, Any] | None = None,
    valset: list[dict[str, Any]] | None = None,
    lm: dict[str, Any] | None = None,
    evaluate: bool = True,
    scope: str | None = None,
) -> dict[str, Any]:
    """Runs an optimizer in this worker, and stores the compiled program as a new version.

    Examples are objects with the program's inputs and outputs. `metric` is "exact_match:FIELD", or "module:function"
    of `(example, prediction, trace=None)`. `params` go to the optimizer's constructor or its `compile`, whichever has
    them; `prompt_model`, `task_model`, `reflection_lm` and `teacher_settings.lm` are language models' configurations.
    With a metric, the version that was stored is scored on `valset`, else on `trainset`. A program that somebody else
    has changed meanwhile is a snakepen.Conflict, and stays as that has left it.
    """
    place = _places.own(scope)
    if place.session.programs.get(id) is None:
        _handlers.not_from_here(id, place)
    stored, place = _programs.fetch(id, [place])
    built = _programs.Built(stored)
    if optimizer not in OPTIMIZERS:
        raise ConfigurationError(f"there is no optimizer {optimizer!r:.100}, but {', '.join(OPTIMIZERS)}")
    examples = _examples(trainset, built, "trainset")
    checks = None if valset is None else _examples(valset, built, "valset")
    measure = None if metric is None else _metric(metric, built)
    model = _lm.resolve(_places.search(None), lm)

    def run() -> tuple[Any, float | None, Any]:
        with dspy.context(lm=model.for_call()), dspy.track_usage() as tracker:
            compiled = _compile(optimizer, built.module, examples, checks, measure, params or {})
            state = _programs.dump(compiled, f"program {id!r}")
            # Not what the optimizer holds in its hands, but what every worker will make of the stored state.
            again = _programs.build(built.definition)
            _programs.load(again, state, f"program {id!r}")
            score = None if measure is None or not evaluate else _score(again, checks or examples, measure)
            return state, score, tracker.get_total_tokens()

    result, _, failure = _history.recorded(built.module, run)
    if failure is not None:
        raise _handlers.without_secrets(failure, model)
    state, score, usage = result
    summary = {
        "optimizer": optimizer,
        "metric": metric,
        "score": score,
        "examples": len(examples),
        "from_version": stored.version,
        "dspy": version,
    }
    about = {**(stored.metadata or {}), "optimized": summary}
    new = place.session.programs.update(id, expected=stored.version, state=state, metadata=about)
    return {
        "id": id,
        "scope": place.scope,
        "version": new.version,
        **summary,
        "predictors": _programs.summarize(state),
        "usage": usage,
    }


def _compile(
    name: str, module: Any, examples: list[Any], checks: list[Any] | None, measure: Any, params: dict[str, Any]
) -> Any:
    kind = getattr(dspy, name, None)
    if kind is None:
        raise ConfigurationError(f"DSPy {version} has no optimizer {name}")
    made, called = _names(kind, "__init__"), _names(kind, "compile")
    if unknown := sorted(key for key in params if key not in made and key not in called):
        raise ConfigurationError(f"{name} has no parameters {unknown}, but {sorted({*made, *called})}")
    values = {key: _parameter(key, value) for key, value in params.items()}
    arguments = {key: value for key, value in values.items() if key in made}
    rest = {key: value for key, value in values.items() if key not in made}
    # Threads see neither the call's session nor its cancellation.
    if "num_threads" in made:
        arguments.setdefault("num_threads", 1)
    if "eval_kwargs" in called:
        rest.setdefault("eval_kwargs", {"num_threads": 1, "display_progress": False})
    if name != "LabeledFewShot":
        if measure is None and name != "BootstrapFewShot":
            raise ConfigurationError(f"{name} needs a metric")
        arguments["metric"] = measure
    if checks is not None and "valset" in inspect.signature(kind.compile).parameters:
        rest["valset"] = checks
    try:
        return kind(**arguments).compile(module, trainset=examples, **rest)
    except ImportError as error:
        raise ConfigurationError(f"{name} needs another package in the workers' environment: {error}") from error


def _names(kind: type, function: str) -> set[str]:
    """What can be given to it by `params`."""
    found: set[str] = set()
    for base in kind.__mro__:
        if function not in vars(base):
            continue
        parameters = inspect.signature(vars(base)[function]).parameters.values()
        found.update(parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break  # else what it doesn't know may be its base's
    return found - _OURS


def _parameter(key: str, value: Any) -> Any:
    if key in _MODELS:
        return _lm.check(value).for_call()
    if key == "teacher_settings":
        if not isinstance(value, dict) or {*value} != {"lm"}:
            raise ConfigurationError('params.teacher_settings is {"lm": a language model\'s configuration}')
        return {"lm": _lm.check(value["lm"]).for_call()}
    refuse_secrets({key: value}, "params")
    return value


def _examples(given: Any, built: _programs.Built, what: str) -> list[Any]:
    if not isinstance(given, list) or not given:
        raise FieldError(f"`{what}` is a list of examples, and has at least one")
    names, outputs = built.input_names(), built.output_names()
    found: list[Any] = []
    for index, example in enumerate(given):
        if not isinstance(example, dict):
            raise FieldError(f"{what}[{index}] is an object by field name, not {type(example).__name__}")
        inputs = built.inputs({name: example[name] for name in names if name in example}, f"{what}[{index}]")
        labels = {name: value for name, value in example.items() if name not in inputs}
        if outputs is not None:
            if unknown := [name for name in labels if name not in outputs]:
                raise FieldError(f"{what}[{index}]: unknown {unknown}, the signature has {[*names, *outputs]}")
            fields = built.signature.output_fields
            given_fields = {name: fields[name] for name in labels}
            definitions = built.definition["signature"]["outputs"]
            labels = _signatures.convert(given_fields, definitions, labels, f"{what}[{index}]")
        found.append(dspy.Example(**inputs, **labels).with_inputs(*inputs))
    return found


def _metric(text: str, built: _programs.Built) -> Any:
    name, _, field = text.partition(":")
    if name != "exact_match":
        function = reference(text, "metric")
        if not callable(function):
            raise ConfigurationError(f"metric {text!r} is {type(function).__name__}, which can't be called")
        return function
    outputs = built.output_names()
    if outputs is not None and field not in outputs:
        raise ConfigurationError(f"metric {text!r}: the program's outputs are {outputs}")

    # Five arguments, for GEPA.
    def exact_match(example: Any, prediction: Any, trace: Any = None, name: Any = None, step: Any = None) -> bool:
        return prediction[field] == example[field]

    return exact_match


def _score(module: Any, examples: list[Any], measure: Any) -> float:
    """In percent; an example that can't be run counts 0. If none can, neither the program nor its score is any good."""
    total, failure, failed = 0.0, None, 0
    for example in examples:
        try:
            total += float(measure(example, module(**example.inputs())))
        except Exception as error:
            failure, failed = error, failed + 1
    if failed == len(examples):
        raise ProgramError(f"none of the {failed} examples can be scored: {failure}") from failure
    return round(100 * total / len(examples), 2)
