"""Never worse than uniform: the solver's recipe beside shipped ones of at most the same bytes, on other documents.

Contestants are `uniform-8bit` and `gates-8bit` at the most bits that fit, at every group size, and the shipped recipes
that fit as they are. All are judged in one pass, on documents that neither calibrated nor allocated. The best of them
is the one with the least mean KL there; the solver's recipe is taken only where the paired interval of its difference
to that one lies below zero. Choosing the best on these very documents favours the contestants, not the solver.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MlxquantError
from ..layout.layout import Layout
from ..plan.plan import make_plan
from ..plan.recipe.recipe import Recipe, available, load_recipe
from ..source.checkpoint import Checkpoint
from ..stats import FEWEST_SKEWED, Interval, skewed_ratio
from ..words.formats import BY_LAYER, RTN
from ..words.text import counted
from .groups import BITS, GROUP_SIZES

PLAIN = ("uniform-8bit", "gates-8bit")


@dataclass(frozen=True, slots=True)
class Contestant:
    """A recipe that fits a budget, by the name that it is judged under."""

    name: str
    recipe: Recipe
    nbytes: int
    bpw: float


def contestants(
    layout: Layout, source: Checkpoint, budget: int, *, active: int | None = None, method: str,
    bits: Sequence[int] = BITS, group_sizes: Sequence[int] = GROUP_SIZES,
) -> list[Contestant]:  # fmt: skip
    """The contestants within a budget of bytes, and of bytes that a token reads; none where it holds none."""
    entering = _Entering(layout, source, budget, active, method)
    entered = [*_plain(entering, bits, group_sizes), *_shipped(entering)]
    formats: set[tuple[str, ...]] = set()
    different = []
    for contestant in entered:
        plan = make_plan(layout, contestant.recipe, source)
        key = tuple(str(planned.format) for planned in plan.modules)
        if key not in formats:
            formats.add(key)
            different.append(contestant)
    return different


@dataclass(frozen=True, slots=True)
class _Entering:
    """What a recipe has to fit to be a contestant."""

    layout: Layout
    source: Checkpoint
    budget: int
    active: int | None
    method: str

    def contestant(self, word: str, name: str, **changes: Any) -> Contestant | None:
        """A shipped recipe with changes, None where this model cannot have it or it does not fit."""
        try:
            if load_recipe(name).default is None:
                return None
            recipe = load_recipe(name, method=self.method, unaligned="keep", **changes)
            totals = make_plan(self.layout, recipe, self.source).totals
        except MlxquantError:
            return None
        if totals["bytes"] > self.budget or (
            self.active is not None and totals["active_bytes_per_token"] > self.active
        ):
            return None
        return Contestant(word, recipe, totals["bytes"], totals["bpw"])


def _plain(entering: _Entering, bits: Sequence[int], group_sizes: Sequence[int]) -> Iterable[Contestant]:
    for name, size in product(PLAIN, group_sizes):
        for width in sorted(bits, reverse=True):
            word = f"{name}:bits={width},group_size={size}"
            entry = entering.contestant(word, name, bits=width, group_size=size)
            if entry is not None:
                yield entry
                break


def _shipped(entering: _Entering) -> Iterable[Contestant]:
    for shipped in available():
        entry = entering.contestant(shipped.name, shipped.name)
        if entry is not None:
            yield entry


def with_stand_in(recipe: Recipe) -> Recipe:
    """The recipe with rounding wherever it asks for gptq or distill, which need documents and take long."""
    default = recipe.default
    if default is not None and default.method in BY_LAYER:
        default = replace(default, method=RTN)
    rules = tuple(replace(rule, method=RTN) if rule.method in BY_LAYER else rule for rule in recipe.rules)
    return replace(recipe, default=default, rules=rules)


@dataclass(frozen=True)
class Final:
    """How a budget's contest ended: KL of everyone by name, the best contestant, the difference to it, who ships.

    `difference` is KL of the solver's recipe less that of the best contestant, nats a token, paired by document. Where
    rounding stood in for the method in a check before this one, `stand_in` has everyone's KL there.
    """

    kl: Mapping[str, Interval]
    best: Contestant | None
    difference: Interval | None
    ships: str
    why: str
    stand_in: Mapping[str, Interval] = field(default_factory=dict)

    def best_of(self, entered: Sequence[Contestant], count: int) -> list[Contestant]:
        """So many contestants with the least KL, the least first."""
        return sorted(entered, key=lambda each: self.kl[each.name].estimate)[:count]


def final(
    allocated: str, entered: Sequence[Contestant], kl: NDArray[np.float64], tokens: NDArray[np.int64],
    names: Sequence[str], confidence: float, others: int | None = None,
) -> Final:  # fmt: skip
    """Judge one budget: `kl` and `tokens` are sums (candidates, documents), in the order of `names`.

    `others` is the number of contestants, where those that entered are the best of a check before.
    """
    rows = {name: i for i, name in enumerate(names)}
    intervals = {
        name: skewed_ratio(kl[rows[name]], tokens[rows[name]], confidence=confidence)
        for name in (allocated, *(each.name for each in entered))
    }
    if not entered:
        return Final(intervals, None, None, allocated, "no shipped recipe fits the budget")
    best = min(entered, key=lambda each: intervals[each.name].estimate)
    apart = kl[rows[allocated]] - kl[rows[best.name]]
    difference = skewed_ratio(apart, tokens[rows[allocated]], confidence=confidence)
    if difference.clusters < FEWEST_SKEWED or difference.low is None:
        why = (
            f"only {counted(difference.clusters, 'document')} checked, and {FEWEST_SKEWED} are the fewest that an"
            f" interval can be trusted with"
        )
        return Final(intervals, best, difference, best.name, why)
    assert difference.high is not None
    if difference.high < 0:
        beaten = counted(others or len(entered), "other")
        why = f"ahead of {best.name}, the best of {beaten}, on documents that chose nothing"
        return Final(intervals, best, difference, allocated, why)
    tied = "does more damage" if difference.low > 0 else "is not shown to be ahead of it"
    return Final(intervals, best, difference, best.name, f"the allocated recipe {tied}")
