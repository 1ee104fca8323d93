"""JSON records as text: the one way in which every command prints, writes and reads them.

A record is a table that names its `schema`. What stands in long lists (modules, tensors) takes one line an
entry, so that a record of thousands of modules is small, and two of them can be compared by `diff`. Records are
read as if a stranger had written them: what a reader counts on is checked first, and all faults are told at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..disk.files import read_regular
from ..errors import RecordError
from ..words.formats import Format
from ..words.secrets import redacted
from ..words.text import listed

_NUMBER = (int, float)
_MAYBE = type(None)

# What plan and audit records say of each module, and of all of them
_MODULE: dict[str, tuple[type, ...]] = {
    "path": (str,), "role": (str,), "layer": (int, _MAYBE), "layer_type": (str, _MAYBE), "shape": (list,),
    "parameters": (int,), "format": (dict, _MAYBE), "dtype": (str,), "bytes": (int,), "protected": (bool,),
    "rule": (str, _MAYBE), "reason": (str,), "errors": (dict, _MAYBE),
}  # fmt: skip
_ERRORS: dict[str, tuple[type, ...]] = {"relative_rms_error": (*_NUMBER, _MAYBE)}
_TOTALS: dict[str, tuple[type, ...]] = {
    "parameters": (int,), "bytes": (int,), "bpw": (*_NUMBER, _MAYBE), "active_bytes_per_token": (int, _MAYBE),
}  # fmt: skip
_DEEPEST = 10_000
_DIGITS = 300  # of a whole number; a float holds 308
_OPTIONAL = {"rule", "errors", "active_bytes_per_token"}


def record_text(record: Mapping[str, Any]) -> str:
    """Write a record: a key a line, and an entry a line in lists of tables; no secrets, and no newline at the end.

    >>> print(record_text({"schema": "x/1", "modules": [{"path": "a"}, {"path": "b"}]}))
    {
      "schema": "x/1",
      "modules": [
        {"path": "a"},
        {"path": "b"}
      ]
    }
    """
    lines = (f"  {_json(key)}: {_value(value)}" for key, value in redacted(record).items())
    return "{\n" + ",\n".join(lines) + "\n}"


def read_record(path: Path) -> dict[str, Any]:
    """Read a record, as `read_hashed` does, without its hash."""
    record, _ = read_hashed(path)
    return record


def read_hashed(path: Path) -> tuple[dict[str, Any], str]:
    """Read a record once: what it says, and the SHA-256 of the very bytes that said so.

    NaN and infinity, which JSON has no words for, come out as None, halves of surrogates as "?". Raises RecordError
    for what cannot be read, is no table, does not name its schema, has a key twice or a number that no float can hold.
    """
    try:
        text = read_regular(path)
        record = _parsed(text)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: a JSON record expected: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("schema"), str):
        raise RecordError(f"{path}: no record of mlxquant: it names no schema; give what a command's --json printed")
    return record, hashlib.sha256(text).hexdigest()


def read_checked(
    path: Path, schema: str, command: str, problems_of: Callable[[Mapping[str, Any]], Iterable[str]]
) -> dict[str, Any]:
    """Read a record of one kind, which `command` writes. Raises RecordError with all that `problems_of` finds."""
    record = read_record(path)
    if record["schema"] != schema:
        raise RecordError(f"{path}: schema {schema} expected, {record['schema']!r} found; give what {command} -o wrote")
    problems = list(problems_of(record))
    if problems:
        raise RecordError(listed([f"{path}: {problem}" for problem in problems], limit=5))
    return record


def _parsed(text: bytes) -> Any:
    value = json.loads(
        text, parse_float=_finite, parse_int=_whole, parse_constant=lambda _: None, object_pairs_hook=unique_keys
    )
    if re.search(rb"\\u[dD][89a-fA-F]", text):  # a half of a pair is no text: nothing could write or show it
        whole = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        value = json.loads(whole, object_pairs_hook=unique_keys)
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a table of JSON's pairs, for `object_pairs_hook`. Raises ValueError for a key that stands twice.

    JSON leaves open which of the two counts, so a reader and a checker could each see another value.
    """
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {_short(twice)} stands twice")
    return table


def _short(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:80])


def check_modules(record: Mapping[str, Any], where: str) -> None:
    """Check that a plan or audit record has what its schema promises. Raises RecordError with all that it lacks."""
    problems = list(_module_problems(record))
    problems += _faults(record, {"source": (dict, _MAYBE), "recipe": (dict, _MAYBE)}, "record")
    problems += _faults(record.get("totals"), _TOTALS, "totals")
    problems += _faults(record.get("protected"), {"modules": (int,)}, "protected")
    if problems:
        raise RecordError(listed([f"{where}: {record.get('schema')}: {problem}" for problem in problems], limit=5))


def _module_problems(record: Mapping[str, Any]) -> Iterator[str]:
    modules = record.get("modules")
    if not isinstance(modules, list):
        yield f"modules: a list expected, {type(modules).__name__} found"
        return
    seen = set()
    for number, module in enumerate(modules):
        place = f"modules[{number}]"
        faults = list(_faults(module, _MODULE, place))
        yield from faults
        if faults:
            continue
        if module["path"] in seen:
            yield f"{place}: {module['path']!r} stands twice"
        seen.add(module["path"])
        yield from _impossible(module, place)
        try:
            if module["format"] is not None:
                Format.from_dict(module["format"])
        except (KeyError, TypeError, ValueError):
            yield f"{place}: {module['format']} is no format: bits and group_size expected"
        if module.get("errors") is not None:
            yield from _faults(module["errors"], _ERRORS, f"{place}: errors")


def _impossible(module: Mapping[str, Any], place: str) -> Iterator[str]:
    """Numbers that no model has; what counts layers would count for ever."""
    if any(type(n) is not int for n in module["shape"]):
        yield f"{place}: shape is {str(module['shape'])[:40]}, a list of ints expected"
    if not all(0 <= module[key] < 1 << 63 for key in ("bytes", "parameters")):
        yield f"{place}: bytes and parameters lie between 0 and 2**63"
    if module["layer"] is not None and not 0 <= module["layer"] < _DEEPEST:
        yield f"{place}: layer is {module['layer']}, 0 to {_DEEPEST - 1} expected"


def _faults(table: Any, expected: Mapping[str, tuple[type, ...]], place: str) -> Iterator[str]:
    """What a table lacks or has of the wrong type; True is no int here."""
    if not isinstance(table, dict):
        yield f"{place}: a table expected, {type(table).__name__} found"
        return
    for key, types in expected.items():
        if key not in table and key in _OPTIONAL:
            continue
        if type(table.get(key)) is int and abs(table[key]) >= 1 << 63:
            yield f"{place}: {key} is larger than any model's"
        elif key not in table or type(table[key]) not in types:
            found = repr(table[key])[:40] if key in table else "nothing"
            names = " or ".join("null" if t is _MAYBE else t.__name__ for t in types)
            yield f"{place}: {key} is {found}, {names} expected"


def _value(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        return "[\n" + ",\n".join(f"    {_entry(entry)}" for entry in value) + "\n  ]"
    return _entry(value) if isinstance(value, dict) else _json(value)


def _entry(entry: dict[str, Any]) -> str:
    """A table on a line; one with `measurements`, of which there are hundreds, has a line for each of them."""
    measured = entry.get("measurements")
    if not (isinstance(measured, list) and measured):
        return _json(entry)
    lines = ",\n".join(f"      {_json(m)}" for m in measured)
    others = {key: value for key, value in entry.items() if key != "measurements"}
    return f'{_json(others)[:-1]}{", " if others else ""}"measurements": [\n{lines}\n    ]}}'


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {len(text):,} digits, which is larger than any figure")
    return int(text)


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None
