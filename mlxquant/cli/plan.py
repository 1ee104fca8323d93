"""`mlxquant plan`: what every tensor would become and weigh, before a weight is read; and what fits a machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .options import (
    carried,
    dtype_option,
    json_option,
    keep_options,
    load,
    recipe_options,
    refuse_no_vision,
    source_argument,
)
from .printing import echo

if TYPE_CHECKING:
    from ..layout.layout import Layout
    from ..plan.fits import Fit
    from ..plan.recipe.recipe import Recipe
    from ..source.checkpoint import Checkpoint

DEFAULT_CONTEXT = "32k"


@click.command()
@source_argument
@recipe_options
@dtype_option
@keep_options
@click.option("--fits", metavar="SIZE", help="Say which build fits a machine with this memory: 96GB, 96GiB, 512 MB.")
@click.option("--context", metavar="TOKENS", help=f"With --fits: the context to keep room for. [{DEFAULT_CONTEXT}]")
@json_option
def command(
    source: str,
    recipe: str | None,
    dtype: str | None,
    keep_vision: bool | None,
    keep_mtp: bool,
    provider: str | None,
    fits: str | None,
    context: str | None,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Show the precision and bytes of every tensor of a build, from headers or config.json alone.

    SOURCE is a folder, a Hub id (org/name[@revision]) or a config.json. No weight is read. With --fits, every
    shipped recipe (or the one that -r names) is held against a machine's memory.

    \b
    mlxquant plan Qwen/Qwen3.5-122B-A10B -r deepseek-8bit
    mlxquant plan ./checkpoint -r gates-8bit --set "role=attention:bits=6"
    mlxquant plan config.json -r gates-4bit --json
    mlxquant plan Qwen/Qwen3.5-122B-A10B --fits 96GB --context 32k
    mlxquant plan Qwen/Qwen3.5-122B-A10B -r gates-8bit --keep-vision --keep-mtp
    """
    layout = {"dtype": dtype, "keep": carried(keep_vision=keep_vision, keep_mtp=keep_mtp), "provider": provider}
    laid_out = _LaidOut(layout, unseeing=keep_vision is False)
    if fits is not None:
        _fits(source, recipe, laid_out, fits, context or DEFAULT_CONTEXT, as_json, overrides)
        return
    if context is not None:
        raise UsageError("--context goes with --fits SIZE")
    _plan(source, load(recipe, **overrides), laid_out, as_json)


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


def _plan(source: str, recipe: Recipe, laid_out: _LaidOut, as_json: bool) -> None:
    """Plan one recipe and print it."""
    from ..plan.plan import make_plan
    from ..records.files import record_text
    from ..report.plan import plan_text
    from ..source.hub.open import open_source

    opened = open_source(source)
    record = make_plan(laid_out.read(opened), recipe, opened).as_dict()
    echo(record_text(record) if as_json else plan_text(record))


def _fits(
    source: str,
    recipe: str | None,
    laid_out: _LaidOut,
    size: str,
    context: str,
    as_json: bool,
    overrides: dict[str, Any],
) -> None:
    """Hold one or every shipped recipe against a machine's memory and print it."""
    from ..plan.fits import Memory, find_fits, shipped_recipes
    from ..records.files import record_text
    from ..report.plan import fits_text
    from ..source.hub.open import open_source
    from ..words.units import parse_memory, parse_tokens

    memory, tokens = Memory(parse_memory(size)), parse_tokens(context)
    recipes: list[Recipe | Fit] = [*shipped_recipes(**overrides)] if recipe is None else [load(recipe, **overrides)]
    opened = open_source(source)
    record = find_fits(laid_out.read(opened), opened, recipes, memory, tokens).as_dict()
    echo(record_text(record) if as_json else fits_text(record))
