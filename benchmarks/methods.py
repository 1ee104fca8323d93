"""What a method gives at equal bytes: KL of the store model to full precision, as a share of rounding's.

    python benchmarks/methods.py WORK [-o benchmarks/results/methods.json] [--copies 4]

Dialogues of the store world are calibrated on (24 of 5 calls), others judge (16 of 5 calls, 6 of 10), with
seeds that nothing was tuned on. Builds are `gates-8bit` at other bits and groups, so within a row bytes are equal; the
recipes by role stand beside uniform ones of the same width. Shares have an interval over documents, in pairs.

Beside it, the luck of a build: the same measure on copies of the checkpoint whose residual stream has its channels in
another order and with other signs. They compute the same function, so what differs between them is how rounding falls.
Intervals over documents do not contain that.

It also times the encoders: CPU nanoseconds a weight on one thread, for 1 M gaussian weights in bf16. WORK keeps
checkpoints, texts, calibrations and what is measured; interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlxquant.calibrate.record import Calibration
from mlxquant.calibrate.run import run_calibration
from mlxquant.divergence.statistics import token_measurements
from mlxquant.divergence.tally import ACCUMULATED, TOKEN_FIELDS, Tally
from mlxquant.divergence.texts.documents import Documents, read_documents
from mlxquant.divergence.texts.tokens import open_tokenizer
from mlxquant.evals.store import make_task, transcript
from mlxquant.evals.store.model import write_store_moe
from mlxquant.kernels import Encoder, Quantized, Rounding, Rows, Searching
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.variation import load_variation
from mlxquant.records.head import describe_machine, describe_versions, utc_date
from mlxquant.source.checkpoint import Checkpoint, open_checkpoint
from mlxquant.stream.candidates import Candidate
from mlxquant.stream.engine import compare
from mlxquant.stream.options import CompareOptions
from mlxquant.words.formats import METHODS, Format

BITS = (4, 3, 2)
ROLES = {bits: f"roles-{bits}bit" for bits in BITS}
CALIBRATING, JUDGING, LUCK = (2_000_000, {5: 24}), (7_000_000, {5: 16, 10: 6}), (7_100_000, {5: 8})
SAID, KL = "in:assistant", TOKEN_FIELDS.index("kl")
# What reads the residual stream (its columns) and what writes to it (its rows, before the last axis)
READS = (
    "embed_tokens", "lm_head", "in_proj_", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "mlp.gate.",
    "shared_expert_gate", "input_layernorm", "post_attention_layernorm", "language_model.norm.",
)  # fmt: skip
WRITES = ("o_proj", "out_proj", "down_proj")


def uniform(bits: int, group: int, method: str) -> str:
    """The candidate that has all but the routers at these bits."""
    return f"gates-8bit:bits={bits},group_size={group},method={method}"


def roles(bits: int, method: str) -> str:
    """The candidate whose bits are by role, at most as large as the uniform one of group 64."""
    return f"{ROLES[bits]}:method={method}"


# --- checkpoints and texts ---


def texts(path: Path, first_seed: int, tasks: dict[int, int]) -> Path:
    """Dialogues of so many tasks by calls, from a seed on, as a data file."""
    seed, lines = first_seed, []
    for calls, count in tasks.items():
        for _ in range(count):
            task = make_task(seed, calls)
            lines.append(json.dumps({"id": task.id, "messages": transcript(task, system=False)}) + "\n")
            seed += 1
    path.write_text("".join(lines), "utf-8")
    return path


def turn(source: Path, out: Path, seed: int) -> None:
    """Write the checkpoint with its residual channels in another order and with other signs: the same function."""
    arrays = mx.load(str(source / "model.safetensors"))
    assert isinstance(arrays, dict)
    width = next(a.shape[-1] for name, a in arrays.items() if "embed_tokens" in name)
    rng = np.random.default_rng(seed)
    order, signs = mx.array(rng.permutation(width)), mx.array(rng.integers(0, 2, width).astype(bool))
    turned = {name: _turned(name, array, order, signs) for name, array in arrays.items()}
    out.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (out / file.name).write_bytes(file.read_bytes())
    mx.save_safetensors(str(out / "model.safetensors"), turned, {"format": "pt"})


def _turned(name: str, array: mx.array, order: mx.array, signs: mx.array) -> mx.array:
    if any(part in name for part in WRITES):
        moved, flip = mx.take(array, order, axis=-2), signs[order][:, None]
    elif any(part in name for part in READS):
        moved, flip = mx.take(array, order, axis=-1), signs[order]
    else:
        return array
    return moved if "norm" in name else mx.where(flip, -moved, moved)


# --- measuring ---


def measured(work: Path, source: Path, names: list[str], judging: tuple[int, dict[int, int]]) -> dict[str, Any]:
    """KL sums by document, tokens by document, and the share of said tokens with the same top, by candidate."""
    out = work / f"{source.name}-{judging[0]}.json"
    kept: dict[str, Any] = json.loads(out.read_text("utf-8")) if out.exists() else {"kl": {}, "said": {}}
    todo = [name for name in names if name not in kept["kl"]]
    if not todo:
        return kept
    checkpoint = open_checkpoint(source)
    documents = read_documents(texts(work / f"{judging[0]}.jsonl", *judging), open_tokenizer(checkpoint))
    calibration = calibrated(work, source)
    tally = Tally(documents.documents)
    candidates = [Candidate(name, recipe=load_variation(name)) for name in todo]
    options = CompareOptions(noise_floor=False, own=False, work=work / f"{source.name}.passed", fresh=True)
    compare(checkpoint, candidates, documents.documents, tally, options, calibration=calibration.columns)
    kept["tokens"] = [len(d.tokens) - 1 for d in documents.documents]
    for i, name in enumerate(todo):
        kept["kl"][name] = tally.token_sums(i, ACCUMULATED)[0, :, KL].tolist()
        said = [m for m in token_measurements(tally, i, 0.95) if m.get("slice") == SAID and m["metric"] == "same_top"]
        kept["said"][name] = said[0]["estimate"] if said else None
    out.write_text(json.dumps(kept), "utf-8")
    return kept


def calibrated(work: Path, source: Path) -> Calibration:
    """The calibration of a checkpoint, measured where it is not there yet."""
    path, checkpoint = work / f"{source.name}.cal", open_checkpoint(source)
    if not path.exists():
        data = texts(work / f"{CALIBRATING[0]}.jsonl", *CALIBRATING)
        documents: Documents = read_documents(data, open_tokenizer(checkpoint))
        result = run_calibration(checkpoint, documents.documents, documents.described(data.name), CompareOptions())
        assert result is not None
        path.write_bytes(result[0])
    return Calibration(path, checkpoint)


def share(own: list[float], base: list[float], draws: int = 4000) -> dict[str, float]:
    """The ratio of two sums over documents, with a 95 % bootstrap interval over documents, drawn in pairs."""
    a, b = np.array(own), np.array(base)
    index = np.random.default_rng(0).integers(0, len(a), (draws, len(a)))
    low, high = np.quantile(a[index].sum(1) / b[index].sum(1), [0.025, 0.975])
    return {"share": float(a.sum() / b.sum()), "low": float(low), "high": float(high)}


def luck(tables: list[dict[str, Any]], name: str, base: str) -> dict[str, Any]:
    """Over copies of the model: KL's spread of a build, and the ratio to rounding's of each copy."""
    own, other = (np.array([sum(t["kl"][n]) for t in tables]) for n in (name, base))
    spread = float(own.std(ddof=1) / own.mean()) if len(own) > 1 else None
    shares = (own / other).tolist()
    return {"copies": len(own), "spread": spread, "share": float(own.sum() / other.sum()), "shares": shares}


def nanoseconds(encoder: Encoder, fmt: Format) -> float:
    """CPU time a weight on this thread: the best of three, kernels compiled before."""
    rng = np.random.default_rng(0)
    values = ((rng.standard_normal((512, 2048)) * 0.02).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    out, best = Quantized.empty(512, 2048, "BF16", fmt), float("inf")
    for _ in range(4):
        began = time.thread_time()
        encoder.encode(Rows("it", 0, values, "BF16", fmt), out, errors=False)
        best = min(best, time.thread_time() - began)
    return best / values.size * 1e9


def sizes(source: Checkpoint, names: list[str]) -> dict[str, int]:
    """Bytes of each candidate's weights."""
    layout = read_layout(source)
    return {name: int(make_plan(layout, load_variation(name), source).totals["bytes"]) for name in names}


# --- the record ---


def record(work: Path, copies: int, methods: list[str], groups: list[int]) -> dict[str, Any]:
    """All of it: rows by bits, group and method, their luck, and the times."""
    source = work / "store-moe"
    if not source.exists():
        write_store_moe(source)
    names = [uniform(b, g, m) for b in BITS for g in groups for m in methods]
    names += [roles(b, m) for b in BITS for m in methods if m != "rtn"]
    main_table = measured(work, source, names, JUDGING)
    lucky = [uniform(b, 64, m) for b in BITS for m in methods] + [roles(b, "mse") for b in BITS]
    tables = []
    for seed in range(1, copies + 1):
        copy = work / f"turned-{seed}"
        if not copy.exists():
            turn(source, copy, seed)
        tables.append(measured(work, copy, lucky, LUCK))
    nbytes, tokens = sizes(open_checkpoint(source), names), sum(main_table["tokens"])
    rows = []
    for name in names:
        bits = next(b for b in BITS if f"bits={b}," in name or ROLES[b] in name)
        group = next((g for g in groups if f"group_size={g}," in name), 64)
        base = uniform(bits, group, "rtn")
        kl, reference = main_table["kl"][name], main_table["kl"][base]
        rows.append({
            "candidate": name, "bits": bits, "group_size": group, "bytes": nbytes[name],
            "bytes_of_rtn": nbytes[base], "kl_nats": sum(kl) / tokens, "same_top_said": main_table["said"][name],
            **share(kl, reference), "luck": luck(tables, name, base) if name in lucky and tables else None,
        })  # fmt: skip
    times = {
        f"{b}-bit g{g}": {"rtn": nanoseconds(Rounding(), Format(b, g)), "mse": nanoseconds(Searching(), Format(b, g))}
        for b in BITS
        for g in (32, 64, 128)
    }
    return {
        "what": "KL of the store model to full precision as a share of rounding's, by method", "date": utc_date(),
        "machine": describe_machine(), "versions": describe_versions(), "judged_documents": len(main_table["tokens"]),
        "judged_tokens": tokens, "calibrating_documents": CALIBRATING[1], "copies": copies, "rows": rows,
        "nanoseconds_a_weight_one_thread": times,
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = ["| bits | group | candidate | bytes | KL, mnat | share of `rtn` | other copies | said alike |",
             "|--:|--:|---|--:|--:|---|---|--:|"]  # fmt: skip
    for r in result["rows"]:
        own = r["luck"]
        other = f"{own['share']:.2f} ({min(own['shares']):.2f}–{max(own['shares']):.2f})" if own else "–"
        said = f"{100 * r['same_top_said']:.2f} %" if r["same_top_said"] is not None else "–"
        interval = f"{r['share']:.2f} [{r['low']:.2f}, {r['high']:.2f}]"
        recipe, _, method = r["candidate"].rpartition("method=")
        name = f"`{recipe.split(':')[0]}`" if "roles" in recipe else "uniform"
        lines.append(
            f"| {r['bits']} | {r['group_size']} | {name}, `{method}` | {r['bytes']:,} |"
            f" {1e3 * r['kl_nats']:.3g} | {interval} | {other} | {said} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, write the record, print the tables."""
    parser = argparse.ArgumentParser(description="KL by method, at equal bytes, on the store model.")
    parser.add_argument("work", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--copies", type=int, default=4, help="copies of the model in other orders and signs")
    parser.add_argument("--methods", default=",".join(m for m in METHODS if m != "gptq"))
    parser.add_argument("--groups", default="64,32")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    groups = [int(g) for g in arguments.groups.split(",")]
    result = record(arguments.work, arguments.copies, arguments.methods.split(","), groups)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(table(result))
    for fmt, times in result["nanoseconds_a_weight_one_thread"].items():
        print(f"{fmt}: " + ", ".join(f"{m} {ns:.2f} ns" for m, ns in times.items()))


if __name__ == "__main__":
    main()
