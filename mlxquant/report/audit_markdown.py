"""An audit record as Markdown: the AUDIT.md of a build. Pure functions of the record.

A build of 122 B parameters has a thousand modules. They are shown in a few dozen lines: modules that differ only in
their layer, and agree in format and reason, share one. Every single one stands in the record and in the CSV.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..records.modules import Group, grouped, is_unaligned, stored_as
from ..words.layers import layers_short
from ..words.text import code, markdown, markdown_table
from ..words.units import show_bytes
from .common import (
    error_text,
    inputs_text,
    methods_text,
    provider_text,
    recipe_text,
    smaller_groups_text,
    unaligned_text,
)

_WORST = 12
_LISTED = 50


def number(value: float | None) -> str:
    """Three digits, without an exponent where that reads well; None is a dash."""
    return "-" if value is None else f"{value:.3g}"


def sqnr(relative: float | None) -> str:
    """The signal to noise ratio in dB that a relative RMS error is. ``sqnr(0.01) == "40.0"``."""
    from math import log10

    return "-" if relative is None else "exact" if relative == 0 else f"{-20 * log10(relative):.1f}"


# --- Markdown ---


def audit_markdown(record: Mapping[str, Any]) -> str:
    """Write AUDIT.md: what the build is, its errors by role, what is kept and why, every module in groups."""
    parts = [
        "# Audit of this build",
        _summary(record),
        *_listed("Disagreements", record["disagreements"], "What does not fit together, most of it config and shards:"),
        "## Errors by role",
        _errors_text(record),
        *_by_role(record),
        "## What is kept at full precision, and why",
        _kept(record),
        *_worst(record),
        "## Every module",
        "Modules that differ in their layer alone share a line; `audit.json` has one for each.",
        _modules(record),
        *_listed("Notes", record["notes"], ""),
        "Written by mlxquant " + record["mlxquant"] + "; `mlxquant audit` draws it up again from the bytes on disk.",
    ]
    return "\n\n".join(parts) + "\n"


def _summary(record: Mapping[str, Any]) -> str:
    totals, source, recipe = record["totals"], record["source"], record["recipe"]
    quantized, unquantized = totals["quantized"], totals["unquantized"]
    rows = []
    if source:
        rows.append(("source", " at ".join(markdown(v) for v in (source.get("name"), source.get("revision")) if v)))
        if source.get("model_type"):
            by = f", as {markdown(library)} has it" if (library := provider_text(source)) else ""
            rows.append(("model", f"{markdown(source['model_type'])}{by}, {source.get('layers')} layers"))
    rows.append(
        ("recipe", f"{markdown(recipe_text(recipe))} (sha256 {markdown(recipe['sha256'])})" if recipe else "not known")
    )
    rows += [
        ("parameters", f"{totals['parameters']:,}"),
        ("bytes", f"{totals['bytes']:,} ({show_bytes(totals['bytes'])}), {bits(totals['bpw'])} bits per weight"),
        ("quantized", f"{quantized['modules']:,} modules, {quantized['parameters']:,} parameters, "
                      f"{bits(quantized['bpw'])} bits per weight"),
        ("unquantized", f"{unquantized['modules']:,} modules, {unquantized['parameters']:,} parameters"),
        ("protected", protected_text(record)),
    ]  # fmt: skip
    remarks = (
        ("unaligned", unaligned_of(record)),
        ("group size", smaller_groups_text(record["modules"])),
        ("method", methods_text(record["modules"])),
        ("inputs", markdown(inputs_text(record["modules"]))),
    )
    return markdown_table(("", ""), [*rows, *((label, text) for label, text in remarks if text)])


def protected_text(record: Mapping[str, Any]) -> str:
    """How many modules mlx could quantize and someone keeps, by role."""
    protected = record["protected"]
    roles = ", ".join(f"{count:,} {role}" for role, count in protected["by_role"].items())
    return f"{protected['modules']:,} modules that mlx could quantize: {roles}" if roles else "none"


def unaligned_of(record: Mapping[str, Any]) -> str:
    """How many modules stay as they are because the group size does not divide them; nothing where none do."""
    return unaligned_text(m["role"] for m in record["modules"] if is_unaligned(m))


def bits(bpw: float | None) -> str:
    """Bits per weight with four places. ``bits(8.25245) == "8.2525"``."""
    return "-" if bpw is None else f"{bpw:.4f}"


def _errors_text(record: Mapping[str, Any]) -> str:
    if not any(m["errors"] for m in record["modules"]):
        return "No quantization error was measured; `mlxquant audit BUILD --source SOURCE` does."
    return (
        "With w a weight of the source and ŵ what the stored bits stand for: relative RMS error is"
        " sqrt(Σ(w−ŵ)² / Σw²), SQNR is 10·log10(Σw² / Σ(w−ŵ)²) dB, the range share is the largest |w−ŵ| over the"
        " range max w − min w of its own group. A step of 8 bits is 0.392 % of that range, half a step 0.196 %."
    )


def _by_role(record: Mapping[str, Any]) -> list[str]:
    header = ("role", "layer type", "format", "modules", "parameters", "bytes", "rel. RMS", "SQNR dB", "largest error",
              "range share", "worst module")  # fmt: skip
    rows = []
    for g in by_role(record):
        m = g.first
        rows.append((
            m["role"], m["layer_type"] or "", stored_as(m), f"{len(g.members):,}", f"{g.sum('parameters'):,}",
            f"{g.sum('bytes'):,}", *_pooled(g), code(g.errors.worst) if g.errors else "",
        ))  # fmt: skip
    total = record["totals"]["errors"]
    if total:
        whole = record["totals"]["quantized"]
        rows.append((
            "all quantized", "", "", f"{whole['modules']:,}", f"{whole['parameters']:,}", f"{whole['bytes']:,}",
            error_text(total["relative_rms_error"]), sqnr(total["relative_rms_error"]), number(total["max_abs_error"]),
            error_text(total["max_range_share"]), code(total["worst_module"]),
        ))  # fmt: skip
    return [markdown_table(header, rows)]


def _pooled(group: Group) -> tuple[str, str, str, str]:
    """Relative RMS error, SQNR, largest error and range share of a group, for a row."""
    e = group.errors
    if e is None:
        return error_text(None), sqnr(None), number(None), error_text(None)
    return error_text(e.relative), sqnr(e.relative), number(e.max_abs_error), error_text(e.max_range_share)


def by_role(record: Mapping[str, Any]) -> list[Group]:
    """The modules of a role, layer type and format together, in the record's order of roles."""
    order = list(dict.fromkeys((g["role"], g["layer_type"]) for g in record["by_role"]))
    groups = grouped(record["modules"], lambda m: (m["role"], m["layer_type"], stored_as(m)))
    return sorted(groups, key=lambda g: order.index((g.first["role"], g.first["layer_type"])))


def _kept(record: Mapping[str, Any]) -> str:
    """Unquantized modules by reason: first those that mlx could quantize."""
    unquantized = [m for m in record["modules"] if not m["format"]]
    rows = []
    for g in sorted(
        grouped(unquantized, lambda m: (m["protected"], m["reason"])), key=lambda g: not g.first["protected"]
    ):
        roles = Counter(m["role"] for m in g.members)
        rows.append((
            "protected" if g.first["protected"] else "", ", ".join(f"{n:,} {role}" for role, n in roles.items()),
            f"{g.sum('bytes'):,}", markdown(g.first["reason"]), code(g.first["rule"]) if g.first["rule"] else "",
        ))  # fmt: skip
    return (
        markdown_table(("", "modules", "bytes", "reason", "rule"), rows)
        if rows
        else "Nothing: every module is quantized."
    )


def _worst(record: Mapping[str, Any]) -> list[str]:
    measured = [m for m in record["modules"] if m["errors"] and m["errors"]["relative_rms_error"] is not None]
    measured.sort(key=lambda m: -m["errors"]["relative_rms_error"])
    rows = [
        (code(m["path"]), stored_as(m), error_text(e["relative_rms_error"]), sqnr(e["relative_rms_error"]),
         number(e["max_abs_error"]), error_text(e["max_range_share"]),
         f"{worst_row(m)} ({error_text(e['worst_row_relative_rms_error'])})")
        for m in measured[:_WORST] for e in [m["errors"]]
    ]  # fmt: skip
    if not rows:
        return []
    header = ("module", "format", "rel. RMS", "SQNR dB", "largest error", "range share", "worst row")
    return [f"## The {len(rows)} modules with the largest relative error", markdown_table(header, rows)]


def worst_row(module: Mapping[str, Any]) -> str:
    """The index of the row with the largest relative RMS error; for experts as expert/row."""
    row, shape = module["errors"]["worst_row"], module["shape"]
    return str(row) if len(shape) < 3 else f"{row // shape[-2]}/{row % shape[-2]}"


def _modules(record: Mapping[str, Any]) -> str:
    def key(m: Mapping[str, Any]) -> Any:
        return _pattern(m), tuple(m["shape"]), stored_as(m), m["dtype"], m["reason"], m["rule"]

    rows = []
    for g in grouped(record["modules"], key):
        m = g.first
        layers = layers_short([n["layer"] for n in g.members if n["layer"] is not None])
        lowest, highest = (g.errors.lowest, g.errors.highest) if g.errors else (None, None)
        error = error_text(lowest) if lowest == highest else f"{error_text(lowest)} to {error_text(highest)}"
        rows.append((
            code(_pattern(m)), layers, m["role"], " × ".join(f"{n:,}" for n in m["shape"]), stored_as(m),
            f"{g.sum('bytes'):,}", error, ("protected: " if m["protected"] else "") + markdown(m["reason"]),
        ))  # fmt: skip
    return markdown_table(("module", "layers", "role", "shape", "stored as", "bytes", "rel. RMS", "reason"), rows)


def _pattern(module: Mapping[str, Any]) -> str:
    """A path with its layer's index left open."""
    if module["layer"] is None:
        return str(module["path"])
    return re.sub(rf"(?<=\.){module['layer']}(?=\.)", "*", module["path"], count=1)


def _listed(title: str, lines: Sequence[str], lead: str) -> list[str]:
    if not lines:
        return []
    more = [f"- … and {len(lines) - _LISTED:,} more, in `audit.json`"] if len(lines) > _LISTED else []
    bullets = "\n".join([*(f"- {markdown(line)}" for line in lines[:_LISTED]), *more])
    return [part for part in (f"## {title}", lead, bullets) if part]
