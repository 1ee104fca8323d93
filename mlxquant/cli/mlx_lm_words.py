"""mlx_lm.convert's own command line, as `mlxquant convert` takes it: the same words, the same meaning.

Its source and output are options (--hf-path, --mlx-path with mlx_model as default), and it has no recipes: -q is the
recipe mlx-lm-default, --quant-predicate one of the mixed recipes, and without -q nothing is quantized. What has no
meaning here is refused by name, with what to do instead. --q-bits, --q-group-size and --q-mode are second names of
--bits, --group-size and --mode (see `options`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import UsageError
from .printing import echo

_Function = TypeVar("_Function", bound=Callable[..., Any])

DEFAULT_OUT = Path("mlx_model")
# --quant-predicate -> recipe, and what of it is otherwise than mlx-lm's
_PREDICATES = {"mixed_2_6": "mixed-3-6:bits=2", "mixed_3_6": "mixed-3-6", "mixed_4_6": "mixed-4-6"}


@dataclass(frozen=True, slots=True)
class MlxLmWords:
    """What was typed of mlx_lm.convert's options; `quantize` is -q."""

    hf_path: str | None
    mlx_path: Path | None
    quantize: bool
    quant_predicate: str | None
    dequantize: bool
    upload_repo: str | None
    revision: str | None

    @property
    def is_form(self) -> bool:
        """Whether the command line is in mlx_lm.convert's form: source or output by its options."""
        return self.hf_path is not None or self.mlx_path is not None

    def check(self) -> None:
        """Raise UsageError for what `mlxquant convert` does not do, with what does."""
        if self.dequantize:
            raise UsageError(
                "-d: no such option here; the recipe none makes floats of a quantized source, of an MLX build too:"
                " leave -d out and give -r none"
            )
        if self.upload_repo is not None:
            raise UsageError(
                f"--upload-repo {self.upload_repo}: convert uploads nothing; leave it out, and afterwards run"
                f" mlxquant upload OUT {self.upload_repo}"
            )
        if self.quant_predicate is not None and self.quant_predicate not in _PREDICATES:
            raise UsageError(
                f"--quant-predicate {self.quant_predicate}: no such recipe here; one of {', '.join(_PREDICATES)}, or a"
                " .toml file of your own with -r (see mlxquant recipes mixed-3-6)"
            )

    def source(self, argument: str | None) -> str:
        """SOURCE, wherever it was given, at --revision. Raises UsageError where it is missing or given twice."""
        if argument is not None and self.hf_path is not None:
            raise UsageError(f"SOURCE is given twice: {argument} and --hf-path {self.hf_path}")
        source = argument if argument is not None else self.hf_path
        if source is None:
            raise click.UsageError("Missing argument 'SOURCE'.")
        if self.revision is None:
            return source
        if "@" in source or Path(source).expanduser().exists():
            raise UsageError(f"--revision {self.revision}: goes with a Hub id that names none, such as org/name")
        return f"{source}@{self.revision}"

    def out(self, option: Path | None) -> Path | None:
        """OUT, wherever it was given; mlx-lm's default where only --hf-path was. Raises UsageError for two."""
        if option is not None and self.mlx_path is not None:
            raise UsageError(f"OUT is given twice: -o {option} and --mlx-path {self.mlx_path}")
        return option or self.mlx_path or (DEFAULT_OUT if self.hf_path is not None else None)

    def recipe(self) -> str | None:
        """The recipe that -q and --quant-predicate mean, or their absence; None where they say nothing.

        As in mlx_lm.convert, --quant-predicate counts only with -q.
        """
        if self.quantize:
            return "mlx-lm-default" if self.quant_predicate is None else _PREDICATES[self.quant_predicate]
        return "none" if self.is_form else None

    def note(self) -> str | None:
        """What a person who knows mlx_lm.convert should be told."""
        if self.quantize and self.quant_predicate is not None:
            return (
                f"--quant-predicate {self.quant_predicate} is -r {self.recipe()}: as mlx-lm's, but routers are kept at"
                " source precision"
            )
        return None


def mlx_lm_options(function: _Function) -> _Function:
    """Add mlx_lm.convert's options that have no other name here; `take` collects them."""
    for option in reversed(
        (
            click.option("--hf-path", "--model", "hf_path", metavar="SOURCE", help="SOURCE, as mlx_lm.convert has it."),
            click.option("--mlx-path", type=click.Path(path_type=Path), metavar="OUT",
                         help="OUT, as mlx_lm.convert has it."),
            click.option("-q", "--quantize", is_flag=True,
                         help="As mlx_lm.convert -q: the recipe mlx-lm-default. With --hf-path and without -q: none."),
            click.option("--quant-predicate", metavar="NAME", help="With -q: mixed_2_6, mixed_3_6 or mixed_4_6."),
            click.option("--revision", metavar="REV", help="Branch, tag or commit of a Hub id, as SOURCE@REV."),
            click.option("-d", "--dequantize", is_flag=True, hidden=True),
            click.option("--upload-repo", hidden=True),
        )
    ):  # fmt: skip
        function = option(function)
    return function


def take(words: dict[str, Any]) -> MlxLmWords:
    """Take mlx_lm.convert's options out of a command's."""
    return MlxLmWords(**{name: words.pop(name) for name in MlxLmWords.__dataclass_fields__})


def without_format(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The changes to a recipe without those that mlx_lm.convert has too, and ignores without -q; says so."""
    names = {"bits": "--q-bits", "group_size": "--q-group-size", "mode": "--q-mode"}
    ignored = [name for key, name in names.items() if overrides.get(key) is not None]
    if ignored:
        echo(f"mlxquant: {', '.join(ignored)}: ignored without -q, as mlx_lm.convert does; the recipe is none",
             err=True)  # fmt: skip
    return {key: value for key, value in overrides.items() if key not in names}
