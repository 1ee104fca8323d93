"""Turn a kept step into a checkpoint in the Hub's layout, judge it as it is shipped, and write the record.

Weights are rounded to what the checkpoint holds first; then transformers' own forward pass has to give the same logits
as ours, and the held-out tasks are judged in float32, many more than during training.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import corpus
import fast
import hub_layout
import shape
import torch
from held_out import FIRST_SEED, judged

from mlxquant.records.head import describe_machine


@dataclass(frozen=True)
class Publication:
    """What a record says besides what is measured: its schema, the settings of the run, (calls, tasks) to judge."""

    schema: str
    settings: dict[str, Any]
    tasks: Sequence[tuple[int, int]]
    every: int  # steps between the lines of progress that are kept


def publish(run: Path, kept: Path, out: Path, record: Path, publication: Publication) -> None:
    """Write the checkpoint of the step in `kept` to `out` and its record; `run` has tokenizer and progress.jsonl."""
    torch.set_num_threads(2)
    state = torch.load(kept)
    hub_layout.write(out, state["model"], run)
    model = shape.model().eval()
    model.load_state_dict(hub_layout.read(out))
    described = described_run(run, state["step"], model, publication)
    record.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    json.dump({key: value for key, value in described.items() if key != "progress"}, sys.stdout, indent=1)


def agreement(model: Any, folder: Path) -> dict[str, float]:
    """Compare transformers' logits on one held-out transcript with ours; raises where they differ."""
    ids = hub_layout.tokenizer(folder).encode(corpus.Renderer().text(FIRST_SEED, 20)).ids
    tokens = torch.tensor([ids])
    return {"tokens": len(ids), "largest_difference": fast.logits_agree(model, tokens), "tolerance": fast.TOLERANCE}


def described_run(folder: Path, step: int, model: Any, publication: Publication) -> dict[str, Any]:
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
        "schema": publication.schema,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": describe_machine(),
        "versions": {"python": platform.python_version()} | {each.__name__: each.__version__ for each in libraries},
        "commit": commit.stdout.strip(),
        "settings": publication.settings | {"initialization_seed": 0, "first_held_out_seed": FIRST_SEED},
        "parameters": fast.parameters_of(model),
        "step": step,
        "tokens": lines[-1]["tokens"],
        "seconds": round(taken, 1),
        "tokens_per_second": round(lines[-1]["tokens"] / taken),
        "agreement_with_transformers": agreement(model, folder),
        "held_out": judged(model, folder, publication.tasks, torch.float32),
        "progress": [line for line in lines if line["step"] % publication.every == 0 or line["step"] == step],
    }


def seconds(lines: list[dict[str, Any]]) -> float:
    """Add up the seconds of a run and of its continuations, whose clocks begin anew."""
    ends = [a["seconds"] for a, b in pairwise(lines) if b["seconds"] < a["seconds"]]
    return float(sum(ends) + lines[-1]["seconds"])
