"""`mlxquant check-load`: does a build load in mlx-lm and mlx-vlm.

Alone in its module because each command is one, imported when it is run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .bars import progress_bar
from .options import json_option
from .printing import echo


@click.command()
@click.argument("build", metavar="BUILD", type=click.Path(path_type=Path))
@click.option(
    "--python", type=click.Path(path_type=Path), metavar="PATH", help="Try another environment's interpreter."
)
@click.option("--tokens", type=click.IntRange(1), default=8, show_default=True, help="How many tokens to generate.")
@json_option
def command(build: Path, python: Path | None, tokens: int, as_json: bool) -> None:
    """Load a build in the installed mlx-lm and mlx-vlm, and report whether each loads and runs it.

    Exit code 0 if every one that is installed loads it with strict names, 3 otherwise. Whether it then runs is
    shown too; on a CPU, experts at source precision do not.

    \b
    mlxquant check-load Qwen3.5-122B-8bit
    mlxquant check-load Qwen3.5-122B-8bit --python ~/lmstudio-venv/bin/python --json
    """
    from ..check.load import check_load, loads
    from ..records.files import record_text
    from ..report.load import check_load_text

    with progress_bar("library") as watch:
        record = check_load(build, python=python, tokens=tokens, watch=watch)
    echo(record_text(record) if as_json else check_load_text(record))
    if not loads(record):
        sys.exit(3)
