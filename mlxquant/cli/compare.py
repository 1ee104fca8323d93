"""`mlxquant compare`: what recipes and builds cost in quality, in one pass over the source's weights."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..disk.outputs import OutputFile, check_outputs
from ..errors import OtherRankError, UsageError
from . import INTERRUPTED
from .bars import pass_bar
from .calibrating import candidates_encoding, check_pass_documents, pass_document_options
from .options import (
    calibration_option,
    check_calibration,
    check_forms,
    csv_option,
    dtype_option,
    in_form,
    json_option,
    opened_calibration,
    output_option,
    override_options,
    recipe_files,
    shipped,
)
from .printing import echo, warn

if TYPE_CHECKING:
    from ..divergence.record import Question
    from ..stream.candidates import Candidate
    from ..stream.ranks import Ranks

# How long a rank waits for the launcher to end it, when another tells why nothing can begin: mlx.launch ends all at the
# first exit, also the one that is still writing its line.
_LAST_WORD_S = 2.0
VIEWS = ["recipe", "slice", "depth", "turn", "layer", "pair", "statistic"]


@dataclass(frozen=True, kw_only=True)
class PassArguments:
    """What `compare` and `sweep` are both told about a pass over the weights and its data."""

    data: str
    max_tokens: int | None
    margin: float | None
    confidence: float
    second_half: bool
    chunk: int
    compute: str
    dtype: str | None
    allow_nonfinite: bool
    work: Path | None
    fresh: bool
    method: str | None
    calibration: Path | None
    calibration_data: str | None
    propagate: bool | None
    max_memory: str | None

    def question(self) -> Question:
        """What is asked of the pass."""
        from ..divergence.record import Question
        from ..divergence.statistics import DEFAULT_MARGIN

        return Question(
            data=self.data if self.data == "builtin" else Path(self.data),
            margin=DEFAULT_MARGIN if self.margin is None else self.margin,
            confidence=self.confidence,
            second_half=self.second_half,
            max_tokens=self.max_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class CompareArguments(PassArguments):
    """The command line of `compare`, but for SOURCE."""

    recipes: tuple[str, ...]
    builds: tuple[Path, ...]
    bits: int | None
    group_size: int | None
    mode: str | None
    sets: tuple[str, ...]
    unaligned: str | None
    teacher_forced_routing: bool
    no_own: bool
    no_noise_floor: bool
    by: str
    as_json: bool
    as_csv: bool
    output: Path | None
    earlier: Path | None


@click.command()
@click.argument("source", metavar="SOURCE", required=False)
@click.option("-r", "--recipe", "recipes", multiple=True, metavar="RECIPE[:KEY=VALUE,…]",
              help="A recipe; again for several. gates-8bit:bits=4,group_size=32 is a variation.")  # fmt: skip
@click.option("--build", "builds", multiple=True, type=click.Path(path_type=Path), metavar="FOLDER",
              help="A build on disk to judge, any tool's; again for several.")  # fmt: skip
@override_options
@calibration_option
@pass_document_options
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
@csv_option("measurement")
@output_option("Write the record there too; must not exist.")
@click.option("--from", "earlier", type=click.Path(path_type=Path), metavar="RECORD", help="Show an earlier record.")
def command(source: str | None, **options: Any) -> None:
    """Judge recipes and builds against the full-precision model, in one pass over its weights.

    No build is written, and one layer is in memory at a time. SOURCE is a checkpoint's folder or a Hub id. --bits,
    --group-size, --mode, --set and --unaligned hold for every recipe that does not say otherwise itself.

    KL rejects bad quantizations; it does not rank near-lossless ones (arXiv 2606.19558).

    \b
    mlxquant compare ./checkpoint -r gates-8bit -r deepseek-8bit --data calls.jsonl
    mlxquant compare ./checkpoint -r gates-8bit:bits=4,method=gptq --data calls.jsonl --calibration-data other.jsonl
    mlxquant compare Qwen/Qwen3.5-122B-A10B -r gates-8bit -r gates-8bit:bits=4 -o compare.json
    mlxquant compare ./checkpoint -r gates-8bit:bits=3,group_size=32 --build other-build --by layer
    mlxquant compare ./checkpoint -r gates-4bit --teacher-forced-routing --work work --by slice
    mlxquant compare --from compare.json --by statistic
    mlx.launch --hosts 10.0.0.1,10.0.0.2 -- mlxquant compare ./checkpoint -r gates-8bit --data calls.jsonl
    """
    from ..records.files import record_text

    arguments = CompareArguments(**options)
    check_forms(arguments)
    output = arguments.output
    if arguments.earlier is not None:
        if source is not None or arguments.recipes or arguments.builds:
            raise UsageError("--from shows a record; it measures nothing")
        from ..records.measurements import read_comparison

        if output is not None:
            check_outputs([OutputFile("-o", output)], [("--from", arguments.earlier)])
        record: dict[str, Any] | None = read_comparison(arguments.earlier)
    elif source is None:
        raise UsageError("SOURCE is missing: a checkpoint's folder or a Hub id; or --from RECORD")
    else:
        record = _measured(source, arguments)
    if record is None:
        return  # another rank tells
    from ..report.compare import compare_text

    text = record_text(record)
    try:
        if output is not None:
            OutputFile("-o", output).write(f"{text}\n")
    finally:  # what took hours is shown also where the disk takes no record
        echo(in_form(record, lambda: compare_text(record, arguments.by), arguments))


def _measured(source: str, arguments: CompareArguments) -> dict[str, Any] | None:
    """Run the pass; None where another rank tells what came out."""
    from ..stream.ranks import Ranks

    ranks = Ranks.join()
    try:
        with ranks.as_one():
            return _run(source, arguments, ranks)
    except OtherRankError as error:
        time.sleep(_LAST_WORD_S)
        sys.exit(error.exit_code)


def _run(source: str, arguments: CompareArguments, ranks: Ranks) -> dict[str, Any] | None:
    """Open everything and run this rank's share of the pass; the first rank alone shows progress and has the record."""
    if ranks.rank == 0 and arguments.output is not None:  # the only one that writes it
        builds = [("--build", str(build)) for build in arguments.builds]
        named = [("--data", arguments.data), ("--calibration-data", arguments.calibration_data)]
        data = [(option, file) for option, file in named if file not in (None, "builtin")]
        inputs = [("the source", source), *builds, *data, *recipe_files(arguments.recipes)]
        check_outputs([OutputFile("-o", arguments.output)], inputs, arguments.work)
    candidates, on_documents = _candidates(arguments)
    from ..divergence.record import run_comparison
    from ..source.hub.open import open_source
    from ..stream.options import CompareOptions

    options = CompareOptions(
        noise_floor=not arguments.no_noise_floor,
        own=not arguments.no_own,
        compute=arguments.compute,
        chunk=arguments.chunk,
        teacher_forced_routing=arguments.teacher_forced_routing,
        dtype=arguments.dtype,
        allow_nonfinite=arguments.allow_nonfinite,
        work=arguments.work,
        fresh=arguments.fresh,
    )
    opened = open_source(source, weights=True)
    calibration = opened_calibration(arguments.calibration, opened)
    encoding = candidates_encoding(arguments, opened, speaks=ranks.rank == 0) if on_documents else None
    try:
        with pass_bar() if ranks.rank == 0 else nullcontext(lambda _: None) as watch:
            record, tells = run_comparison(
                opened, candidates, arguments.question(), options, watch, ranks, calibration, warn=warn,
                encoding=encoding,
            )  # fmt: skip
    except KeyboardInterrupt:
        if ranks.rank != 0:
            sys.exit(INTERRUPTED)
        work = arguments.work
        advice = "nothing is kept without --work" if work is None else f"the same command goes on from {work}"
        echo(f"mlxquant: stopped; {advice}", err=True)
        sys.exit(INTERRUPTED)
    return record if tells else None


def _candidates(arguments: CompareArguments) -> tuple[list[Candidate], bool]:
    """Load recipes and name builds; says whether a recipe is encoded on documents. Raises UsageError, RecipeError."""
    if not arguments.recipes and not arguments.builds:
        raise UsageError(f"nothing to compare: give -r with one of {', '.join(shipped())} or a .toml file, or --build")
    from ..plan.recipe.variation import load_variations, name_of

    recipes = load_variations(
        arguments.recipes,
        bits=arguments.bits,
        group_size=arguments.group_size,
        mode=arguments.mode,
        method=arguments.method,
        unaligned=arguments.unaligned,
        sets=arguments.sets,
    )
    check_calibration(arguments.calibration, recipes)
    on_documents = check_pass_documents(arguments, recipes)
    from ..stream.candidates import Candidate

    named = zip(arguments.recipes, recipes, strict=True)
    candidates = [Candidate(name_of(text, recipe), recipe=recipe) for text, recipe in named]
    return [*candidates, *(Candidate(build.resolve().name, build=build) for build in arguments.builds)], on_documents
