"""What a method gives at equal bytes: KL of the store model to full precision, by bits and method, beside rounding's.

    python benchmarks/methods.py WORK

Dialogues of the store world are calibrated on (the first 24 of `store_study/dialogues.py`, 5 calls each) and judged on
others (24 of 5, 10 and 20 calls). All builds are `gates-8bit` at other bits, group 64, so that bytes are equal within a
row. It also times the encoders: CPU nanoseconds a weight on one thread, for 1 M gaussian weights in bf16. WORK keeps
checkpoint, data, calibration and record; interrupted, the same command goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from mlxquant.evals.store.model import write_store_moe
from mlxquant.kernels import Encoder, Quantized, Rounding, Rows, Searching
from mlxquant.words.formats import Format

BITS, METHODS = (4, 3, 2), ("rtn", "mse", "imatrix")
JUDGED = (*range(26, 42), *range(50, 56), *range(70, 72))  # lines of the data: 16 of 5 calls, 6 of 10, 2 of 20


def run(*words: object) -> None:
    """Run mlxquant, or end with it."""
    subprocess.run([sys.executable, "-m", "mlxquant", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def record_of(work: Path) -> dict[str, dict[str, float]]:
    """Calibrate and compare what is not there yet; KL a token with its interval, in nats, by candidate."""
    source, data, record = work / "store-moe", work / "store.jsonl", work / "compare.json"
    if not source.exists():
        write_store_moe(source)
    if not data.exists():
        script = Path(__file__).parent / "store_study" / "dialogues.py"
        subprocess.run([sys.executable, str(script), "-o", str(data)], check=True)
    lines = data.read_text("utf-8").splitlines(keepends=True)
    for name, chosen in (("calibrate", range(24)), ("judge", JUDGED)):
        (work / f"{name}.jsonl").write_text("".join(lines[i] for i in chosen), "utf-8")
    if not (work / "store.cal").exists():
        run("calibrate", source, "--data", work / "calibrate.jsonl", "-o", work / "store.cal")
    if not record.exists():
        recipes = [w for b in BITS for m in METHODS for w in ("-r", f"gates-8bit:bits={b},group_size=64,method={m}")]
        how = ("--calibration", work / "store.cal", "--no-own", "--no-noise-floor", "--work", work / "passed")
        run("compare", source, *recipes, "--data", work / "judge.jsonl", *how, "-o", record)
    candidates = json.loads(record.read_text("utf-8"))["candidates"]
    scopes = ("case", "slice", "depth", "turn", "layer", "against")
    return {
        c["name"]: next(
            m for m in c["measurements"] if m["metric"] == "kl_nats" and not any(scope in m for scope in scopes)
        )
        for c in candidates
    }


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


def main() -> None:
    """Print the two tables."""
    work = Path(sys.argv[1])
    work.mkdir(parents=True, exist_ok=True)
    kl = record_of(work)
    print("KL in thousandths of a nat a token, with its 95 % interval, and as a share of rounding's\n")
    for bits in BITS:
        rows = {m: kl[f"gates-8bit:bits={bits},group_size=64,method={m}"] for m in METHODS}
        for method, m in rows.items():
            share = m["estimate"] / rows["rtn"]["estimate"]
            interval = f"[{1e3 * m['low']:.3g}, {1e3 * m['high']:.3g}]"
            print(f"{bits} bits  {method:8} {1e3 * m['estimate']:8.3g} {interval}  {share:.2f}")
    print("\nCPU nanoseconds a weight, one thread, bf16\n")
    for group in (32, 64, 128):
        times = [f"{nanoseconds(e, Format(4, group)):.2f}" for e in (Rounding(), Searching())]
        print(f"group {group:3}  rtn {times[0]:>6}  mse {times[1]:>6}")


if __name__ == "__main__":
    main()
