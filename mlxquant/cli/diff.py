"""`mlxquant diff`: where two recipes, plans or builds differ, and what that costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .bars import progress_bar
from .options import json_option, markdown_flag
from .printing import echo

if TYPE_CHECKING:
    from ..builds.read.build import Build
    from ..source.checkpoint import Checkpoint


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--source", metavar="SOURCE", help="What recipes are applied to: a folder, config.json or Hub id.")
@click.option("--no-bytes", is_flag=True, help="With two builds: compare formats alone and read no weight.")
@click.option(
    "--jobs", type=click.IntRange(1), metavar="N", help="With two builds: workers; by default one for each core."
)
@json_option
@markdown_flag("Print Markdown.")
def command(a: str, b: str, source: str | None, no_bytes: bool, jobs: int | None, as_json: bool, as_md: bool) -> None:
    """Show where two recipes, plans or builds differ, tensor by tensor, and what that costs.

    A and B are each a build's folder (any tool's), a plan or audit record (.json), or a recipe (with --source).
    Of two builds the weights are compared too: bytes where formats agree, distance where they do not.

    \b
    mlxquant diff gates-8bit deepseek-8bit --source Qwen/Qwen3.5-122B-A10B
    mlxquant diff base.plan.json agentic.plan.json --md
    mlxquant diff build-a build-b
    mlxquant diff build-a deepseek-8bit --source ./checkpoint
    """
    if as_json and as_md:
        raise UsageError("--json and --md exclude each other; give one")
    from ..check.diff import read_sides
    from ..records.diff import diff_records
    from ..records.files import record_text
    from ..report.diff import diff_markdown, diff_text

    left, right = read_sides(a, b, None if source is None else lambda: _open(source))
    record = diff_records(left.record, right.record, (left.name, right.name))
    if left.build is not None and right.build is not None and not no_bytes:
        record["tensors"] = _compare(left.build, right.build, jobs)
    if as_json:
        echo(record_text(record))
    elif as_md:
        echo(diff_markdown(record), nl=False)
    else:
        echo(diff_text(record))


def _open(source: str) -> Checkpoint:
    """Open what recipes are applied to; imported here, since records alone need no mlx."""
    from ..source.hub.open import open_source

    return open_source(source)


def _compare(a: Build, b: Build, jobs: int | None) -> dict[str, Any]:
    """Compare the weights of two builds, with a bar where someone watches."""
    from ..check.distance import compare_builds

    with progress_bar() as watch:
        return compare_builds(a, b, threads=jobs, watch=watch)
