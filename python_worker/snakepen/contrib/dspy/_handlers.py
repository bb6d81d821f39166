"""What Rust calls."""

from __future__ import annotations

from typing import Any

from snakepen import Conflict, Program, global_session

from . import _history, _lm, _places, _programs, _signatures
from ._errors import ConfigurationError, ProgramError
from ._library import dspy, version
from ._values import plain, refuse_secrets


def configure_lm(config: dict[str, Any] | None, scope: str | None = None) -> dict[str, Any]:
    """Sets the language model of the session, or of all sessions that have none of their own; None takes it back.

    `{"model": "openai/gpt-4o-mini", "api_base": …, "api_key_env": "OPENAI_API_KEY", "temperature": …}`: what dspy.LM
    takes, where NAME_env is the name of the workers' environment variable that has NAME's value. Literal secrets are
    refused. `{"model": "dummy", "answers": …}` is dspy.utils.DummyLM. Returns scope and version.
    """
    place = _places.own(scope)
    if config is None:
        place.session.delete(_lm.KEY)
        return {"scope": place.scope, "version": None}
    _lm.check(config)
    return {"scope": place.scope, "version": place.session.put(_lm.KEY, config)}


def create_program(
    id: str,
    kind: str,
    signature: str | None = None,
    spec: dict[str, Any] | None = None,
    *,
    instructions: str | None = None,
    types: dict[str, str] | None = None,
    tools: list[str] | None = None,
    module: str | None = None,
    params: dict[str, Any] | None = None,
    demos: list[dict[str, Any]] | None = None,
    metadata: dict[str, Any] | None = None,
    replace: bool = False,
    scope: str | None = None,
) -> dict[str, Any]:
    """Builds a program once, and stores it if that works. Returns id, scope and version.

    `signature` is DSPy's text, `spec` is `{name, description, inputs, outputs}` with fields
    `{name, type, description}`; `types` tells what names in their types mean, as "module:Class". `params` go to the
    constructor. An id that is taken is a snakepen.Conflict, unless `replace`, which makes a new version.
    """
    if not isinstance(id, str) or not id:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"a program's id is text, not {id!r:.100}")
    place = _places.own(scope)
    fields = None
    # The kind first: who gets that wrong should not be told about signatures.
    if kind in _programs.KINDS and (signature is not None or spec is not None or kind != "Module"):
        fields = _signatures.define(signature, spec, instructions, types)
    definition = _programs.define(kind, fields, tools, module, params)
    refuse_secrets(metadata, "metadata")
    made = _programs.build(definition)
    if demos is not None:
        _programs.add_demos(made, definition, demos)
    state = _programs.dump(made, f"program {id!r}")
    # It has to come back as well, here as in any worker.
    _programs.load(_programs.build(definition), state, f"program {id!r}")
    about = {"user": metadata or {}, "optimized": None}
    stored = _store(place, id, definition, state, about, replace)
    return {"id": id, "scope": place.scope, "version": stored.version}


def _store(place: _places.Place, id: str, definition: Any, state: Any, about: Any, replace: bool) -> Program:
    programs = place.session.programs
    while True:
        present = programs.get(id) if replace else None
        try:
            if present is None:
                return programs.create(id, _programs.STORED_KIND, definition, state=state, metadata=about)
            if present.kind != _programs.STORED_KIND:
                raise ConfigurationError(f"program {id!r} isn't one of DSPy: its kind is {present.kind!r}")
            return programs.update(id, expected=present.version, definition=definition, state=state, metadata=about)
        except Conflict as conflict:
            if not replace:
                raise Conflict(
                    f"there is a program {id!r} already: replace it (`replace`), or take another id", conflict.found
                ) from None


def execute(
    id: str,
    inputs: dict[str, Any],
    *,
    lm: dict[str, Any] | None = None,
    usage: bool = False,
    reasoning: bool = False,
    history: bool = True,
    scope: str | None = None,
) -> dict[str, Any]:
    """Runs a program, found by id in the call's session first, then globally.

    Returns `{"outputs": {field: value}, "version": …}`. With `reasoning` also what the program gives beside its outputs
    (its reasoning, a ReAct's trajectory), with `usage` the tokens by model. `lm` changes settings of the configured
    language model for this call, or names another model altogether.
    """
    places = _places.search(scope)
    built, _ = _programs.find(id, places)
    values = built.inputs(inputs, f"the inputs of program {id!r}")
    model = _lm.resolve(_places.search(None), lm)

    def run() -> Any:
        with dspy.context(lm=model.for_call()), dspy.track_usage() as tracker:
            return built.module(**values), tracker.get_total_tokens()

    result, calls, failure = _history.recorded(built.module, run)
    if history and calls:
        _history.store(_places.own(None), built, calls, model.redact)
    if failure is not None:
        raise without_secrets(failure, model)
    prediction, tokens = result
    outputs, beside = _outputs(prediction, built)
    answer: dict[str, Any] = {"outputs": outputs, "version": built.version}
    if reasoning:
        answer["reasoning"] = beside
    if usage:
        answer["usage"] = plain(tokens, "the usage")
    return answer


def _outputs(prediction: Any, built: _programs.Built) -> tuple[dict[str, Any], dict[str, Any]]:
    """The declared outputs, and the others."""
    what = f"program {built.id!r}"
    if isinstance(prediction, dspy.Example):
        found = dict(prediction.items())
    elif isinstance(prediction, dict):
        found = prediction
    else:
        raise ProgramError(f"{what} returned {type(prediction).__name__}, and not a dspy.Prediction")
    names = built.output_names()
    if names is None:
        names = [*found]
    if missing := [name for name in names if name not in found]:
        raise ProgramError(f"{what} gave no {missing}")
    values = {str(name): plain(value, f"the output {name!r} of {what}") for name, value in found.items()}
    return {name: values.pop(name) for name in map(str, names)}, values


def without_secrets(failure: Exception, model: _lm.LanguageModel) -> Exception:
    """The error as it is, unless a provider's message has a secret in it."""
    at: BaseException | None = failure
    seen: set[int] = set()
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if model.redact(str(at)) != str(at):
            clean = ProgramError(f"{type(failure).__name__}: {model.redact(str(failure))}")
            clean.__suppress_context__ = True
            return clean
        at = at.__cause__ or at.__context__
    return failure


def list_programs(scope: str | None = None) -> list[dict[str, Any]]:
    """The programs of the session and the global ones, or of one scope: id, scope, kind and version of each."""
    found: list[dict[str, Any]] = []
    for place in _places.search(scope):
        for id in place.session.programs.list():
            stored = place.session.programs.get(id)
            if stored is not None and stored.kind == _programs.STORED_KIND:
                kind = stored.definition["kind"]
                found.append({"id": id, "scope": place.scope, "kind": kind, "version": stored.version})
    return found


def delete(id: str, scope: str | None = None) -> bool:
    """Deletes a program; whether there was one. One that is global is only deleted with the scope "global", or by a
    call that has no session."""
    place = _places.own(scope)
    if place.session.programs.delete(id):
        return True
    if scope is None:
        not_from_here(id, place)
    return False


def not_from_here(id: str, place: _places.Place) -> None:
    """Raises if what a session is about to change belongs to all of them."""
    if place.scope == "session" and global_session().programs.get(id) is not None:
        raise ConfigurationError(
            f'program {id!r} is global, and other sessions use it: say scope="global" to change it'
        )


def info(id: str, scope: str | None = None) -> dict[str, Any]:
    """All about a program but its demos: kind, signature, version, predictors with their instructions and number of
    demos, what has optimized it, the language model that it would run with here, the DSPy that stored it."""
    stored, place = _programs.fetch(id, _places.search(scope))
    definition, about = stored.definition, stored.metadata or {}
    predictors = _programs.summarize(stored.state)
    configured = _lm.stored(_places.search(None))
    return {
        "id": id,
        "scope": place.scope,
        "kind": definition["kind"],
        "version": stored.version,
        "signature": None if definition["signature"] is None else _signatures.describe(definition["signature"]),
        "module": definition["module"],
        "tools": definition["tools"],
        "params": definition["params"],
        "predictors": predictors,
        "demos": sum(predictor["demos"] for predictor in predictors),
        "optimized": about.get("optimized"),
        "metadata": about.get("user") or {},
        "lm": None if configured is None else configured[0],
        "lm_scope": None if configured is None else configured[1].scope,
        "dspy": stored.state["dspy"],
        "dspy_here": version,
    }


def history(n: int = 10, scope: str | None = None) -> list[dict[str, Any]]:
    """The last calls of language models that programs made in this session (or outside of any: global), oldest first.

    What survives a worker, and with a durable store the host: the last 100, 256 KiB in all, texts cut at 16 KiB. Calls
    made while optimizing are not in it.
    """
    return _history.last(_places.own(scope), n)
