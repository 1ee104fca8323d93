"""Write the records of a study as `audits/` keeps them: without figures that none of its texts, tables or charts shows.

    python benchmarks/slim.py WORK/compare.json WORK/eval.json -o audits/store-deep

- Of a slice, a depth or a turn, a comparison keeps what `compare --by` shows and an evaluation what the report shows:
  KL, perplexity's ratio, the same top token and other experts; right calls and items. Figures over all tokens or calls,
  those of layers, and those of pairs stay, all of them.
- A trial keeps its calls without their subjects, which the task's seed gives, and none of its requests.

Nothing is computed again, so that figures, intervals and verdicts are those of the command. The text of a comparison
is written anew, since the worst slice it names must be in the record.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mlxquant.records.files import record_text
from mlxquant.report.compare import compare_text

PARTS = {"slice", "depth", "turn"}
SHOWN = {"kl_nats", "perplexity_ratio", "same_top", "expert_set_changed", "right_call", "pass"}
Record = dict[str, Any]


def is_kept(figure: Record) -> bool:
    """Whether a measurement is over everything, or one that is shown of its part."""
    if not PARTS & figure.keys():
        return True
    return "case" not in figure and str(figure["metric"]).removesuffix("_difference") in SHOWN


def slim(record: Record) -> Record:
    """The record as it is kept; one that is slim already comes out as it is."""
    sides = [side for side in (record.get("baseline"), *record["candidates"]) if side]
    for side in sides:
        for name in ("measurements", "paired"):
            if name in side:
                side[name] = [figure for figure in side[name] if is_kept(figure)]
    for trial in record.get("trials", ()):
        trial["calls"] = [[depth, signs, tool, [], *said] for depth, signs, tool, _, *said in trial["calls"]]
        trial["requests"] = []
    return record


def main() -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    for path in options.files:
        record = slim(json.loads(path.read_text(encoding="utf-8")))
        (options.out / path.name).write_text(f"{record_text(record)}\n", encoding="utf-8")
        if str(record["schema"]).startswith("mlxquant.compare/"):
            (options.out / f"{path.stem}.txt").write_text(f"{compare_text(record)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
