"""`mlxquant verify`: every byte of a build against its manifest, and against what its source makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BuildError, MlxquantError, UsageError
from ..words.units import show_bytes
from .bars import progress_bar
from .options import calibrated, calibration_option, json_option
from .printing import echo

if TYPE_CHECKING:
    from ..check.verify import Verified


@click.command()
@click.argument("build", metavar="BUILD", type=click.Path(path_type=Path))
@click.option("--source", metavar="SOURCE", help="Make a sample again from this folder or Hub id, and compare bytes.")
@click.option("--all", "everything", is_flag=True, help="With --source: make everything again, not a sample.")
@click.option("--seed", type=int, default=0, show_default=True, help="With --source: seed of the random sample.")
@calibration_option
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Workers; by default one for each core.")
@json_option
def command(
    build: Path,
    source: str | None,
    everything: bool,
    seed: int,
    calibration: Path | None,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Check every byte of a build against what was written.

    Files and tensors are compared with mlxquant.json; headers, index and config with each other, also in builds
    of other tools. Exit code 3 where anything differs, with the tensor or file.

    \b
    mlxquant verify build
    mlxquant verify build --source Qwen/Qwen3.5-122B-A10B
    mlxquant verify build --source ./checkpoint --all
    """
    if everything and source is None:
        raise UsageError("--all needs --source: it says how much is made again from it")
    from ..check.verify import verify
    from ..records.files import record_text

    with progress_bar() as watch:
        result = verify(build, threads=jobs, watch=watch)
    if source is not None:
        result = _against_source(result, build, source, calibration, everything=everything, seed=seed, threads=jobs)
    echo(record_text(result.as_dict()) if as_json else _text(result, build))
    count = len(result.differences)
    if count:
        raise BuildError(f"{build}: {count:,} difference{'s' if count > 1 else ''}, listed above")


def _against_source(result: Verified, build: Path, source: str, calibration: Path | None, **how: Any) -> Verified:
    """Make a sample again and compare; where a damaged build does not allow it, the earlier differences are kept."""
    from ..check.remake import verify_source
    from ..source.hub.open import open_source

    opened = open_source(source, weights=True)
    columns = None if calibration is None else lambda layout: calibrated(calibration, layout, opened)
    try:
        with progress_bar() as watch:
            return verify_source(result, build, opened, watch=watch, calibration=columns, **how)
    except MlxquantError as error:
        if not result.differences:
            raise
        return replace(result, differences=(*result.differences, f"not compared with {opened.name}: {error}"))


def _text(result: Verified, build: Path) -> str:
    """The result for a reader."""
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
        how = "whole" if result.manifest else "consistent; without a manifest nothing else can be checked"
        lines.append(f"{build}: {how}")
    return "\n".join(lines)
