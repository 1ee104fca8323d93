"""Records held against their JSON Schemas by `jsonschema`, in our own words and fast enough for long lists.

`jsonschema` walks every value in Python, which takes seconds for a comparison of ten thousand measurements. Those have
a few dozen shapes: the same fields with values of the same types. So an entry of a list, or of a table of arbitrary
names, is held against the schema only if none of its shape has passed before. A shape keeps all that a schema here can
ask for: the type of a value, on which side of every bound a number lies, and the value itself where a field is limited
to certain texts. The answer is the same as without. 14,329 measurements: 0.07 s in place of 0.75.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from ...words.text import printable

Schema = Mapping[str, Any]
_FIRST = "urn:mlxquant:"
_COMMON = "common"
_MOST_SHAPES = 100_000
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_LITERAL = ("enum", "const", "pattern")
_WORDS = {
    "object": "a table", "array": "a list", "string": "a text", "integer": "a whole number", "number": "a number",
    "boolean": "true or false", "null": "null",
}  # fmt: skip


def faults(kind: str, record: Mapping[str, Any], only: Sequence[str] = ()) -> Iterator[str]:
    """Every place where a record is not what its schema says: path, expected, found.

    With `only`, these top-level fields alone are needed and checked; one that the kind does not name, such as the
    machine in an audit, as common.json has it.
    """
    before = None
    for error in _validator(kind, tuple(only)).iter_errors(record):
        place = path_of(error.absolute_path)
        if place != before:  # a text in the place of a number is not also too small
            yield f"{place}: {_expected(error)} expected, {_found(error)} found"
        before = place


def missing(record: Mapping[str, Any], path: str) -> Iterator[str]:
    """Where a field is not there, or null, in a record that is as its schema says.

    ``"data"``; ``"baseline.serving"`` of a table that must be there, ``"baseline?.counts"`` of one that need not;
    ``"candidates[].serving"`` of every entry of a list.
    """
    first, _, rest = path.partition(".")
    key = first.rstrip("[]?")
    value = record.get(key)
    if value is None:
        if not first.endswith("?"):
            yield f"{key}: expected, nothing found"
    elif first.endswith("[]"):
        for number, entry in enumerate(value):
            yield from (f"{key}[{number}].{fault}" for fault in missing(entry, rest))
    elif rest:
        yield from (f"{key}.{fault}" for fault in missing(value, rest))


def path_of(parts: Sequence[str | int]) -> str:
    """A place in a record as a reader writes it: ``"candidates[0].measurements[3].n"``."""
    text = ""
    for part in parts:
        name = printable(str(part)[:60])
        text += f"[{part}]" if isinstance(part, int) else f".{name}" if text else name
    return text or "the record"


def load_schema(name: str) -> dict[str, Any]:
    """A schema as it lies beside this module."""
    schema: dict[str, Any] = json.loads(files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return schema


# --- words ---


def _expected(error: Any) -> str:
    """What a schema asks for at the place of an error."""
    value = error.validator_value
    if error.validator in ("type", "required"):
        return _type_words(value)
    if error.validator == "enum":
        return f"one of {', '.join(map(str, value))}"
    if error.validator == "const":
        return str(value)
    if error.validator == "minItems":
        return "a list of at least one"
    if error.validator == "pattern":
        examples = error.schema.get("examples", ())
        return f"a text such as {' or '.join(map(str, examples))}" if examples else f"a text like {value}"
    bound = {"minimum": "or more", "maximum": "or less", "exclusiveMinimum": "above", "exclusiveMaximum": "below"}
    words = bound[error.validator]
    return f"{value} {words}" if words.startswith("or") else f"a number {words} {value}"


def _type_words(types: str | Sequence[str]) -> str:
    words = [_WORDS[t] for t in ([types] if isinstance(types, str) else types)]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _found(error: Any) -> str:
    """What stands there instead, short; of a table or a list only what it is."""
    if error.validator == "required":
        return "nothing"
    value = error.instance
    if error.validator == "minItems":
        return "an empty one"
    if isinstance(value, dict | list) and error.validator == "type":
        return _WORDS["object" if isinstance(value, dict) else "array"]
    text = printable(json.dumps(value, ensure_ascii=False)[:100])
    return text if len(text) <= 40 else f"{text[:39]}…"


# --- jsonschema, with lists and tables by shape ---


@cache
def _validator(kind: str, only: tuple[str, ...]) -> Any:
    """The validator of a kind of record."""
    from jsonschema import Draft202012Validator  # here, for it takes a tenth of a second
    from jsonschema.validators import extend
    from referencing import Registry, Resource

    schema, common = load_schema(kind), load_schema(_COMMON)
    if only:
        named = schema["properties"]
        fields = {key: named.get(key, {"$ref": f"{_FIRST}{_COMMON}#/$defs/{key}"}) for key in only}
        schema = schema | {"required": list(only), "properties": fields}
    checker = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: type(value) is int,
            "number": lambda _, value: type(value) in (int, float),
        }
    )
    entries = _Entries(_shapes((schema, common)))
    by_shape = extend(
        Draft202012Validator,
        {"items": entries.items, "additionalProperties": entries.additional, "required": _required},
        type_checker=checker,
    )
    registry = Registry().with_resource(f"{_FIRST}{_COMMON}", Resource.from_contents(common))
    return by_shape(schema, registry=registry)


class _Entries:
    """The keywords for what is in lists and in tables of arbitrary names, which pass over shapes that have passed."""

    def __init__(self, shape: Callable[[Any, bool], Any]) -> None:
        self._shape = shape
        self._sound: set[tuple[int, Any]] = set()  # (the schema's identity, a shape)

    def items(self, validator: Any, schema: Schema, instance: Any, _: Schema) -> Iterator[Any]:
        if isinstance(instance, list):
            yield from self._check(validator, schema, enumerate(instance))

    def additional(self, validator: Any, schema: Schema, instance: Any, parent: Schema) -> Iterator[Any]:
        if isinstance(instance, dict):
            named = parent.get("properties", {})
            yield from self._check(validator, schema, ((k, v) for k, v in instance.items() if k not in named))

    def _check(self, validator: Any, schema: Schema, entries: Iterable[tuple[str | int, Any]]) -> Iterator[Any]:
        if len(self._sound) > _MOST_SHAPES:
            self._sound.clear()
        exact = any(key in schema for key in _LITERAL)
        for place, entry in entries:
            key = id(schema), self._shape(entry, exact)
            if key in self._sound:
                continue
            errors = list(validator.descend(entry, schema, path=place))
            yield from errors
            if not errors:
                self._sound.add(key)


def _required(_: Any, required: Sequence[str], instance: Any, schema: Schema) -> Iterator[Any]:
    """Each field that is not there, at its own path and with what its schema asks for."""
    from jsonschema import ValidationError

    for key in required if isinstance(instance, dict) else ():
        if key not in instance:
            of = schema.get("properties", {}).get(key, {})
            yield ValidationError("missing", path=(key,), validator="required", validator_value=_types_of(of))


def _types_of(schema: Schema) -> Any:
    """What a field is, in types; of one that is defined elsewhere, what stands there."""
    if "$ref" in schema:
        return _types_of(load_schema(_COMMON)["$defs"][str(schema["$ref"]).rpartition("/")[2]])
    return schema.get("type", "string")


def _shapes(schemas: Sequence[Schema]) -> Callable[[Any, bool], Any]:
    """A function that gives two values one shape only if these schemas cannot tell them apart.

    Its second argument says that texts in the value are limited to certain ones.
    """
    bounds, literal = set[float](), set[str]()
    for schema in schemas:
        _collect(schema, "", bounds, literal)
    ends = sorted(bounds)

    def shape(value: Any, exact: bool) -> Any:
        kind = type(value)
        if kind is str:
            return value if exact else str
        if kind is int or kind is float:
            return kind, bisect_left(ends, value), bisect_right(ends, value)
        if kind is dict:
            return tuple((key, shape(entry, exact or key in literal)) for key, entry in value.items())
        if kind is list:
            return list, bool(value), frozenset(shape(entry, exact) for entry in value)
        return kind

    return shape


def _collect(schema: Any, name: str, bounds: set[float], literal: set[str]) -> None:
    """Gather every bound of a number, and the names of fields that are limited to certain texts."""
    if isinstance(schema, list):
        for entry in schema:
            _collect(entry, name, bounds, literal)
    if not isinstance(schema, Mapping):
        return
    bounds.update(schema[key] for key in _BOUNDS if type(schema.get(key)) in (int, float))
    if any(key in schema for key in _LITERAL):
        literal.add(name)
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            for field, inner in value.items():
                _collect(inner, field, bounds, literal)
        elif key in ("items", "additionalProperties", "propertyNames"):
            _collect(value, name, bounds, literal)
