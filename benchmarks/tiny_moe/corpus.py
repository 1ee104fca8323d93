"""The training text: the oracle's transcripts of store tasks, rendered with the model's own chat template.

Batch i is a function of i, its number of calls and its size alone. A batch holds tasks of one length, each in a row of
its own from the first position on, so that nothing leaks from one conversation into the next and little is padded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import vocabulary
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))  # the store, from this checkout
from mlxquant.evals.store import Task, Turn, make_task, transcript

WORD_TASKS = 600  # tasks whose transcripts the vocabulary is counted on


class Batch(NamedTuple):
    """Rows of tokens (B, T + 1), and the weight of predicting each but the first (B, T)."""

    tokens: NDArray[np.int64]
    weights: NDArray[np.float32]


def messages(task: Task) -> list[dict[str, Any]]:
    """Return a task's transcript, arguments as objects, as mlx_lm's server hands them to a template."""
    out = transcript(task, system=False)
    for message in out:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return out


class Renderer:
    """Turns transcripts into text and text into tokens."""

    def __init__(self) -> None:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        self.template = _compile_jinja_template(vocabulary.TEMPLATE.read_text(encoding="utf-8"))

    def render(self, task: Task) -> str:
        """Render a task."""
        return str(self.template.render(messages=messages(task), add_generation_prompt=False))

    def text(self, seed: int, n_calls: int) -> str:
        """Render the task of a seed."""
        return self.render(make_task(seed, n_calls))

    def picks(self, seed: int) -> Iterator[str]:
        """Render those requests of a long task, each alone, that are about picking from a list."""
        task = make_task(seed, 64)
        yield from (self.render(replace(task, turns=(turn,))) for turn in task.turns if to_pick(turn))


def to_pick(turn: Turn) -> bool:
    """Whether a request makes sense alone, and one entry of a list of several has to be picked for it."""
    lists = (entries for result in turn.results[:-1] for entries in result.values() if isinstance(entries, list))
    return "back_reference" not in turn.slices and any(len(entries) > 1 for entries in lists)


def pack(rows: list[list[int]], read: float = 0.0, length: int | None = None, multiple: int = 1) -> Batch:
    """Pad rows on the right, to a length or a multiple; what the model says weighs 1, what it only reads `read`."""
    special = vocabulary.ids()
    length = length or 1 - (1 - max(map(len, rows))) // multiple * multiple
    tokens = np.full((len(rows), length), special["<|endoftext|>"], dtype=np.int64)
    weights = np.zeros((len(rows), length), dtype=np.float32)
    for ids, into, weight in zip(rows, tokens, weights, strict=True):
        into[: len(ids)] = ids
        weight[: len(ids)] = np.where(spoken(into[: len(ids)]), 1.0, read)
    return Batch(tokens, weights[:, 1:])


def choices(ids: list[int], lists: set[int]) -> list[int]:
    """Find where a row decides: the first token of an answer, and the first digit of a call after a list of results.

    These few tokens hold most of what is hard, such as which of two lamps is the blue one. `lists` are the tokens that
    a result with a list begins with.
    """
    special = vocabulary.ids()
    assistant, tool, call = (special[t] for t in ("<|assistant|>", "<|tool|>", "<tool_call>"))
    found, listed, waits = [], False, False
    for at, token in enumerate(ids[:-1]):
        if token == tool:
            listed, waits = ids[at + 1] in lists, False
        elif token == assistant:
            found.append(at + 1)
            waits = listed and ids[at + 1] == call
        elif waits and ord("0") <= token <= ord("9"):  # a byte is its own id up to 0xBF
            found.append(at)
            waits = False
    return found


def spoken(tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark what the assistant wrote in a row (T,): all after <|assistant|> up to and with <|im_end|>."""
    special = vocabulary.ids()
    starts = np.cumsum(tokens == special["<|assistant|>"])
    ends = np.cumsum(tokens == special["<|im_end|>"])
    before = np.concatenate([[0], ends[:-1]])
    return (starts > before) & (tokens != special["<|assistant|>"])
