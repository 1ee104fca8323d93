"""What quantization really costs, as a share of a group's range: the "0.4 % of the dynamic range" as a number.

Gaussian and uniform weights, rounded to bf16 as checkpoints have them, are quantized by the kernels that make our
builds (byte for byte mlx's), with scales and biases in bf16, f16 and f32. The error of each value is divided by the
range max w − min w of its own group. For comparison: evenly spaced levels from min to max have steps of
``1 / (2**bits - 1)`` of the range, 0.392 % at 8 bits; rounding to them errs by half a step at most, by
``step / sqrt(12)`` RMS (0.113 %).

mlx differs in two ways. It makes 0 a level, and stretches or shrinks the step for it; where it shrinks, the far end
of a group is cut off by up to nearly a step, ``1 / 2**bits`` of the range. And it stores scales and biases in the
weights' dtype: bf16 keeps 8 digits of binary, so at the far end a scale that is 0.2 % off is half a step of 8 bits.

    python benchmarks/error_of_8bit.py [--rows 2048] [--out benchmarks/results/error_of_8bit.json]
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from mlxquant.kernels import dequantize_rows, measure_rows, quantize_rows
from mlxquant.records.head import describe_machine, describe_versions
from mlxquant.words.formats import Format

SCHEMA = "mlxquant.error_of_8bit/1"
COLUMNS = 4096
SEED = 20260101
GROUPS = (32, 64, 128)
# bits -> the dtypes of scales that are of interest there
BITS = {8: ("BF16", "F16", "F32"), 6: ("BF16", "F32"), 4: ("BF16", "F32")}


def main() -> None:
    """Measure every case, print the tables, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=2048, help=f"rows of {COLUMNS} values (default: 2048)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "error_of_8bit.json")
    args = parser.parse_args()
    cases = [
        measure(name, weights, bits, group, dtype)
        for name, weights in draw(args.rows).items()
        for bits, dtypes in BITS.items()
        for group in GROUPS
        for dtype in dtypes
    ]
    print(table(cases))
    record = {
        "schema": SCHEMA,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "seed": SEED,
        "values": args.rows * COLUMNS,
        "cases": cases,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{args.out} written")


def draw(rows: int) -> dict[str, NDArray[np.float32]]:
    """Weights of both kinds, exact in bf16: (rows, COLUMNS) float32."""
    rng = np.random.default_rng(SEED)
    drawn = {
        "gaussian": rng.normal(0, 0.02, (rows, COLUMNS)),
        "uniform": rng.uniform(-0.02, 0.02, (rows, COLUMNS)),
    }
    return {name: _from_bf16(_to_bf16(w.astype(np.float32))) for name, w in drawn.items()}


def measure(name: str, weights: NDArray[np.float32], bits: int, group: int, dtype: str) -> dict[str, Any]:
    """Quantize in one format with scales of one dtype, and describe the errors in shares of their groups' ranges."""
    fmt = Format(bits, group)
    stored = {"BF16": _to_bf16, "F16": lambda w: w.astype(np.float16), "F32": lambda w: w}[dtype](weights)
    made, _ = quantize_rows(stored, dtype, fmt)
    source = _from_bf16(stored) if dtype == "BF16" else stored.astype(np.float32)
    grouped = source.astype(np.float64).reshape(-1, group)
    spread = grouped.max(axis=1) - grouped.min(axis=1)
    shares = np.abs(grouped - dequantize_rows(made, dtype, fmt).reshape(grouped.shape)) / spread[:, None]
    sums = measure_rows(stored, dtype, made, fmt)
    step = 1 / (2**bits - 1)
    return {
        "weights": name,
        "bits": bits,
        "group_size": group,
        "scales": dtype,
        "step": step,
        "median_share": float(np.median(shares)),
        "mean_share": float(shares.mean()),
        "rms_share": float(np.sqrt((shares**2).mean())),
        "p999_share": float(np.quantile(shares, 0.999)),
        "max_share": float(shares.max()),
        "ideal_rms_share": step / 12**0.5,
        "relative_rms_error": sums.relative_rms_error,
        "sqnr_db": -20 * float(np.log10(sums.relative_rms_error)),
    }


def table(cases: list[dict[str, Any]]) -> str:
    """One line a case, shares in percent of the group's range."""
    keys = ("median_share", "rms_share", "p999_share", "max_share")
    rows = [
        (
            c["weights"],
            f"{c['bits']}-bit g{c['group_size']}",
            c["scales"].lower(),
            f"{100 * c['step']:.3f}",
            *(f"{100 * c[k]:.3f}" for k in keys),
            f"{100 * c['relative_rms_error']:.3f}",
            f"{c['sqnr_db']:.1f}",
        )
        for c in cases
    ]
    headers = (
        "weights",
        "format",
        "scales",
        "step %",
        "median %",
        "rms %",
        "p99.9 %",
        "max %",
        "rel. RMS %",
        "SQNR dB",
    )
    return str(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))


def _to_bf16(w: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round half to even to the upper 16 bits of a float32, as mlx casts."""
    bits = w.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _from_bf16(w: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (w.astype(np.uint32) << 16).view(np.float32)


if __name__ == "__main__":
    main()
