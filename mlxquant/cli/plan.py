"""`mlxquant plan`: what every tensor would become and weigh, before a weight is read."""

from __future__ import annotations

from typing import Any

import click

from .options import dtype_option, json_option, load, recipe_options, source_argument


@click.command()
@source_argument
@recipe_options
@dtype_option
@json_option
def command(source: str, recipe: str | None, dtype: str | None, as_json: bool, **overrides: Any) -> None:
    """Show the precision and bytes of every tensor of a build, from headers or config.json alone.

    SOURCE is a folder, a Hub id (org/name[@revision]) or a config.json. No weight is read.

    \b
    mlxquant plan Qwen/Qwen3.5-122B-A10B -r deepseek-8bit
    mlxquant plan ./checkpoint -r gates-8bit --set "role=attention:bits=6"
    mlxquant plan config.json -r gates-4bit --json
    """
    chosen = load(recipe, **overrides)  # a mistyped recipe is told before anything is opened
    from ..hub import open_source
    from ..layout import read_layout
    from ..plan import make_plan
    from ..plan_text import plan_text
    from ..records import record_text

    opened = open_source(source)
    plan = make_plan(read_layout(opened, dtype=dtype), chosen, opened)
    click.echo(record_text(plan.as_dict()) if as_json else plan_text(plan))
