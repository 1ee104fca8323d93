"""What a schema leaves unsaid of a record."""

from __future__ import annotations

from typing import Any

from mlxquant.records.schemas.validation import load_schema


def unnamed(schema: Any, value: Any, at: str = "") -> set[str]:
    """Fields of a record that its schema does not name, where it names some."""
    if "$ref" in schema:
        schema = load_schema("common")["$defs"][schema["$ref"].rpartition("/")[2]]
    if isinstance(value, list):
        return {place for entry in value for place in unnamed(schema.get("items", {}), entry, f"{at}[]")}
    if not isinstance(value, dict):
        return set()
    named, others = schema.get("properties"), schema.get("additionalProperties", {})
    silent = {f"{at}.{key}" for key in value if named is not None and key not in named and not others}
    inner = [unnamed((named or {}).get(key, others), entry, f"{at}.{key}") for key, entry in value.items()]
    return silent.union(*inner)
