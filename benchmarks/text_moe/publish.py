"""Judge the trained text model as its checkpoint holds it, and write the record.

    python benchmarks/text_moe/publish.py runs/text

Transformers has to load the checkpoint and give the logits that training computed; nats per token are those of
every eighth row of 512 tokens of the judging documents, in float32.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import model as text_model
import numpy as np
import torch
import train
from corpus import PACKAGES

sys.path.insert(0, str(Path(__file__).parents[2]))
from mlxquant.records.head import describe_machine

HERE = Path(__file__).parent
TOLERANCE = 1e-5


def main() -> None:
    """Copy the checkpoint here, check it, write the record."""
    import safetensors
    import tokenizers
    import transformers

    folder = Path(sys.argv[1])
    torch.set_num_threads(2)
    shutil.copytree(folder / "checkpoint", HERE / "checkpoint", dirs_exist_ok=True)
    model: Any = transformers.Qwen3MoeForCausalLM.from_pretrained(HERE / "checkpoint", dtype=torch.float32).eval()
    tokens = torch.from_numpy(train.tokens_of(folder, "judge"))
    rows = tokens[: len(tokens) // (train.ROW + 1) * (train.ROW + 1)].view(-1, train.ROW + 1)[::8]
    with torch.no_grad():
        theirs, ours = model(rows[:1, :-1], use_cache=False).logits, text_model.logits(model, rows[:1, :-1])[0]
        difference = float((theirs - ours).abs().max() / theirs.abs().max())
        nats = [train.loss(model, part, torch.float32)[1] for part in rows.split(16)]
    if difference > TOLERANCE:
        raise SystemExit(f"logits differ from transformers' by {difference:.1e} of the largest")
    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text(encoding="utf-8").splitlines()]
    documents = [json.loads(line) for line in (folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()]
    libraries = (torch, transformers, tokenizers, safetensors)
    record = {
        "schema": "mlxquant.benchmark.text_moe/1",
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": describe_machine(),
        "versions": {"python": platform.python_version()} | {each.__name__: each.__version__ for each in libraries},
        "packages": sorted(path.name for path in folder.glob("*.deb") if path.name.split("_")[0] in PACKAGES),
        "documents": dict(Counter(document["part"] for document in documents)),
        "characters": sum(len(document["text"]) for document in documents),
        "settings": {"steps": train.STEPS, "tokens_per_step": train.TOKENS, "row": train.ROW, "rates": train.RATES},
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": lines[-1]["tokens"],
        "seconds": lines[-1]["seconds"],
        "agreement_with_transformers": difference,
        "judge": {"tokens": int(rows.numel()), "nats_per_token": round(float(np.mean(nats)), 4)},
        "progress": [line for line in lines if line["step"] % 50 == 0],
    }
    path = HERE.parent / "results" / "text_moe.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in record.items() if k != "progress"}, indent=1))


if __name__ == "__main__":
    main()
