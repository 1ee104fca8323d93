"""What every method gives at equal bytes, on two trained models, beside mlx-lm's own tools.

    python benchmarks/methods.py store --out store.json
    python benchmarks/methods.py text --corpus runs/text --out text.json

Documents that nothing was tuned on judge builds of 4, 3 and 2 bits: the KL to full precision as a share of rounding's
at the same bits and group, with an interval over documents, in pairs; tokens said alike; on the store model, tool
calls of agent loops that are right; bytes; the CPU seconds of making the build, one thread. Ours are `gates-8bit` at
these bits, for every method but distill, which takes minutes a build (name it in --methods), and the recipes by role;
mlx-lm's gptq, awq, dwq and dynamic_quant are at those bytes, or the row says why they do not run.

Beside every share stands its luck: the same over copies of the checkpoint that compute the same function
(`--copies`; see method_study/models.py). Intervals over documents do not contain that.

Everything is kept in --work by part; interrupted, the same command goes on. A build whose weights changed is judged
anew; delete its folder and its .json to have it made anew. `text` needs the texts that text_moe/corpus.py fetches.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.gptq import measured
from benchmarks.method_study.building import Build, calibrated, make
from benchmarks.method_study.judging import CALLS, Kept, judge, loops
from benchmarks.method_study.models import Model, open_model
from benchmarks.method_study.table import row, table
from mlxquant.kernels import Encoder, Quantized, Rounding, Rows, Searching
from mlxquant.records.head import describe_machine, describe_versions, utc_date
from mlxquant.words.blas import one_blas_thread
from mlxquant.words.formats import DISTILL, METHODS, Format

SCHEMA = "mlxquant.benchmark.methods/2"
BITS, GROUPS, PEERS = (4, 3, 2), (64, 32), ("gptq", "awq", "dwq@1e-5", "dwq@1e-4", "dynamic_quant")


def chosen_builds(chosen: argparse.Namespace) -> list[Build]:
    """All builds, in the table's order."""
    builds = []
    for bits in chosen.bits:
        for group in chosen.groups:
            builds += [Build(bits, group, method) for method in chosen.methods]
        builds += [Build(bits, 64, method, by_role=True) for method in chosen.methods if method != "rtn"]
        builds += [Build(bits, 64, "peer", peer=peer) for peer in chosen.peers]
    return builds


def is_copied(build: Build) -> bool:
    """Whether copies of the model are built so too: ours, at group 64."""
    return build.peer is None and build.group == 64


def made(model: Model, builds: list[Build], folder: Path) -> dict[str, dict[str, Any]]:
    """Make builds that are not there yet; their entries by name."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = {}
    for build in builds:
        began = time.monotonic()
        entries[build.name] = entry = make(model, build, folder)
        if time.monotonic() - began > 0.5:
            print(f"{model.name}: {build.name}: {entry.get('error', 'made')}, {entry['cpu_s']} CPU s", file=sys.stderr)
        if "error" in entry and build.peer is None:
            (folder / f"{build.name}.json").unlink()
            raise SystemExit(f"{build.name}: {entry['error']}")
    return entries


def nanoseconds(encoder: Encoder, fmt: Format) -> float:
    """CPU time a weight on this thread: the best of three, kernels compiled before."""
    rng = np.random.default_rng(0)
    values = ((rng.standard_normal((512, 1024)) * 0.02).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    out, best = Quantized.empty(512, 1024, "BF16", fmt), float("inf")
    for _ in range(4):
        began = time.thread_time()
        encoder.encode(Rows("it", 0, values, "BF16", fmt), out, errors=False)
        best = min(best, time.thread_time() - began)
    return best / values.size * 1e9


def encoding_times(bits: list[int], groups: list[int]) -> dict[str, dict[str, float]]:
    """CPU nanoseconds a weight of one thread, 1,024 columns; `mse` is also imatrix's, `gptq` is timed at group 64."""
    times = {}
    with one_blas_thread():
        for b in bits:
            for g in groups:
                own = {"rtn": nanoseconds(Rounding(), Format(b, g)), "mse": nanoseconds(Searching(), Format(b, g))}
                times[f"{b}-bit g{g}"] = own | ({"gptq": measured(1024, b)["gptq"]} if g == 64 else {})
    return times


def record(chosen: argparse.Namespace) -> dict[str, Any]:
    """Build, judge, and put the rows together."""
    work: Path = chosen.work
    work.mkdir(parents=True, exist_ok=True)
    model, builds = open_model(chosen.model, work, chosen.corpus, chosen.quick), chosen_builds(chosen)
    entries = made(model, builds, work / "builds")
    folders = [work / "builds" / b.name for b in builds if "error" not in entries[b.name]]
    judged = judge(model, folders, Kept(work / "judged.json"))
    copies = []
    for seed in range(1, chosen.copies + 1):
        copied = [b for b in builds if is_copied(b)]
        copy = model.copy(seed, work / f"copy-{seed}" / "source")
        made(copy, copied, work / f"copy-{seed}")
        kept = Kept(work / f"copy-{seed}" / "judged.json")
        copies.append(judge(copy, [work / f"copy-{seed}" / b.name for b in copied], kept))
    right: dict[str, Any] = {}
    if model.loops and chosen.tasks:
        looped = [work / "builds" / b.name for b in builds if b.group == 64 and "error" not in entries[b.name]]
        right = loops(model, looped, Kept(work / f"loops-{chosen.tasks}.json"), chosen.tasks, work / "loops")
    base, calibration = next(iter(judged.values())), calibrated(model, work / "builds").with_suffix(".json")
    return {
        "schema": SCHEMA, "what": "KL to full precision as a share of rounding's at the same bytes", "date": utc_date(),
        "machine": describe_machine(), "versions": describe_versions(), "model": model.name,
        "judged": {"documents": len(base["tokens"]), "tokens": int(sum(base["tokens"]))},
        "copies": chosen.copies, "calibrate": json.loads(calibration.read_text("utf-8")),
        "loops": {"calls": CALLS, "tasks": chosen.tasks, "baseline": right.get("baseline")} if right else None,
        "rows": [row(b, entries[b.name], judged, right, copies) for b in builds],
        "encoding_ns_a_weight": {} if chosen.quick else encoding_times(chosen.bits, chosen.groups),
    }  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line; --quick leaves little of everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["store", "text"])
    parser.add_argument("-o", "--out", type=Path, help="write the record there")
    parser.add_argument("--work", type=Path, help="what is kept; by default runs/methods-MODEL")
    parser.add_argument("--corpus", type=Path, help="text: the folder of text_moe/corpus.py")
    parser.add_argument("--copies", type=int, default=3, help="copies of the model that compute the same function")
    parser.add_argument("--tasks", type=int, default=40, help="agent loops of 5 calls; store only")
    for name, default in (
        ("bits", BITS),
        ("groups", GROUPS),
        ("methods", [m for m in METHODS if m != DISTILL]),
        ("peers", PEERS),
    ):
        parser.add_argument(f"--{name}", default=",".join(map(str, default)))
    parser.add_argument("--quick", action="store_true", help="4 bits, rtn and mse, few documents: does it run?")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.bits, chosen.groups, chosen.methods, chosen.peers = "4", "64", "rtn,mse", ""
        chosen.copies, chosen.tasks = 1, 2
    for name, kind in (("bits", int), ("groups", int), ("methods", str), ("peers", str)):
        setattr(chosen, name, [kind(word) for word in getattr(chosen, name).split(",") if word])
    chosen.work = chosen.work or Path("runs") / f"methods-{chosen.model}{'-quick' if chosen.quick else ''}"
    return chosen


def main() -> None:
    """Measure, write the record, print the table."""
    chosen = arguments()
    result = record(chosen)
    if chosen.out:
        chosen.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(table(result["rows"]))
    for fmt, times in result["encoding_ns_a_weight"].items():
        print(f"{fmt}: " + ", ".join(f"{m} {ns:.3g} ns a weight, {2 / ns:.2g} GB/s" for m, ns in times.items()))


if __name__ == "__main__":
    main()
