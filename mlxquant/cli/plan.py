"""`mlxquant plan`: what every tensor would become and weigh, before a weight is read; what fits a machine; how fast."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..disk.outputs import OutputFile, check_outputs
from ..errors import UsageError
from .chips import chips_named_by, own_points, this_chip
from .options import (
    carried,
    dtype_option,
    json_option,
    keep_options,
    load,
    output_option,
    recipe_files,
    recipe_options,
    refuse_no_vision,
    source_argument,
)
from .printing import echo

if TYPE_CHECKING:
    from ..layout.layout import Layout
    from ..plan.fits import Fit
    from ..plan.plan import Plan
    from ..plan.recipe.recipe import Recipe
    from ..source.checkpoint import Checkpoint

DEFAULT_CONTEXT = "32k"
DEFAULT_CHIP = "M3 Ultra"  # the one with most published points


@dataclass(frozen=True, kw_only=True)
class PlanArguments:
    """The command line of `plan`, but for what changes recipe and layout."""

    source: str
    recipe: str | None
    fits: str | None
    context: str | None
    chips: tuple[str, ...]
    earlier: tuple[Path, ...]
    output: Path | None
    as_json: bool


@click.command()
@source_argument
@recipe_options
@dtype_option
@keep_options
@click.option("--fits", metavar="SIZE", help="Say which build fits a machine with this memory: 96GB, 96GiB, 512 MB.")
@click.option(
    "--context",
    metavar="TOKENS",
    help=f"With --fits: the context to keep room for. [{DEFAULT_CONTEXT}, or the model's longest]"
    " With --chip: a depth to predict at.",
)
@click.option(
    "--chip",
    "chips",
    multiple=True,
    metavar="NAME",
    help='Say how fast it decodes on this chip, such as "M4 Max"; again for several. With --fits one: this machine\'s,'
    f" else {DEFAULT_CHIP}.",
)
@click.option(
    "--from",
    "earlier",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="RECORD",
    help="Predict from your machine's own bench record in place of the published points of its chip. With --fits also"
    " a record of allocate, whose recipes are held against the memory, too.",
)
@json_option
@output_option("Write what is printed there too; must not exist.")
def command(
    dtype: str | None,
    keep_vision: bool | None,
    keep_mtp: bool,
    provider: str | None,
    source: str,
    recipe: str | None,
    fits: str | None,
    context: str | None,
    chips: tuple[str, ...],
    earlier: tuple[Path, ...],
    output: Path | None,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Show the precision and bytes of every tensor of a build, from headers or config.json alone.

    SOURCE is a folder, a Hub id (org/name[@revision]) or a config.json. No weight is read. With --fits, every
    shipped recipe (or the one that -r names) is held against a machine's memory, and one of them is recommended; exit
    code 2 where none fits.

    \b
    mlxquant plan Qwen/Qwen3.5-122B-A10B -r deepseek-8bit
    mlxquant plan ./checkpoint -r gates-8bit --set "role=attention:bits=6"
    mlxquant plan config.json -r gates-4bit --json -o plan.json
    mlxquant plan Qwen/Qwen3.5-122B-A10B --fits 96GB --context 32k
    mlxquant plan config.json -r gates-8bit --chip "M3 Ultra" --context 32k
    mlxquant plan Qwen/Qwen3.5-122B-A10B -r gates-8bit --keep-vision --keep-mtp
    """
    arguments = PlanArguments(
        source=source,
        recipe=recipe,
        fits=fits,
        context=context,
        chips=chips,
        earlier=earlier,
        output=output,
        as_json=as_json,
    )
    if context is not None and fits is None and not chips and not earlier:
        raise UsageError("--context goes with --fits SIZE or --chip NAME")
    if output is not None:
        inputs: list[tuple[str, str | Path]] = [("SOURCE", source), *(("--from", path) for path in earlier)]
        check_outputs([OutputFile("-o", output)], [*inputs, *recipe_files([recipe])])
    layout = {"dtype": dtype, "keep": carried(keep_vision=keep_vision, keep_mtp=keep_mtp), "provider": provider}
    laid_out = _LaidOut(layout, unseeing=keep_vision is False)
    text, problem = (_plan if fits is None else _fits)(arguments, laid_out, overrides)
    try:
        if output is not None:
            OutputFile("-o", output).write(f"{text}\n")
    finally:
        echo(text)
    if problem is not None:
        raise UsageError(problem)


@dataclass(frozen=True, slots=True)
class _LaidOut:
    """How a source is to be laid out; `unseeing` says that --no-vision was given."""

    arguments: dict[str, Any]
    unseeing: bool

    def read(self, source: Checkpoint) -> Layout:
        """Lay it out. Raises LayoutError, UsageError."""
        from ..layout.layout import read_layout

        layout = read_layout(source, **self.arguments)
        if self.unseeing:
            refuse_no_vision(layout)
        return layout


def _plan(arguments: PlanArguments, laid_out: _LaidOut, overrides: dict[str, Any]) -> tuple[str, None]:
    """Plan one recipe; the text or the record, and no problem."""
    from ..calibrate.room import room_of_plan
    from ..plan.plan import make_plan
    from ..records.files import record_text
    from ..report.plan import plan_text
    from ..source.hub.open import open_source

    recipe = load(arguments.recipe, **overrides)
    speed = _speeds(arguments)
    opened = open_source(arguments.source)
    read = laid_out.read(opened)
    plan = make_plan(read, recipe, opened)
    encoding = room_of_plan(plan, os.cpu_count() or 1)
    record = {
        **plan.as_dict(),
        **({"encoding": encoding} if encoding else {}),
        **({"speed": speed(plan, read)} if speed else {}),
    }
    return record_text(record) if arguments.as_json else plan_text(record), None


def _speeds(arguments: PlanArguments) -> Callable[[Plan, Layout], dict[str, Any]] | None:
    """What predicts a plan's speed on the chips that were asked for; None where none was."""
    if not arguments.chips and not arguments.earlier:
        return None
    from ..bench.predict import prediction
    from ..bench.workload import BenchSettings
    from ..words.units import parse_tokens

    own = own_points(arguments.earlier)
    chips = chips_named_by(arguments.chips, None, own)
    depths = (0, *((parse_tokens(arguments.context),) if arguments.context is not None else ()))

    def speed(plan: Plan, layout: Layout) -> dict[str, Any]:
        from ..builds.facts import traffic_of_plan
        from ..layout.context import check_context, context_cost

        check_context(layout.config, depths[-1], str(plan.source["name"]))
        cost = context_cost(layout.config, layout.modules, layout.provider)
        record = prediction([traffic_of_plan(plan, None, cost=cost)], chips, BenchSettings(depths=depths), own)
        return {"settings": record["settings"], "chips": record["chips"]}

    return speed


def _allocations(paths: Sequence[Path]) -> tuple[dict[Path, dict[str, Any]], tuple[Path, ...]]:
    """The records of `allocate` among these, by their files, and the files of others. Raises RecordError."""
    from ..records.files import read_record
    from ..records.schemas import check

    records = {path: read_record(path) for path in paths}
    allocations = {path: r for path, r in records.items() if str(r["schema"]).startswith("mlxquant.allocate/")}
    for path, record in allocations.items():
        check(record, str(path), whole=True)
    return allocations, tuple(path for path in paths if path not in allocations)


def _fits(arguments: PlanArguments, laid_out: _LaidOut, overrides: dict[str, Any]) -> tuple[str, str | None]:
    """Hold one or every shipped recipe against a machine's memory; the text or the record, and that nothing fits."""
    from ..bench.predict import describe_chip, speed_of
    from ..builds.facts import traffic_of_plan
    from ..layout.context import longest_context
    from ..plan.evidence import allocated_recipes
    from ..plan.fits import Memory, find_fits, shipped_recipes
    from ..plan.plan import source_record
    from ..records.files import record_text
    from ..report.plan import fits_text
    from ..source.hub.open import open_source
    from ..words.units import parse_memory, parse_tokens

    assert arguments.fits is not None
    memory = Memory(parse_memory(arguments.fits))
    context = None if arguments.context is None else parse_tokens(arguments.context)
    allocations, measured = _allocations(arguments.earlier)
    recipe, own = arguments.recipe, own_points(measured)
    if allocations and (recipe is not None or any(value for value in overrides.values())):
        raise UsageError(
            f"--from {next(iter(allocations))}: its recipes are as they were allocated, beside the shipped ones as they"
            " are; leave -r and what changes recipes out"
        )
    if len(arguments.chips) > 1:
        raise UsageError("--fits shows the speeds of one --chip")
    named = chips_named_by(arguments.chips, None, own) if arguments.chips or own else []
    chip = named[-1] if named else this_chip() or chips_named_by((DEFAULT_CHIP,))[-1]
    recipes: list[Recipe | Fit] = [*shipped_recipes(**overrides)] if recipe is None else [load(recipe, **overrides)]
    opened = open_source(arguments.source)
    read = laid_out.read(opened)
    usual = parse_tokens(DEFAULT_CONTEXT)
    tokens = context or min(usual, longest_context(read.config) or usual)
    fits = find_fits(
        read,
        opened,
        recipes,
        memory,
        tokens,
        speed=lambda plan, cost: speed_of(traffic_of_plan(plan, None, cost=cost), chip, tokens, own),
        chip=describe_chip(chip, own),
        allocated=[
            each
            for path, record in allocations.items()
            for each in allocated_recipes(record, path.name, source_record(read, opened))
        ],
    )
    record = fits.as_dict()
    problem = None if any(fit.fits for fit in fits.recipes) else f"--fits {arguments.fits}: nothing fits"
    return record_text(record) if arguments.as_json else fits_text(record), problem
