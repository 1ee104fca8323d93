"""A diff record as text for a terminal of 80 columns, or as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .plan_text import filled, short_layer
from .units import show_bytes

Record = Mapping[str, Any]


def diff_text(record: Record) -> str:
    """Write a diff for a reader: the two sides, totals, changes by group, reasons, what is on one side only."""
    a, b = record["a"]["name"], record["b"]["name"]
    if not record["changes"] and not record["only_in_a"] and not record["only_in_b"]:
        return f"{a} and {b} store every module alike"
    parts = [f"a: {a}\nb: {b}", _table(_totals(record), "simple"), _groups(record, "simple"), _reasons(record)]
    return "\n\n".join(p for p in (*parts, _one_sided(record), _distances(record, "simple")) if p)


def diff_markdown(record: Record) -> str:
    """Write a diff as Markdown."""
    a, b = record["a"]["name"], record["b"]["name"]
    parts = [f"# {a} → {b}", _table(_totals(record), "github"), _groups(record, "github"), _reasons(record)]
    return "\n\n".join(p for p in (*parts, _one_sided(record), _distances(record, "github")) if p) + "\n"


def _table(rows: list[tuple[str, ...]], style: str) -> str:
    from tabulate import tabulate

    head, *body = rows
    align = ("left", *["right"] * (len(head) - 1))
    return str(tabulate(body, headers=head, tablefmt=style, colalign=align, disable_numparse=True))


def _totals(record: Record) -> list[tuple[str, ...]]:
    a, b, d = record["a"]["totals"], record["b"]["totals"], record["delta"]
    rows: list[tuple[str, ...]] = [("", "a", "b", "b - a")]
    for key, label in (("bytes", "bytes"), ("active_bytes_per_token", "bytes a token"), ("protected", "protected")):
        if a[key] is not None and b[key] is not None:
            rows.append((label, f"{a[key]:,}", f"{b[key]:,}", f"{d[key]:+,}"))
    rows.append(("bits a weight", f"{a['bpw']:.4f}", f"{b['bpw']:.4f}", f"{d['bpw']:+.4f}"))
    return rows


def _groups(record: Record, style: str) -> str:
    from tabulate import tabulate

    rows = []
    for g in record["groups"]:
        layers = ", ".join(str(part) for part in g["layers"]) or "-"
        rows.append(
            (g["role"], short_layer(g["layer_type"]), layers, g["modules"], g["a"], g["b"], _signed(g["delta_bytes"]))
        )
    headers = ("role", "type", "layers", "n", "a", "b", "bytes")
    align = ("left", "left", "left", "right", "left", "left", "right")
    widths = [None, None, 16, None, None, None, None] if style == "simple" else None
    return str(
        tabulate(rows, headers=headers, tablefmt=style, colalign=align, disable_numparse=True, maxcolwidths=widths)
    )


def _reasons(record: Record) -> str:
    lines = []
    for g in record["groups"]:
        for side in ("a", "b"):
            lines += [filled(f"{g['role']}, {side}:", reason, 22) for reason in g[f"{side}_reasons"]]
    return "\n".join(dict.fromkeys(lines))


def _one_sided(record: Record) -> str:
    lines = []
    for side in ("a", "b"):
        if paths := record[f"only_in_{side}"]:
            more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
            lines.append(f"only in {side}: {', '.join(paths[:3])}{more}")
    return "\n".join(lines)


def _distances(record: Record, style: str) -> str:
    found = record.get("tensors")
    if not found:
        return ""
    same, other = found["same_format"], found["other_format"]
    text = f"{same['equal']:,} of {same['modules']:,} modules in the same format hold the same bytes"
    if same["different"]:
        text += f"; different: {', '.join(same['different'][:3])}" + (" …" if len(same["different"]) > 3 else "")
    if not other:
        return text
    rows = [("module", "a", "b", "relative RMS distance")]
    rows += [(d["path"], d["a"], d["b"], f"{d['relative_rms_distance']:.2e}") for d in other[:20]]
    more = f"\n… and {len(other) - 20} more in the record (--json)" if len(other) > 20 else ""
    return text + "\n\n" + _table(rows, style) + more


def _signed(n: int) -> str:
    return ("+" if n >= 0 else "-") + show_bytes(abs(n), 1)
