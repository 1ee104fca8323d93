"""Turn a kept step into the checkpoint that the package ships, judge it as shipped, and write the record.

python benchmarks/tiny_moe/publish.py runs/store --step 3000 -o mlxquant/evals/store/model
"""

from __future__ import annotations

import argparse
from pathlib import Path

import train
from publication import Publication, publish

TASKS = ((5, 400), (10, 200), (20, 100), (40, 50), (64, 30))
RECORD = Path(__file__).parents[1] / "results/tiny_moe.json"


def main() -> None:
    """Read the command line and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--step", type=int, default=train.STEPS)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args()
    settings = {
        "steps": train.STEPS,
        "tokens_per_step": train.TOKENS,
        "processes": train.PROCESSES,
        "row_lengths": train.STAGES,
        "learning_rates": train.RATES,
        "pace": train.PACE,
        "weight_of_read_tokens": train.READ,
        "weight_of_choices": train.CHOICE,
    }
    publication = Publication("mlxquant.benchmark.tiny_moe/1", settings, TASKS, every=50)
    publish(options.folder, options.folder / f"step{options.step}.pt", options.out, options.record, publication)


if __name__ == "__main__":
    main()
