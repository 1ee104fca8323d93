"""Changing an input a little: its bytes, its words, or, where it is JSON, its values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any


def _nested(depth: int) -> Any:
    value: Any = {}
    for i in range(depth):
        value = [value] if i % 2 else {"a": value}
    return value


# Values that readers of JSON stumble over
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64 - 1, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e308, float("nan"),
    float("inf"), "", "a", "\ud800", "\x00", "\x1b[2J", "é", "x" * 300, "../x", "/etc/passwd", "a\\b", "C:x", ".", "..",
    "model.safetensors", "F32", "BF16", "F8_E4M3", "U8", [], [[]], {}, {"a": {}}, [0], [0, 0], [0, 8], [8, 0], [-1, 3],
    [2**62, 2**62, 2**62], [0] * 70, [1] * 1000, "__metadata__", "weight_map", [0.5, 1], ["0", "8"], [True, False],
    _nested(10), _nested(200), _nested(700),
]  # fmt: skip

# Pieces of text that mean something to one reader or another
WORDS: list[bytes] = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"\xff", b"\xef\xbb\xbf", b"\x00", b"\n",
    b"=", b"NaN", b"Infinity", b"-", b"1e999", b"9" * 30, b"9" * 5000, b"null", b"true", b"[" * 400, b'{"a":' * 300,
    b"/*", b"#",
    b'"__metadata__":{"format":"pt"},', b'"data_offsets":[0,0]', b'"dtype":"F32"', b'"shape":[2]', b'"weight_map"',
    b"[[rules]]\n", b"[quantize]\n", b"bits = 8\n", b"group_size = 64\n", b"keep = true\n", b'reason = "x"\n', b'"""',
    b"extends = ", b'"gates-8bit"\n', b'match = { role = "router" }\n', b'layers = ["0..1/8"]\n', b"1/0", b"..",
    b"step 0",
    b"99999999999999999999", b"0x", b"1_000", b"1979-05-27", b"'''", b"path = \"*\"\n", b"../", b"[a]*", b"(", b"{1,}",
]  # fmt: skip


def mutated(random: Random, data: bytes, pool: Sequence[bytes]) -> bytes:
    """One to four changes to an input; `pool` are others, to take pieces from."""
    for _ in range(random.choice((1, 1, 2, 4))):
        kind = random.random()
        if kind < 0.45 and (changed := json_changed(random, data)) is not None:
            data = changed
        elif kind < 0.6:
            data = _spliced(random, data, random.choice(pool))
        elif kind < 0.8:
            data = _with_word(random, data)
        else:
            data = flipped(random, data)
    return data[:20_000]


def flipped(random: Random, data: bytes) -> bytes:
    """Change, remove, repeat or add a few bytes."""
    changed = bytearray(data or b"\0")
    at = random.randrange(len(changed))
    length = random.choice((1, 1, 1, 2, 4, 8, 64))
    match random.randrange(5):
        case 0:
            changed[at] ^= 1 << random.randrange(8)
        case 1:
            changed[at] = random.randrange(256)
        case 2:
            del changed[at : at + length]
        case 3:
            changed[at:at] = changed[at : at + length] * random.choice((1, 2, 50))
        case _:
            changed[at : at + 8] = random.choice((0, 1, 2, 100, 2**31, 2**40, 2**63, 2**64 - 1)).to_bytes(8, "little")
    return bytes(changed)


def _with_word(random: Random, data: bytes) -> bytes:
    at, word = random.randint(0, len(data)), random.choice(WORDS)
    return data[:at] + word + data[at + random.choice((0, 0, len(word))) :]


def _spliced(random: Random, data: bytes, other: bytes) -> bytes:
    a, b = random.randint(0, len(data)), random.randint(0, len(other))
    return data[:a] + other[b : b + random.choice((20, 200, 20_000))]


# --- JSON ---


def json_changed(random: Random, data: bytes) -> bytes | None:
    """Change a value within JSON, behind a header's length too; None where the input is none."""
    prefixed = data[:1] not in (b"{", b"[") and data[8:9] == b"{"
    body, rest = data, b""
    if prefixed:
        length = int.from_bytes(data[:8], "little")
        body, rest = data[8 : 8 + length], data[8 + length :]
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    places = list(_places(value))
    if not places:
        return None
    table, key = random.choice(places)
    _change(random, table, key, places)
    text = json.dumps(value).encode()
    if not prefixed:
        return text
    if random.random() < 0.3:
        rest = bytes(random.choice((0, 1, len(rest), len(rest) + 4)))
    return len(text).to_bytes(8, "little") + text + rest


def _change(random: Random, table: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    match random.randrange(6):
        case 0:
            del table[key]
        case 1:
            other, place = random.choice(places)
            if place in other if isinstance(other, dict) else place < len(other):
                table[key] = json.loads(json.dumps(other[place]))
        case 2 if isinstance(table, dict):
            table[str(random.choice(VALUES))] = table[key]
        case 3 if isinstance(table[key], int):
            table[key] += random.choice((-1, 1, 4, -4, 2**40))
        case 4 if isinstance(table, list):
            table.insert(key, random.choice(VALUES))
        case _:
            table[key] = random.choice(VALUES)


def _places(value: Any, depth: int = 0) -> Any:
    """Every (table or list, key or index) within a value, not too deep."""
    if depth > 8:
        return
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, inner in items[:200]:
        yield value, key
        yield from _places(inner, depth + 1)
