"""Write tool-loop dialogues as a data file for `mlxquant compare`: held-out tasks of the store, played by the oracle.

    python benchmarks/store_study/dialogues.py -o store.jsonl

Seeds begin at 2,000,000: training draws from 0 on, `mlxquant eval` from 1,000,000. A document's slices are its length
in calls (`calls:20`) and what its turns are about; the tokens of calls and of JSON are found by `compare` itself.

System prompt and tool schemas are left out. The store model's template drops them, and `compare`, which loses nothing
that a line says, would put them into the first request, where the model never saw them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlxquant.evals.store import make_task, transcript

FIRST_SEED = 2_000_000
# calls of a task -> how many tasks
TASKS = {5: 50, 10: 20, 20: 12, 40: 4}


def dialogues(first_seed: int = FIRST_SEED) -> Iterator[dict[str, Any]]:
    """Yield one line of the data file after another."""
    seed = first_seed
    for calls, count in TASKS.items():
        for _ in range(count):
            task = make_task(seed, calls)
            seed += 1
            slices = [f"calls:{calls}", *task.slices]
            yield {"id": task.id, "messages": transcript(task, system=False), "slices": slices}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Write held-out tool-loop dialogues for `mlxquant compare`.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    output: Path = parser.parse_args().output
    with output.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in dialogues())


if __name__ == "__main__":
    main()
