"""Recipes and builds that several tests of builds use: those of every format, and what mlx-lm makes of the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlxquant.kernels import ErrorSums, Quantized, Rounding, Rows
from mlxquant.layout.layout import read_layout
from mlxquant.plan.predicate import quant_predicate, quantize_arguments
from mlxquant.plan.recipe.recipe import Recipe, load_recipe
from mlxquant.source.checkpoint import open_checkpoint

RECIPES: dict[str, Callable[[], Recipe]] = {
    "uniform": lambda: load_recipe("uniform-8bit", group_size=32, unaligned="keep"),
    "default": lambda: load_recipe("mlx-lm-default", group_size=32),
    "mixed": lambda: load_recipe("mixed-3-6", unaligned="keep"),
    "deepseek": lambda: load_recipe("deepseek-4bit", unaligned="keep"),
    "none": lambda: load_recipe("none"),
    "mxfp4": lambda: load_recipe("uniform-8bit", bits=4, group_size=32, mode="mxfp4", unaligned="keep"),
    "mxfp8": lambda: load_recipe("uniform-8bit", bits=8, group_size=32, mode="mxfp8", unaligned="keep"),
    "nvfp4": lambda: load_recipe("uniform-8bit", bits=4, group_size=16, mode="nvfp4", unaligned="keep"),
}


def made_with_mlx_lm(source: Path, out: Path, recipe: Recipe, dtype: str | None = None) -> Path:
    """What mlx_lm.convert writes when it is given a recipe's decisions."""
    from mlx_lm.convert import convert

    options: dict[str, Any] = {}
    if recipe.name == "mlx-lm-default":  # no predicate: what mlx-lm decides by itself is to come out
        options = {"quantize": True, **quantize_arguments(recipe)}
    elif recipe.name != "none":
        layout = read_layout(open_checkpoint(source), dtype=dtype)
        predicate = quant_predicate(recipe, layout.modules, n_layers=layout.n_layers)
        options = {"quantize": True, "quant_predicate": predicate, **quantize_arguments(recipe)}
    convert(str(source), str(out), dtype=dtype, **options)
    return out


class Halved:
    """An encoder that is not mlx's: it rounds half of each BF16 weight, and notes which rows it was asked for."""

    def __init__(self, **signature: Any) -> None:
        self.signature: Mapping[str, Any] = signature or {"method": "halved"}
        self.blocks: list[tuple[str, int, int]] = []

    def encode(self, rows: Rows, out: Quantized, *, errors: bool) -> ErrorSums | None:
        """Round ``w / 2``."""
        self.blocks.append((rows.module, rows.first_row, len(rows.values)))
        half = (mx.array(rows.values).view(mx.bfloat16) / 2).view(mx.uint16)
        return Rounding().encode(replace(rows, values=np.array(half)), out, errors=errors)
