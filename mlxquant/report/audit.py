"""An audit record for a terminal of 80 columns, and as CSV. Pure functions of the record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..records.modules import format_of, grouped
from ..words.text import cut, filled, table
from ..words.units import show_bytes
from .audit_markdown import bits, by_role, protected_text, unaligned_of, worst_row
from .common import error_text, inputs_text, methods_text, provider_text, recipe_text, short_layer, smaller_groups_text
from .tables import csv_text

_SHOWN = 20
_PATH = 36
_COLUMNS = (
    "path", "kind", "role", "layer", "layer_type", "shape", "parameters", "bits", "group_size", "mode", "dtype",
    "bytes", "bpw", "protected", "rule", "reason",
)  # fmt: skip
_ERROR_COLUMNS = (
    "relative_rms_error", "sqnr_db", "exact", "max_abs_error", "max_range_share", "worst_row",
    "worst_row_relative_rms_error", "sum_sq_error", "sum_sq_weight",
)  # fmt: skip


def audit_text(record: Mapping[str, Any], name: str, by: str = "role") -> str:
    """Write a record for a reader: head, table by role or by tensor, errors, what is kept and why, disagreements."""
    modules = _tensor_table(record) if by == "tensor" else _role_table(record)
    parts = (_head(record, name), modules, _totals(record), _kept(record), _remarks(record))
    return "\n\n".join(part for part in parts if part)


def audit_csv(record: Mapping[str, Any]) -> str:
    """Write a line for each module; columns of errors are empty where nothing was measured."""
    lines = []
    for m in record["modules"]:
        values = {**m, **(m["format"] or {}), "shape": "x".join(str(n) for n in m["shape"])}
        errors = m["errors"] or {}
        lines.append([*(values.get(c) for c in _COLUMNS), *(errors.get(c) for c in _ERROR_COLUMNS)])
    return csv_text((*_COLUMNS, *_ERROR_COLUMNS), lines)


def _head(record: Mapping[str, Any], name: str) -> str:
    lines = [filled("build", name)]
    source, recipe = record["source"], record["recipe"]
    if source:
        at = f" at {source['revision']}" if source.get("revision") else ""
        by = f", as {library} has it" if (library := provider_text(source)) else ""
        lines.append(filled("source", f"{source.get('name')}{at}{by}"))
    recipe_words = (
        f"{recipe_text(recipe)} (sha256 {str(recipe['sha256'])[:12]})"
        if recipe
        else "not known; what follows was read from the bytes"
    )
    lines.append(filled("recipe", recipe_words))
    return "\n".join(lines)


def _role_table(record: Mapping[str, Any]) -> str:
    rows = []
    for g in by_role(record):
        m = g.first
        relative, share = (g.errors.relative, g.errors.max_range_share) if g.errors else (None, None)
        cells = (f"{len(g.members):,}", format_of(m), show_bytes(g.sum("bytes"), 1))
        rows.append((m["role"], short_layer(m["layer_type"]), *cells, error_text(relative), error_text(share)))
    headers = ("role", "layer", "modules", "format", "bytes", "rms err", "range")
    return table(headers, rows, "llrlrrr")


def _tensor_table(record: Mapping[str, Any]) -> str:
    modules = record["modules"]
    prefix = _prefix([m["path"] for m in modules if m["layer"] is not None])
    rows = []
    for m in modules:
        errors = m["errors"] or {"relative_rms_error": None, "max_range_share": None}
        row = worst_row(m) if m["errors"] else "-"
        shown = (error_text(errors["relative_rms_error"]), error_text(errors["max_range_share"]), row)
        rows.append((cut(m["path"].removeprefix(prefix), _PATH, at="start"), format_of(m), *shown))
    headers = ("module", "format", "rms err", "range", "worst row")
    modules_table = table(headers, rows, "llrrr")
    return f"{filled('paths', f'in {prefix}*')}\n\n{modules_table}" if prefix else modules_table


def _prefix(paths: Sequence[str]) -> str:
    """What stands before `layers.` in every path, with its dot; nothing where that differs."""
    prefixes = {path.partition("layers.")[0] for path in paths}
    return prefixes.pop() if len(prefixes) == 1 else ""


def _totals(record: Mapping[str, Any]) -> str:
    totals, errors = record["totals"], record["totals"]["errors"]
    lines = [
        filled("parameters", f"{totals['parameters']:,}"),
        filled("bytes", f"{totals['bytes']:,} ({show_bytes(totals['bytes'])}), {bits(totals['bpw'])} bits per weight"),
    ]
    if errors:
        ratio = "none at all" if errors["exact"] else error_text(errors["relative_rms_error"])
        noise = f" (SQNR {errors['sqnr_db']:.1f} dB)" if errors["sqnr_db"] is not None else ""
        worst = error_text(errors["worst_module_relative_rms_error"])
        lines.append(
            filled(
                "error",
                f"relative RMS {ratio}{noise} over {errors['modules']:,} quantized modules; worst {worst} in"
                f" {errors['worst_module']}; largest single error {error_text(errors['max_range_share'])} of its"
                " group's range",
            )
        )
    elif any(m["errors"] for m in record["modules"]):
        lines.append(filled("error", "not a number in any module"))
    elif totals["quantized"]["modules"]:
        lines.append(filled("error", "not measured; --source SOURCE measures it"))
    return "\n".join(lines)


def _kept(record: Mapping[str, Any]) -> str:
    """What mlx could quantize and is kept, by reason and rule."""
    lines = [filled("protected", protected_text(record))]
    for g in grouped([m for m in record["modules"] if m["protected"]], lambda m: (m["rule"], m["reason"])):
        roles = Counter(m["role"] for m in g.members)
        counts = ", ".join(f"{n:,} {role}" for role, n in roles.items())
        lines.append(
            filled("", f"{counts}: {g.first['reason']}" + (f" [{g.first['rule']}]" if g.first["rule"] else ""))
        )
    if left := unaligned_of(record):
        lines.append(filled("unaligned", left))
    if smaller := smaller_groups_text(record["modules"]):
        lines.append(filled("group size", smaller))
    if methods := methods_text(record["modules"]):
        lines.append(filled("method", methods))
    if inputs := inputs_text(record["modules"]):
        lines.append(filled("inputs", inputs))
    return "\n".join(lines)


def _remarks(record: Mapping[str, Any]) -> str:
    wrong = record["disagreements"]
    lines = [filled("note", note) for note in record["notes"]]
    lines += [filled("DISAGREES", text) for text in wrong[:_SHOWN]]
    if len(wrong) > _SHOWN:
        lines.append(filled("", f"… and {len(wrong) - _SHOWN:,} more; --json has them all"))
    return "\n".join(lines)
