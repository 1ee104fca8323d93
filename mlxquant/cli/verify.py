"""`mlxquant verify`: whether a build is still what it was, and what its source makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BuildError, MlxquantError, UsageError
from ..words.units import show_bytes
from .bars import progress_bar
from .options import json_option
from .printing import echo

if TYPE_CHECKING:
    from ..check.verify import Verified


@click.command()
@click.argument("build", metavar="BUILD", type=click.Path(path_type=Path))
@click.option("--source", metavar="SOURCE", help="Make a sample again from this folder or Hub id, and compare bytes.")
@click.option("--all", "everything", is_flag=True, help="With --source: make everything again, not a sample.")
@click.option("--seed", type=int, default=0, show_default=True, help="With --source: what the sample is drawn by.")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Workers; by default one for each core.")
@json_option
def command(build: Path, source: str | None, everything: bool, seed: int, jobs: int | None, as_json: bool) -> None:
    """Read a build through and compare every byte with what was written.

    Files and tensors are held against mlxquant.json; headers, index and config against each other, also in builds
    of other tools. Exit code 3 where anything differs, with the tensor or file.

    \b
    mlxquant verify build
    mlxquant verify build --source Qwen/Qwen3.5-122B-A10B
    mlxquant verify build --source ./checkpoint --all
    """
    if everything and source is None:
        raise UsageError("--all goes with --source: it says how much of it is made again")
    from ..check.verify import verify
    from ..records.files import record_text

    with progress_bar() as watch:
        result = verify(build, threads=jobs, watch=watch)
    if source is not None:
        result = _against_source(result, build, source, everything=everything, seed=seed, threads=jobs)
    echo(record_text(result.as_dict()) if as_json else _text(result, build))
    count = len(result.differences)
    if count:
        raise BuildError(f"{build}: {count:,} difference{'s' if count > 1 else ''}, listed above")


def _against_source(result: Verified, build: Path, source: str, **how: Any) -> Verified:
    """Make it again; where that cannot be done to a damaged build, what was found before is not lost."""
    from ..check.remake import verify_source
    from ..source.hub.open import open_source

    opened = open_source(source, weights=True)
    try:
        with progress_bar() as watch:
            return verify_source(result, build, opened, watch=watch, **how)
    except MlxquantError as error:
        if not result.differences:
            raise
        return replace(result, differences=(*result.differences, f"not compared with {opened.name}: {error}"))


def _text(result: Verified, build: Path) -> str:
    """What was found, for a reader."""
    lines = list(result.differences)
    lines += [f"note: {note}" for note in result.notes]
    if result.manifest:
        lines.append(f"read: {result.files:,} files, {result.tensors:,} tensors, {show_bytes(result.nbytes)}")
    if result.sample is not None:
        s = result.sample
        lines.append(
            f"made again from {s.source}: {s.pieces:,} of {s.all_pieces:,} pieces,"
            f" {100 * s.share:.3g} % of the bytes (seed {s.seed})"
        )
    if not result.differences:
        how = "whole" if result.manifest else "consistent; without a manifest no more can be said"
        lines.append(f"{build}: {how}")
    return "\n".join(lines)
