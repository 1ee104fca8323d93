"""Write the built-in data of `mlxquant compare`: python benchmarks/quality_set/make.py [OUT]

Some 350 documents from the grammars beside this script, and ten tool loops from mlxquant's store. The seed is
fixed: the same grammars give the same bytes. Prints how many documents and characters each slice has.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.quality_set.code import code_tasks  # noqa: E402
from benchmarks.quality_set.dialogues import Record, long_loops, store_loops, tool_dialogues  # noqa: E402
from benchmarks.quality_set.letters import letters  # noqa: E402
from benchmarks.quality_set.tasks import arithmetic, copied_ids, grounded, json_tasks, refusals  # noqa: E402

OUT = ROOT / "mlxquant" / "divergence" / "texts" / "data" / "builtin.jsonl"
SEED = 20_260_101
STORE_SEEDS = range(2_000_000, 2_000_010)  # neither the tiny model's training nor `eval`'s


def documents() -> list[Record]:
    """All documents made from our own grammars; each kind has a seed of its own, so that one can grow alone."""
    makers = (
        (tool_dialogues, 8), (long_loops, 3), (json_tasks, 32), (arithmetic, 27), (copied_ids, 24), (grounded, 24),
        (code_tasks, 36), (refusals, 48), (letters, 22),
    )  # fmt: skip
    return [record for n, (make, count) in enumerate(makers) for record in make(Random(SEED + n), count)]


def main(out: Path) -> None:
    """Write them, and say what they are."""
    made = [*documents(), *store_loops(STORE_SEEDS)]
    lines = [json.dumps(record, ensure_ascii=False, separators=(",", ":")) for record in made]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    count, size = Counter[str](), Counter[str]()
    for record, line in zip(made, lines, strict=True):
        for name in record["slices"]:
            count[name] += 1
            size[name] += len(line)
    print(f"{len(made)} documents, {out.stat().st_size:,} bytes")
    for name, n in count.most_common():
        print(f"  {name:16} {n:4} documents {size[name]:9,} characters")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
