"""Several builds from one reading beside runs of their own: wall and CPU time in turn, and bytes read and downloaded.

    python benchmarks/together.py [--layers 2] [--experts 96] [--rounds 3] [--json FILE]

Makes a bf16 checkpoint (1024 wide, experts of 512), and converts it to 8 and to 4 bits, group 64: each by a command of
its own, and both by one. Every run is a fresh process, the three follow each other in each round, and the ratio of
medians counts. The source is read from the page cache, so what one reading saves is least here; from a server on this
machine, in the form of the Hub, the bytes that it sent are counted.
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
from tests.source.hub.hub_server import HubServer

RECIPES = ("uniform-8bit:group_size=64", "uniform-8bit:bits=4,group_size=64")
RUNS = {"8-bit alone": RECIPES[:1], "4-bit alone": RECIPES[1:], "both from one reading": RECIPES}


def main() -> None:
    """Run the benchmark as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--experts", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="where checkpoint and builds go")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.work) as folder:
        source = Path(folder) / "source"
        write_tiny(source, "qwen3_moe", Size(layers=asked.layers, hidden=1024, experts=asked.experts, inner=512))
        local = measure(str(source), Path(folder), asked.rounds, dict(os.environ))
        hub = downloads(source, Path(folder))
    record = {
        "date": date.today().isoformat(),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "source_bytes": local["source_bytes"],
        "runs": local["runs"],
        "second_build_of_alone": local["second"],
        "together_of_separate": local["ratio"],
        "hub_bytes_sent": hub,
    }
    print(json.dumps(record, indent=2))
    if asked.json:
        asked.json.write_text(json.dumps(record, indent=2) + "\n")


def measure(source: str, folder: Path, rounds: int, env: dict[str, str]) -> dict[str, Any]:
    """Wall and CPU seconds of each run, medians over rounds; `second` is what the 4-bit build adds, of its own run."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in RUNS}
    for number in range(rounds + 1):  # the first one warms the page cache and the compiled kernels
        for name, recipes in RUNS.items():
            seconds = convert(source, folder / "out", recipes, env)
            if number:
                times[name].append(seconds)
    runs = {
        name: {"wall_s": statistics.median(w for w, _ in pairs), "cpu_s": statistics.median(c for _, c in pairs)}
        for name, pairs in times.items()
    }
    first, second, both = (runs[name]["wall_s"] for name in RUNS)
    return {
        "runs": runs,
        "second": round((both - first) / second, 3),
        "ratio": round(both / (first + second), 3),
        "source_bytes": sum(p.stat().st_size for p in Path(source).glob("*.safetensors")),
    }


def convert(source: str, out: Path, recipes: tuple[str, ...], env: dict[str, str]) -> tuple[float, float]:
    """Convert in a process of its own; gives wall and CPU seconds."""
    words = [w for recipe in recipes for w in ("-r", recipe)]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "mlxquant", "convert", source, *words, "-o", str(out)],
        env=env, check=True, capture_output=True,
    )  # fmt: skip
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(out)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def downloads(source: Path, folder: Path) -> dict[str, int]:
    """Bytes that a server in the form of the Hub sends for each run."""
    sent = {}
    with HubServer() as hub:
        hub.add("org/model", source)
        for name, recipes in RUNS.items():
            before = hub.sent
            env = {
                **{k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY")},
                "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hub" / name), "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_OFFLINE": "0",
            }  # fmt: skip
            convert("org/model", folder / "out", recipes, env)
            sent[name] = hub.sent - before
    return sent


if __name__ == "__main__":
    main()
