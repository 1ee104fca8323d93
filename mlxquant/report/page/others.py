"""Sections for diff records, for records that this version does not know, and for where everything comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...records.diff import diff_records
from ...records.loading import (
    ALLOCATE,
    BENCH,
    COMPARE,
    DIFF,
    EVAL,
    PREDICTIONS,
    RESULTS,
    ROLLOUT,
    SIDES,
    SWEEP,
    TAU2,
    VALIDATE,
    Loaded,
)
from ...words.text import cut, percent_digits, some
from ...words.units import show_bytes
from ..common import machine_text, recipe_text, short_layer
from .builds import Model

_KNOWN = (*SIDES, DIFF, BENCH, *PREDICTIONS, COMPARE, EVAL, SWEEP, ALLOCATE, TAU2, RESULTS, ROLLOUT, VALIDATE)
_TEXT, _ROWS, _COLUMNS, _FACTS = 200, 20, 8, 60
_LABELS = (
    ("bytes", "bytes", ",", "+,"),
    ("active_bytes_per_token", "read for a token", ",", "+,"),
    ("protected", "protected modules", ",", "+,"),
    ("bpw", "bits per weight", ".4f", "+.4f"),
)


def differences(model: Model, diffs: Sequence[Loaded]) -> Iterator[dict[str, Any]]:
    """What sets each later side of a model apart from the first, unless a diff record of the two was given."""
    first = model.sides[0]
    known = {(d.record["a"]["name"], d.record["b"]["name"]) for d in diffs}
    for side in model.sides[1:]:
        if (first.loaded.name, side.loaded.name) not in known:
            names = (f"{first.letter} {first.name}", f"{side.letter} {side.name}")
            yield show_diff(diff_records(first.record, side.record, names), names)


def show_diff(record: Mapping[str, Any], names: tuple[str, str] | None = None) -> dict[str, Any]:
    """Lay a diff record out: totals, groups of changes, reasons; `names` are the sides' on the page."""
    a, b, delta = record["a"]["totals"], record["b"]["totals"], record["delta"]
    return {
        "names": names or _names(record["a"], record["b"]),
        "totals": [
            (label, _form(a.get(key), form), _form(b.get(key), form), _form(delta.get(key), plus).replace("-", "−"))
            for key, label, form, plus in _LABELS
            if _is_number(a.get(key)) or _is_number(b.get(key))
        ],
        "groups": [_group(group) for group in record["groups"]],
        "one_sided": [(side, _listed(record.get(f"only_in_{side}"))) for side in ("a", "b")],
        "tensors": _tensors(record.get("tensors")),
        "notes": record.get("notes", []),
    }


def _names(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, str]:
    """Two sides by their recipes where these differ, else by the names that the record has for them."""
    recipes = [recipe_text(side["recipe"]) if side.get("recipe") else "" for side in (a, b)]
    if all(recipes) and recipes[0] != recipes[1]:
        return recipes[0], recipes[1]
    return str(a["name"]), str(b["name"])


def _group(group: Mapping[str, Any]) -> dict[str, Any]:
    layers = ", ".join(str(part) for part in group["layers"])
    kind = short_layer(group["layer_type"]) if group.get("layer_type") else ""
    size = group["delta_bytes"]
    errors = [group.get(f"{side}_relative_rms_error") for side in ("a", "b")]
    return {
        "role": group["role"],
        "layers": f"{kind} {layers}".strip() or "-",
        "modules": group["modules"],
        "a": group["a"],
        "b": group["b"],
        "delta": ("+" if size >= 0 else "−") + show_bytes(abs(size), 1),
        "errors": " → ".join(percent_digits(e) for e in errors) if errors != [None, None] else "",
        "reasons": [(side, group[f"{side}_reasons"]) for side in ("a", "b")],
    }


def _tensors(tensors: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a diff of two builds says of their bytes; distances by role are the command's to print."""
    if tensors is None:
        return None
    same = tensors["same_format"]
    distances = [
        (d["path"], d["a"], d["b"], percent_digits(d["relative_rms_distance"]))
        for d in tensors["other_format"]
        if d["relative_rms_distance"] is not None
    ]
    return {"equal": same["equal"], "modules": same["modules"], "distances": distances[:_ROWS]}


def _listed(paths: Any) -> str:
    return some(_texts(paths))


# --- records of other kinds ---


def unknown(records: Sequence[Loaded]) -> Iterator[dict[str, Any]]:
    """A record of a schema that has no section here: its facts, as far as its top level goes."""
    for loaded in records:
        facts, tables = list[tuple[str, str]](), list[dict[str, Any]]()
        for key, value in loaded.record.items():
            if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
                tables.append(_small_table(key, value))
            elif isinstance(value, Mapping):
                facts += [(f"{key}: {k}", _short(v)) for k, v in value.items()]
            elif key != "schema":
                facts.append((key, _short(value)))
        yield {"loaded": loaded, "facts": facts[:_FACTS], "more": max(0, len(facts) - _FACTS), "tables": tables}


def _small_table(key: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    columns = list(dict.fromkeys(k for e in entries[:_ROWS] for k in e))[:_COLUMNS]
    rows = [[_short(entry.get(column, "")) for column in columns] for entry in entries[:_ROWS]]
    return {"name": key, "columns": columns, "rows": rows, "more": len(entries) - len(rows)}


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a table of {len(value):,}"
    if isinstance(value, list) and (len(value) > 8 or any(isinstance(v, list | Mapping) for v in value)):
        return f"a list of {len(value):,}"
    if isinstance(value, list):
        return ", ".join(_short(v) for v in value) or "none"
    if type(value) is int:
        return f"{value:,}"
    text = (
        {None: "-", True: "yes", False: "no"}.get(value, str(value)) if not isinstance(value, float) else f"{value:g}"
    )
    return cut(text, _TEXT, at="end")


# --- provenance ---


def provenance(records: Sequence[Loaded]) -> list[dict[str, Any]]:
    """Where every record comes from: versions, source, recipe, machine, hash of the file."""
    return [
        {
            "file": loaded.file,
            "schema": loaded.schema,
            "sha256": loaded.sha256,
            "facts": [(label, text) for label, text in _origin(loaded.record) if text],
        }
        for loaded in records
    ]


def _origin(record: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    source, recipe, versions = record.get("source"), record.get("recipe"), record.get("versions")
    if isinstance(record.get("mlxquant"), str):
        yield "mlxquant", record["mlxquant"]
    if isinstance(source, Mapping):
        kind = {"config": "config.json alone", "checkpoint": "headers"}.get(str(source.get("kind")))
        at = f" at {source['revision']}" if source.get("revision") else ""
        yield "source", f"{source.get('name')}{at}" + (f", {kind}" if kind else "")
    elif "source" in record and source is None:
        yield "source", "not known"
    if isinstance(recipe, Mapping):
        changed = [str(o) for o in recipe.get("overrides") or []]
        yield "recipe", str(recipe.get("name")) + (f", changed by {', '.join(changed)}" if changed else "")
        yield "recipe's sha256", str(recipe.get("sha256") or "") or None
    yield "machine", machine_text(record.get("machine"))
    if isinstance(versions, Mapping):
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def is_unknown(loaded: Loaded) -> bool:
    """Whether this version has no section for a record."""
    return loaded.schema not in _KNOWN


def _form(value: Any, form: str) -> str:
    return f"{value:{form}}" if _is_number(value) else "-"


def _texts(value: Any) -> list[str]:
    return [str(text) for text in value] if isinstance(value, list) else []


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
