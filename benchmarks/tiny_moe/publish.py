"""Turn a kept step into the checkpoint that the package ships, judge it as shipped, and write the record.

    python benchmarks/tiny_moe/publish.py runs/store --step 3000 -o mlxquant/evals/store/model

Weights are rounded to what the checkpoint holds first; then transformers' own forward pass has to give the same logits
as ours, and the held-out tasks are judged in float32, many more than during training.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import corpus
import fast
import hub_layout
import shape
import torch
import train
from held_out import FIRST_SEED, judged

from mlxquant.records.head import describe_machine

TASKS = ((5, 400), (10, 200), (20, 100), (40, 50), (64, 30))
RECORD = Path(__file__).parents[1] / "results/tiny_moe.json"


def agreement(model: Any, folder: Path) -> dict[str, float]:
    """Compare transformers' logits on one held-out transcript with ours; raises where they differ."""
    ids = hub_layout.tokenizer(folder).encode(corpus.Renderer().text(FIRST_SEED, 20)).ids
    tokens = torch.tensor([ids])
    return {"tokens": len(ids), "largest_difference": fast.logits_agree(model, tokens), "tolerance": fast.TOLERANCE}


def record(folder: Path, step: int, model: Any) -> dict[str, Any]:
    """Return what training took, and what came of it."""
    import safetensors
    import tokenizers
    import transformers

    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line["step"] <= step]
    taken = seconds(lines)
    root = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    libraries = (torch, transformers, tokenizers, safetensors)
    return {
        "schema": "mlxquant.benchmark.tiny_moe/1",
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": describe_machine(),
        "versions": {"python": platform.python_version()} | {each.__name__: each.__version__ for each in libraries},
        "commit": commit.stdout.strip(),
        "settings": {
            "steps": train.STEPS,
            "tokens_per_step": train.TOKENS,
            "processes": train.PROCESSES,
            "row_lengths": train.STAGES,
            "learning_rates": train.RATES,
            "pace": train.PACE,
            "weight_of_read_tokens": train.READ,
            "weight_of_choices": train.CHOICE,
            "initialization_seed": 0,
            "first_held_out_seed": FIRST_SEED,
        },
        "parameters": fast.parameters_of(model),
        "step": step,
        "tokens": lines[-1]["tokens"],
        "seconds": round(taken, 1),
        "tokens_per_second": round(lines[-1]["tokens"] / taken),
        "agreement_with_transformers": agreement(model, folder),
        "held_out": judged(model, folder, TASKS, torch.float32),
        "progress": [line for line in lines if line["step"] % 50 == 0 or line["step"] == step],
    }


def seconds(lines: list[dict[str, Any]]) -> float:
    """Add up the seconds of a run and of its continuations, whose clocks begin anew."""
    ends = [a["seconds"] for a, b in pairwise(lines) if b["seconds"] < a["seconds"]]
    return float(sum(ends) + lines[-1]["seconds"])


def main() -> None:
    """Read the command line and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--step", type=int, default=train.STEPS)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--record", type=Path, default=RECORD)
    given = parser.parse_args()
    torch.set_num_threads(2)
    kept = torch.load(given.folder / f"step{given.step}.pt")
    hub_layout.write(given.out, kept["model"], given.folder)
    model = shape.model().eval()
    model.load_state_dict(hub_layout.read(given.out))
    made = record(given.folder, given.step, model)
    given.record.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    json.dump({key: value for key, value in made.items() if key != "progress"}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
