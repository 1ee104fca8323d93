"""Speed of two tiny builds in the paper's layout, base and agentic, on the machine at hand.

    python benchmarks/bench.py [--keep FILE] [--rounds 7] [--architecture qwen3_5_moe]

A 6 MB checkpoint is made on the spot, converted with both of the paper's recipes, and both builds are measured in
turn. What this shows is that measuring works, and how wide its intervals are; a model of 2.4 M parameters on a CPU says
nothing about 122 B on a Mac. The kept record stands in benchmarks/results; `mlxquant bench --from` shows it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from mlxquant.bench.local import LocalModel, device, wired
from mlxquant.bench.prompts import own_text
from mlxquant.bench.record import unmeasured
from mlxquant.bench.run import Bench
from mlxquant.bench.workload import BenchSettings
from mlxquant.builds.read.build import read_build
from mlxquant.builds.write.convert import ConvertOptions, convert
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.records.files import record_text
from mlxquant.report.bench import bench_text
from mlxquant.source.checkpoint import open_checkpoint
from tests.checkpoints import write_tiny

RECIPES = {"base": "gates-8bit", "agentic": "deepseek-8bit"}


def main() -> None:
    """Measure, print the text, write the record with --keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write the record there")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--architecture", default="qwen3_5_moe")
    options = parser.parse_args()
    settings = BenchSettings(prompts=(64,), generate=(16,), depths=(0, 64), repetitions=options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        builds = make_builds(Path(folder), options.architecture)
        prompts = own_text()
        subjects = [LocalModel(read_build(build), prompts) for build in builds]
        with wired():
            record = Bench(subjects, settings, machine=on_what(), prompt=prompts.describe()).run()
    if options.keep:
        options.keep.write_text(record_text(record) + "\n", encoding="utf-8")
    print(bench_text(record))
    assert not unmeasured(record), unmeasured(record)


def make_builds(root: Path, architecture: str) -> list[Path]:
    """Write a tiny checkpoint and a build of it by each of the recipes."""
    write_tiny(root / "source", architecture)
    source = open_checkpoint(root / "source")
    layout = read_layout(source)
    for name, recipe in RECIPES.items():
        plan = make_plan(layout, load_recipe(recipe), source)
        convert(source, layout, plan, root / f"tiny-{name}", ConvertOptions(audit=False))
    return [root / f"tiny-{name}" for name in RECIPES]


def on_what() -> dict[str, object]:
    """Say what mlx computes on."""
    return {k: v for k, v in device().items() if k != "usable_bytes"}


if __name__ == "__main__":
    main()
