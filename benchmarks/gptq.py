"""What encoding costs by method: CPU time of one thread and one BLAS thread, for matrices as wide as experts are.

    python -m benchmarks.gptq

Gaussian weights in bf16, group 64; moments of 1,024 correlated inputs. Curvature (damping and factoring the moments) is
once for each expert's inputs: gate and up share one. `layer` is one expert's gate, up and down, times 128 or 256.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mlxquant.kernels import Quantized, Rounding, Rows, Searching, quantize_rows
from mlxquant.kernels.gptq import Curvature, compensate_rows
from mlxquant.words.blas import one_blas_thread
from mlxquant.words.formats import Format

# (name, hidden, inner, experts)
SIZES = (("1024 wide", 1024, 512, 128), ("3072 wide, as Qwen3.5-122B-A10B", 3072, 1024, 256))


def seconds(work: Callable[[], Any], tries: int = 2) -> float:
    """CPU seconds of this thread, the best of some; compiled before."""
    work()
    times = []
    for _ in range(tries):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return min(times)


def measured(columns: int, bits: int, rows: int = 256) -> dict[str, float]:
    """Nanoseconds a weight by method, and seconds of one curvature."""
    rng, fmt = np.random.default_rng(0), Format(bits, 64)
    weights = (rng.standard_normal((rows, columns)) * 0.02).astype(np.float32)
    values = (weights.view(np.uint32) >> 16).astype(np.uint16)
    mixed = rng.standard_normal((1024, columns // 4)) @ rng.standard_normal((columns // 4, columns))
    inputs = (mixed + rng.standard_normal((1024, columns))).astype(np.float32)
    moments = inputs.T @ inputs / np.float32(1024)
    curvature, rounded = Curvature.of(moments), quantize_rows(values, "BF16", fmt)[0]
    block, out = Rows("it", 0, values, "BF16", fmt), Quantized.empty(rows, columns, "BF16", fmt)
    each = 1e9 / values.size
    return {
        "rtn": each * seconds(lambda: Rounding().encode(block, out, errors=False)),
        "mse": each * seconds(lambda: Searching().encode(block, out, errors=False)),
        "gptq": each * seconds(lambda: compensate_rows(values, "BF16", fmt, curvature, rounded), 1),
        "curvature_s": seconds(lambda: Curvature.of(moments), 1),
    }


def main() -> None:
    """Print the costs by width and bits, and what a layer's experts take of one core."""
    with one_blas_thread():
        for name, hidden, inner, experts in SIZES:
            for bits in (4, 3):
                wide, narrow = measured(hidden, bits), measured(inner, bits)
                for columns, own in ((hidden, wide), (inner, narrow)):
                    costs = (f"{m} {own[m]:.3g} ns, {2 / own[m]:.3g} GB/s" for m in ("rtn", "mse", "gptq"))
                    print(f"{bits} bits, {columns} columns: {'; '.join(costs)}; curvature {own['curvature_s']:.3g} s")
                matrix = hidden * inner * 1e-9
                expert = matrix * (2 * wide["gptq"] + narrow["gptq"]) + wide["curvature_s"] + narrow["curvature_s"]
                print(f"{name}, {bits} bits, {experts} experts: {experts * expert:.0f} core seconds a layer")


if __name__ == "__main__":
    main()
