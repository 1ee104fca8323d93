"""Train the store model from nothing with fixed seeds.

    python benchmarks/tiny_moe/train.py runs/store

Batches of 8192 tokens in rows of 128 to 4096. Learning rates rise, stay, and fall over the last 60 % of the steps. What
the assistant says counts fully in the loss, what it reads a fifth, and from step 1500 on the tokens that choose among
candidates eight times. Every 250 steps the model is judged on held-out tasks and kept; `--resume
runs/store/step1000.pt` goes on from there. Afterwards publish.py turns a kept step into a checkpoint and its record.
How the shipped weights came about, which this schedule retraces, stands in README.md.

Two processes of one thread each take half of every batch and add up their gradients once a step. On a shared machine
that is half as fast again as two threads, which wait for each other at every operation.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corpus
import fast
import hub_layout
import shape
import torch
import vocabulary
from descent import Descent
from held_out import judged
from torch import Tensor, distributed
from torch.nn import functional as F

STEPS = 3000
TOKENS = 8192  # of a batch
PROCESSES = 2
DRILL = 128  # rows of this length after step 2000 are single requests in which one result is to be picked from several
# (until this step, lengths of rows to draw from)
STAGES = (
    (600, (512,)),
    (1500, (512, 1024, 1024, 2048)),
    (1750, (1024, 2048, 2048, 4096)),
    (2000, (128, 128, 256, 512)),
    (2400, (DRILL,)),
    (10**9, (DRILL, 512, 1024, 2048, 2048, 4096)),
)
READ = 0.2  # weight in the loss of what the model only reads
CHOICE = ((1500, 1.0), (10**9, 8.0))  # until this step, the weight of the tokens that decide between candidates
RATES = {"matrix": 0.02, "embedding": 0.02, "head": 0.004, "other": 0.01}
PACE = ((0, 0.0), (40, 1.0), (1155, 1.0), (1750, 0.72), (STEPS, 0.0))  # shares of the learning rates, linear between
BALANCE = 0.001  # weight of the router's load balancing loss, as in config.json
EVERY = 250
TASKS = ((5, 40), (10, 24), (20, 16), (40, 8))  # held out: (calls, tasks)
CALLS_PER_ROW = 42  # a call takes 45 tokens and more, so that a row never outlasts its task


def batch(index: int, rank: int, renderer: corpus.Renderer, tokenizer: Any) -> corpus.Batch:
    """Make a process's part of batch `index`: rows of one length, each the beginning of a longer conversation."""
    lengths = next(lengths for until, lengths in STAGES if index < until)
    length = random.Random(f"length {index}").choice(lengths)
    first = (index * PROCESSES + rank) * 256
    if index >= 2000 and length == DRILL:
        texts = (text for seed in range(first, first + 256) for text in renderer.picks(seed))
    else:
        calls = max(5, length // CALLS_PER_ROW)
        texts = (renderer.text(seed, calls) for seed in range(first, first + 256))
    rows: list[list[int]] = []
    while len(rows) < TOKENS // PROCESSES // length:
        ids = tokenizer.encode(next(texts)).ids
        if len(ids) > length or length == DRILL:
            rows.append(ids[: length + 1])
    made = corpus.pack(rows, READ, length + 1)
    lists = {tokenizer.token_to_id(opening) for opening in ('{"users":[{"', '{"orders":[{"', '{"items":[{"')}
    weight = next(weight for until, weight in CHOICE if index < until)
    for ids, weights in zip(rows, made.weights, strict=True):
        weights[[at - 1 for at in corpus.choices(ids, lists)]] = weight
    return made


def produce(queue: Any, rank: int, first: int, steps: int, folder: Path) -> None:
    """Make the batches of the steps to come, in a process of its own."""
    os.nice(20)
    renderer, tokenizer = corpus.Renderer(), hub_layout.tokenizer(folder)
    for index in range(first, steps):
        queue.put(batch(index, rank, renderer, tokenizer))


def transcripts() -> Iterator[str]:
    """Yield the transcripts that the vocabulary is counted on."""
    renderer, rng = corpus.Renderer(), random.Random(1)
    for seed in range(corpus.WORD_TASKS):
        yield renderer.text(seed, rng.choice((5, 8, 10, 14, 20)))


def loss(model: Any, rows: corpus.Batch) -> tuple[Tensor, dict[str, float]]:
    """Return what to minimize, and what to report: nats per token spoken and read, share of spoken ones right."""
    tokens, weights = torch.from_numpy(rows.tokens), torch.from_numpy(rows.weights).flatten()
    hidden, routers = fast.hidden_states(model, tokens[:, :-1], torch.bfloat16)
    logits = fast.product(hidden.flatten(0, 1), model.lm_head.weight, torch.bfloat16)
    wanted = tokens[:, 1:].flatten()
    nats = F.cross_entropy(logits, wanted, reduction="none")
    uneven = sum(fast.balance(scores, shape.EXPERTS_PER_TOKEN) for scores in routers) / len(routers)
    spoken = weights >= 1
    with torch.no_grad():
        seen = {
            "spoken_nats": float(nats[spoken].mean()),
            "read_nats": float(nats[~spoken].mean()),
            "spoken_right": float((logits.argmax(-1) == wanted)[spoken].float().mean()),
            "balance": float(uneven),
        }
    return (nats * weights).sum() / weights.sum() + BALANCE * uneven, seen


def train(rank: int, folder: Path, steps: int, resume: Path | None) -> None:
    """Train in `folder`, which gets the kept steps and progress.jsonl from the first of the processes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder.resolve()}/meet", rank=rank, world_size=PROCESSES)
    model = shape.model()
    descent = Descent(model, RATES, PACE)
    first = descent.load(resume) if resume else 0
    queue = multiprocessing.Queue(8)
    worker = multiprocessing.Process(target=produce, args=(queue, rank, first, steps, folder), daemon=True)
    worker.start()
    started = time.perf_counter()
    for step in range(first, steps):
        minimized, seen = loss(model, queue.get())
        minimized.backward()
        add_up(list(model.parameters()))
        descent.step(step)
        if rank == 0:
            if (step + 1) % EVERY == 0 or step + 1 == steps:
                seen["held_out"] = judged(model, folder, TASKS)
                descent.keep(folder / f"step{step + 1}.pt", step + 1)
            note(folder, step + 1, {"seconds": round(time.perf_counter() - started, 1)} | seen)
    worker.join()


def add_up(parameters: list[Tensor]) -> None:
    """Replace every process's gradients by their mean."""
    flat = torch.cat([p.grad.flatten() for p in parameters])
    distributed.all_reduce(flat)
    for p, mean in zip(parameters, (flat / PROCESSES).split([p.numel() for p in parameters]), strict=True):
        p.grad.copy_(mean.view_as(p))


def note(folder: Path, step: int, seen: dict[str, Any]) -> None:
    """Add a line to progress.jsonl, and print some."""
    line = json.dumps({"step": step, "tokens": step * TOKENS} | seen)
    with (folder / "progress.jsonl").open("a", encoding="utf-8") as progress:
        progress.write(line + "\n")
    if step % 20 == 0 or "held_out" in seen:
        print(line, flush=True)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--resume", type=Path, help="a stepN.pt to go on from")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / "meet").unlink(missing_ok=True)
    if not given.resume:
        vocabulary.write(given.folder, transcripts())
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=train, args=(r, given.folder, given.steps, given.resume)) for r in range(PROCESSES)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()


if __name__ == "__main__":
    main()
