"""`mlxquant allocate`: the bits of every module for a budget of bytes, by what each choice does to the output."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..disk.outputs import OutputFile, check_outputs
from ..errors import UsageError
from ..words.formats import IMATRIX
from ..words.progress import Progress, Watch
from . import INTERRUPTED
from .allocating import AllocationArguments, allocation_options, options_of, with_budgets
from .bars import pass_bar
from .convert_texts import time_text
from .options import (
    calibration_option,
    dtype_option,
    json_option,
    opened_calibration,
    output_option,
    source_argument,
)
from .printing import echo, warn

if TYPE_CHECKING:
    from ..allocate.groups import ModuleGroup
    from ..allocate.run import AllocateOptions, Outcome
    from ..allocate.shares import Shares
    from ..calibrate.record import Calibration
    from ..layout.layout import Layout
    from ..plan.plan import Plan
    from ..source.checkpoint import Checkpoint

BUILTIN = "builtin"
SHARE = 50  # time left is told when a fiftieth of the work is done


@dataclass(frozen=True, kw_only=True)
class AllocateArguments(AllocationArguments):
    """The command line of `allocate`, but for SOURCE."""

    calibration: Path | None
    work: Path | None
    fresh: bool
    as_json: bool
    output: Path | None
    recipe_out: Path


@click.command()
@source_argument
@allocation_options
@calibration_option
@dtype_option
@click.option("--work", type=click.Path(path_type=Path), metavar="FOLDER", help="Keep what is measured, to resume.")
@click.option("--fresh", is_flag=True, help="Throw away what --work holds and start over.")
@json_option
@output_option("The recipe file; of several budgets, a name such as recipe-96GB.toml each.", required=True,
               name="recipe_out", metavar="RECIPE")  # fmt: skip
@click.option("--record", "output", type=click.Path(path_type=Path), metavar="FILE", help="Write the record there too.")
def command(source: str, **options: Any) -> None:
    """Choose every module's format for a budget of bytes: the least KL to full precision, never worse than uniform.

    Groups of modules are quantized alone, one after another, and what each does to the output is measured. An exact
    solver chooses. Its recipe is taken only where it is ahead of uniform and shipped recipes of at most the same bytes
    on documents that chose nothing; else the best of those is.

    \b
    mlxquant allocate ./checkpoint --budget 96GB --data calls.jsonl --work work -o recipe.toml
    mlxquant allocate ./checkpoint --bpw 4.25 --method mse --data calls.jsonl -o recipe.toml
    mlxquant allocate ./checkpoint --budget 64GB,96GB,128GB --data calls.jsonl --work work -o recipe.toml
    """
    arguments = AllocateArguments(**options)
    words = arguments.words("allocate")
    outputs = _outputs(arguments, words)
    check_outputs(outputs, _inputs(source, arguments), arguments.work)
    with ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlxquant-allocate-")))
        try:
            record, outcome = _allocated(source, words, arguments, work)
        except KeyboardInterrupt:
            advice = f"the same command goes on from {work}" if arguments.work else "nothing is kept without --work"
            echo(f"mlxquant: stopped; {advice}", err=True)
            sys.exit(INTERRUPTED)
    from ..records.files import record_text
    from ..report.allocate import allocate_text

    text = record_text(record)
    try:
        for output, budget in zip(outputs, outcome.budgets, strict=False):
            output.write(budget.text)
        if arguments.output is not None:
            outputs[-1].write(f"{text}\n")
    finally:  # what took hours is shown also where the disk takes no file
        echo(text if arguments.as_json else allocate_text(record))
    echo(f"Next: mlxquant {_next(source, outputs[0].path, arguments)}", err=True)


def _next(source: str, recipe: Path, arguments: AllocateArguments) -> str:
    """What to type next: the plan of the recipe; or its build, where that needs what was calibrated here."""
    from ..allocate.folder import AllocateFolder

    if arguments.method == IMATRIX and arguments.calibration is None and arguments.work is not None:
        words = ["convert", source, "-r", recipe, "--calibration", AllocateFolder(arguments.work).columns, "-o", "OUT"]
    else:
        words = ["plan", source, "-r", recipe]
    return shlex.join(map(str, words))


def _inputs(source: str, arguments: AllocateArguments) -> list[tuple[str, str | Path]]:
    """What is read, as it was typed."""
    files = [("--data", arguments.data), ("--judge", arguments.judge), ("--calibration", arguments.calibration)]
    return [("the source", source), *((name, file) for name, file in files if file and file != BUILTIN)]


def _outputs(arguments: AllocateArguments, words: list[str]) -> list[OutputFile]:
    """A recipe file for each budget, then the record's."""
    path = arguments.recipe_out
    paths = [path]
    if len(words) > 1 and path.name not in ("", "..") and not path.is_dir():  # which the check of outputs refuses
        paths = [path.with_name(f"{path.stem}-{word}{path.suffix}") for word in words]
    outputs = [OutputFile("-o", each) for each in paths]
    return outputs + ([OutputFile("--record", arguments.output)] if arguments.output is not None else [])


def _allocated(
    source: str, words: list[str], arguments: AllocateArguments, work: Path
) -> tuple[dict[str, Any], Outcome]:
    """Read everything, say what it will take, and run the allocation."""
    from ..allocate.folder import AllocateFolder
    from ..allocate.record import allocation_record
    from ..allocate.run import check_budgets, groups_and_plan, run_allocation
    from ..layout.layout import read_layout
    from ..source.hub.open import open_source
    from ..stream.options import CompareOptions

    options = options_of(arguments)
    if arguments.method != IMATRIX and arguments.calibration is not None:
        raise UsageError(f"--calibration {arguments.calibration}: --method {arguments.method} does not use it")
    opened = open_source(source, weights=True)
    folder = AllocateFolder(work)
    folder.check([(name, Path(file)) for name, file in _inputs(str(opened.folder or ""), arguments) if file])
    layout = read_layout(opened, dtype=arguments.dtype)
    groups, plan = groups_and_plan(opened, layout, options)
    options = with_budgets(options, words, arguments, plan, layout)
    check_budgets(groups, plan, options)
    calibration = opened_calibration(arguments.calibration, opened)
    shares, described = _documents(opened, arguments, options, calibration)
    if any(budget.nbytes < plan.totals["bytes"] for budget in options.budgets) or options.active is not None:
        _tell_before(groups, shares, options, layout, on_hub=opened.folder is None)
        if not folder.has_measured:
            _tell_time(plan, groups, shares, options, layout, work)
    with _watching() as watch:
        outcome = run_allocation(
            opened, layout, shares, described, options, folder, calibration=calibration, watch=watch,
            passes=CompareOptions(dtype=arguments.dtype, fresh=arguments.fresh),
        )  # fmt: skip
    return allocation_record(opened, layout, shares, described, options, outcome), outcome


def _documents(
    opened: Checkpoint, arguments: AllocateArguments, options: AllocateOptions, calibration: Calibration | None
) -> tuple[Shares, dict[str, Any]]:
    """The documents by purpose, and what the record says of them."""
    from ..allocate.shares import shared_out
    from ..divergence.texts.documents import read_documents
    from ..divergence.texts.tokens import open_tokenizer

    tokenizer = open_tokenizer(opened)
    data = arguments.data if arguments.data == BUILTIN else Path(arguments.data)
    read = read_documents(data, tokenizer, max_tokens=arguments.max_tokens)
    judge = None
    if arguments.judge is not None:
        judge = read_documents(arguments.judge, tokenizer, max_tokens=arguments.max_tokens)
    shares = shared_out(
        read.documents,
        calibrates=calibration is None and options.calibrates,
        judge=None if judge is None else judge.documents,
        calibrated=() if calibration is None else calibration.documents().get("xxh3_128", ()),
    )
    described: dict[str, Any] = {
        "name": Path(arguments.data).name, "sha256": read.sha256, "documents": len(read.documents)
    }  # fmt: skip
    if judge is not None and arguments.judge is not None:
        described["judge"] = {"name": arguments.judge.name, "sha256": judge.sha256, "documents": len(judge.documents)}
    return shares, described


def _tell_before(
    groups: list[ModuleGroup], shares: Shares, options: AllocateOptions, layout: Layout, *, on_hub: bool
) -> None:
    """Say what is measured on what, and what will come of too few documents."""
    from ..allocate.measure import passes_of, probes_of
    from ..allocate.run import checked_with, width_of
    from ..stats import FEWEST_SKEWED

    parts = [f"{count} {purpose}" for purpose, count in shares.counts().items() if count]
    probes = probes_of(groups)
    passes = len(passes_of(probes, shares.allocate, width_of(layout)))
    left_out = f", {shares.left_out} are left out" if shares.left_out else ""
    echo(
        f"mlxquant: measures {len(probes)} formats of {len(groups)} groups, each alone, in {passes}"
        f" pass{'es' * (passes != 1)} over the weights; of the documents {', '.join(parts)}{left_out}",
        err=True,
    )
    if options.method != options.measured_with:
        judges = checked_with(options, layout) == options.method
        judged = ", which the final check judges" if judges else ", also in the check"
        echo(f"mlxquant: {options.measured_with} is measured in place of {options.method}{judged}", err=True)
    if on_hub:
        warn(
            "the source lies on the Hub, and each of these passes and those that follow downloads it anew; download it"
            " first, and give its folder"
        )
    if len(shares.check) < FEWEST_SKEWED:
        warn(
            f"{len(shares.check)} documents check, and fewer than {FEWEST_SKEWED} show nothing for certain: the best"
            " shipped recipe will be taken; give more documents"
        )


def _tell_time(
    plan: Plan, groups: list[ModuleGroup], shares: Shares, options: AllocateOptions, layout: Layout, work: Path
) -> None:  # fmt: skip
    """Say how long it takes, by a moment of arithmetic and of encoding; reading the source is not counted."""
    from ..allocate.run import width_of
    from ..pipeline.forecast import Outline, allocation_seconds, free_bytes
    from ..stream.speed import measure_speeds

    tokens = {purpose: sum(len(d.tokens) for d in documents) for purpose, documents in shares.by_purpose().items()}
    outline = Outline(plan, groups, options, tokens, width_of(layout), free_bytes(work))
    measured, checked = allocation_seconds(outline, measure_speeds(options.measured_with))
    times = f"{time_text(measured)} to measure, {time_text(checked)} to check"
    times += f" with {options.measured_with}" if options.method != options.measured_with else ""
    echo(f"mlxquant: takes {times}, by a second of arithmetic and encoding on this machine", err=True)


@contextmanager
def _watching() -> Iterator[Watch]:
    """Show all passes as one; say how long it takes as soon as a few layers tell."""
    with pass_bar() as watch:
        began, spoken = time.monotonic(), False

        def watched(progress: Progress) -> None:
            nonlocal began, spoken
            watch(progress)
            if progress.resumed or not progress.subject.startswith("pass"):
                began = time.monotonic()
            elif not spoken and progress.seconds is not None and progress.done * SHARE >= progress.total:
                spoken = True
                left = (time.monotonic() - began) / progress.done * (progress.total - progress.done)
                echo(f"mlxquant: the measurement takes {time_text(left)} more, the check comes after it", err=True)

        yield watched
