"""Text for a terminal of 80 columns: labelled paragraphs, names cut to fit, plain tables."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 80


def filled(label: str, text: str, indent: int = 12) -> str:
    """Write a labelled paragraph with its text in a column of its own, within 80 columns."""
    lead = f"{label:<{indent - 1}} "
    return textwrap.fill(
        lead + text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )


def labelled(line: str, indent: int = 10) -> str:
    """Write ``label: text`` the same way."""
    label, _, text = line.partition(": ")
    return filled(label, text, indent)


def cut(name: str, width: int) -> str:
    """Cut a name in the middle: those of one model differ at both ends. ``cut("gates-8bit-g64", 9) == "gate…-g64"``."""
    if len(name) <= width:
        return name
    kept = width - 1
    return f"{name[: kept // 2]}…{name[-(kept - kept // 2) :]}"


def tabulated(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """Write a table as tabulate's "simple"; `align` has an l or r a column."""
    from tabulate import tabulate

    sides = ["left" if side == "l" else "right" for side in align][: len(header)]
    return str(
        tabulate(
            rows, headers=header, tablefmt="simple", colalign=sides, disable_numparse=True, preserve_whitespace=True
        )
    )


def simple_table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """Write the same without the two columns that tabulate adds to right-aligned headers, where room is short."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = (header, ["-" * width for width in widths], *rows)
    return "\n".join(
        "  ".join(
            cell.ljust(w) if side == "l" else cell.rjust(w) for cell, w, side in zip(line, widths, align, strict=True)
        ).rstrip()
        for line in lines
    )
