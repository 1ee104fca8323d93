"""Text for a terminal of 80 columns and for messages: paragraphs, tables, lists and names cut to fit, figures.

Each of these stands here once; what a record says in them is known in `report`, and in the modules that raise errors.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

WIDTH = 80
# Half an interval's width, or its width, below which figures are written in significant digits, not decimal places
_NARROW = 0.0005

# --- paragraphs ---


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


# --- lists ---


def listed(problems: Sequence[str], limit: int = 20) -> str:
    """Join problems into one message: one a line, the first `limit`, then how many more.

    >>> print(listed(["a", "b", "c"], limit=2))
    a
    b
    … and 1 more
    """
    shown = list(problems[:limit])
    if len(problems) > limit:
        shown.append(f"… and {len(problems) - limit:,} more")
    return "\n".join(shown)


def some(words: Sequence[object], limit: int = 3) -> str:
    """Join the first `limit` words in one line, and say how many more there are.

    >>> some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(words) - limit:,} more" if len(words) > limit else ""
    return ", ".join(str(word) for word in words[:limit]) + more


def either(values: Sequence[object]) -> str:
    """Join alternatives. ``either((2, 4, 8)) == "2, 4 or 8"``."""
    words = [str(v) for v in values]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def common_prefix(a: Sequence[object], b: Sequence[object]) -> int:
    """How many entries two sequences begin with in common. ``common_prefix("abcd", "abx") == 2``."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def counted(n: int, noun: str) -> str:
    """A number with its noun, in the plural by an s. ``counted(1, "task") == "1 task"``."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


# --- names ---


# What ends a line, what steers a terminal or turns the direction of text, and halves of surrogates. Joiners stay: some
# scripts need them within a word.
_LINE_ENDS = re.compile("[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+")
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""A stranger's text on one line: a space for line ends and tabs, "?" for what steers a terminal.

    Names, summaries, reasons, messages and model names of files and servers pass here before anything shows them.

    >>> printable("a\x1b[2J\nb")
    'a?[2J b'
    """
    return for_terminal(_LINE_ENDS.sub(" ", text))


def for_terminal(text: str) -> str:
    """Text of several lines without what steers a terminal: control characters, turns of direction, half surrogates."""
    return text if text.isascii() and text.isprintable() else _CONTROLS.sub("?", text)


def plain_texts(value: Any) -> Any:
    r"""A stranger's JSON with every text on one line (see `printable`), keys too; a model's reply keeps its lines.

    >>> plain_texts({"name": "a\nb", "said": "a\nb"})
    {'name': 'a b', 'said': 'a\nb'}
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [plain_texts(entry) for entry in value]
    if isinstance(value, dict):
        return {
            printable(key): for_terminal(entry) if key in _OF_LINES and isinstance(entry, str) else plain_texts(entry)
            for key, entry in value.items()
        }
    return value


# Fields of records that hold texts of several lines: a model's reply
_OF_LINES = ("said", "text", "content")


def json_escaped(text: str) -> str:
    """JSON that says the same and steers no terminal: what would stands as an escape in its strings."""
    return _CONTROLS.sub(lambda sign: json.dumps(sign[0])[1:-1], text)


def markdown(text: object) -> str:
    r"""A stranger's text in Markdown: one line that makes no markup, ends no cell of a table and mentions nobody.

    >>> print(markdown("<img src=x> [a](b)\n# b"))
    \<img src=x\> \[a\](b) # b
    """
    return _MARKUP.sub(r"\\\g<0>", " ".join(printable(str(text)).split()))


def markdown_lines(text: str) -> str:
    """The same for a paragraph whose line ends and indents are ours."""
    return "\n".join(_MARKUP.sub(r"\\\g<0>", for_terminal(line)) for line in text.split("\n"))


def code(text: object) -> str:
    """A stranger's text as code in Markdown. ``code("a`b") == "`a'b`"``."""
    return f"`{printable(str(text)).replace('`', chr(39)).replace('|', '¦')}`"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """Write a table of Markdown, unpadded; `align` has an l or r for each column. Cells are Markdown already."""
    rule = ["--:" if side == "r" else "---" for side in align or "l" * len(header)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


# An underscore within a word and a # after its first sign are plain text in Markdown.
_MARKUP = re.compile(r"[\\`*\[\]<>|@]|(?<!\w)_|_(?!\w)|^#|~~|&(?=#|\w+;)")


def cut(text: str, width: int, at: Literal["start", "middle", "end"] = "middle") -> str:
    """Cut a text to `width` characters, with an ellipsis at one place.

    In the middle for names of one model, which differ at both ends; at the start for paths, which differ at their end.
    ``cut("gates-8bit-g64", 9) == "gate…-g64"``, ``cut("gates-8bit-g64", 9, at="end") == "gates-8b…"``.
    """
    if len(text) <= width:
        return text
    room = width - 1
    head = {"start": 0, "middle": room // 2, "end": room}[at]
    return f"{text[:head]}…{text[len(text) - (room - head) :]}"


def nearest(word: object, valid: Iterable[str]) -> str:
    """``" (did you mean 'router'?)"`` where a valid word is near, else nothing."""
    from difflib import get_close_matches

    near = get_close_matches(str(word), list(valid), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def unknown_keys(table: Mapping[str, Any], valid: Sequence[str], where: str) -> list[str]:
    """One problem for each key that means nothing, with the keys that do."""
    return [
        f"{where}: unknown key {key!r}{nearest(key, valid)}; valid: {', '.join(valid)}"
        for key in table
        if key not in valid
    ]


def distinct(names: Sequence[str]) -> list[str]:
    """Number equal names apart: `build`, `build` becomes `build`, `build#2`."""
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    again: dict[str, int] = {}
    out = []
    for name in names:
        again[name] = again.get(name, 0) + 1
        out.append(name if again[name] == 1 else f"{name}#{again[name]}")
    return out


# --- figures ---


def figure(value: float | None, digits: int = 4) -> str:
    """A number in so many digits, whole from 1,000 on: ``0.001234``, ``37.81``, ``125,966,246,400``; "-" for None."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


def percent(share: float | None, decimals: int = 1) -> str:
    """A share in per cent with so many decimals; "-" for None. ``percent(0.1234) == "12.3 %"``."""
    return "-" if share is None else f"{100 * share:.{decimals}f} %"


def percent_digits(ratio: float | None, digits: int = 3) -> str:
    """A ratio in per cent in so many digits, for errors, which span decades; "-" for None.

    ``percent_digits(0.00412) == "0.412 %"``
    """
    return "-" if ratio is None else f"{100 * ratio:#.{digits}g}".rstrip(".") + " %"


def plus_minus(value: float | None, half: float | None) -> str:
    """A figure and half the width of its interval, to two digits of the latter; without it where there is none.

    ``plus_minus(12.3456, 0.0789) == "12.346±0.079"``
    """
    if value is None:
        return "-"
    if half is None:
        return f"{value:.3g}"
    if half == 0:
        return f"{value:.3g}±0"
    if half < _NARROW:
        return f"{value:.2g}±{half:.1g}"
    places = max(0, 1 - _exponent(half))
    return f"{value:.{places}f}±{half:.{places}f}"


def ends(low: float, high: float) -> str:
    """An interval's ends, to two digits of its width. ``ends(1.2345, 1.3456) == "1.23 … 1.35"``."""
    width = abs(high - low)
    if width < _NARROW:
        return f"{low:.2g} … {high:.2g}" if abs(low) < 1 else f"{low:.6g} … {high:.6g}"
    places = max(0, 1 - _exponent(width))
    return f"{low:.{places}f} … {high:.{places}f}"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2] or 0)  # infinity has none


# --- tables ---


def table(header: Sequence[str], rows: Sequence[Sequence[object]], align: str = "", style: str = "simple") -> str:
    """Write a table by tabulate in one of its styles: "simple" for a terminal, "github" for Markdown.

    `align` has an l or r for each column; without it, the first column is aligned left and the others right.
    """
    from tabulate import tabulate

    align = align or "l" + "r" * (len(header) - 1)
    sides = ["left" if side == "l" else "right" for side in align][: len(header)]
    return str(
        tabulate(rows, headers=header, tablefmt=style, colalign=sides, disable_numparse=True, preserve_whitespace=True)
    )


def narrow_table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """Write the same without the two columns that tabulate adds to right-aligned headers, where room is short."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = (header, ["-" * width for width in widths], *rows)
    return "\n".join(
        "  ".join(
            cell.ljust(w) if side == "l" else cell.rjust(w) for cell, w, side in zip(line, widths, align, strict=True)
        ).rstrip()
        for line in lines
    )
