"""Train store-deep from nothing with fixed seeds.

    python benchmarks/store_deep/train.py runs/deep

Batches of 8192 tokens in rows of 512 to 8192. What the assistant says counts fully in the loss, what it reads a tenth.
Rates rise, stay, and fall over the last half. Every 200 steps the model is judged on held-out tasks and kept; the same
command goes on from the last that was kept. One process of one thread: it is meant to run behind other work.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import settings
import torch
from settings import Descent, corpus, fast, held_out, hub_layout, shape, vocabulary
from torch.nn import functional as F

STEPS, TOKENS = 1900, 8192
# (until this step, lengths of rows to draw from)
STAGES = (
    (500, (512,)),
    (800, (512, 1024, 1024, 2048)),
    (1200, (512, 1024, 2048, 4096)),
    (10**9, (512, 1024, 2048, 4096, 8192)),
)
READ = 0.1  # weight in the loss of what the model only reads
RATES = {"matrix": 0.02, "embedding": 0.02, "head": 0.004, "other": 0.01}
PACE = ((0, 0.0), (40, 1.0), (900, 1.0), (STEPS, 0.0))  # shares of the learning rates, linear between
BALANCE = 0.001  # weight of the router's load balancing loss
EVERY = 200
TASKS = ((5, 40), (20, 16), (60, 8), (150, 4))
WORD_TASKS = 400
CALLS_PER_ROW = 36  # a call takes more than 36 tokens, so that a row never outlasts its task


def batch(index: int, renderer: Any, tokenizer: Any) -> corpus.Batch:
    """Make batch `index`: rows of one length, each the beginning of a longer conversation."""
    lengths = next(lengths for until, lengths in STAGES if index < until)
    length = random.Random(f"deep {index}").choice(lengths)
    calls = min(200, max(5, length // CALLS_PER_ROW))
    rows: list[list[int]] = []
    seed = index * 64
    while len(rows) < TOKENS // length:
        ids = tokenizer.encode(renderer.text(seed, calls)).ids
        seed += 1
        if len(ids) > length or calls == 200:
            rows.append(ids[: length + 1])
    return corpus.pack(rows, READ, length + 1)


def loss(model: Any, rows: corpus.Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """Return what to minimize, and what to report of the spoken tokens."""
    tokens, weights = torch.from_numpy(rows.tokens), torch.from_numpy(rows.weights).flatten()
    hidden, routers = fast.hidden_states(model, tokens[:, :-1], torch.bfloat16)
    logits = fast.product(hidden.flatten(0, 1), model.lm_head.weight, torch.bfloat16)
    wanted = tokens[:, 1:].flatten()
    nats = F.cross_entropy(logits, wanted, reduction="none")
    uneven = sum(fast.balance(scores, shape.EXPERTS_PER_TOKEN) for scores in routers) / len(routers)
    spoken = weights >= 1
    with torch.no_grad():
        seen = {
            "spoken_nats": round(float(nats[spoken].mean()), 5),
            "spoken_right": round(float((logits.argmax(-1) == wanted)[spoken].float().mean()), 5),
            "balance": round(float(uneven), 3),
        }
    return (nats * weights).sum() / weights.sum() + BALANCE * uneven, seen


def main() -> None:
    """Train, or go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    renderer = settings.Renderer()
    if not (folder / "tokenizer.json").exists():
        rng = random.Random(1)
        texts = [renderer.text(10**6 - 1 - i, rng.choice((5, 8, 10, 14, 20))) for i in range(WORD_TASKS)]
        vocabulary.write(folder, texts)
    tokenizer = hub_layout.tokenizer(folder)
    model = shape.model()
    descent, last = Descent(model, RATES, PACE), folder / "last.pt"
    first = descent.load(last) if last.exists() else 0
    began = time.perf_counter()
    for step in range(first, STEPS):
        minimized, line = loss(model, batch(step, renderer, tokenizer))
        minimized.backward()
        descent.step(step)
        line |= {"step": step + 1, "tokens": (step + 1) * TOKENS, "seconds": round(time.perf_counter() - began, 1)}
        if (step + 1) % EVERY == 0 or step + 1 == STEPS:
            line["held_out"] = held_out.judged(model, folder, TASKS)
            descent.keep(last, step + 1)
            if (step + 1) % 500 == 0:
                descent.keep(folder / f"step{step + 1}.pt", step + 1)
        with (folder / "progress.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
