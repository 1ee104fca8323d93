"""Tokens of a text, and which characters each of them stands for.

A fast tokenizer says so itself; its gaps (white space that it trims from offsets) go to the token that follows. For
others, and for those whose class rewrites the text first, tokens are decoded in the smallest runs that make whole
characters, and matched with the text. A character of several tokens belongs to each of them.

The tokenizer of a source, loaded as mlx-lm loads it; of a Hub id, from the few files that it needs.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...builds.read.loading import load_tokenizer
from ...builds.side_files import side_files
from ...errors import SourceError
from ...source.checkpoint import Checkpoint

# --- tokens ---


_LONGEST_RUN = 24  # tokens that may make up one character, or one word whose spacing a decoder changes
_HEAD = 500  # characters by which to tell whether a class's `encode` rewrites text that its call takes as it is
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class Encoded:
    """tokens, start, end: (n,). Token i stands for characters start[i] … end[i], an empty range for one of none."""

    tokens: NDArray[np.int32]
    start: NDArray[np.int64]
    end: NDArray[np.int64]


def encode(tokenizer: Any, text: str, *, special: bool) -> Encoded:
    """Tokenize; `special` adds what the tokenizer puts around plain text, which a chat template writes itself."""
    inner = getattr(tokenizer, "_tokenizer", tokenizer)  # mlx-lm wraps transformers' tokenizer, which wraps another
    outer = inner if hasattr(inner, "is_fast") else tokenizer
    head = text[:_HEAD]
    if getattr(outer, "is_fast", False) and list(tokenizer.encode(head)) == list(outer(head)["input_ids"]):
        encoding = outer(text, add_special_tokens=special, return_offsets_mapping=True)
        ids = encoding["input_ids"]
        pairs = np.asarray(encoding["offset_mapping"], np.int64).reshape(-1, 2)
    else:
        ids = [int(i) for i in tokenizer.encode(text, add_special_tokens=special)]
        pairs = decoded_offsets(tokenizer, ids, text)
    return Encoded(np.asarray(ids, np.int32), *_without_gaps(pairs))


def _without_gaps(pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Let each token begin no later than where the ones before it ended, and those of no characters stand there."""
    reached = np.maximum.accumulate(np.concatenate([np.zeros(1, np.int64), pairs[:, 1]]))[:-1]
    start = np.where(pairs[:, 1] > pairs[:, 0], np.minimum(pairs[:, 0], reached), reached)
    return start, np.maximum(start, pairs[:, 1])


def decoded_offsets(tokenizer: Any, ids: list[int], text: str) -> NDArray[np.int64]:
    """Match tokens with the text by decoding; (n, 2). Tokens that show nothing of the text get an empty range."""
    special = set(getattr(tokenizer, "all_special_ids", ()))
    pairs = np.zeros((len(ids), 2), np.int64)
    at = first = 0
    for i, token in enumerate(ids):
        words = tokenizer.decode(ids[first : i + 1], skip_special_tokens=False)
        length = _matched(words, text, at)
        if length is None and first == i and token in special:
            length = 0
        elif length is None and i + 1 - first < _LONGEST_RUN:
            continue
        if length is None:  # lost: go on at the next place that reads as the last token does
            last = tokenizer.decode([token], skip_special_tokens=False)
            length = max(text.find(last, at), at) - at + (len(last) if last in text[at:] else 0)
        pairs[first : i + 1] = (at, at + length)
        at += length
        first = i + 1
    pairs[first:] = (at, len(text))
    return pairs


def _matched(core: str, text: str, at: int) -> int | None:
    """How many characters from `at` the decoded words cover, whose spacing a decoder may change; None if not whole."""
    if text.startswith(core, at):
        return len(core)
    if core.endswith(_REPLACEMENT):
        return None
    core = core.strip()
    start = at
    while start < len(text) and text[start].isspace():
        start += 1
    return start - at + len(core) if core and text.startswith(core, start) else None


# --- tokenizer ---


def open_tokenizer(source: Checkpoint) -> Any:
    """Load a source's tokenizer, chat template included. Raises SourceError. Code of the source is not run."""
    if source.reader is None:
        raise SourceError(f"{source.name}: a config alone has no tokenizer; give the checkpoint's folder")
    if source.folder is not None:
        return load_tokenizer(source.folder, source.name, source.config)
    with tempfile.TemporaryDirectory(prefix="mlxquant-") as folder:
        for name in ("config.json", *side_files(source.reader.listing(), trust_remote_code=False)):
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_bytes(source.reader.read_whole(name))
        return load_tokenizer(Path(folder), source.name, source.config)
