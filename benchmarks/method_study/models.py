"""The models that methods are judged on, their documents, and copies that compute the same function.

The store model's documents are dialogues of the store's world with seeds that nothing was tuned on; the text model's
are beginnings of manuals that it was not trained on, which `text_moe/corpus.py` fetches. No document calibrates and
judges.

A copy has the channels of its residual stream in another order and with other signs. It is the same function, so what
differs between builds of copies is how rounding falls: the luck of a build, which intervals over documents do not hold.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlxquant.evals.store import make_task, transcript
from mlxquant.evals.store.model import write_store_moe

ROOT = Path(__file__).parents[2]
TEXT_MOE = ROOT / "benchmarks" / "text_moe"
# First seed, and tasks by their number of calls
CALIBRATING, JUDGING = (2_000_000, {5: 24}), (7_000_000, {5: 24, 10: 12})
QUICK = (7_000_000, {5: 6})
TEXTS, CHARACTERS, QUICK_CHARACTERS = 32, 2000, 400
# What reads the residual stream (its columns) and what writes to it (its rows, before the last axis)
READS = (
    "embed_tokens", "lm_head", "in_proj_", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "mlp.gate.",
    "shared_expert_gate", "input_layernorm", "post_attention_layernorm", "model.norm.",
)  # fmt: skip
WRITES = ("o_proj", "out_proj", "down_proj")


@dataclass(frozen=True)
class Model:
    """A checkpoint with its documents; `said` is the slice of what the model says, None where it says all."""

    name: str
    source: Path
    calibrate: Path
    judge: Path
    said: str | None
    loops: bool

    def copy(self, seed: int, folder: Path) -> Model:
        """The same function with its residual channels in another order and with other signs."""
        if not folder.exists():
            turn(self.source, folder, seed)
        return Model(f"{self.name}, copy {seed}", folder, self.calibrate, self.judge, self.said, False)


def open_model(name: str, work: Path, corpus: Path | None, quick: bool) -> Model:
    """Write the checkpoint and the documents of "store" or "text", where they are not there yet."""
    calibrate, judge = work / "calibrate.jsonl", work / "judge.jsonl"
    if name == "store":
        source = work / "store-moe"
        if not source.exists():
            write_store_moe(source)
        for path, tasks in ((calibrate, CALIBRATING), (judge, QUICK if quick else JUDGING)):
            if not path.exists():
                write_dialogues(path, *tasks)
        return Model(name, source, calibrate, judge, "in:assistant", True)
    if not judge.exists():
        if corpus is None:
            raise SystemExit("text: --corpus FOLDER expected, as benchmarks/text_moe/corpus.py writes it")
        size = ["--count", str(TEXTS), "--characters", str(QUICK_CHARACTERS if quick else CHARACTERS)]
        subprocess.run(
            [sys.executable, str(TEXT_MOE / "documents.py"), str(corpus), "-o", str(work), *size], check=True
        )
    return Model(name, TEXT_MOE / "checkpoint", calibrate, judge, None, False)


def write_dialogues(path: Path, first_seed: int, tasks: dict[int, int]) -> None:
    """Write dialogues of so many tasks by calls, from a seed on, as a data file."""
    lengths = [calls for calls, count in tasks.items() for _ in range(count)]
    made = (make_task(first_seed + i, calls) for i, calls in enumerate(lengths))
    lines = [json.dumps({"id": task.id, "messages": transcript(task, system=False)}) + "\n" for task in made]
    path.write_text("".join(lines), "utf-8")


def turn(source: Path, out: Path, seed: int) -> None:
    """Write a copy of a checkpoint with its residual channels in another order and with other signs."""
    arrays = mx.load(str(source / "model.safetensors"))
    assert isinstance(arrays, dict)
    width = next(a.shape[-1] for name, a in arrays.items() if "embed_tokens" in name)
    rng = np.random.default_rng(seed)
    order, signs = mx.array(rng.permutation(width)), mx.array(rng.integers(0, 2, width).astype(bool))
    turned = {name: _turned(name, array, order, signs) for name, array in arrays.items()}
    out.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (out / file.name).write_bytes(file.read_bytes())
    mx.save_safetensors(str(out / "model.safetensors"), turned, {"format": "pt"})


def _turned(name: str, array: mx.array, order: mx.array, signs: mx.array) -> mx.array:
    if any(part in name for part in WRITES):
        moved, flip = mx.take(array, order, axis=-2), signs[order][:, None]
    elif any(part in name for part in READS):
        moved, flip = mx.take(array, order, axis=-1), signs[order]
    else:
        return array
    return moved if "norm" in name else mx.where(flip, -moved, moved)
