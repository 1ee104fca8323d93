"""`mlxquant revalidate`: what changed since a build was made or measured, and what no longer holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import json_option
from .printing import echo

if TYPE_CHECKING:
    from ..validate.revalidate import Revalidation


@click.command()
@click.argument("build", metavar="BUILD", type=click.Path(path_type=Path))
@click.argument("records", metavar="[RECORD]...", nargs=-1, type=click.Path(path_type=Path))
@json_option
def command(build: Path, records: tuple[Path, ...], as_json: bool) -> None:
    """Say what changed in the stack since a build was made or last measured, and which figures no longer hold.

    RECORDs are what bench and other measurements wrote. Without one, the build's manifest says what it was made
    on. Exit code 1 if something no longer holds: measure it again.

    \b
    mlxquant revalidate build
    mlxquant revalidate build bench.json
    """
    from ..records.files import record_text
    from ..validate.revalidate import revalidate

    found = revalidate(build, records)
    echo(record_text(found.as_dict()) if as_json else _text(found))
    if not found.holds:
        sys.exit(1)


def _text(found: Revalidation) -> str:
    lines = []
    if found.since_made is None:
        lines.append(f"{found.name}: what it was made on is not known (no manifest)")
    else:
        changed = ", ".join(str(c) for c in found.since_made)
        lines.append(f"{found.name}: changed since it was made: {changed or 'nothing of machine and versions'}")
    for checked in found.checked:
        changed = ", ".join(str(c) for c in checked.changes)
        lines.append(f"{checked.name}: {f'no longer holds: {changed}' if changed else 'holds'}")
    return "\n".join(lines)
