"""`mlxquant compare`: what recipes and builds cost in quality, in one pass over the source's weights."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..disk.outputs import OutputFile, check_outputs
from ..errors import OtherRankError, UsageError
from . import INTERRUPTED
from .bars import pass_bar
from .options import dtype_option, json_option, output_option, override_options, recipe_files, shipped
from .printing import echo

if TYPE_CHECKING:
    from ..divergence.record import Question
    from ..stream.candidates import Candidate
    from ..stream.ranks import Ranks

# How long a rank waits for the launcher to end it, when another tells why nothing can begin: mlx.launch ends all at the
# first exit, also the one that is still writing its line.
_LAST_WORD_S = 2.0
VIEWS = ["recipe", "slice", "depth", "turn", "layer", "pair", "statistic"]


@click.command()
@click.argument("source", metavar="SOURCE", required=False)
@click.option("-r", "--recipe", "recipes", multiple=True, metavar="RECIPE[:KEY=VALUE,…]",
              help="A recipe; again for several. gates-8bit:bits=4,group_size=32 is a variation.")  # fmt: skip
@click.option("--build", "builds", multiple=True, type=click.Path(path_type=Path), metavar="FOLDER",
              help="A build on disk to judge, any tool's; again for several.")  # fmt: skip
@override_options
@click.option("--data", default="builtin", show_default=True, metavar="FILE", help="Texts: JSONL, or the built-in set.")
@click.option("--max-tokens", type=click.IntRange(2), metavar="N", help="Cut longer documents to N tokens.")
@click.option("--margin", type=float, metavar="NATS", help="The smallest difference in KL that matters.  [0.001]")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Confidence level of every interval.")
@click.option("--second-half", is_flag=True, help="Score each document's second half only, as llama.cpp does.")
@click.option(
    "--teacher-forced-routing",
    is_flag=True,
    help="Also use the reference's routing, to tell damage by weights from damage by routing.",
)
@click.option("--chunk", type=click.IntRange(1), default=2048, show_default=True, help="Tokens at once in a layer.")
@click.option("--compute", type=click.Choice(["float32", "bfloat16", "float16", "served"]), default="float32",
              show_default=True, help="Computing dtype, or as builds are served.")  # fmt: skip
@click.option("--no-own", is_flag=True, help="Skip layers on the reference's hidden state: half the work.")
@click.option("--no-noise-floor", is_flag=True, help="Skip the reference in bf16; there are no verdicts then.")
@dtype_option
@click.option("--allow-nonfinite", is_flag=True, help="Go on with NaN, infinity and overflowing groups.")
@click.option(
    "--work", type=click.Path(path_type=Path), metavar="FOLDER", help="Keep finished work in FOLDER, to resume."
)
@click.option("--fresh", is_flag=True, help="Throw away what --work holds and start over.")
@click.option(
    "--by", type=click.Choice(VIEWS), default="recipe", show_default=True, help="What the rows of the table are."
)
@json_option
@output_option("Write the record there too; must not exist.")
@click.option("--from", "earlier", type=click.Path(path_type=Path), metavar="RECORD", help="Show an earlier record.")
def command(source: str | None, recipes: tuple[str, ...], builds: tuple[Path, ...], **options: Any) -> None:
    """Judge recipes and builds against the full-precision model, in one pass over its weights.

    No build is written, and one layer is in memory at a time. SOURCE is a checkpoint's folder or a Hub id. --bits,
    --group-size, --mode, --set and --unaligned hold for every recipe that does not say otherwise itself.

    KL rejects bad quantizations; it does not rank near-lossless ones (arXiv 2606.19558).

    \b
    mlxquant compare ./checkpoint -r gates-8bit -r deepseek-8bit --data calls.jsonl
    mlxquant compare Qwen/Qwen3.5-122B-A10B -r gates-8bit -r gates-8bit:bits=4 -o compare.json
    mlxquant compare ./checkpoint -r gates-8bit:bits=3,group_size=32 --build other-build --by layer
    mlxquant compare ./checkpoint -r gates-4bit --teacher-forced-routing --work work --by slice
    mlxquant compare --from compare.json --by statistic
    mlx.launch --hosts 10.0.0.1,10.0.0.2 -- mlxquant compare ./checkpoint -r gates-8bit --data calls.jsonl
    """
    from ..records.files import record_text

    output: Path | None = options["output"]
    if options["earlier"] is not None:
        if source is not None or recipes or builds:
            raise UsageError("--from shows a record; it measures nothing")
        from ..records.measurements import read_comparison

        if output is not None:
            check_outputs([OutputFile("-o", output)], [("--from", options["earlier"])])
        record: dict[str, Any] | None = read_comparison(options["earlier"])
    elif source is None:
        raise UsageError("SOURCE is missing: a checkpoint's folder or a Hub id; or --from RECORD")
    else:
        record = _measured(source, recipes, builds, options)
    if record is None:
        return  # another rank tells
    from ..report.compare import compare_text

    text = record_text(record)
    try:
        if output is not None:
            OutputFile("-o", output).write(f"{text}\n")
    finally:  # what took hours is shown also where the disk takes no record
        echo(text if options["as_json"] else compare_text(record, options["by"]))


def _measured(
    source: str, recipes: tuple[str, ...], builds: tuple[Path, ...], settings: dict[str, Any]
) -> dict[str, Any] | None:
    """Run the pass; None where another rank tells what came out."""
    from ..stream.ranks import Ranks

    ranks = Ranks.join()
    try:
        with ranks.as_one():
            return _run(source, recipes, builds, settings, ranks)
    except OtherRankError as error:
        time.sleep(_LAST_WORD_S)
        sys.exit(error.exit_code)


def _run(
    source: str, recipes: tuple[str, ...], builds: tuple[Path, ...], settings: dict[str, Any], ranks: Ranks
) -> dict[str, Any] | None:
    """Open everything and run this rank's share of the pass; the first rank alone shows progress and has the record."""
    if ranks.rank == 0 and settings["output"] is not None:  # the only one that writes it
        builds_read = [("--build", str(build)) for build in builds]
        data = [("--data", settings["data"])] if settings["data"] != "builtin" else []
        inputs = [("the source", source), *builds_read, *data, *recipe_files(recipes)]
        check_outputs([OutputFile("-o", settings["output"])], inputs, settings["work"])
    candidates = list(_candidates(recipes, builds, settings))
    from ..divergence.record import run_comparison
    from ..source.hub.open import open_source
    from ..stream.options import CompareOptions

    question = question_of(settings)
    options = CompareOptions(
        noise_floor=not settings["no_noise_floor"],
        own=not settings["no_own"],
        **{k: settings[k] for k in ("compute", "chunk", "teacher_forced_routing", "dtype", "allow_nonfinite", "work")},
        fresh=settings["fresh"],
    )
    opened = open_source(source, weights=True)
    try:
        with pass_bar() if ranks.rank == 0 else nullcontext(lambda _: None) as watch:
            record, tells = run_comparison(opened, candidates, question, options, watch, ranks)
    except KeyboardInterrupt:
        if ranks.rank != 0:
            sys.exit(INTERRUPTED)
        work = settings["work"]
        advice = "nothing is kept without --work" if work is None else f"the same command goes on from {work}"
        echo(f"mlxquant: stopped; {advice}", err=True)
        sys.exit(INTERRUPTED)
    return record if tells else None


def question_of(settings: dict[str, Any]) -> Question:
    """What is asked, from the options that `compare` and `sweep` share."""
    from ..divergence.record import Question
    from ..divergence.statistics import DEFAULT_MARGIN

    return Question(
        data=settings["data"] if settings["data"] == "builtin" else Path(settings["data"]),
        margin=DEFAULT_MARGIN if settings["margin"] is None else settings["margin"],
        confidence=settings["confidence"],
        second_half=settings["second_half"],
        max_tokens=settings["max_tokens"],
    )


def _candidates(recipes: tuple[str, ...], builds: tuple[Path, ...], settings: dict[str, Any]) -> Iterator[Candidate]:
    """Load recipes and name builds. Raises UsageError, RecipeError."""
    if not recipes and not builds:
        raise UsageError(f"nothing to compare: give -r with one of {', '.join(shipped())} or a .toml file, or --build")
    from ..plan.recipe.variation import load_variation, name_of

    overrides = {key: settings[key] for key in ("bits", "group_size", "mode", "unaligned", "sets")}
    loaded = [(name_of(text, recipe), recipe) for text in recipes for recipe in [load_variation(text, **overrides)]]
    from ..stream.candidates import Candidate

    for name, recipe in loaded:
        yield Candidate(name, recipe=recipe)
    for build in builds:
        yield Candidate(build.resolve().name, build=build)
