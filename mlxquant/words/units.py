"""Sizes and counts: read as people type them, written as people read them. Bytes are ints everywhere else.

Memory is sold in powers of 1024 whatever the label says (a Mac with "96 GB" has 96 * 2**30 bytes), and so are
context lengths ("32k" is 32,768 tokens); both are read that way here. Disk sizes never come in, only go out.
"""

from __future__ import annotations

import re

from ..errors import UsageError

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_LEAST_BYTES = 1 << 20
_MEMORY = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>[kmgt]?)(?:i?b)?", re.I)
_TOKENS = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>[km]?)", re.I)


def parse_memory(text: str) -> int:
    """Read an amount of memory: `96GB`, `96GiB`, `512 MB`, `64g`, or plain bytes. Raises UsageError.

    A number without a unit that is too small for bytes of memory is refused: "96" means gigabytes to most people.

    >>> parse_memory("96GB") == parse_memory("96 GiB") == 96 * 2**30
    True
    """
    expected = "a size such as 96GB, 96GiB, 512 MB"
    amount = _parse(text, _MEMORY, expected)
    if amount < _LEAST_BYTES and not text.strip()[-1].isalpha():
        raise UsageError(f"{text!r}: {expected} expected; a number alone is bytes")
    return amount


def parse_tokens(text: str) -> int:
    """Read a number of tokens: `131072`, `131,072`, `32k` (32,768), `1M`. Raises UsageError.

    >>> parse_tokens("32k")
    32768
    """
    return _parse(text.replace(",", "").replace("_", ""), _TOKENS, "a number of tokens such as 32k or 131072")


def _parse(text: str, form: re.Pattern[str], expected: str) -> int:
    match = form.fullmatch(text.strip())
    amount = round(float(match["number"]) * 1024 ** _POWERS[match["unit"].lower()]) if match else 0
    if amount <= 0:
        raise UsageError(f"{text!r}: {expected} expected")
    return amount


def show_bytes(n: int, digits: int = 2) -> str:
    """Write bytes for a reader, in binary units. ``show_bytes(125966246400) == "117.32 GiB"``."""
    for unit, power in (("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if n >= 1024**power:
            return f"{n / 1024**power:.{digits}f} {unit}"
    return f"{n} B"


def show_size(n: int) -> str:
    """Write bytes for a reader who may need each one of them.

    >>> show_size(125966246400)
    '117.32 GiB (125,966,246,400 bytes)'
    """
    return f"{show_bytes(n)} ({n:,} bytes)" if n >= 1024 else f"{n} bytes"


def show_count(n: int) -> str:
    """Write a number of parameters for a reader, in decimal units. ``show_count(122111526912) == "122.1 B"``."""
    for unit, power in (("B", 3), ("M", 2), ("k", 1)):
        if n >= 1000**power:
            return f"{n / 1000**power:.1f} {unit}"
    return str(n)
