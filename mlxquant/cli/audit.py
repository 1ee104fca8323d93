"""`mlxquant audit`: what every tensor of an MLX build really is, why, and what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import BuildError, UsageError
from .bars import progress_bar
from .options import json_option, markdown_flag
from .printing import echo

if TYPE_CHECKING:
    from ..builds.read.build import Build
    from ..check.against_source import Comparison


@click.command()
@click.argument("build", metavar="BUILD")
@click.option("--source", metavar="SOURCE", help="Measure the errors against this folder or Hub id (org/name).")
@click.option(
    "--by", type=click.Choice(["role", "tensor"]), default="role", show_default=True, help="What the table lists."
)
@click.option(
    "--jobs", type=click.IntRange(1), metavar="N", help="With --source: workers; by default one for each core."
)
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print one line for each module, comma separated.")
@markdown_flag("Print AUDIT.md as convert writes it.")
def command(
    build: str, source: str | None, by: str, jobs: int | None, as_json: bool, as_csv: bool, as_md: bool
) -> None:
    """Show how every tensor of an MLX build is stored, and why: of our builds and of those of other tools.

    Formats are read from the bytes; what the config says otherwise is a disagreement. Reasons and errors of our own
    builds come from their audit.json. Exit code 3 where something disagrees, after printing all of it.

    \b
    mlxquant audit build
    mlxquant audit build --source Qwen/Qwen3.5-122B-A10B
    mlxquant audit build --by tensor
    mlxquant audit build --csv > modules.csv
    """
    if as_json + as_csv + as_md > 1:
        raise UsageError("--json, --csv and --md exclude each other; give one")
    from ..builds.read.build import read_build
    from ..check.audit import audit_build

    opened = read_build(build)
    against = _measure(opened, source, jobs) if source is not None else None
    record = audit_build(opened, against)
    echo(_shown(record, build, by, as_json, as_csv, as_md), nl=not (as_csv or as_md))
    wrong = len(record["disagreements"])
    if wrong:
        raise BuildError(f"{build}: {wrong:,} disagreement{'s' if wrong > 1 else ''}, listed above")


def _measure(build: Build, source: str, jobs: int | None) -> Comparison:
    """Hold the build against its source, with a bar where someone watches."""
    from ..check.against_source import compare_with_source
    from ..source.hub.open import open_source

    with progress_bar() as watch:
        return compare_with_source(build, open_source(source, weights=True), threads=jobs, watch=watch)


def _shown(record: dict[str, Any], name: str, by: str, as_json: bool, as_csv: bool, as_md: bool) -> str:
    if as_json:
        from ..records.files import record_text

        return record_text(record)
    if as_md:
        from ..report.audit_markdown import audit_markdown

        return audit_markdown(record)
    from ..report.audit import audit_csv, audit_text

    return audit_csv(record) if as_csv else audit_text(record, name, by)
