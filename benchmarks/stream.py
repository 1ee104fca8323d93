"""What a streamed pass takes on a CPU beside mlx-lm's own forwards of the same models over the same texts.

    python benchmarks/stream.py WORK [--keep FILE] [--rounds 3] [--only store|wide]

    store   the trained store model, dialogues of its world: the reference and builds of 8, 4 and 2 bits
    wide    random weights, 1024 wide, 32 experts of 512 (4 a token), 4 layers, one of them with full attention: the
            reference and a build of 4 bits

Own forwards: mlx-lm loads each model, floats are cast to float32, every text goes through it. The pass quantizes its
recipes itself and scores them. It is taken as it comes (each candidate's layers on the reference's states too, and the
noise floor in bf16), and with the same models as the forwards alone. Turns alternate; seconds are medians, of the wall
and of the process's CPU. Logits of both are held against each other first. WORK keeps checkpoints and builds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlxquant.builds.write.convert import ConvertOptions, convert
from mlxquant.divergence.texts.documents import read_documents
from mlxquant.divergence.texts.tokens import open_tokenizer
from mlxquant.evals.store.model import write_store_moe
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.records.head import describe_machine, describe_versions, utc_date
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.stream.candidates import Candidate
from mlxquant.stream.engine import compare
from mlxquant.stream.options import CompareOptions
from tests.checkpoints import Size, write_tiny
from tests.stream.compare_pass import Keeper, Text, distance, logits_of_pass, ordinary_logits, texts

WIDE = Size(layers=4, hidden=1024, experts=32, experts_per_token=4, inner=512)
DIALOGUES = slice(26, 34)
CLOSE = 1e-5


def store(work: Path) -> tuple[Path, list[Text]]:
    """The store model and eight dialogues of its world."""
    source, data = work / "store-moe", work / "store.jsonl"
    if not source.exists():
        write_store_moe(source)
    if not data.exists():
        script = Path(__file__).parent / "store_study" / "dialogues.py"
        subprocess.run([sys.executable, str(script), "-o", str(data)], check=True)
    few = work / "eight.jsonl"
    few.write_text("".join(data.read_text("utf-8").splitlines(keepends=True)[DIALOGUES]), "utf-8")
    documents = read_documents(few, open_tokenizer(open_checkpoint(source))).documents
    return source, [Text(np.asarray(d.tokens, np.int32)) for d in documents]


def wide(work: Path) -> tuple[Path, list[Text]]:
    """A model of random weights and two random texts."""
    source = work / "wide"
    if not source.exists():
        write_tiny(source, "qwen3_5_moe", WIDE)
    return source, texts((256, 256))


CASES: dict[str, tuple[Callable[[Path], tuple[Path, list[Text]]], tuple[int, ...]]] = {
    "store": (store, (8, 4, 2)),
    "wide": (wide, (4,)),
}


def built(source: Path, work: Path, bits: int) -> Path:
    """A build of the source by gates-8bit at these bits."""
    folder = work / f"{source.name}-{bits}"
    if not folder.exists():
        checkpoint = open_checkpoint(source)
        layout = read_layout(checkpoint)
        plan = make_plan(layout, load_recipe("gates-8bit", bits=bits, group_size=64), checkpoint)
        convert(checkpoint, layout, plan, folder, ConvertOptions(audit=False, hash=False))
    return folder


def passed(source: Path, bits: Sequence[int], documents: Sequence[Text], **options: Any) -> None:
    """One pass over the source with these recipes."""
    recipes = [Candidate(f"{b}", recipe=load_recipe("gates-8bit", bits=b, group_size=64)) for b in bits]
    compare(open_checkpoint(source), recipes, documents, Keeper(), CompareOptions(**options))


def measured(name: str, work: Path, rounds: int) -> dict[str, Any]:
    """Medians of both in turn, after a round that is not counted."""
    make, bits = CASES[name]
    source, documents = make(work)
    folders = [source, *(built(source, work, b) for b in bits)]
    recipe = Candidate("it", recipe=load_recipe("gates-8bit", bits=bits[-1], group_size=64))
    streamed = logits_of_pass(source, recipe, documents)
    far = [distance(a, ordinary_logits(f, documents)) for a, f in zip(streamed, (source, folders[-1]), strict=True)]
    assert max(far) < CLOSE, far

    contenders: dict[str, Callable[[], object]] = {
        "own_forwards": lambda: [ordinary_logits(folder, documents) for folder in folders],
        "pass_of_the_same_models": lambda: passed(source, bits, documents, own=False, noise_floor=False),
        "pass_as_it_comes": lambda: passed(source, bits, documents),
    }
    wall: dict[str, list[float]] = {c: [] for c in contenders}
    cpu: dict[str, list[float]] = {c: [] for c in contenders}
    for turn in range(-1, rounds):
        for contender, run in contenders.items():
            if turn < 0 and contender == "own_forwards":
                continue  # ran above
            began, began_cpu = time.perf_counter(), time.process_time()
            run()
            mx.clear_cache()
            if turn >= 0:
                wall[contender].append(round(time.perf_counter() - began, 3))
                cpu[contender].append(round(time.process_time() - began_cpu, 3))
    row: dict[str, Any] = {
        "case": name, "models": len(folders), "texts": len(documents), "tokens": sum(len(d.tokens) for d in documents),
        "distance_of_logits": max(far),
    }  # fmt: skip
    for contender in contenders:
        seconds = {"wall_s": wall[contender], "cpu_s": cpu[contender]}
        row[contender] = {k: {"median": statistics.median(v), "samples": v} for k, v in seconds.items()}
    return row


def print_row(row: dict[str, Any]) -> None:
    """Medians, and shares of the own forwards'."""
    print(f"{row['case']}: {row['models']} models, {row['texts']} texts, {row['tokens']:,} tokens", end="")
    print(f"; logits within {row['distance_of_logits']:.1e}")
    whole = row["own_forwards"]
    for contender in ("own_forwards", "pass_of_the_same_models", "pass_as_it_comes"):
        both = [(row[contender][k]["median"], whole[k]["median"]) for k in ("wall_s", "cpu_s")]
        shown = "   ".join(f"{a:8.2f} s {a / b:6.3f}" for a, b in both)
        print(f"  {contender.replace('_', ' '):26}{shown}", flush=True)


def main() -> None:
    """Measure, print, write the record with --keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write the record there")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=list(CASES))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print(f"{'':28}{'wall, share':>17}   {'CPU, share':>17}")
    rows = []
    for name in [options.only] if options.only else CASES:
        rows.append(measured(name, options.work, options.rounds))
        print_row(rows[-1])
    record = {"machine": describe_machine(), "versions": describe_versions(), "date": utc_date(), "rows": rows}
    if options.keep:
        options.keep.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
