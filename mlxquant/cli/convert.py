"""`mlxquant convert`: from a checkpoint to a build, with progress on a terminal."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..words.units import parse_memory, show_bytes
from . import INTERRUPTED
from .bars import progress_bar
from .options import (
    carried,
    dtype_option,
    json_option,
    keep_options,
    load,
    output_option,
    recipe_options,
    source_argument,
)
from .printing import echo

if TYPE_CHECKING:
    from ..builds.write.convert import ConvertOptions


@click.command()
@source_argument
@recipe_options
@output_option("The build's folder; must not exist.", metavar="OUT", required=True, name="out")
@dtype_option
@keep_options
@click.option(
    "--device", type=click.Choice(["cpu", "gpu"]), default="cpu", show_default=True, help="Where mlx computes."
)
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Workers; by default one for each core.")
@click.option("--max-memory", metavar="SIZE", help="Use fewer workers than --jobs if they would need more than this.")
@click.option("--no-audit", is_flag=True, help="Do not sum the quantization error.")
@click.option("--no-hash", is_flag=True, help="Do not take SHA-256 of the files and checksums of the tensors.")
@click.option("--allow-nonfinite", is_flag=True, help="Store NaN, infinity and overflowing groups as mlx does.")
@click.option("--trust-remote-code", is_flag=True,
              help="Copy the source's *.py files into the build. mlxquant runs none of them.")  # fmt: skip
@click.option("--keep-source", is_flag=True, help="Keep all shards of a Hub id in the usual cache, not only a few.")
@click.option("--fresh", is_flag=True, help="Throw an unfinished OUT.partial away and start over.")
@json_option
def command(
    source: str,
    recipe: str | None,
    out: Path,
    keep_vision: bool,
    keep_mtp: bool,
    provider: str | None,
    keep_source: bool,
    as_json: bool,
    **words: Any,
) -> None:
    """Write the MLX build that a recipe asks for.

    OUT appears only when it is complete. What an interrupted run has finished stays in OUT.partial; the same
    command goes on from there.

    A Hub id is downloaded while it is converted: shards lie in OUT.partial until what they hold is made, so the disk
    needs room for the build and a few of them. Shards that the usual cache has are used where they are.

    \b
    mlxquant convert Qwen/Qwen3.5-122B-A10B -r gates-8bit -o Qwen3.5-122B-8bit
    mlxquant convert ./checkpoint -r gates-4bit --set "role=lm_head:bits=6" -o build
    mlxquant convert ./checkpoint -r none --dtype float32 -o reference
    mlxquant convert Qwen/Qwen3.5-122B-A10B -r gates-8bit --keep-vision -o for-LM-Studio
    mlxquant convert Qwen/Qwen3.5-122B-A10B@main -r gates-8bit --keep-source -o build
    """
    own = {name: words.pop(name) for name in _OWN}  # what is left changes the recipe
    chosen = load(recipe, **words)
    from ..builds.manifest import MANIFEST
    from ..builds.write.convert import convert
    from ..layout.layout import read_layout
    from ..plan.plan import make_plan
    from ..source.hub.open import open_source

    options = _options(**own)
    opened = open_source(_begun(source, out, fresh=options.fresh), weights=True, keep=keep_source)
    keep = carried(keep_vision=keep_vision, keep_mtp=keep_mtp)
    layout = read_layout(opened, dtype=options.dtype, keep=keep, provider=provider)
    plan = make_plan(layout, chosen, opened)
    for note in opened.notes:
        echo(f"mlxquant: {note}", err=True)
    for warning in plan.warnings:
        echo(f"mlxquant: warning: {warning}", err=True)
    if opened.folder is None and opened.revision is not None:
        size = show_bytes(sum(opened.files.values()))
        echo(f"mlxquant: {opened.name} at commit {opened.revision[:12]}: {size}, downloaded as needed", err=True)
    try:
        with progress_bar() as watch:
            done = convert(opened, layout, plan, out, options, watch)
    except KeyboardInterrupt:
        echo(f"mlxquant: stopped; {_kept_work(out)}", err=True)
        sys.exit(INTERRUPTED)
    if as_json:
        echo((out / MANIFEST).read_text(), nl=False)
        return
    totals = plan.totals
    taken_over = f", {show_bytes(done.resumed_bytes)} taken over" if done.resumed_bytes else ""
    echo(
        f"{out}: {show_bytes(totals['bytes'])}, {totals['bpw']:.4f} bits per weight,"
        f" {len(plan.protected)} modules protected; {done.seconds:.1f} s{taken_over}"
    )
    echo(f"Next: mlxquant audit {shlex.quote(str(out))}", err=True)


_OWN = (
    "dtype", "device", "jobs", "max_memory", "no_audit", "no_hash", "allow_nonfinite", "trust_remote_code", "fresh",
)  # fmt: skip


def _options(
    *, jobs: int | None, max_memory: str | None, no_audit: bool, no_hash: bool, **others: Any
) -> ConvertOptions:
    from ..builds.write.convert import ConvertOptions
    from ..kernels.mlx import require_device

    require_device(others["device"])
    return ConvertOptions(
        audit=not no_audit,
        hash=not no_hash,
        threads=jobs or os.cpu_count() or 1,
        max_memory=None if max_memory is None else parse_memory(max_memory),
        **others,
    )


def _begun(source: str, out: Path, *, fresh: bool) -> str:
    """SOURCE, at the commit that OUT.partial was begun at if none is asked for: a branch may have moved on since."""
    from ..builds.write.partial import Partial
    from ..source.hub.open import unpinned

    repository = unpinned(source)
    commit = None if fresh or repository is None else Partial(out).begun_at(repository)
    if commit is None:
        return source
    echo(f"mlxquant: going on at commit {commit[:12]}; --fresh starts over with the newest", err=True)
    return f"{repository}@{commit}"


def _kept_work(out: Path) -> str:
    """What is left of an interrupted run, in words."""
    from ..builds.write.partial import Partial

    folder = Partial(out).folder
    if folder.exists():
        return f"what is finished is kept in {folder}, the same command goes on from there"
    return "nothing was finished, nothing is left behind"
