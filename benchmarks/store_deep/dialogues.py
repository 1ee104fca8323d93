"""Write dialogues of the deep world as data files for `compare` and `calibrate`: unseen tasks, played by the oracle.

    python benchmarks/store_deep/dialogues.py runs/study

Three files of seeds that meet nowhere, nor those of training (from 0) or of `eval` (from 1,000,000): `judge.jsonl` (from
2,000,000), which `compare` scores; `calibrate.jsonl` (from 3,000,000), from which imatrix and gptq learn; `allocate.jsonl`
(from 4,000,000), on which bits are allocated. System prompt and tools are left out: the model's template drops them.
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
    "allocate": (4_000_000, {20: 24, 60: 2}),
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
