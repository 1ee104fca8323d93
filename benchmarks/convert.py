"""mlxquant convert beside mlx_lm.convert: wall time, CPU time, peak anonymous memory, in turn in one run.

    python benchmarks/convert.py [--layout fused|per-expert|transposed] [--layers 8] [--experts 128] [--json FILE]

Makes a bf16 checkpoint of a real architecture's shape (1024 wide, 128 experts of 512; 8 layers are 3.3 GB), brings
it into the page cache, and converts it to 8 bits, group 64, onto tmpfs, each tool as a fresh process. The floor is
a process that only reads the input and writes as many bytes. The machine is shared, so the ratio of medians
counts, not one time. Anonymous memory is that of the process tree, sampled from /proc every 5 ms (Linux); elsewhere
the peak resident size of the largest process stands in, and the record says so.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from mlxquant.records.head import describe_machine, describe_versions
from tests.checkpoints import Size, write_tiny

LAYOUTS = {"fused": "qwen3_5_moe", "per-expert": "qwen3_moe", "transposed": "llama4"}
CONVERT = ["-m", "mlxquant", "convert", "{src}", "-r", "uniform-8bit", "--group-size", "64", "-o", "{out}"]
COMMANDS = {
    "mlx_lm.convert": ["-m", "mlx_lm", "convert", "--hf-path", "{src}", "--mlx-path", "{out}", "-q", "--q-bits", "8"],
    "mlxquant": CONVERT,
    "mlxquant, no audit": [*CONVERT, "--no-audit"],
    "mlxquant, no hash": [*CONVERT, "--no-hash"],
    "mlxquant, no audit, no hash": [*CONVERT, "--no-audit", "--no-hash"],
    "read and write only": ["-c", "{floor}", "{src}", "{out}"],
}
# Reads every shard in 2 MiB blocks and writes 17/32 as many bytes: 8.5 of 16 bits.
FLOOR = """
import glob, os, sys
buffer, at = memoryview(bytearray(2 << 20)), 0
out = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
for name in sorted(glob.glob(sys.argv[1] + "/*.safetensors")):
    source = os.open(name, os.O_RDONLY)
    while got := os.readv(source, [buffer]):
        at += os.pwrite(out, buffer[: got * 17 // 32], at)
"""


def main() -> None:
    """Run the benchmark as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", choices=LAYOUTS, default="fused")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="where the checkpoint goes")
    parser.add_argument("--json", type=Path, help="write the record here")
    args = parser.parse_args()
    source = args.work / f"mlxquant-bench-{args.layout}-{args.layers}-{args.experts}"
    if not source.exists():
        size = Size(layers=args.layers, hidden=1024, experts=args.experts, experts_per_token=8, inner=512)
        write_tiny(source, LAYOUTS[args.layout], size)
    samples = run(source, args.rounds)
    record = summarize(samples, source, args)
    print(table(record))
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")


def run(source: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Run every command once a round, in turn."""
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in COMMANDS}
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        for _ in range(rounds):
            for name, command in COMMANDS.items():
                for shard in source.glob("*.safetensors"):
                    with shard.open("rb") as file:
                        while file.read(1 << 24):
                            pass
                out = folder / "out"
                given = {"{src}": str(source), "{out}": str(out), "{floor}": FLOOR}
                samples[name].append(measure([sys.executable, *(given.get(w, w) for w in command)]))
                shutil.rmtree(out) if out.is_dir() else out.unlink()
                print(f"  {name}: {samples[name][-1]['wall_s']:.2f} s", file=sys.stderr)
    finally:
        shutil.rmtree(folder)
    return samples


def measure(command: list[str]) -> dict[str, float]:
    """Run a command; wall and CPU seconds, peak anonymous bytes of its process tree."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        time.sleep(0.005)
    wall = time.monotonic() - began
    if process.returncode:
        sys.exit(f"{' '.join(command[:5])} …: exit {process.returncode}\n{process.communicate()[1].decode()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not peak:  # no /proc: ru_maxrss is bytes on macOS
        peak = after.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "peak_anonymous_bytes": peak}


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process and its children, 0 where /proc does not tell."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                total = int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(anonymous_bytes(int(child)) for child in (task / "children").read_text().split())
    except (OSError, ValueError):
        return total
    return total


def summarize(samples: dict[str, list[dict[str, float]]], source: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The record: every sample, medians, and ratios to mlx_lm.convert and to the floor."""
    medians = {n: {k: statistics.median(s[k] for s in runs) for k in runs[0]} for n, runs in samples.items()}
    reference, floor = medians["mlx_lm.convert"]["wall_s"], medians["read and write only"]["wall_s"]
    return {
        "schema": "mlxquant.benchmark.convert/1",
        "date": date.today().isoformat(),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "load_average": os.getloadavg(),
        "layout": args.layout,
        "layers": args.layers,
        "experts": args.experts,
        "source_bytes": sum(p.stat().st_size for p in source.glob("*.safetensors")),
        "rounds": args.rounds,
        "medians": medians,
        "times_faster_than_mlx_lm": {n: reference / m["wall_s"] for n, m in medians.items()},
        "times_the_floor": {n: m["wall_s"] / floor for n, m in medians.items()},
        "samples": samples,
    }


def table(record: dict[str, Any]) -> str:
    """The medians as Markdown."""
    chip, cores = record["machine"]["chip"], record["machine"]["cores"]
    lines = [
        f"{record['source_bytes'] / 1e9:.2f} GB, {record['layout']}, {record['layers']} layers, medians of"
        f" {record['rounds']} rounds; {chip}, {cores} cores, {record['date']}",
        "",
        "| | wall s | CPU s | peak anonymous MB | × faster than mlx_lm | × the floor |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, m in record["medians"].items():
        faster, floor = record["times_faster_than_mlx_lm"][name], record["times_the_floor"][name]
        memory = m["peak_anonymous_bytes"] / 1e6
        lines.append(f"| {name} | {m['wall_s']:.2f} | {m['cpu_s']:.2f} | {memory:.0f} | {faster:.1f} | {floor:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
