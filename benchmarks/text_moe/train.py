"""Train the text model from nothing with fixed seeds, after corpus.py.

    python benchmarks/text_moe/train.py runs/text

Batches of 8192 tokens in rows of 512: a row is a piece of one document or of several, with <|endoftext|> between
them. Rates rise, stay, and fall over the last half. Every 100 steps the model is judged on the documents that judge
nothing else, and kept; the same command goes on from the last that was kept, and writes the checkpoint at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import model as text_model
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[1] / "tiny_moe"))  # after this folder: some names stand in both
from descent import Descent

STEPS, TOKENS, ROW = 1300, 8192, 512
RATES = {"matrix": 0.02, "embedding": 0.02, "head": 0.004, "other": 0.01}
PACE = ((0, 0.0), (40, 1.0), (600, 1.0), (STEPS, 0.0))
BALANCE = 0.001
EVERY = 100
END = "<|endoftext|>"


def tokenizer(folder: Path) -> Any:
    """Read the byte-level BPE of 2048 pieces, made from the training documents the first time."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    path = folder / "tokenizer.json"
    if not path.exists():
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=text_model.VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        )
        made.train_from_iterator((d["text"] for d in documents(folder, "train")), trainer)
        made.save(str(path))
        settings = {"eos_token": END, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return Tokenizer.from_file(str(path))


def documents(folder: Path, part: str) -> list[dict[str, str]]:
    """Read the documents of a part, in the order of their hashes."""
    lines = (folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = [each for each in map(json.loads, lines) if each["part"] == part]
    return sorted(chosen, key=lambda each: each["sha256"])


def tokens_of(folder: Path, part: str) -> NDArray[np.int64]:
    """All tokens of a part one after another, kept in a file."""
    path = folder / f"{part}.npy"
    if not path.exists():
        encode, end = tokenizer(folder), 0
        ids = [[*encode.encode(d["text"]).ids, end] for d in documents(folder, part)]
        np.save(path, np.concatenate([np.array(each, dtype=np.uint16) for each in ids]))
    return np.load(path).astype(np.int64)


def loss(model: Any, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, float]:
    """What to minimize for rows (B, T + 1), and nats per token."""
    logits, routers = text_model.logits(model, rows[:, :-1], dtype)
    nats = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    uneven = sum(text_model.fast.balance(scores, text_model.CONFIG["num_experts_per_tok"]) for scores in routers) / len(
        routers
    )
    return nats + BALANCE * uneven, float(nats.detach())


@torch.no_grad()
def judged(model: Any, tokens: NDArray[np.int64], dtype: torch.dtype) -> float:
    """Nats per token over 64 rows spread over the judging documents."""
    starts = np.linspace(0, len(tokens) - ROW - 2, 64).astype(int)
    rows = torch.from_numpy(np.stack([tokens[s : s + ROW + 1] for s in starts]))
    return float(np.mean([loss(model, part, dtype)[1] for part in rows.split(16)]))


def main() -> None:
    """Train, and write the checkpoint into FOLDER/checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    folder, dtype = chosen.folder, torch.bfloat16
    torch.set_num_threads(chosen.threads)
    train, held_out = tokens_of(folder, "train"), tokens_of(folder, "judge")
    model = text_model.empty_model()
    descent, last = Descent(model, RATES, PACE), folder / "last.pt"
    first = descent.load(last) if last.exists() else 0
    began = time.perf_counter()
    for step in range(first, STEPS):
        starts = np.random.default_rng(step).integers(0, len(train) - ROW - 1, TOKENS // ROW)
        rows = torch.from_numpy(np.stack([train[s : s + ROW + 1] for s in starts]))
        minimized, nats = loss(model, rows, dtype)
        minimized.backward()
        descent.step(step)
        line = {"step": step + 1, "tokens": (step + 1) * TOKENS, "nats": round(nats, 4)}
        line["seconds"] = round(time.perf_counter() - began, 1)
        if (step + 1) % EVERY == 0 or step + 1 == STEPS:
            line["judge_nats"] = round(judged(model, held_out, dtype), 4)
            descent.keep(last, step + 1)
        with (folder / "progress.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
    text_model.write(folder / "checkpoint", model.state_dict(), folder)


if __name__ == "__main__":
    main()
