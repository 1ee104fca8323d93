"""A diff record as text for a terminal of 80 columns, or as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..words.text import WIDTH, filled, markdown, markdown_lines, percent_digits, some, table
from ..words.units import show_bytes
from .common import short_layer

Record = Mapping[str, Any]

# Widths of the two columns that may grow long; together with the others the table takes 80 at most
_LAYERS, _CHANGE = 18, 23
_SHOWN = 12


def diff_text(record: Record) -> str:
    """Write a diff for a reader: the two sides, totals, changes by group, reasons, what is on one side only."""
    parts = [f"a  {record['a']['name']}\nb  {record['b']['name']}", table(*_totals(record))]
    parts += [_groups(record), _reasons(record, _bullet)] if record["groups"] else [_alike(record)]
    parts += [_one_sided(record), _distances(record, "simple"), _notes(record)]
    return "\n\n".join(p for p in parts if p)


def diff_markdown(record: Record) -> str:
    """Write a diff as Markdown."""
    parts = [
        f"# {markdown(record['a']['name'])} → {markdown(record['b']['name'])}",
        table(*_totals(record), style="github"),
    ]
    parts += [_markdown_groups(record), _reasons(record, _markdown_bullet)] if record["groups"] else [_alike(record)]
    parts += [markdown_lines(_one_sided(record)), _distances(record, "github"), markdown_lines(_notes(record))]
    return "\n\n".join(p for p in parts if p) + "\n"


def _totals(record: Record) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the table of totals."""
    a, b, d = record["a"]["totals"], record["b"]["totals"], record["delta"]
    rows = list[tuple[str, ...]]()
    labels = (("bytes", "bytes"), ("active_bytes_per_token", "read for a token"), ("protected", "protected modules"))
    for key, label in labels:
        if a[key] is not None or b[key] is not None:
            rows.append((label, *(_whole(side[key]) for side in (a, b)), _whole(d[key], "+")))
    if d["bpw"] is not None:
        rows.append(("bits per weight", f"{a['bpw']:.4f}", f"{b['bpw']:.4f}", f"{d['bpw']:+.4f}"))
    return ("", "a", "b", "b − a"), rows


def _whole(value: int | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign},}"


def _alike(record: Record) -> str:
    return f"Both store each of the {record['common']:,} modules that they share alike." if record["common"] else ""


def _groups(record: Record) -> str:
    rows = []
    for g in record["groups"]:
        layers = textwrap.fill(_layers(g), _LAYERS, break_long_words=False)
        change = textwrap.fill(f"{g['a']} → {g['b']}", _CHANGE)
        if (errors := _errors(g)) is not None:
            change += f"\nerror {errors}"
        rows.append((_wrapped_role(g["role"]), layers, g["modules"], change, _signed(g["delta_bytes"])))
    return table(("role", "layers", "n", "a → b", "bytes"), rows, "llrlr")


def _wrapped_role(role: str) -> str:
    """A role within 16 columns: the longest, shared_expert_gate, takes two lines."""
    return "\n".join(textwrap.wrap(role.replace("_", "_ "), 16)).replace("_ ", "_") if len(role) > 16 else role


def _layers(group: Record) -> str:
    """A group's layers, with their type where all are of one; `every` where it is that and would be long."""
    kind = short_layer(group["layer_type"]) if group["layer_type"] else ""
    if group["every"] and len(group["layers"]) > 2:
        return f"every {kind}".rstrip()
    return f"{kind} {', '.join(str(part) for part in group['layers'])}".strip() or "-"


def _errors(group: Record) -> str | None:
    """The largest error of a group on both sides, None where neither was measured."""
    a, b = group["a_relative_rms_error"], group["b_relative_rms_error"]
    return None if a is None and b is None else f"{percent_digits(a)} → {percent_digits(b)}"


def _markdown_groups(record: Record) -> str:
    measured = any(_errors(g) for g in record["groups"])
    head = ("role", "layers", "modules", "a", "b", "bytes", *(("largest error",) if measured else ()))
    rows = list[tuple[str, ...]]()
    for g in record["groups"]:
        cells = (g["role"], _layers(g), f"{g['modules']:,}", g["a"], g["b"], _signed(g["delta_bytes"]))
        rows.append((*cells, _errors(g) or "-") if measured else cells)
    return table(head, rows, "llrllrr", "github")


def _reasons(record: Record, line: Any) -> str:
    """Why each side stores its groups as it does: every reason once, with the roles that it holds for."""
    paragraphs = []
    for side in ("a", "b"):
        roles: dict[str, list[str]] = {}
        for g in record["groups"]:
            for reason in g[f"{side}_reasons"]:
                roles.setdefault(reason, []).append(g["role"])
        lines = [line(", ".join(dict.fromkeys(whose)), reason) for reason, whose in roles.items()]
        if len(lines) > _SHOWN:
            lines[_SHOWN:] = [line(f"{len(lines) - _SHOWN} more reasons", "see the record (--json)")]
        paragraphs.append("\n".join([f"Why in {side}:{'' if line is _bullet else chr(10)}", *lines]))
    return "\n\n".join(paragraphs)


def _bullet(roles: str, reason: str) -> str:
    return textwrap.fill(
        f"{roles}: {reason}",
        WIDTH,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _markdown_bullet(roles: str, reason: str) -> str:
    return f"- {markdown(roles)}: {markdown(reason)}"


def _one_sided(record: Record) -> str:
    lines = []
    for side in ("a", "b"):
        if paths := record[f"only_in_{side}"]:
            lines.append(filled(f"only in {side}:", some(paths), 11))
    return "\n".join(lines)


def _distances(record: Record, style: str) -> str:
    tensors = record.get("tensors")
    if not tensors:
        return ""
    return "\n\n".join(_distance_parts(tensors, style))


def _distance_parts(tensors: Record, style: str) -> Iterator[str]:
    same = tensors["same_format"]
    if same["modules"]:
        yield f"{same['equal']:,} of {same['modules']:,} modules in the same format hold the same bytes."
    if entries := [*same["distances"], *tensors["other_format"]]:
        yield "Where bytes or formats differ, how far the values are apart, as a share of a's:"
        yield _distance_table(entries, style)
    if left := tensors["unmeasured"]:
        yield filled("not measured:", f"{len(left):,} modules; {left[0]['path']}: {left[0]['reason']}", 14)


def _distance_table(entries: Sequence[Record], style: str) -> str:
    """The distances by role and formats; `--json` has those of every module."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for d in entries:
        groups.setdefault((d["role"], d["a"], d["b"]), []).append(d["relative_rms_distance"])
    rows = list[tuple[str, ...]]()
    for (role, a, b), values in sorted(groups.items(), key=lambda item: -max(item[1])):
        rows.append((role, a, b, f"{len(values):,}", percent_digits(min(values)), percent_digits(max(values))))
    return table(("role", "a", "b", "n", "least", "most"), rows, "lllrrr", style)


def _notes(record: Record) -> str:
    return "\n".join(filled("note:", note, 6) for note in record["notes"])


def _signed(n: int) -> str:
    return ("+" if n >= 0 else "-") + show_bytes(abs(n), 1)
