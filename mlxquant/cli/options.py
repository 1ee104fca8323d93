"""What several commands take: a source, a recipe and the options that change it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from ..errors import UsageError

if TYPE_CHECKING:
    from ..calibrate.record import Calibration
    from ..kernels import ColumnWeights
    from ..layout.layout import Layout
    from ..plan.recipe.recipe import Recipe
    from ..source.checkpoint import Checkpoint

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

source_argument = click.argument("source", metavar="SOURCE")

json_option = click.option("--json", "as_json", is_flag=True, help="Print the record on stdout and nothing else.")


def csv_option(rows: str) -> _Decorator:
    """Add CSV on stdout as `as_csv`; `rows` says what a row is."""
    return click.option("--csv", "as_csv", is_flag=True, help=f"Print CSV on stdout: a row a {rows}.")


class _Forms(Protocol):
    """A command line that chooses what stdout gets."""

    @property
    def as_json(self) -> bool:
        """The record."""

    @property
    def as_csv(self) -> bool:
        """Its main list."""


def check_forms(arguments: _Forms) -> None:
    """Raise UsageError where stdout is to have two forms."""
    if arguments.as_json and arguments.as_csv:
        raise UsageError("--json and --csv exclude each other; give one")


def in_form(record: Mapping[str, Any], text: Callable[[], str], arguments: _Forms) -> str:
    """A record as the command line asked for it: JSON, CSV or text."""
    if arguments.as_json:
        from ..records.files import record_text

        return record_text(record)
    if arguments.as_csv:
        from ..report.tables import record_csv

        return record_csv(record)
    return text()


def output_option(help: str, *, metavar: str = "FILE", required: bool = False, name: str = "output") -> _Decorator:
    """Add where a command writes: one option with one meaning, whichever of its three names is typed."""
    path = click.Path(path_type=Path)
    return click.option("-o", "--output", "--out", name, type=path, metavar=metavar, required=required, help=help)


def markdown_flag(help: str) -> _Decorator:
    """Add Markdown on stdout as `as_md`; `--markdown` is the same, as `validate` calls the file that it writes."""
    return click.option("--md", "--markdown", "as_md", is_flag=True, help=help)


_DTYPE_WORDS = {"bf16": "bfloat16", "fp16": "float16", "f16": "float16", "fp32": "float32", "f32": "float32"}


class _Dtype(click.Choice):  # type: ignore[type-arg,unused-ignore]
    """The three dtypes, also by their short names."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(_DTYPE_WORDS.get(value, value), param, ctx)


dtype_option = click.option(
    "--dtype",
    type=_Dtype(["bfloat16", "float16", "float32"]),
    help="Cast what stays unquantized to this; by default what the config says, as mlx-lm does.",
)


def keep_options(function: _Function) -> _Function:
    """Add whose model it is made for, `provider`, and what of the rest is carried along: `keep_vision`, `keep_mtp`."""
    for option in (
        click.option(
            "--provider",
            type=click.Choice(["mlx-lm", "mlx-vlm"]),
            help="Whose model class to use; by default mlx-lm's, or mlx-vlm's where mlx-lm has none.",
        ),
        click.option(
            "--keep-mtp", is_flag=True, help="Write the next-token head to mtp.safetensors, beside the model."
        ),
        click.option(
            "--keep-vision/--no-vision",
            default=None,
            help="Carry the vision tower along, unquantized, for mlx-vlm; or not, which is the default.",
        ),
    ):
        function = option(function)
    return function


def carried(*, keep_vision: bool | None, keep_mtp: bool) -> list[str]:
    """What `read_layout` shall carry along, by its names."""
    return [name for name, wanted in (("vision", keep_vision), ("mtp", keep_mtp)) if wanted]


class _GroupSize(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A group size, or several with commas between them."""

    name = "group sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else parse_numbers(value, "--group-size", "128,64,32")


def refuse_no_vision(layout: Layout) -> None:
    """Raise UsageError where --no-vision was given for a class that holds a tower itself."""
    if any(module.tower for module in layout.modules):
        raise UsageError(
            f"--no-vision: the tower is part of {layout.provider.name}'s class; leave --no-vision out"
            ", or give --provider mlx-lm where mlx-lm has the model"
        )


def override_options(function: _Function) -> _Function:
    """Add the options that change a recipe: `bits`, `group_size`, `mode`, `method`, `sets`, `unaligned`, for
    `load_recipe`.
    """
    for option in reversed(
        (
            click.option(
                "--bits",
                "--q-bits",
                "bits",
                type=int,
                help="Change the default's bits. A rule that gives its own keeps them.",
            ),
            click.option(
                "--group-size",
                "--q-group-size",
                "group_size",
                type=_GroupSize(),
                metavar="N,…",
                help="Change the default's group size; rules keep their own. Of several, such as 128,64, the first that"
                " divides a module's input.",
            ),
            click.option(
                "--mode", "--q-mode", "mode", help="Change the default's mode: affine, mxfp4, mxfp8 or nvfp4."
            ),
            click.option(
                "--method",
                help="Change the default's method: rtn (rounds, as mlx-lm does), mse (searches scales for the least"
                " error), imatrix (weighs errors by what enters the columns), gptq (also makes up for them) or distill"
                " (then learns them against what each layer gives).",
            ),
            click.option(
                "--set",
                "sets",
                multiple=True,
                metavar="MATCH:ACTION",
                help='Put a rule before all others: "role=attention:bits=6", "path=*.v_proj,layers=0..1/8:keep".',
            ),
            click.option(
                "--unaligned",
                type=click.Choice(["error", "keep"]),
                help="What to do where the group size does not divide a dimension: refuse, or leave it unquantized.",
            ),
        )
    ):
        function = option(function)
    return function


calibration_option = click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="CAL",
    help="What `calibrate` wrote for this source; the method imatrix needs it.",
)


def check_calibration(calibration: Path | None, recipes: Iterable[Recipe]) -> None:
    """Raise UsageError for a calibration that no recipe uses: what was typed would change nothing."""
    from ..words.formats import IMATRIX

    if calibration is not None and not any(IMATRIX in recipe.methods for recipe in recipes):
        raise UsageError(
            f"--calibration {calibration}: no recipe here uses it; add --method {IMATRIX}, or leave it out"
        )


def opened_calibration(calibration: Path | None, source: Checkpoint) -> Calibration | None:
    """A calibration file for a pass over `source`, where one is given."""
    if calibration is None:
        return None
    from ..calibrate.record import Calibration

    return Calibration(calibration, source)


def calibrated(calibration: Path | None, layout: Layout, source: Checkpoint) -> ColumnWeights | None:
    """The column weights of a calibration file, where one is given. Raises what `read_calibration` raises."""
    if calibration is None:
        return None
    from ..calibrate.record import read_calibration

    return read_calibration(calibration, source, layout.modules)


def recipe_options(function: _Function) -> _Function:
    """Add `-r/--recipe` and the options that change it; hand them all to `load`."""
    option = click.option("-r", "--recipe", metavar="RECIPE", help="A shipped recipe's name, or a .toml file's path.")
    return option(override_options(function))


def recipe_files(words: Iterable[str | None]) -> list[tuple[str, str]]:
    """The files among recipes that were named, by themselves or with a variation: ./mine.toml:bits=4."""
    files = [word[: word.rindex(".toml") + len(".toml")] for word in words if word is not None and ".toml" in word]
    return [("the recipe", file) for file in files]


def load(recipe: str | None, **overrides: Any) -> Recipe:
    """Load the recipe or variation that `recipe_options` gave. Raises UsageError where none was given, RecipeError."""
    from ..plan.recipe.variation import load_variation

    if recipe is None:
        raise UsageError(f"a recipe is missing: give -r with one of {', '.join(shipped())}, or a .toml file")
    return load_variation(recipe, **overrides)


def shipped() -> list[str]:
    """Names of the shipped recipes."""
    from ..plan.recipe.recipe import available

    return [entry.name for entry in available()]


def parse_numbers(text: str, option: str, example: str = "512,2048") -> tuple[int, ...]:
    """Read `512,2048`. Raises UsageError.

    >>> parse_numbers("0,4096", "-d")
    (0, 4096)
    """
    try:
        return tuple(int(part.strip().replace("_", "")) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option} {text!r}: whole numbers with commas between them expected, such as {example}"
        ) from None
