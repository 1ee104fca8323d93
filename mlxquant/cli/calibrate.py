"""`mlxquant calibrate`: mean squares of what enters every module, for `convert --calibration`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..disk.outputs import OutputFile, check_outputs
from . import INTERRUPTED
from .bars import pass_bar
from .options import dtype_option, json_option, output_option, source_argument
from .printing import echo

if TYPE_CHECKING:
    from ..stream.options import CompareOptions
    from ..stream.ranks import Ranks


@click.command()
@source_argument
@click.option("--data", default="builtin", show_default=True, metavar="FILE", help="Texts: JSONL, or the built-in set.")
@click.option("--max-tokens", type=click.IntRange(2), metavar="N", help="Cut longer documents to N tokens.")
@click.option("--chunk", type=click.IntRange(1), default=2048, show_default=True, help="Tokens at once in a layer.")
@click.option("--compute", type=click.Choice(["float32", "bfloat16", "float16", "served"]), default="float32",
              show_default=True, help="Computing dtype, or as builds are served.")  # fmt: skip
@dtype_option
@click.option(
    "--work", type=click.Path(path_type=Path), metavar="FOLDER", help="Keep finished work in FOLDER, to resume."
)
@click.option("--fresh", is_flag=True, help="Throw away what --work holds and start over.")
@json_option
@output_option("The calibration file; must not exist.", required=True, metavar="CAL")
def command(
    source: str,
    data: str,
    max_tokens: int | None,
    work: Path | None,
    as_json: bool,
    output: Path,
    **options: Any,
) -> None:
    """Measure what enters every module of a checkpoint, on texts, in one pass over its weights.

    CAL gets the mean square of every input column, an expert each, with the number of tokens that reached it: what
    the method imatrix weighs errors by. One layer is in memory at a time. Every fourth document is held out, to check
    what the others chose.

    \b
    mlxquant calibrate ./checkpoint --data calls.jsonl -o calls.cal
    mlxquant convert ./checkpoint -r gates-4bit --method imatrix --calibration calls.cal -o build
    """
    from ..stream.options import CompareOptions
    from ..stream.ranks import Ranks

    ranks = Ranks.join()
    if ranks.rank == 0:
        inputs = [("the source", source), *([("--data", data)] if data != "builtin" else [])]
        check_outputs([OutputFile("-o", output)], inputs, work)
    try:
        result = _run(source, data, max_tokens, CompareOptions(work=work, **options), ranks)
    except KeyboardInterrupt:
        advice = "nothing is kept without --work" if work is None else f"the same command goes on from {work}"
        echo(f"mlxquant: stopped; {advice}", err=True)
        sys.exit(INTERRUPTED)
    if result is None:
        return  # another rank writes
    content, summary = result
    from ..disk import files as disk

    disk.write_whole(output, content, replace=False)
    _tell(output, content, summary, as_json=as_json)


def _run(
    source: str, data: str, max_tokens: int | None, options: CompareOptions, ranks: Ranks
) -> tuple[bytes, dict[str, Any]] | None:
    from ..calibrate.run import run_calibration
    from ..divergence.texts.documents import read_documents
    from ..divergence.texts.tokens import open_tokenizer
    from ..source.hub.open import open_source
    from ..stream.state import CALIBRATE, check_work

    opened = open_source(source, weights=True)
    with ranks.as_one():
        check_work(
            ranks.folder(options.work),
            [("the source", opened.folder), ("--data", None if data == "builtin" else Path(data))],
            CALIBRATE,
        )
        documents = read_documents(data, open_tokenizer(opened), max_tokens=max_tokens)
        described = documents.described(data if data == "builtin" else Path(data).name)
        with pass_bar() if ranks.rank == 0 else nullcontext(lambda _: None) as watch:
            return run_calibration(opened, documents.documents, described, options, watch, ranks)


def _tell(output: Path, content: bytes, summary: dict[str, Any], *, as_json: bool) -> None:
    from ..records.files import record_text
    from ..words.units import show_bytes

    if as_json:
        echo(record_text(summary))
        return
    documents, unreached = summary["documents"], summary["experts_unreached"]
    echo(f"documents  {documents['count']:,}, {documents['tokens']:,} tokens, every fourth held out")
    without = len(summary["without_inputs"])
    echo(f"modules    {summary['modules']:,} with inputs, {without:,} without (looked up, not multiplied)")
    if unreached:
        most = max(unreached.items(), key=lambda item: item[1])
        echo(
            f"experts    {sum(unreached.values()):,} reached by no token, most in {most[0]} ({most[1]:,}):"
            " they take their layer's figures; more or other texts would reach them"
        )
    echo(f"written    {output}, {show_bytes(len(content))}")
