"""Does a build fit a machine: its weights, the cache of a context, what the system keeps; and which to take of several.

A Mac's memory is shared, and macOS lets the GPU wire only part of it: by default 3/4 from 36 GiB on and 2/3 below
(`iogpu.wired_limit_mb` = 0; Metal reports it as recommendedMaxWorkingSetSize, and mlx-lm wires up to that). macOS 26
was seen to allow more: 107.5 of 128 GiB (antirez/ds4#890). The lower rule is taken here; the rest is the headroom.
96 GiB * 3/4 = 72 GiB for weights and cache, 24 GiB for the system.

Of several that fit, the one is recommended that measurements speak for (see `evidence`), never merely the one with the
most bits. Where nothing was measured of any, the least quantized is named, and said to be no more than that.

What a pass needs besides is not counted: activations of a prefill step, a few hundred MB to a few GB. Nothing here
was measured on Apple hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import MlxquantError
from ..records.head import head
from .evidence import Evidence, evidence_for, is_studied
from .recipe.recipe import Recipe, available, load_recipe

if TYPE_CHECKING:
    from ..layout.context import ContextCost
    from ..layout.layout import Layout
    from ..source.checkpoint import Checkpoint
    from .plan import Plan

SCHEMA = "mlxquant.fits/2"
LARGE = 36 * 2**30

# Shipped to be looked at, not to be used: its large size protects nothing that matters.
NOT_ADVISED = ("naive-linear-8bit",)
_UNMEASURED = "`mlxquant compare` and `eval` measure yours"


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
    modules. `speed` is what a chip allows (`ceiling_tok_s`) and is expected to reach (`expected`) at the context.
    """

    recipe: str
    sha256: str | None = None
    bytes: int | None = None
    bpw: float | None = None
    needed: int | None = None
    spare: int | None = None
    problem: str | None = None
    reason: str | None = None
    speed: dict[str, Any] | None = None

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
            **({"speed": self.speed} if self.speed is not None else {}),
            "problem": self.problem,
            **({"reason": self.reason} if self.problem else {}),
        }


@dataclass(frozen=True, slots=True)
class Fits:
    """Recipes of one model beside one memory and context, the least quantized first.

    `overrides` are the command line's words that changed all of them. `chip` is the one whose speeds stand with the
    recipes, as a prediction's record has it.
    """

    source: dict[str, Any]
    overrides: tuple[str, ...]
    memory: Memory
    tokens: int
    cost: ContextCost
    recipes: tuple[Fit, ...]
    chip: dict[str, Any] | None = None
    allocated: tuple[Evidence, ...] = ()

    @property
    def context_bytes(self) -> int:
        """Bytes of the caches at the context asked for."""
        return self.cost.at(self.tokens)

    @property
    def evidence(self) -> Evidence | None:
        """What was measured of the best of those that fit; nothing where overrides make other builds of them.

        An allocated recipe was held against smaller ones alone: one of more bytes that measurements speak for is
        before it.
        """
        if self.overrides or len(self.recipes) == 1:
            return None
        sizes = {f.recipe: f.bytes or 0 for f in self.recipes if f.fits}
        general = evidence_for(sizes)
        own = max((e for e in self.allocated if e.recipe in sizes), key=lambda e: sizes[e.recipe], default=None)
        if own is None or (general is not None and sizes[general.recipe] > sizes[own.recipe]):
            return general
        return own

    @property
    def best(self) -> Fit | None:
        """The build to take: what measurements speak for, else the least quantized that fits."""
        fitting = [f for f in self.recipes if f.fits and f.recipe not in NOT_ADVISED]
        if self.evidence is not None:
            return next(f for f in fitting if self.evidence and f.recipe == self.evidence.recipe)
        return max(fitting, key=lambda f: f.bpw or 0, default=None)

    def _advice(self) -> dict[str, Any]:
        """Why the best is the best, whose measurements say so, and what nobody measured."""
        best, evidence = self.best, self.evidence
        if best is None:
            return {"best": None, "why": None, "sources": [], "not_known": []}
        if evidence is None:
            why = "the only one asked for, and it fits"
            if len(self.recipes) > 1:
                changed = f" with {' '.join(self.overrides)}" if self.overrides else ""
                why = f"the least quantized of these that fits; nothing was measured of any of them{changed}"
            return {"best": best.recipe, "why": why, "sources": [], "not_known": [_UNMEASURED]}
        studied = evidence in self.allocated or is_studied(str(self.source["model_type"]), int(self.source["layers"]))
        missing = [evidence.open, *([] if studied else [f"all of this is of other models: {_UNMEASURED}"])]
        return {"best": best.recipe, "why": evidence.reason, "sources": list(evidence.sources), "not_known": missing}

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
            **({"chip": self.chip} if self.chip is not None else {}),
            **self._advice(),
            "recipes": [f.as_dict() for f in self.recipes],
        }


def find_fits(
    layout: Layout,
    source: Checkpoint,
    recipes: Sequence[Recipe | Fit],
    memory: Memory,
    tokens: int,
    *,
    speed: Callable[[Plan, ContextCost], dict[str, Any]] | None = None,
    chip: dict[str, Any] | None = None,
    allocated: Sequence[tuple[Recipe, Evidence]] = (),
) -> Fits:
    """Plan each recipe and hold it against the memory. A Fit among them is one that could not be loaded.

    `allocated` are further recipes, with what an allocation's record says of each.

    `speed` says how fast a plan's build runs on `chip` at that context, whose cost is found once. Raises UsageError for
    more tokens than the model was made for.
    """
    from ..layout.context import check_context, context_cost
    from .plan import make_plan, source_record

    check_context(layout.config, tokens, source.name)
    cost = context_cost(layout.config, layout.modules, layout.provider)
    cache, fits = cost.at(tokens), list[Fit]()
    for recipe in [*recipes, *(recipe for recipe, _ in allocated)]:
        if isinstance(recipe, Fit):
            fits.append(recipe)
            continue
        try:
            plan = make_plan(layout, recipe, source)
        except MlxquantError as error:
            fits.append(unfit(recipe.name, error))
            continue
        needed = plan.totals["bytes"] + cache
        fits.append(
            Fit(
                recipe.name,
                recipe.sha256,
                plan.totals["bytes"],
                plan.totals["bpw"],
                needed,
                memory.usable - needed,
                speed=speed(plan, cost) if speed else None,
            )
        )
    fits.sort(key=lambda f: -(f.bpw or 0))
    overrides = next((recipe.overrides for recipe in recipes if isinstance(recipe, Recipe)), ())
    return Fits(
        source_record(layout, source), overrides, memory, tokens, cost, tuple(fits), chip,
        tuple(evidence for _, evidence in allocated),
    )  # fmt: skip


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
