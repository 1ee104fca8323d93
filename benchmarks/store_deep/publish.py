"""Turn what training kept last into the checkpoint of this folder, judge it as published, and write the record.

python benchmarks/store_deep/publish.py runs/deep
"""

from __future__ import annotations

import argparse
from pathlib import Path

import train  # before `publication`: its settings are those of the scripts in ../tiny_moe
from publication import Publication, publish

OUT = Path(__file__).parent / "checkpoint"
RECORD = Path(__file__).parents[1] / "results/store_deep.json"
TASKS = ((5, 400), (20, 100), (60, 60), (150, 40))


def main() -> None:
    """Read the command line and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=OUT)
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args()
    publication = Publication(
        "mlxquant.benchmark.store_deep/1",
        {
            "steps": train.STEPS,
            "tokens_per_step": train.TOKENS,
            "row_lengths": train.STAGES,
            "learning_rates": train.RATES,
            "pace": train.PACE,
            "weight_of_read_tokens": train.READ,
        },
        TASKS,
        every=25,
    )
    publish(options.folder, options.folder / "last.pt", options.out, options.record, publication)


if __name__ == "__main__":
    main()
