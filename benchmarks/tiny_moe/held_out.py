"""Judge a model on tasks that it never saw: seeds from 1,000,000 on.

Every call is asked for after the oracle's calls and results. Greedy decoding writes the oracle's call exactly when the
call's every token is the likeliest after those before it; so one pass over a transcript gives what a loop would, and a
task of which every call is right would be done right from its beginning to its end without an oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import corpus
import fast
import hub_layout
import numpy as np
import torch
import vocabulary
from numpy.typing import NDArray
from torch.nn import functional as F

FIRST_SEED = 1_000_000
ROWS = 8


def judged(
    model: Any, folder: Path, tasks: Sequence[tuple[int, int]], dtype: torch.dtype = torch.bfloat16
) -> dict[str, dict[str, float]]:
    """Return, by number of calls, shares of calls, replies and whole tasks right, and nats per spoken token."""
    renderer, tokenizer = corpus.Renderer(), hub_layout.tokenizer(folder)
    out = {}
    for n_calls, count in tasks:
        seeds = range(FIRST_SEED, FIRST_SEED + count)
        rows = [tokenizer.encode(renderer.text(seed, n_calls)).ids for seed in seeds]
        verdicts, nats = [], []
        for at in range(0, count, ROWS):
            batch = corpus.pack(rows[at : at + ROWS], multiple=128)
            right, loss = predicted(model, batch, dtype)
            spoken = batch.weights == 1
            nats.append(loss[spoken])
            verdicts += [answers(*row) for row in zip(batch.tokens[:, 1:], right, spoken, strict=True)]
        calls = [right for task in verdicts for call, right in task if call]
        replies = [right for task in verdicts for call, right in task if not call]
        out[str(n_calls)] = {
            "tasks": count,
            "calls_right": round(float(np.mean(calls)), 4),
            "replies_right": round(float(np.mean(replies)), 4),
            "tasks_with_all_calls_right": round(float(np.mean([all(r for c, r in t if c) for t in verdicts])), 4),
            "tasks_right": round(float(np.mean([all(r for _, r in t) for t in verdicts])), 4),
            "nats_per_token": round(float(np.concatenate(nats).mean()), 5),
        }
    return out


@torch.no_grad()
def predicted(model: Any, batch: corpus.Batch, dtype: torch.dtype) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Return whether each token but the first is the likeliest, and its negative log likelihood, both (B, T)."""
    tokens = torch.from_numpy(batch.tokens)
    logits = fast.logits(model, tokens[:, :-1], dtype)
    nats = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return (logits.argmax(-1) == tokens[:, 1:]).numpy(), nats.view(len(tokens), -1).numpy()


def answers(tokens: NDArray[np.int64], right: NDArray[np.bool_], spoken: NDArray[np.bool_]) -> list[tuple[bool, bool]]:
    """Return of each thing said in a row (T,) whether it is a call, and whether it is right in every token."""
    special = vocabulary.ids()
    starts = np.flatnonzero(spoken & ~np.concatenate([[False], spoken[:-1]]))
    ends = np.flatnonzero(spoken & (tokens == special["<|im_end|>"]))
    return [
        (bool(tokens[a] == special["<tool_call>"]), bool(right[a : b + 1].all()))
        for a, b in zip(starts, ends, strict=True)
    ]
