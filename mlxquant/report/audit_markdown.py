"""An audit record as Markdown: the AUDIT.md of a build. Pure functions of the record.

A build of 122 B parameters has a thousand modules. They are told in a few dozen lines: modules that differ only in
their layer, and agree in format and reason, share one. Every single one stands in the record and in the CSV.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from ..records.modules import is_unaligned
from ..words.formats import Format
from ..words.units import show_bytes
from .plan import recipe_text, unaligned_text

_SUMS = ("sum_sq_error", "sum_sq_weight", "max_abs_error", "max_range_share")
_WORST = 12
_LISTED = 50


@dataclass(frozen=True, slots=True)
class Group:
    """Modules told as one: what they share, how many there are, and their errors taken together.

    `relative` is sqrt(Σe² / Σw²) over all of them, `lowest` and `highest` that of single modules, `share` and
    `absolute` the largest of any; None where nothing was measured. Modules whose errors are no numbers are left out.
    `worst` is the module with the highest.
    """

    members: tuple[Mapping[str, Any], ...]
    relative: float | None
    lowest: float | None
    highest: float | None
    share: float | None
    absolute: float | None
    worst: str | None

    @property
    def first(self) -> Mapping[str, Any]:
        """The member that speaks for what they share."""
        return self.members[0]

    def sum(self, key: str) -> int:
        """A number added up over the members."""
        return sum(int(m[key]) for m in self.members)


def grouped(modules: Iterable[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], Any]) -> list[Group]:
    """Group a record's modules by what `key` gives, in the order in which groups first come."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for m in modules:
        groups.setdefault(key(m), []).append(m)
    return [_group(tuple(members)) for members in groups.values()]


def _group(members: tuple[Mapping[str, Any], ...]) -> Group:
    measured = [(m, m["errors"]) for m in members if m["errors"] and None not in (m["errors"][s] for s in _SUMS)]
    sums = [(e["sum_sq_error"], e["sum_sq_weight"]) for _, e in measured]
    ratios = {m["path"]: e["relative_rms_error"] for m, e in measured if e["relative_rms_error"] is not None}
    weight = sum(w for _, w in sums)
    return Group(
        members=members,
        relative=sqrt(sum(e for e, _ in sums) / weight) if weight else 0.0 if sums else None,
        lowest=min(ratios.values(), default=None),
        highest=max(ratios.values(), default=None),
        share=max((e["max_range_share"] for _, e in measured), default=None),
        absolute=max((e["max_abs_error"] for _, e in measured), default=None),
        worst=max(ratios, key=lambda path: ratios[path], default=None),
    )


def format_name(module: Mapping[str, Any]) -> str:
    """What a module is stored as: its format, or the dtype it keeps."""
    return str(Format.from_dict(module["format"])) if module["format"] else str(module["dtype"]).lower()


def percent(value: float | None) -> str:
    """Three digits of a ratio in percent. ``percent(0.00512) == "0.512 %"``."""
    return "-" if value is None else "0" if value == 0 else f"{100 * value:#.3g}".rstrip(".") + " %"


def number(value: float | None) -> str:
    """Three digits, without an exponent where that reads well; None is a dash."""
    return "-" if value is None else f"{value:.3g}"


def sqnr(relative: float | None) -> str:
    """The signal to noise ratio in dB that a relative RMS error is. ``sqnr(0.01) == "40.0"``."""
    from math import log10

    return "-" if relative is None else "exact" if relative == 0 else f"{-20 * log10(relative):.1f}"


# --- Markdown ---


def markdown(record: Mapping[str, Any]) -> str:
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
    quantized, kept = totals["quantized"], totals["unquantized"]
    rows = []
    if source:
        rows.append(("source", " at ".join(str(v) for v in (source.get("name"), source.get("revision")) if v)))
        if source.get("model_type"):
            rows.append(("model", f"{source['model_type']}, {source.get('layers')} layers"))
    rows.append(("recipe", f"{recipe_text(recipe)} (sha256 {recipe['sha256']})" if recipe else "not known"))
    rows += [
        ("parameters", f"{totals['parameters']:,}"),
        ("bytes", f"{totals['bytes']:,} ({show_bytes(totals['bytes'])}), {bits(totals['bpw'])} bits per weight"),
        ("quantized", f"{quantized['modules']:,} modules, {quantized['parameters']:,} parameters, "
                      f"{bits(quantized['bpw'])} bits per weight"),
        ("unquantized", f"{kept['modules']:,} modules, {kept['parameters']:,} parameters"),
        ("protected", protected_text(record)),
    ]  # fmt: skip
    left = unaligned_of(record)
    return _table(("", ""), [*rows, *([("unaligned", left)] if left else [])])


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
            m["role"], m["layer_type"] or "", format_name(m), f"{len(g.members):,}", f"{g.sum('parameters'):,}",
            f"{g.sum('bytes'):,}", percent(g.relative), sqnr(g.relative), number(g.absolute), percent(g.share),
            f"`{g.worst}`" if g.worst else "",
        ))  # fmt: skip
    total = record["totals"]["errors"]
    if total:
        whole = record["totals"]["quantized"]
        rows.append((
            "all quantized", "", "", f"{whole['modules']:,}", f"{whole['parameters']:,}", f"{whole['bytes']:,}",
            percent(total["relative_rms_error"]), sqnr(total["relative_rms_error"]), number(total["max_abs_error"]),
            percent(total["max_range_share"]), f"`{total['worst_module']}`",
        ))  # fmt: skip
    return [_table(header, rows)]


def by_role(record: Mapping[str, Any]) -> list[Group]:
    """The modules of a role, layer type and format together, in the record's order of roles."""
    order = list(dict.fromkeys((g["role"], g["layer_type"]) for g in record["by_role"]))
    groups = grouped(record["modules"], lambda m: (m["role"], m["layer_type"], format_name(m)))
    return sorted(groups, key=lambda g: order.index((g.first["role"], g.first["layer_type"])))


def _kept(record: Mapping[str, Any]) -> str:
    """Unquantized modules by reason: first those that mlx could quantize."""
    kept = [m for m in record["modules"] if not m["format"]]
    rows = []
    for g in sorted(grouped(kept, lambda m: (m["protected"], m["reason"])), key=lambda g: not g.first["protected"]):
        roles = Counter(m["role"] for m in g.members)
        rows.append((
            "protected" if g.first["protected"] else "", ", ".join(f"{n:,} {role}" for role, n in roles.items()),
            f"{g.sum('bytes'):,}", g.first["reason"], f"`{g.first['rule']}`" if g.first["rule"] else "",
        ))  # fmt: skip
    return _table(("", "modules", "bytes", "reason", "rule"), rows) if rows else "Nothing: every module is quantized."


def _worst(record: Mapping[str, Any]) -> list[str]:
    measured = [m for m in record["modules"] if m["errors"] and m["errors"]["relative_rms_error"] is not None]
    measured.sort(key=lambda m: -m["errors"]["relative_rms_error"])
    rows = [
        (f"`{m['path']}`", format_name(m), percent(e["relative_rms_error"]), sqnr(e["relative_rms_error"]),
         number(e["max_abs_error"]), percent(e["max_range_share"]),
         f"{worst_row(m)} ({percent(e['worst_row_relative_rms_error'])})")
        for m in measured[:_WORST] for e in [m["errors"]]
    ]  # fmt: skip
    if not rows:
        return []
    header = ("module", "format", "rel. RMS", "SQNR dB", "largest error", "range share", "worst row")
    return [f"## The {len(rows)} modules with the largest relative error", _table(header, rows)]


def worst_row(module: Mapping[str, Any]) -> str:
    """The index of the row with the largest relative RMS error; for experts as expert/row."""
    row, shape = module["errors"]["worst_row"], module["shape"]
    return str(row) if len(shape) < 3 else f"{row // shape[-2]}/{row % shape[-2]}"


def _modules(record: Mapping[str, Any]) -> str:
    def key(m: Mapping[str, Any]) -> Any:
        return _pattern(m), tuple(m["shape"]), format_name(m), m["dtype"], m["reason"], m["rule"]

    rows = []
    for g in grouped(record["modules"], key):
        m = g.first
        layers = layers_text([n["layer"] for n in g.members if n["layer"] is not None])
        error = percent(g.lowest) if g.lowest == g.highest else f"{percent(g.lowest)} to {percent(g.highest)}"
        rows.append((
            f"`{_pattern(m)}`", layers, m["role"], " × ".join(f"{n:,}" for n in m["shape"]), format_name(m),
            f"{g.sum('bytes'):,}", error, ("protected: " if m["protected"] else "") + m["reason"],
        ))  # fmt: skip
    return _table(("module", "layers", "role", "shape", "stored as", "bytes", "rel. RMS", "reason"), rows)


def _pattern(module: Mapping[str, Any]) -> str:
    """A path with its layer's index left open."""
    if module["layer"] is None:
        return str(module["path"])
    return re.sub(rf"(?<=\.){module['layer']}(?=\.)", "*", module["path"], count=1)


def layers_text(layers: Sequence[int]) -> str:
    """Write layer indices for a reader. ``layers_text([3, 7, 11, 15]) == "3, 7 … 15 (4)"``."""
    found = sorted(set(layers))
    if len(found) > 2 and found[-1] - found[0] == len(found) - 1:
        return f"{found[0]}–{found[-1]}"
    if len(found) > 4:
        return f"{found[0]}, {found[1]} … {found[-1]} ({len(found)})"
    return ", ".join(str(n) for n in found)


def _listed(title: str, lines: Sequence[str], lead: str) -> list[str]:
    if not lines:
        return []
    more = [f"- … and {len(lines) - _LISTED:,} more, in `audit.json`"] if len(lines) > _LISTED else []
    bullets = "\n".join([*(f"- {line}" for line in lines[:_LISTED]), *more])
    return [part for part in (f"## {title}", lead, bullets) if part]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A GitHub table; cells are text already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
