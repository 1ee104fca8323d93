"""`mlxquant report`: one HTML page from any mix of records.

Alone in its module because each command is one, imported when it is run.
"""

from __future__ import annotations

from pathlib import Path

import click

from ..disk.outputs import OutputFile, check_outputs
from .options import output_option
from .printing import echo


@click.command()
@click.argument("records", nargs=-1, required=True, metavar="RECORD...", type=click.Path(path_type=Path))
@output_option("Write the page here; an earlier page is replaced, any other file is not.", required=True)
@click.option("--title", metavar="TEXT", help="The page's heading; by default what the records are of.")
def command(records: tuple[Path, ...], output: Path, title: str | None) -> None:
    """Write one HTML page from any mix of records.

    RECORD is what a command's --json or -o wrote: a plan, an audit, a diff, a measurement; or a build's folder, for
    its audit.json. Plans and audits of one model stand side by side. The page stands alone: it needs no network.

    \b
    mlxquant report base.plan.json agentic.plan.json -o report.html
    mlxquant report build-a build-b bench.json -o report.html --title "Two builds"
    """
    from ..records.loading import load
    from ..report.page.page import BEGINNING, make_report

    written = OutputFile("-o", output, BEGINNING)
    check_outputs([written], [("RECORD", path) for path in records])
    page = make_report([load(path) for path in records], title)
    written.write(page)
    echo(f"{output}: {len(page.encode()) / 1024:,.0f} KiB, from {len(records)} record{'s'[: len(records) > 1]}")
