"""JSON records as text: the one way in which every command prints, writes and reads them.

A record is a table that names its `schema`. What stands in long lists (modules, tensors) takes one line an
entry, so that a record of thousands of modules is small, and two of them can be compared by `diff`. Records are
read as if a stranger had written them; what they must hold stands in `schemas`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..disk.files import read_regular
from ..errors import RecordError
from ..words.secrets import redacted
from ..words.strict_json import deeper_than
from ..words.text import json_escaped, plain_texts, printable
from .schemas import check

_DIGITS = 25  # of a whole number of 64 bits, with room for zeros
_DEEPEST = 50  # tables within tables; records have six or so, and code that walks them may recurse


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
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None
    return parse_record(text, str(path)), hashlib.sha256(text).hexdigest()


def read_checked(path: Path, kind: str) -> dict[str, Any]:
    """Read a whole record of one kind. Raises RecordError with what is wrong with it."""
    record = read_record(path)
    check(record, str(path), kinds=(kind,), whole=True)
    return record


def parse_record(text: bytes, where: str) -> dict[str, Any]:
    """Parse a record as `read_hashed` does. Raises RecordError, naming `where`."""
    try:
        record = _parsed(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}: a JSON record expected: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("schema"), str):
        raise RecordError(f"{where}: no record of mlxquant: it names no schema; give what a command's --json printed")
    return record


def _parsed(text: bytes) -> Any:
    value = json.loads(
        text, parse_float=_finite, parse_int=_whole, parse_constant=lambda _: None, object_pairs_hook=unique_keys
    )
    if re.search(rb"\\u[dD][89a-fA-F]", text):  # a half of a pair is no text: nothing could write or show it
        whole = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        value = json.loads(whole, object_pairs_hook=unique_keys)
    if deeper_than(value, _DEEPEST):
        raise ValueError(f"tables within tables more than {_DEEPEST} deep")
    return value if text.isascii() and b"\\" not in text else plain_texts(value)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a table of JSON's pairs, for `object_pairs_hook`. Raises ValueError for a key that stands twice.

    JSON leaves open which of the two counts, so a reader and a checker could each see another value.
    """
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {printable(twice[:80])} stands twice")
    return table


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
    return json_escaped(json.dumps(value, ensure_ascii=False, allow_nan=False))


def _whole(text: str) -> int:
    value = int(text) if len(text) <= _DIGITS else None
    if value is None or abs(value) >= 1 << 64:
        raise ValueError(f"a whole number of {len(text):,} digits; none of more than 64 bits is a figure")
    return value


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None
