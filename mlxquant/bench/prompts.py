"""The tokens that are measured: real text by default, since random tokens make a router choose as it never would.

The text is the project's own (bench_prompt.txt, written for it, dedicated to the public domain under CC0 1.0): prose,
a tool call, code, a table and other languages, repeated to the length that is asked for. Each sequence of a batch and
each request to a server begins elsewhere in it. Builds are given the same tokens. A server must not answer from its
prompt cache, so each text for one begins with words of its own, drawn anew for every request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from ..disk.files import read_regular
from ..errors import UsageError

TEXT_FILE = Path(__file__).with_name("bench_prompt.txt")
_STRIDE = 61  # tokens between the beginnings of two sequences; a prime, so that repetitions do not line up

_WORDS = (
    "amber", "anchor", "birch", "bolt", "cedar", "chalk", "clover", "copper", "delta", "ember", "fern", "flint",
    "garnet", "gull", "harbor", "hazel", "indigo", "iron", "jasper", "juniper", "kelp", "lantern", "larch", "linen",
    "maple", "marble", "north", "oak", "olive", "onyx", "pebble", "pine", "quartz", "quay", "reed", "river", "salt",
    "slate", "spruce", "stone", "thistle", "timber", "umber", "vale", "violet", "walnut", "willow", "yarrow", "zinc",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prompts:
    """Where tokens come from: `kind` is "text", "random" or "file"; `text` is repeated, unless random."""

    kind: str
    text: str

    def describe(self) -> dict[str, Any]:
        """What a record says of it: a digest, never a file's name or contents."""
        return {"kind": self.kind, "sha256": sha256(self.text.encode()).hexdigest() if self.text else None}


def own_text() -> Prompts:
    """The project's own text."""
    return Prompts("text", TEXT_FILE.read_text(encoding="utf-8"))


def random_tokens() -> Prompts:
    """Tokens drawn evenly from the vocabulary, as llama-bench does."""
    return Prompts("random", "")


def text_from(path: Path) -> Prompts:
    """A file's text. Raises UsageError."""
    try:
        text = read_regular(path).decode()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); --prompt-file takes a text file") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8 text; --prompt-file takes a text file") from None
    if not text.strip():
        raise UsageError(f"{path}: is empty; --prompt-file takes a text file")
    return Prompts("file", text)


def rows_of_tokens(
    prompts: Prompts, encode: Callable[[str], Sequence[int]], vocabulary: int, batch: int, length: int, seed: int
) -> list[list[int]]:
    """Make (batch, length) token ids: the text, repeated, each row beginning elsewhere; or random ones."""
    if prompts.kind == "random":
        draw = Random(seed)
        return [[draw.randrange(vocabulary) for _ in range(length)] for _ in range(batch)]
    ids = list(encode(prompts.text))
    if not ids:
        raise UsageError("the prompt's text gives no token; choose another with --prompt-file")
    return [[ids[(row * _STRIDE + i) % len(ids)] for i in range(length)] for row in range(batch)]


def words_of_text(prompts: Prompts, count: int, draw: Random | None = None) -> str:
    """Write `count` words that no earlier request began with: a number and drawn words, then the text, repeated.

    >>> len(words_of_text(own_text(), 100).split())
    100
    """
    draw = draw or SystemRandom()
    head = [str(draw.randrange(10**8, 10**9)), *(draw.choice(_WORDS) for _ in range(7))]
    if prompts.kind == "random":
        return " ".join([*head, *(draw.choice(_WORDS) for _ in range(count))][:count])
    pieces = _pieces(prompts.text)
    turned = (pieces * (count // len(pieces) + 1))[: max(0, count - len(head))]
    return (" ".join(head) + ". " + "".join(turned)).strip() if turned else " ".join(head[:count])


def _pieces(text: str) -> list[str]:
    """Words with the space that follows them, so that code and tables stay what they are."""
    return re.findall(r"\S+\s*", text)
