"""Write dialogues of the deep world as data files for `compare` and `calibrate`: unseen tasks, played by the oracle.

    python benchmarks/store_deep/dialogues.py runs/study

Four files of seeds that meet nowhere, nor those of training (from 0) or of `eval` (from 1,000,000): `judge.jsonl`, for
`compare`; `calibrate.jsonl`, from which imatrix and gptq learn; `allocate.jsonl`, on which bits are allocated, and
`check.jsonl`, on which an allocation has to win. System prompt and tools are left out: the model's template drops them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mlxquant.evals.store import make_deep_task, transcript

# file -> (first seed, calls of a task -> how many tasks)
FILES = {
    "judge": (2_000_000, {20: 30, 60: 7, 150: 3}),
    "calibrate": (3_000_000, {20: 24, 60: 4}),
    "allocate": (4_000_000, {20: 12}),
    "check": (5_000_000, {20: 24}),
}


def main(folder: Path) -> None:
    """Write the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (seed, tasks) in FILES.items():
        lines = []
        for calls in [calls for calls, count in tasks.items() for _ in range(count)]:
            task = make_deep_task(seed, calls)
            seed += 1
            slices = [f"calls:{calls}", *task.slices]
            lines.append({"id": task.id, "messages": transcript(task, system=False), "slices": slices})
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
