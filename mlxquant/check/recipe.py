"""The recipe that a build amounts to, as far as its arrays are understood.

What the shards hold in a way that mlx-lm's class has no module for (projections fused in one, weights packed by a
codebook), in part, or not at all cannot be said by a recipe: it is left out and named. Where nothing is left, or
nothing tells which modules mlx would quantize, there is no recipe. How rules are found is for `plan.recipe.infer`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..builds.read.build import Build, read_build
from ..errors import BuildError
from ..plan.recipe.infer import recipe_of
from ..words.modules import CARRIED
from ..words.text import counted, some

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def recipe_of_build(path: str | Path, name: str, reference: str) -> tuple[str, str]:
    """Write the recipe of a build, and a sentence on what it leaves out, which is empty where that is nothing.

    Raises BuildError where there is no recipe, with the reason.
    """
    build = read_build(path)
    if not build.known:
        why = next((text for text in (*build.notes, *build.disagreements) if "so roles" in text), "")
        raise BuildError(
            f"{path}: no recipe: {why.partition('; so roles')[0] or 'mlx-lm has no class for it'}; nothing else says"
            " which modules mlx can quantize; `mlxquant audit` lists what the shards hold"
        )
    unclear = _not_understood(build)
    understood = [s.module for s in build.stored.values() if s.placed and not s.trouble]
    if unclear and not any(m.quantizable for m in understood):
        raise BuildError(
            f"{path}: no recipe: nothing that mlx quantizes is stored as mlx-lm's class has it ({_named(unclear)});"
            " `mlxquant audit` says what is there"
        )
    line = f"left out, as the shards hold it otherwise than mlx-lm's class, or not at all: {_named(unclear)}"
    text = recipe_of(
        understood,
        build.formats,
        n_layers=build.n_layers,
        name=name,
        reference=reference,
        left_out=[line] if unclear else (),
    )
    return text, f"{counted(len(unclear), 'module')} {line}; `mlxquant audit` says more" if unclear else ""


def _named(paths: Sequence[str]) -> str:
    """Paths with those that differ in their layer alone as one: ``model.layers.*.mlp.gate (4)``."""
    alike: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        alike[_NUMBER.sub("*", path)].append(path)
    return some([f"{glob} ({len(group)})" if len(group) > 1 else group[0] for glob, group in alike.items()], 12)


def _not_understood(build: Build) -> list[str]:
    """Paths of modules that a recipe should speak of and cannot; a vision tower is none."""
    unclear = [p for p, s in build.stored.items() if s.module.kind != CARRIED and (s.trouble or _is_stray(build, p))]
    return [*unclear, *(m.path for m in build.absent if m.quantizable and m.path not in unclear)]


def _is_stray(build: Build, path: str) -> bool:
    """Whether a quantized module has no place in the class, and no part of the model loads it."""
    stored = build.stored[path]
    return not stored.placed and (stored.format is not None or stored.fused)
