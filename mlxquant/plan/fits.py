"""Does a build fit a machine: its weights, the cache of a context, and what the system keeps for itself.

A Mac's memory is shared, and macOS lets the GPU wire only part of it: by default 3/4 from 36 GiB on and 2/3 below
(`iogpu.wired_limit_mb` = 0; Metal reports it as recommendedMaxWorkingSetSize, and mlx-lm wires up to that). macOS 26
was seen to allow more: 107.5 of 128 GiB (antirez/ds4#890). The lower rule is taken here; the rest is the headroom.
96 GiB * 3/4 = 72 GiB for weights and cache, 24 GiB for the system.

What a pass needs besides is not counted: activations of a prefill step, a few hundred MB to a few GB. Nothing here
was measured on Apple hardware.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import MlxquantError
from ..records.head import head
from .recipe.recipe import Recipe, available, load_recipe

if TYPE_CHECKING:
    from ..layout.context import ContextCost
    from ..layout.layout import Layout
    from ..source.checkpoint import Checkpoint

SCHEMA = "mlxquant.fits/1"
LARGE = 36 * 2**30

# Shipped to be looked at, not to be used: its large size protects nothing that matters.
NOT_ADVISED = ("naive-linear-8bit",)


@dataclass(frozen=True, slots=True)
class Memory:
    """A machine's memory, and the part of it that the GPU may wire."""

    total: int

    @property
    def share(self) -> tuple[int, int]:
        """The GPU's part, as (k, n)."""
        return (3, 4) if self.total >= LARGE else (2, 3)

    @property
    def usable(self) -> int:
        """Bytes for weights and cache."""
        k, n = self.share
        return self.total * k // n

    @property
    def headroom(self) -> int:
        """Bytes that stay with the system."""
        return self.total - self.usable


@dataclass(frozen=True, slots=True)
class Fit:
    """One recipe's build beside the memory.

    `problem` says why this model cannot have the recipe at all, `reason` the same without the names of recipe and
    modules.
    """

    recipe: str
    sha256: str | None = None
    bytes: int | None = None
    bpw: float | None = None
    needed: int | None = None
    spare: int | None = None
    problem: str | None = None
    reason: str | None = None

    @property
    def fits(self) -> bool:
        """Whether weights and cache find room."""
        return self.spare is not None and self.spare >= 0

    def as_dict(self) -> dict[str, Any]:
        """The recipe's entry in a fits record."""
        return {
            "recipe": self.recipe,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "bpw": self.bpw,
            "needed_bytes": self.needed,
            "spare_bytes": self.spare,
            "fits": self.fits,
            "problem": self.problem,
            **({"reason": self.reason} if self.problem else {}),
        }


@dataclass(frozen=True, slots=True)
class Fits:
    """Recipes of one model beside one memory and context, the least quantized first.

    `overrides` are the command line's words that changed all of them.
    """

    source: dict[str, Any]
    overrides: tuple[str, ...]
    memory: Memory
    tokens: int
    cost: ContextCost
    recipes: tuple[Fit, ...]

    @property
    def context_bytes(self) -> int:
        """Bytes of the caches at the context asked for."""
        return self.cost.at(self.tokens)

    @property
    def best(self) -> Fit | None:
        """The least quantized build that fits: the one with the most bits per weight."""
        fitting = [f for f in self.recipes if f.fits and f.recipe not in NOT_ADVISED]
        return max(fitting, key=lambda f: f.bpw or 0, default=None)

    def as_dict(self) -> dict[str, Any]:
        """The fits record: versioned JSON."""
        memory, (k, n) = self.memory, self.memory.share
        return {
            **head(SCHEMA),
            "source": self.source,
            "memory": {
                "bytes": memory.total,
                "usable_bytes": memory.usable,
                "headroom_bytes": memory.headroom,
                "usable_share": f"{k}/{n}",
                "rule": f"macOS lets the GPU wire {k}/{n} of it",
            },
            "context": {
                "tokens": self.tokens,
                "bytes": self.context_bytes,
                "method": self.cost.method,
                "note": self.cost.note,
            },
            "overrides": list(self.overrides),
            "best": self.best.recipe if self.best else None,
            "recipes": [f.as_dict() for f in self.recipes],
        }


def find_fits(layout: Layout, source: Checkpoint, recipes: Sequence[Recipe | Fit], memory: Memory, tokens: int) -> Fits:
    """Plan each recipe and hold it against the memory. A Fit among them is one that could not be loaded."""
    from ..layout.context import context_cost
    from .plan import make_plan, source_record

    cost = context_cost(layout.config, layout.modules, layout.provider)
    cache, fits = cost.at(tokens), list[Fit]()
    for recipe in recipes:
        if isinstance(recipe, Fit):
            fits.append(recipe)
            continue
        try:
            totals = make_plan(layout, recipe, source).totals
        except MlxquantError as error:
            fits.append(unfit(recipe.name, error))
            continue
        needed = totals["bytes"] + cache
        spare = memory.usable - needed
        fits.append(Fit(recipe.name, recipe.sha256, totals["bytes"], totals["bpw"], needed, spare))
    fits.sort(key=lambda f: -(f.bpw or 0))
    overrides = next((recipe.overrides for recipe in recipes if isinstance(recipe, Recipe)), ())
    return Fits(source_record(layout, source), overrides, memory, tokens, cost, tuple(fits))


def unfit(recipe: str, error: MlxquantError) -> Fit:
    """Keep a recipe that this model cannot have, with the first reason."""
    first, *others = str(error).splitlines()
    more = f" (and {len(others)} more)" if others else ""
    return Fit(recipe, problem=first + more, reason=error.reason + more)


def shipped_recipes(**overrides: Any) -> Iterable[Recipe | Fit]:
    """Load every shipped recipe with the overrides; one that cannot take them comes as a Fit that says why."""
    for entry in available():
        try:
            yield load_recipe(entry.name, **overrides)
        except MlxquantError as error:
            yield unfit(entry.name, error)
