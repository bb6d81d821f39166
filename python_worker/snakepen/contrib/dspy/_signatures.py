"""Signatures: from text or a specification to a DSPy signature, and what fits its fields.

DSPy reads a signature's text as the arguments of a Python function, and drops what it doesn't expect there (defaults,
`*`, `/`). So the text is taken apart here first, strictly, and what goes into the store is the list of fields.
"""

from __future__ import annotations

import ast
from typing import Any

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from ._errors import FieldError, SignatureError
from ._library import dspy
from ._values import reference

# As inputs, DSPy's modules would take these for themselves without a word.
_TAKEN = frozenset({"config", "demos", "lm", "new_signature", "signature", "max_iters"})
_FIELD_KEYS = frozenset({"name", "type", "description"})
_SPEC_KEYS = frozenset({"name", "description", "inputs", "outputs"})


def define(
    signature: str | None, spec: dict[str, Any] | None, instructions: str | None, types: dict[str, str] | None
) -> dict[str, Any]:
    """The definition that is stored: name, instructions, inputs, outputs, types."""
    if (signature is None) == (spec is None):
        raise SignatureError("give either `signature` (as DSPy's text) or `spec` (name, description, inputs, outputs)")
    if not isinstance(types, dict | None):  # pyright: ignore
        raise SignatureError(f'`types` maps names to "module:Class", it isn\'t {type(types).__name__}')
    definition: dict[str, Any] = {"name": None, "instructions": instructions, "types": types or {}}
    if signature is not None:
        if not isinstance(signature, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SignatureError(f"`signature` is text; a {type(signature).__name__} goes into `spec`")
        inputs, arrow, outputs = signature.partition("->")
        if not arrow or "->" in outputs:
            raise SignatureError(f'signature {signature!r:.200} must have one "->" between its inputs and its outputs')
        definition["inputs"] = _parse(inputs, "input")
        definition["outputs"] = _parse(outputs, "output")
    else:
        assert spec is not None
        _read_spec(spec, definition)
    names = [field["name"] for side in ("inputs", "outputs") for field in definition[side]]
    for name in names:
        if names.count(name) > 1:
            raise SignatureError(f"the field {name!r} is there more than once")
    for field in definition["inputs"]:
        if field["name"] in _TAKEN:
            raise SignatureError(f"an input can't be called {field['name']!r}: DSPy's modules use this argument")
    return definition


def _read_spec(spec: dict[str, Any], definition: dict[str, Any]) -> None:
    if not isinstance(spec, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SignatureError(f"`spec` is an object with {sorted(_SPEC_KEYS)}, not {type(spec).__name__}")
    if unknown := sorted(set(spec) - _SPEC_KEYS):
        raise SignatureError(f"`spec` has {unknown}, but only {sorted(_SPEC_KEYS)} are known")
    definition["name"] = _text(spec.get("name"), "`spec.name`")
    if definition["instructions"] is None:
        definition["instructions"] = _text(spec.get("description"), "`spec.description`")
    for side, one in (("inputs", "input"), ("outputs", "output")):
        fields = spec.get(side)
        if isinstance(fields, dict):
            fields = [{"name": name, **_from_short(field)} for name, field in fields.items()]
        if not isinstance(fields, list) or not fields:
            raise SignatureError(f"`spec.{side}` is a list of fields, or an object by name, and has at least one")
        definition[side] = [_read_field(field, f"{one} {index}", one) for index, field in enumerate(fields)]


def _from_short(field: Any) -> dict[str, Any]:
    return field if isinstance(field, dict) else {"type": field}


def _read_field(field: Any, what: str, side: str) -> dict[str, Any]:
    if isinstance(field, str):
        parsed = _parse(field, side)
        if len(parsed) != 1:
            raise SignatureError(f"{what} is {field!r}, which is more than one field")
        return parsed[0]
    if not isinstance(field, dict) or "name" not in field:
        raise SignatureError(f"{what} is an object with {sorted(_FIELD_KEYS)}, or text such as 'score: float'")
    if unknown := sorted(set(field) - _FIELD_KEYS):
        raise SignatureError(f"{what} ({field['name']!r}) has {unknown}, but only {sorted(_FIELD_KEYS)} are known")
    name, type_, description = field["name"], field.get("type"), field.get("description")
    if not isinstance(name, str) or not name.isidentifier():
        raise SignatureError(f"{what} is called {name!r}, which isn't a Python identifier")
    _text(type_, f"the type of field {name!r}")
    _text(description, f"the description of field {name!r}")
    parsed = _parse(name if type_ is None else f"{name}: {type_}", side)
    if len(parsed) != 1:
        raise SignatureError(f"the type of field {name!r} is {type_!r}, which is more than one field")
    return {**parsed[0], "description": description}


def _text(value: Any, what: str) -> str | None:
    if not isinstance(value, str | None):
        raise SignatureError(f"{what} is text, not {type(value).__name__}")
    return value


def _parse(side: str, kind: str) -> list[dict[str, Any]]:
    if not side.strip():
        raise SignatureError(f"the signature has no {kind}s")
    problem = f"the {kind}s {side.strip()!r:.200} aren't of the form `name: type, name: type`"
    try:
        body = ast.parse(f"def f({side}\n): pass").body
    except (SyntaxError, ValueError) as error:
        raise SignatureError(f"{problem}: {getattr(error, 'msg', error)}") from None
    function = body[0]
    if len(body) != 1 or not isinstance(function, ast.FunctionDef) or len(function.body) != 1:
        raise SignatureError(problem)
    given = function.args
    if given.posonlyargs or given.vararg or given.kwonlyargs or given.kwarg or given.defaults or function.returns:
        raise SignatureError(f"{problem}: there are no defaults, `*` or `/` in a signature")
    return [
        {
            "name": argument.arg,
            "type": None if argument.annotation is None else ast.unparse(argument.annotation),
            "description": None,
        }
        for argument in given.args
    ]


def build(definition: dict[str, Any]) -> Any:
    """The DSPy signature. Raises SignatureError that names the field."""
    types = {name: reference(target, f"type {name!r}") for name, target in definition["types"].items()}
    inputs, outputs = definition["inputs"], definition["outputs"]
    for field in (*inputs, *outputs):
        try:
            # With a dictionary, even an empty one, DSPy doesn't search its callers' variables for a type's name.
            dspy.Signature(f"{_field_text(field)} -> other_", custom_types=types)
        except Exception as error:
            raise SignatureError(f"field {field['name']!r} ({field['type'] or 'str'}): {error}") from error
    text = " -> ".join(", ".join(map(_field_text, side)) for side in (inputs, outputs))
    try:
        signature = dspy.Signature(text, definition["instructions"], custom_types=types)
        for field in (*inputs, *outputs):
            if field["description"] is not None:
                signature = signature.with_updated_fields(field["name"], desc=field["description"])
    except Exception as error:
        raise SignatureError(f"signature {text!r:.200}: {error}") from error
    made = [*signature.input_fields], [*signature.output_fields]
    if made != ([field["name"] for field in inputs], [field["name"] for field in outputs]):
        raise SignatureError(f"DSPy makes {made[0]} -> {made[1]} of signature {text!r:.200}")
    if definition["name"]:
        signature.__name__ = definition["name"]
    return signature


def _field_text(field: dict[str, Any]) -> str:
    return field["name"] if field["type"] is None else f"{field['name']}: {field['type']}"


def describe(definition: dict[str, Any]) -> dict[str, Any]:
    """For `info`: the text, and the fields with their types."""
    inputs, outputs = definition["inputs"], definition["outputs"]
    return {
        "text": " -> ".join(", ".join(map(_field_text, side)) for side in (inputs, outputs)),
        "name": definition["name"],
        "inputs": [{**field, "type": field["type"] or "str"} for field in inputs],
        "outputs": [{**field, "type": field["type"] or "str"} for field in outputs],
    }


# === What fits


def convert(fields: dict[str, Any], definitions: list[dict[str, Any]], values: Any, what: str) -> dict[str, Any]:
    """JSON values as the fields' types. Raises FieldError for missing, unknown and unfit ones, by name."""
    if not isinstance(values, dict):
        raise FieldError(f"{what} are an object by field name, not {type(values).__name__}")
    if unknown := [name for name in values if name not in fields]:
        raise FieldError(f"{what}: unknown {unknown}, the signature has {[*fields]}")
    missing = [name for name, field in fields.items() if name not in values and not _may_be_none(field.annotation)]
    if missing:
        raise FieldError(f"{what}: missing {missing}, the signature has {[*fields]}")
    untyped = {field["name"] for field in definitions if field["type"] is None}
    return {
        name: value if name in untyped else _convert_one(value, fields[name].annotation, f"{what}: field {name!r}")
        for name, value in values.items()
    }


def _convert_one(value: Any, annotation: Any, what: str) -> Any:
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = "".join(f"[{part!r}]" for part in first["loc"])
        raise FieldError(f"{what}{place}: {first['msg']} (got {first['input']!r:.100})") from None
    except (PydanticSchemaGenerationError, PydanticUserError):  # a type that pydantic knows nothing about
        return value


def _may_be_none(annotation: Any) -> bool:
    try:
        TypeAdapter(annotation).validate_python(None, strict=True)
    except Exception:
        return False
    return True
