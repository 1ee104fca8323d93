"""JSON as a stranger wrote it: a model, a server, a file from elsewhere. Strict where Python is lenient, and bounded.

Python's reader takes NaN and infinity, turns 1e999 into infinity, passes halves of surrogate pairs that nothing can
write or show, and ends in RecursionError at deep nesting; what works with the value then fails somewhere else. Here
all of these are one ValueError with a reason, but for halves of pairs, which become U+FFFD. Whatever is returned can be
compared, validated, written and shown without further care. Standard library only.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

DEEPEST = 64  # tables and lists in each other; the deepest that anything here has reason to write has 10
_DIGITS = 300  # of a whole number; a float holds 308
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(text: str | bytes, deepest: int = DEEPEST, *, halves: bool = False) -> Any:
    """Read a value. Raises ValueError with the reason where it is none, or none that can be worked with.

    `halves` leaves halves of pairs as they are, for who puts texts together and calls `whole` then.

    >>> read_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    >>> read_json("1e999")
    Traceback (most recent call last):
    ValueError: 1e999 is a larger number than can be held
    """
    text = text.decode() if isinstance(text, bytes) else text
    try:
        value = json.loads(text, parse_float=_float, parse_int=_int, parse_constant=_no_constant)
    except RecursionError:
        value = None
        deep = True
    else:
        deep = deeper_than(value, deepest)
    if deep:
        raise ValueError(f"tables and lists stand more than {deepest} deep in each other")
    if halves or not _HALF.search(text):
        return value
    return json.loads(whole(json.dumps(value, ensure_ascii=False)))


def whole(text: str) -> str:
    r"""Put halves of surrogate pairs together; those that stay alone become U+FFFD, for they are no text.

    >>> whole("\ud83d" + "\ude00") == "\U0001f600", whole("a\ud800") == "a\ufffd"
    (True, True)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _float(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError(f"{digits[:40]} is a larger number than can be held")
    return number


def _int(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits)} digits is larger than can be held")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def deeper_than(value: Any, depth: int) -> bool:
    """Whether tables and lists stand in each other more than so deep; without recursion."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(depth):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True
