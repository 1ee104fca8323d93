"""A conversion in small portions, for tests that fail or kill it at every change to the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlxquant.builds.write.convert import Converted, ConvertOptions, convert
from mlxquant.builds.write.pieces import Sizes
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.source.checkpoint import open_checkpoint

Run = Callable[[Path], Converted]

# Half a megabyte is cut into pieces, shards and flushes as half a terabyte is.
SMALL = Sizes(piece=128 << 10, block=96 << 10, unflushed=192 << 10, shard=96 << 10)


def runner(source: Path) -> Run:
    """Give a function that converts to a folder; the plan is made once."""
    layout = read_layout(open_checkpoint(source))
    plan = make_plan(layout, load_recipe("gates-8bit", group_size=32), open_checkpoint(source))
    return lambda out: convert(open_checkpoint(source), layout, plan, out, ConvertOptions(threads=1, sizes=SMALL))
