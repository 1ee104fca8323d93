"""JSON records as text: the one way in which every command prints and writes them.

A record is a table that names its `schema`. What stands in long lists (modules, tensors) takes one line an
entry, so that a record of thousands of modules is small, and two of them can be compared by `diff`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def record_text(record: Mapping[str, Any]) -> str:
    """Write a record: a key a line, and an entry a line in lists of tables. No newline at the end.

    >>> print(record_text({"schema": "x/1", "modules": [{"path": "a"}, {"path": "b"}]}))
    {
      "schema": "x/1",
      "modules": [
        {"path": "a"},
        {"path": "b"}
      ]
    }
    """
    return "{\n" + ",\n".join(f"  {_json(key)}: {_value(value)}" for key, value in record.items()) + "\n}"


def _value(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        return "[\n" + ",\n".join(f"    {_json(entry)}" for entry in value) + "\n  ]"
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
