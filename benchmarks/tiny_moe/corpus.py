"""The training text: the oracle's transcripts of store tasks, rendered with the model's own chat template.

Batch i is a function of i, its number of calls and its size alone. A batch holds tasks of one length, each in a row of
its own from the first position on, so that nothing leaks from one conversation into the next and little is padded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import vocabulary
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))  # the store, from this checkout
from mlxquant.store import make_task, transcript

OTHERS = 0.2  # weight in the loss of what the model only reads
WORD_TASKS = 600  # tasks whose transcripts the vocabulary is counted on


class Batch(NamedTuple):
    """Rows of tokens (B, T + 1), and the weight of predicting each but the first (B, T)."""

    tokens: NDArray[np.int64]
    weights: NDArray[np.float32]


def messages(seed: int, n_calls: int) -> list[dict[str, Any]]:
    """Return a task's transcript, arguments as objects, as mlx_lm's server hands them to a template."""
    out = transcript(make_task(seed, n_calls), system=False)
    for message in out:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return out


class Renderer:
    """Turns transcripts into text and text into tokens."""

    def __init__(self) -> None:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        self.template = _compile_jinja_template(vocabulary.TEMPLATE.read_text(encoding="utf-8"))

    def text(self, seed: int, n_calls: int) -> str:
        """Render a task."""
        return str(self.template.render(messages=messages(seed, n_calls), add_generation_prompt=False))


def pack(rows: list[list[int]], multiple: int = 1) -> Batch:
    """Pad rows on the right to the longest, and weigh what is predicted."""
    special = vocabulary.ids()
    length = 1 - (1 - max(map(len, rows))) // multiple * multiple
    tokens = np.full((len(rows), length), special["<|endoftext|>"], dtype=np.int64)
    weights = np.zeros((len(rows), length), dtype=np.float32)
    for row, (ids, into, weight) in enumerate(zip(rows, tokens, weights, strict=True)):
        into[: len(ids)] = ids
        weight[: len(ids)] = np.where(spoken(tokens[row, : len(ids)]), 1.0, OTHERS)
    return Batch(tokens, weights[:, 1:])


def spoken(tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark what the assistant wrote in a row (T,): all after <|assistant|> up to and with <|im_end|>."""
    special = vocabulary.ids()
    starts = np.cumsum(tokens == special["<|assistant|>"])
    ends = np.cumsum(tokens == special["<|im_end|>"])
    before = np.concatenate([[0], ends[:-1]])
    return (starts > before) & (tokens != special["<|assistant|>"])
