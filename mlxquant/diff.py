"""Two recipes, plans or builds, module by module: which differ, in what, and what that costs.

A plan record and an audit record list the same things of each module (path, role, layer, format, dtype, bytes,
reason), so any two of them can be compared, whoever made the build. Only records are looked at here; the bytes
of two builds are compared in `build_distance`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .errors import UsageError
from .formats import Format
from .layers import layers_text

SCHEMA = "mlxquant.diff/1"
SIDES = ("mlxquant.plan/1", "mlxquant.audit/1")

Record = Mapping[str, Any]


def diff_records(a: Record, b: Record, names: tuple[str, str]) -> dict[str, Any]:
    """Compare two plan or audit records; the result is a record of its own.

    `changes` holds every module whose stored form differs, `groups` the same by role, layer type and change,
    with their layers. Raises UsageError for anything but plan and audit records.
    """
    for record, name in zip((a, b), names, strict=True):
        if record.get("schema") not in SIDES:
            raise UsageError(f"{name}: a plan or audit record expected, schema {record.get('schema')!r} found")
    left, right = ({m["path"]: m for m in r["modules"]} for r in (a, b))
    changes = [
        _change(left[path], right[path])
        for path in left
        if path in right and (stored(left[path]) != stored(right[path]) or left[path]["bytes"] != right[path]["bytes"])
    ]
    totals = [_totals(r) for r in (a, b)]
    from . import __version__

    return {
        "schema": SCHEMA,
        "mlxquant": __version__,
        "a": {"name": names[0], "recipe": a.get("recipe"), "source": a.get("source"), "totals": totals[0]},
        "b": {"name": names[1], "recipe": b.get("recipe"), "source": b.get("source"), "totals": totals[1]},
        "delta": {k: _minus(totals[1][k], totals[0][k]) for k in totals[0]},
        "groups": _groups(changes),
        "changes": changes,
        "only_in_a": [p for p in left if p not in right],
        "only_in_b": [p for p in right if p not in left],
    }


def stored(module: Record) -> str:
    """How a module of a record is stored, in a word. ``"8-bit g64"``, or its dtype: ``"bf16"``."""
    return str(Format.from_dict(module["format"])) if module["format"] else str(module["dtype"]).lower()


def _change(a: Record, b: Record) -> dict[str, Any]:
    return {
        "path": a["path"],
        "role": a["role"],
        "layer": a["layer"],
        "layer_type": a["layer_type"],
        "parameters": a["parameters"],
        "a": _side(a),
        "b": _side(b),
        "delta_bytes": b["bytes"] - a["bytes"],
    }


def _side(module: Record) -> dict[str, Any]:
    errors = module.get("errors") or {}
    return {
        "stored": stored(module),
        "format": module["format"],
        "dtype": module["dtype"],
        "bytes": module["bytes"],
        "protected": module["protected"],
        "relative_rms_error": errors.get("relative_rms_error"),
        "reason": module["reason"],
    }


def _groups(changes: Sequence[Record]) -> list[dict[str, Any]]:
    """Changes of the same kind together: role, layer type, and what is stored on each side."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for c in changes:
        found.setdefault((c["role"], c["layer_type"], c["a"]["stored"], c["b"]["stored"]), []).append(c)
    groups = []
    for (role, layer_type, a, b), members in found.items():
        layers = [m["layer"] for m in members if m["layer"] is not None]
        groups.append(
            {
                "role": role,
                "layer_type": layer_type,
                "layers": layers_text(layers) if layers else [],
                "modules": len(members),
                "parameters": sum(m["parameters"] for m in members),
                "a": a,
                "b": b,
                "a_bytes": sum(m["a"]["bytes"] for m in members),
                "b_bytes": sum(m["b"]["bytes"] for m in members),
                "delta_bytes": sum(m["delta_bytes"] for m in members),
                "a_relative_rms_error": _largest(m["a"]["relative_rms_error"] for m in members),
                "b_relative_rms_error": _largest(m["b"]["relative_rms_error"] for m in members),
                "a_reasons": sorted({m["a"]["reason"] for m in members}),
                "b_reasons": sorted({m["b"]["reason"] for m in members}),
            }
        )
    return sorted(groups, key=lambda g: -abs(g["delta_bytes"]))


def _totals(record: Record) -> dict[str, Any]:
    totals = record["totals"]
    return {
        "bytes": totals["bytes"],
        "bpw": totals["bpw"],
        "active_bytes_per_token": totals.get("active_bytes_per_token"),
        "protected": record["protected"]["modules"],
    }


def _minus(b: Any, a: Any) -> Any:
    return None if a is None or b is None else b - a


def _largest(values: Iterable[float | None]) -> float | None:
    return max((v for v in values if v is not None), default=None)
