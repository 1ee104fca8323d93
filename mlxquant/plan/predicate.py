"""A recipe as mlx-lm's own `quant_predicate`, for those who convert with `mlx_lm.convert`.

The formats are the recipe's; everything else is mlx-lm's: it rounds, has no audit and no manifest, and drops what it
has no class for. What it would not make as the recipe says is refused here, before or while it converts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import gcd
from typing import Any

from ..errors import PlanError
from ..words.formats import RTN, FormatChoice
from ..words.modules import CARRIED, Module
from .decide import Decision, decide
from .recipe.recipe import Recipe


def quant_predicate(
    recipe: Recipe, modules: Sequence[Module], *, n_layers: int, q_group_size: int | None = None
) -> Callable[[str, Any], bool | dict[str, Any]]:
    """Make the `quant_predicate` that `mlx_lm.convert` takes, from a recipe and a model's modules.

    Roles and layers are facts of a whole model, so the modules (from `read_layout`) are needed beforehand. The
    predicate answers with a format for every module that it quantizes, never with True, so that `config.json`
    states each. mlx-lm itself first drops modules whose width `q_group_size` does not divide, without a word; give it
    the recipe's smallest group size, as `quantize_arguments` does::

        recipe = load_recipe("gates-8bit")
        predicate = quant_predicate(recipe, layout.modules, n_layers=layout.n_layers)
        mlx_lm.convert(source, "build", quantize=True, quant_predicate=predicate, **quantize_arguments(recipe))

    With `q_group_size`, the one that `mlx_lm.convert` is given, modules that it would drop are refused.

    Raises PlanError as `decide` does, and for parts that mlx-lm has no class for, such as a vision tower that is
    carried along. The predicate raises PlanError when it is asked about a module that the model did not have, or had
    in another shape.
    """
    by_path = decide(recipe, modules, n_layers=n_layers).by_path
    _check_made_by_mlx_lm(recipe, modules, by_path, q_group_size)
    by_name = {m.path: m for m in modules}

    def predicate(path: str, module: Any) -> bool | dict[str, Any]:
        if path not in by_path:
            raise PlanError(f"{path}: recipe {recipe} was planned for a model that has no such module")
        _check_shape(recipe, by_name[path], module)
        chosen = by_path[path].format
        return False if chosen is None or by_name[path].prequantized else chosen.as_dict()

    return predicate


def _check_made_by_mlx_lm(
    recipe: Recipe, modules: Sequence[Module], by_path: Mapping[str, Decision], q_group_size: int | None
) -> None:
    """Refuse what mlx_lm.convert would make otherwise than the recipe says. Raises PlanError with the first module."""
    for module in modules:
        path, decision = module.path, by_path[module.path]
        ours = "use mlxquant's convert"
        if decision.method != RTN:
            why = f"recipe {recipe} asks for method {decision.method}, and mlx_lm.convert rounds every value (rtn)"
            raise PlanError(f"{path}: {why}; {ours}")
        if module.kind == CARRIED:
            raise PlanError(
                f"{path}: mlx-lm's model has no {module.role} part, so mlx_lm.convert would drop it;"
                f" read the layout without it, or {ours}"
            )
        if decision.kept:
            why = f"recipe {recipe} keeps the bits that the source has, and mlx_lm.convert would round anew"
            raise PlanError(f"{path}: {why}; {ours}")
    dropped = [m for m in modules if q_group_size and by_path[m.path].format and m.shape[-1] % q_group_size]
    if dropped:
        width = gcd(*(m.shape[-1] for m in dropped))
        smaller = next((size for size in (64, 32, 16) if width % size == 0), None)
        raise PlanError(
            f"{dropped[0].path}: q_group_size={q_group_size} does not divide its {dropped[0].shape[-1]} inputs, so"
            f" mlx_lm.convert would leave it unquantized, and {len(dropped) - 1:,} others; "
            + (f"give both q_group_size={smaller}" if smaller else "use mlxquant's convert")
        )


def _check_shape(recipe: Recipe, expected: Module, module: Any) -> None:
    """Refuse a module of another model, where mlx-lm shows one. Raises PlanError."""
    weight = getattr(module, "weight", None)
    if weight is not None and not expected.prequantized and tuple(weight.shape) != expected.shape:
        raise PlanError(
            f"{expected.path}: shape {list(expected.shape)} expected, {list(weight.shape)} found; recipe {recipe} was"
            " planned for another model: read the layout of the one that is converted"
        )


def quantize_arguments(recipe: Recipe) -> dict[str, Any]:
    """What to pass to `mlx_lm.convert` beside the predicate: `q_bits`, `q_group_size`, `q_mode`."""
    default = recipe.default or FormatChoice(8, (64,))
    choices = [default, *(rule.format(default) for rule in recipe.rules if not rule.keep and not rule.use)]
    smallest = min(size for choice in choices for size in choice.group_sizes)
    return {"q_bits": default.bits, "q_group_size": smallest, "q_mode": default.mode}
