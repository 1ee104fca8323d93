"""Two recipes, plans or builds, module by module: which differ, in what, and what that costs.

A plan record and an audit record list the same things of each module (path, role, layer, format, dtype, bytes,
reason), so any two of them can be compared, whoever made the build. Only records are looked at here; the bytes
of two builds are compared in `build_distance`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..words.layers import layers_text
from .head import head
from .modules import relative_error, stored_as
from .schemas import check

SCHEMA = "mlxquant.diff/1"
SIDES = ("plan", "audit")

Record = Mapping[str, Any]


def diff_records(a: Record, b: Record, names: tuple[str, str]) -> dict[str, Any]:
    """Compare two plan or audit records; the result is a record of its own.

    `changes` holds every module whose stored form differs, `groups` the same by role and change, with their
    layers. Raises RecordError for anything but whole plan and audit records.
    """
    for record, name in zip((a, b), names, strict=True):
        check_side(record, name)
    left, right = ({m["path"]: m for m in r["modules"]} for r in (a, b))
    common = [path for path in left if path in right]
    changes = [
        _change(left[path], right[path])
        for path in common
        if stored_as(left[path]) != stored_as(right[path]) or left[path]["bytes"] != right[path]["bytes"]
    ]
    reshaped = [path for path in common if left[path]["shape"] != right[path]["shape"]]
    totals = [_totals(r) for r in (a, b)]
    return {
        **head(SCHEMA),
        "a": {"name": names[0], "recipe": a["recipe"], "source": a["source"], "totals": totals[0]},
        "b": {"name": names[1], "recipe": b["recipe"], "source": b["source"], "totals": totals[1]},
        "delta": {k: _minus(totals[1][k], totals[0][k]) for k in totals[0]},
        "common": len(common),
        "groups": _groups(changes, _layers_by_type(a["modules"])),
        "changes": changes,
        "only_in_a": [p for p in left if p not in right],
        "only_in_b": [p for p in right if p not in left],
        "notes": [*_notes(common, reshaped), *_doubts((a, b), names)],
    }


def check_side(record: Record, where: str) -> None:
    """Check that this is a whole plan or audit record. Raises RecordError."""
    check(record, where, kinds=SIDES)


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
    return {
        "stored": stored_as(module),
        "format": module["format"],
        "dtype": module["dtype"],
        "bytes": module["bytes"],
        "protected": module["protected"],
        "relative_rms_error": relative_error(module),
        "reason": module["reason"],
    }


def _layers_by_type(modules: Iterable[Record]) -> dict[str | None, set[int]]:
    """The layers of each type, and of the whole model under None."""
    layers: dict[str | None, set[int]] = {None: set()}
    for m in modules:
        if m["layer"] is not None and m["layer_type"] is not None:
            layers.setdefault(m["layer_type"], set()).add(m["layer"])
            layers[None].add(m["layer"])
    return layers


def _groups(changes: Sequence[Record], by_type: Mapping[str | None, set[int]]) -> list[dict[str, Any]]:
    """Changes of the same kind together: role, and what is stored on each side. The most bytes come first."""
    by_change: dict[tuple[str, str, str], list[Record]] = {}
    for c in changes:
        by_change.setdefault((c["role"], c["a"]["stored"], c["b"]["stored"]), []).append(c)
    groups = [_group(*key, members, by_type) for key, members in by_change.items()]
    return sorted(groups, key=lambda g: -abs(g["delta_bytes"]))


def _group(
    role: str, a: str, b: str, members: Sequence[Record], by_type: Mapping[str | None, set[int]]
) -> dict[str, Any]:
    """`layer_type` is that of all members, None where they are of several; `every` says that it has no other layers."""
    layers = {m["layer"] for m in members if m["layer"] is not None}
    types = {m["layer_type"] for m in members}
    layer_type = types.pop() if len(types) == 1 else None
    return {
        "role": role,
        "layer_type": layer_type,
        "layers": layers_text(sorted(layers)) if layers else [],
        "every": bool(layers) and layers == by_type.get(layer_type),
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


def _totals(record: Record) -> dict[str, Any]:
    totals = record["totals"]
    return {
        "bytes": totals["bytes"],
        "bpw": totals["bpw"],
        "active_bytes_per_token": totals.get("active_bytes_per_token"),
        "protected": record["protected"]["modules"],
    }


def _notes(common: Sequence[str], reshaped: Sequence[str]) -> list[str]:
    """What makes a comparison mean less than it seems to."""
    if not common:
        return ["the two have no module in common: are they builds of the same model?"]
    if reshaped:
        return [
            f"{len(reshaped):,} of {len(common):,} modules have other shapes ({reshaped[0]}):"
            " these are two models, not two builds of one"
        ]
    return []


def _doubts(records: Iterable[Record], names: Iterable[str]) -> Iterator[str]:
    """Builds whose files contradict each other; what is compared is what their shards hold."""
    for record, name in zip(records, names, strict=True):
        disagreements = record.get("disagreements")
        if isinstance(disagreements, list) and disagreements:
            many = "s" if len(disagreements) > 1 else ""
            yield f"{name}: {len(disagreements):,} disagreement{many} in this build; `mlxquant audit` lists them"


def _minus(b: Any, a: Any) -> Any:
    return None if a is None or b is None else b - a


def _largest(values: Iterable[float | None]) -> float | None:
    return max((v for v in values if v is not None), default=None)
