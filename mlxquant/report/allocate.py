"""An allocation's record as text for a terminal of 80 columns: formats by kind, the frontier, contests, who ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..words.layers import layers_short
from ..words.text import counted, cut, figure, filled, plus_minus, table
from ..words.units import show_bytes

Record = Mapping[str, Any]
_NAME = 40  # columns
_POINTS = 8  # of the frontier that a text shows


def shares_text(shares: Mapping[str, int]) -> str:
    """How many documents each purpose had; one without any is left out."""
    purposes = {"calibrate": "calibrated", "allocate": "measured damage", "check": "checked"}
    return ", ".join(f"{counted(shares[key], 'document')} {what}" for key, what in purposes.items() if shares[key])


def allocate_text(record: Record) -> str:
    """Write an allocation for a reader."""
    shares, options = record["data"]["shares"], record["options"]
    head = [
        filled("source", record["source"]["name"]),
        filled("texts", f"{record['data']['name']}: {shares_text(shares)}"),
        filled("method", method_text(options)),
    ]
    if record["groups"]:
        head.append(filled("measured", f"{counted(record['probes'], 'format')} of"
                                       f" {counted(len(record['groups']), 'group')}, each alone"))  # fmt: skip
    blocks = ["\n".join(head), *(_budget(entry, record["groups"]) for entry in record["budgets"])]
    if record["frontier"]:
        blocks.append(_frontier(record["frontier"]))
        blocks.append(
            "KL(reference ‖ build) a token in thousandths of a nat, ± half its interval, on\n"
            "documents that neither calibrated nor allocated; expected: the sum of the\n"
            "damages of the groups, each measured alone on other documents."
        )
    return "\n\n".join(blocks)


def method_text(options: Record) -> str:
    """The method, and what stood in for it where."""
    method, measured = options["method"], options["measured_with"]
    checked = options.get("checked_with", measured)
    if method == measured == checked:
        return str(method)
    where = "every figure here" if checked == measured else "what was measured, not in the check"
    return f"{method}; {measured} stood in for it in {where}"


def _budget(entry: Record, groups: Sequence[Record]) -> str:
    allocated = entry["allocated"]
    lines = [filled("budget", f"{entry['asked']}: {entry['bytes']:,} bytes of tensors")]
    if allocated["kl"] is not None:
        lines += ["", _formats(allocated["choices"], groups), "", _contest(entry)]
        lines += ["", filled("expected", f"{figure(1e3 * allocated['expected_kl_nats'], 3)} mnat")]
    if entry["difference"] is not None:
        against = f"{_mnat(entry['difference'])} mnat beside {entry['best']}, paired by document"
        lines.append(filled("difference", against))
    lines.append(filled("ships", f"{entry['ships']}: {entry['why']}"))
    return "\n".join(lines)


class Chosen(NamedTuple):
    """What modules of one role and name got in some layers, and what that costs."""

    role: str
    name: str
    format: str
    layers: str
    nbytes: int
    kl_nats: float


def chosen_formats(choices: Sequence[Record], groups: Sequence[Record]) -> list[Chosen]:
    """What each kind of module got: a row for each of its formats, with the layers."""
    rows: dict[tuple[str, str], dict[str, list[tuple[Record, Record]]]] = {}
    for choice, group in zip(choices, groups, strict=False):
        kind = (group["role"], group["name"].partition(",")[0].removeprefix(group["role"]).strip())
        rows.setdefault(kind, {}).setdefault(_format(choice["format"]), []).append((choice, group))
    return [
        Chosen(
            *kind, fmt, layers_short({n for _, group in own for n in group["layers"]}) or "-",
            sum(choice["bytes"] for choice, _ in own), sum(choice["kl_nats"] for choice, _ in own),
        )
        for kind, formats in rows.items()
        for fmt, own in formats.items()
    ]  # fmt: skip


def _formats(choices: Sequence[Record], groups: Sequence[Record]) -> str:
    return table(
        ("module", "format", "layers", "bytes", "mnat"),
        [
            (
                cut(f"{row.role} {row.name}", 32, at="start"),
                row.format,
                cut(row.layers, 18, at="end"),
                show_bytes(row.nbytes, 1),
                figure(1e3 * row.kl_nats, 2),
            )
            for row in chosen_formats(choices, groups)
        ],
        "lllrr",
    )


def _format(fmt: Record | None) -> str:
    return "kept" if fmt is None else f"{fmt['bits']} g{fmt['group_size']}"


def _contest(entry: Record) -> str:
    sides = [entry["allocated"], *entry["contestants"]]
    sides.sort(key=lambda side: (side["kl"] is None, (side["kl"] or side["stand_in_kl"])["estimate"]))
    columns = ["kl", *(["stand_in_kl"] if "stand_in_kl" in sides[0] else [])]
    heads = ("recipe", "bytes", "KL, mnat", "with stand-in")[: 2 + len(columns)]
    rows = [
        (cut(side["name"], _NAME, at="end"), show_bytes(side["bytes"]), *(_mnat(side[key]) for key in columns))
        for side in sides
    ]
    return table(heads, rows)


def _frontier(points: Sequence[Record]) -> str:
    """Some of the frontier's points, those at both ends among them."""
    last = len(points) - 1
    shown = [points[i] for i in sorted({round(last * i / (_POINTS - 1)) for i in range(_POINTS)})]
    rows = [(show_bytes(point["bytes"]), figure(1e3 * point["kl_nats"], 3)) for point in shown]
    return table(("bytes", "expected, mnat"), rows, "rr")


def _mnat(kl: Record | None) -> str:
    if kl is None:
        return "-"
    if kl["low"] is None:
        return figure(1e3 * kl["estimate"], 3)
    return plus_minus(1e3 * kl["estimate"], 1e3 * (kl["high"] - kl["low"]) / 2)
