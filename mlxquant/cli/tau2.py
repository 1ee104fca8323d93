"""`mlxquant tau2`: the paper's table from τ²-bench result files, with deltas and intervals."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..disk.outputs import OutputFile, check_outputs, record_of
from ..errors import MlxquantError, RecordError, UsageError
from .options import json_option, output_option
from .printing import echo

if TYPE_CHECKING:
    from ..results.tau2 import Results


@click.command()
@click.argument("results", metavar="RESULTS...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--name", "names", multiple=True, metavar="NAME", help="Name of a RESULTS in the tables; once for each, in order."
)
@click.option(
    "--drop",
    multiple=True,
    metavar="REASON",
    help="Also leave out simulations that ended this way, such as context_window_exceeded.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.9999),
    default=0.95,
    show_default=True,
    help="Confidence level of every interval.",
)
@json_option
@output_option("Write the record here too; an earlier one is replaced, any other file is not.")
def command(
    results: tuple[Path, ...],
    names: tuple[str, ...],
    drop: tuple[str, ...],
    confidence: float,
    as_json: bool,
    output: Path | None,
) -> None:
    """Compare τ²-bench result files: pass^k, rewards, actions, databases, depth, each with its interval.

    RESULTS is a τ²-bench JSON, a folder with results.json and simulations/, or a τ-bench (v1) list; .gz too. Every
    later file is compared with the first, paired by task and trial. Faulty simulations are listed with their place
    and left out.

    \b
    mlxquant tau2 base/results.json
    mlxquant tau2 base.json agentic.json -o tau2.json
    mlxquant tau2 base.json agentic.json --name base --name agentic
    """
    from ..records.files import record_text
    from ..report.tau2 import tau2_text
    from ..results.tau2 import make_record, read_results

    if names and len(names) != len(results):
        raise UsageError(f"--name is given {len(names)} times for {len(results)} RESULTS; give one for each, or none")
    if len(set(names)) < len(names):
        raise UsageError("--name: two RESULTS of one name; give each its own")
    written = None if output is None else OutputFile("-o", output, record_of("tau2"))
    if written is not None:
        check_outputs([written], [("RESULTS", path) for path in results if path.is_file()])
    read, failed = [], list[MlxquantError]()
    for number, path in enumerate(results):
        try:
            read.append(read_results(path, names[number] if names else None))
        except RecordError as error:
            if number == 0 or len(results) == 1:
                raise
            failed.append(error)
    record = make_record(_told_apart(read), dropped={"infrastructure_error", *drop}, confidence=confidence)
    text = record_text(record)
    if written is not None:
        written.write(f"{text}\n")
    echo(text if as_json else tau2_text(record))
    for problem in failed:
        echo(f"mlxquant: left out: {problem}", err=True)
    if failed:
        sys.exit(RecordError.exit_code)


def _told_apart(read: list[Results]) -> list[Results]:
    """Number the names that stand twice: two runs called results.json in folders of one name."""
    seen: dict[str, int] = {}
    named = []
    for results in read:
        seen[results.name] = seen.get(results.name, 0) + 1
        again = seen[results.name]
        named.append(results if again == 1 else replace(results, name=f"{results.name} ({again})"))
    return named
