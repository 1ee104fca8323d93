"""An allocation's record as text for a terminal of 80 columns: budgets, who ships and why, what each format costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..words.text import figure, filled, plus_minus, table
from ..words.units import show_bytes

Record = Mapping[str, Any]


def allocate_text(record: Record) -> str:
    """Write an allocation for a reader."""
    shares = record["data"]["shares"]
    options = record["options"]
    head = [
        filled("source", record["source"]["name"]),
        filled("measured", f"{record['probes']} formats of {len(record['groups'])} groups, alone, on"
                           f" {shares['allocate']} documents; checked on {shares['check']} others"),
        filled("method", _method(options)),
    ]  # fmt: skip
    return "\n\n".join(["\n".join(head), *(_budget(entry) for entry in record["budgets"]), *_closing(record)])


def _method(options: Record) -> str:
    if options["method"] == options["measured_with"]:
        return str(options["method"])
    return f"{options['method']}; {options['measured_with']} stood in for it in every figure here"


def _budget(entry: Record) -> str:
    allocated = entry["allocated"]
    rows = [(allocated["name"], allocated["bytes"], allocated["kl"])]
    rows += [(each["name"], each["bytes"], each["kl"]) for each in entry["contestants"]]
    if allocated["kl"] is not None:
        rows.sort(key=lambda row: row[2]["estimate"])
    lines = table(
        ("recipe", "bytes", "KL, mnat"),
        [(name, show_bytes(nbytes), _mnat(kl)) for name, nbytes, kl in rows],
        "<>>",
    )
    ships = entry["ships"] + (f": {entry['why']}" if entry["ships"] not in entry["why"] else f" ({entry['why']})")
    return "\n".join(
        [
            filled("budget", f"{entry['asked']}: {entry['bytes']:,} bytes of tensors"),
            "",
            lines,
            "",
            filled("ships", ships),
        ]
    )


def _mnat(kl: Record | None) -> str:
    if kl is None:
        return "-"
    if kl["low"] is None:
        return figure(1e3 * kl["estimate"], 3)
    return plus_minus(1e3 * kl["estimate"], 1e3 * (kl["high"] - kl["low"]) / 2)


def _closing(record: Record) -> Iterator[str]:
    yield (
        "KL(reference ‖ build) a token in thousandths of a nat, ± half its interval, on\n"
        "documents that neither calibrated nor allocated."
    )
