"""`mlxquant recipes`: list the shipped recipes, print one in full, or write the recipe that a build amounts to."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import click

from ..disk.outputs import OutputFile, check_outputs
from ..errors import UsageError
from ..plan.recipe.recipe import Recipe, available, load_recipe, parse_recipe
from ..plan.recipe.variation import load_variation
from ..words.text import table
from .options import json_option, output_option, override_options
from .printing import echo


@click.command()
@click.argument("name", required=False)
@override_options
@click.option("--from", "build", metavar="BUILD", help="Write the recipe that an MLX build amounts to.")
@output_option("With --from: write it here; must not exist.")
@json_option
def command(name: str | None, build: str | None, output: Path | None, as_json: bool, **overrides: Any) -> None:
    """List the shipped recipes, print one with its rules and reasons, or write the one that a build amounts to.

    NAME is a shipped recipe or the path of a .toml file. To make your own, write a file that extends one.

    \b
    mlxquant recipes
    mlxquant recipes deepseek-8bit --bits 6
    mlxquant recipes ./mine.toml --set "role=attention:bits=6"
    mlxquant recipes --from build -o found.toml
    """
    changed = any(value not in (None, ()) for value in overrides.values())
    if build is not None and (name is not None or changed):
        raise UsageError("recipes --from BUILD takes no NAME and no overrides")
    if output is not None and build is None:
        raise UsageError("recipes -o FILE goes with --from BUILD")
    if name is None and changed:
        raise UsageError("overrides change one recipe; give its NAME")
    if build is not None:
        _write_found(build, output, as_json)
    elif name is not None:
        recipe = load_variation(name, **overrides)
        echo(_json(recipe.as_dict()) if as_json else _printed(recipe))
    else:
        echo(_json(_records()) if as_json else _table())


def _write_found(build: str, output: Path | None, as_json: bool) -> None:
    """Read a build's formats and write the recipe; what is not understood is named on stderr."""
    from ..check.recipe import recipe_of_build

    if output is not None:
        check_outputs([OutputFile("-o", output)], [("--from", build)])
    name = output.stem if output else "from-build"
    text, left_out = recipe_of_build(build, name, f"found in {Path(build).name} by mlxquant recipes --from")
    if left_out:
        echo(f"note: {left_out}", err=True)
    if output is not None:
        OutputFile("-o", output).write(text)
        echo(f"{output} written; try: mlxquant plan SOURCE -r ./{output}", err=True)
    if as_json:
        echo(_json(parse_recipe(text, where=build).as_dict()))
    elif output is None:
        echo(text, nl=False)


def _records() -> dict[str, Any]:
    """The list as a record: what `NAME --json` gives for each, under one roof."""
    return {"schema": "mlxquant.recipes/1", "recipes": [load_recipe(shipped.name).as_dict() for shipped in available()]}


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False)


def _table() -> str:
    recipes = [load_recipe(shipped.name) for shipped in available()]
    # 80 columns: 17 for the longest name, 16 for the default, and what it does in the rest
    rows = [(r.name, str(r.default or "-"), textwrap.fill(r.summary, 42)) for r in recipes]
    listing = table(("recipe", "default", "what it does"), rows, "lll")
    return f"{listing}\n\nmlxquant recipes NAME prints one with its rules and reasons."


def _action(decision: dict[str, Any]) -> str:
    if "keep" in decision:
        return "keep"
    if "use" in decision:
        return {"model": "ask the class", "default": "default"}[decision["use"]]
    words = {"bits": "{}-bit", "group_size": "group {}", "mode": "{}"}
    sizes = decision.get("group_size")
    shown = {**decision, "group_size": "/".join(map(str, sizes))} if isinstance(sizes, list) else decision
    return " ".join(words[key].format(value) for key, value in shown.items())


def _printed(recipe: Recipe) -> str:
    """One recipe for a reader: its head, then every rule with its reason, in the order in which they are tried."""
    unaligned = {"error": "is an error", "keep": "is left unquantized"}[recipe.unaligned]
    if recipe.default and len(recipe.default.group_sizes) > 1:
        unaligned = f"takes the next one; what none divides {unaligned}"
    head = {
        "recipe": str(recipe),
        "summary": recipe.summary,
        "reference": recipe.reference,
        "sha256": recipe.sha256,
        "default": f"{recipe.default}; what the group size does not divide {unaligned}" if recipe.default else "keep",
    }
    lines = [_filled(f"{key:<10} {value}", 11) for key, value in head.items() if value]
    lines += [_filled(f"{'note':<10} {note}", 11) for note in recipe.notes]
    if recipe.rules:
        lines += ["", "rules, the first that matches decides:"]
    for number, rule in enumerate(recipe.rules, 1):
        optional = ", may match nothing" if rule.optional else ""
        lines.append(f"\n{number:3}. {rule.match} → {_action(rule.action())}   [{rule.label}{optional}]")
        lines.append(textwrap.indent(textwrap.fill(rule.reason, 75), " " * 5))
    return "\n".join(lines)


def _filled(text: str, indent: int) -> str:
    return textwrap.fill(text, 80, subsequent_indent=" " * indent, break_long_words=False)
