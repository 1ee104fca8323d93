"""How fast blocks are quantized: GB/s of source on one core, with and without error sums, beside `mx.quantize`.

    python benchmarks/kernels.py [--json FILE] [--cols 4096] [--mb 4] [--blocks 16] [--rounds 3]

Blocks of `--mb` megabytes are taken from a source larger than the cache, so each comes from memory, as after a read;
outputs are reused. Every round has each contender in turn over all blocks, so that other load falls on all of them
alike. The median block is printed, and in brackets the fastest tenth: on a shared machine that is what the code can
do, and the median what it got. Bytes are compared with mlx's first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxquant.kernels import measure_rows, quantize_rows
from mlxquant.kernels import mlx as kernels_mlx
from mlxquant.records.head import describe_machine, describe_versions
from mlxquant.words.formats import MODES, Format

SCHEMA = "mlxquant.benchmark_kernels/1"
CONTENDERS = ("mlx", "quantize", "quantize+sums", "measure")


def main() -> None:
    """Print the table; write it with --json."""
    options = arguments()
    mx.set_default_device(mx.Device(mx.cpu))
    started = time.perf_counter()
    warm_up()
    first_call_s = time.perf_counter() - started
    print(f"{'dtype':6}{'format':14}" + "".join(f"{name:>22}" for name in CONTENDERS) + f"{'sums cost':>11}")
    results = []
    for dtype in options.dtypes:
        blocks = np.split(source(dtype, options.blocks * options.mb << 20, options.cols), options.blocks)
        for bits in options.bits:
            for group in options.groups:
                row = measure(blocks, dtype, Format(bits, group), options.rounds)
                results.append(row)
                print_row(row)
    if options.json:
        record = {
            "schema": SCHEMA,
            "date": date.today().isoformat(),
            "machine": describe_machine(),
            "load_1m": round(os.getloadavg()[0], 1),
            "versions": describe_versions(),
            "block_bytes": options.mb << 20,
            "blocks": options.blocks,
            "cols": options.cols,
            "rounds": options.rounds,
            "first_call_s": round(first_call_s, 3),
            "results": results,
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cols", type=int, default=4096)
    parser.add_argument("--mb", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["BF16", "F16", "F32"])
    parser.add_argument("--bits", nargs="+", type=int, default=list(MODES["affine"][1]))
    parser.add_argument("--groups", nargs="+", type=int, default=list(MODES["affine"][0]))
    return parser.parse_args()


def warm_up() -> None:
    """The first call of a process: numba's start and one kernel, from its disk cache if it is there."""
    quantize_rows(source("BF16", 4096, 64), "BF16", Format(8, 64), errors=True)


def source(dtype: str, nbytes: int, cols: int) -> NDArray[Any]:
    """Rows of normally distributed weights, as `quantize_rows` takes it."""
    rows = nbytes // ((4 if dtype == "F32" else 2) * cols)
    w = np.random.default_rng(0).standard_normal((rows, cols)).astype(np.float32) * np.float32(0.02)
    if dtype == "BF16":
        return (w.view(np.uint32) >> 16).astype(np.uint16)
    return w.astype(np.float16) if dtype == "F16" else w


def measure(blocks: list[NDArray[Any]], dtype: str, fmt: Format, rounds: int) -> dict[str, Any]:
    """GB/s of the contenders, taken in turn."""
    arrays = [mx.array(w).view(mx.bfloat16) if dtype == "BF16" else mx.array(w) for w in blocks]
    mx.eval(arrays)
    out, _ = quantize_rows(blocks[0], dtype, fmt)
    assert out.biases is not None
    run: dict[str, Callable[[int], Any]] = {
        "mlx": lambda i: mx.eval(mx.quantize(arrays[i], group_size=fmt.group_size, bits=fmt.bits)),
        "quantize": lambda i: quantize_rows(blocks[i], dtype, fmt, out=out),
        "quantize+sums": lambda i: quantize_rows(blocks[i], dtype, fmt, out=out, errors=True),
        "measure": lambda i: measure_rows(blocks[i], dtype, out, fmt),
    }
    for name in CONTENDERS:
        run[name](0)
    theirs = kernels_mlx.quantize(blocks[0], dtype, fmt, "cpu")
    assert [a.tobytes() for a in theirs] == [a.tobytes() for a in (out.packed, out.scales, out.biases)], "bytes differ"
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name in CONTENDERS:
            for i in range(len(blocks)):
                start = time.perf_counter()
                run[name](i)
                seconds[name].append(time.perf_counter() - start)
    row: dict[str, Any] = {"dtype": dtype, "bits": fmt.bits, "group_size": fmt.group_size}
    for name, times in seconds.items():
        row[name] = {
            "median_gb_s": round(blocks[0].nbytes / statistics.median(times) / 1e9, 2),
            "best_tenth_gb_s": round(blocks[0].nbytes / statistics.quantiles(times, n=10)[0] / 1e9, 2),
        }
    return row


def print_row(row: dict[str, Any]) -> None:
    """Medians, the fastest tenth in brackets, and what the sums cost by the latter."""
    rates = "".join(f"{row[n]['median_gb_s']:13.2f} ({row[n]['best_tenth_gb_s']:5.1f})" for n in CONTENDERS)
    cost = row["quantize"]["best_tenth_gb_s"] / row["quantize+sums"]["best_tenth_gb_s"] - 1
    print(f"{row['dtype']:6}{row['bits']}-bit g{row['group_size']:<7}{rates}{cost:11.0%}", flush=True)


if __name__ == "__main__":
    main()
