"""The best choice for every group under a budget of bytes: exact, by SciPy's mixed-integer solver (HiGHS).

    minimize    sum of the groups' damages          (nats of KL, taken to add up)
    subject to  one choice for each group
                bytes <= budget, and active bytes a token <= a second budget where one is given

This is the multiple-choice knapsack problem. Choices that cost more bytes and do more damage than another of their
group are left out beforehand, which changes no optimum. A budget's slack is a fraction of the smallest module.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..errors import UsageError
from ..words.units import show_bytes
from .groups import FormatChoice, ModuleGroup

# What the solver may leave on the table, as a share of the damage: far below what the measurement can tell.
GAP = 1e-4
SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Option:
    """A choice with the damage that is expected of it: KL in nats a token, `measured` or inferred from others."""

    choice: FormatChoice
    damage: float
    measured: bool


@dataclass(frozen=True, slots=True)
class Allocation:
    """An option for each group, in the groups' order, with the sums."""

    options: tuple[Option, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all groups."""
        return sum(option.choice.nbytes for option in self.options)

    @property
    def active(self) -> int:
        """Bytes of all groups that one decoded token reads."""
        return sum(option.choice.active for option in self.options)

    @property
    def damage(self) -> float:
        """The sum of the damages, in nats of KL a token."""
        return sum(option.damage for option in self.options)


def allocate(
    groups: Sequence[ModuleGroup], options: Sequence[Sequence[Option]], budget: int, active: int | None = None
) -> Allocation:
    """Choose one of `options[g]` for each group g: the least damage within `budget` bytes and `active` bytes a token.

    Raises UsageError where even the smallest choices do not fit.
    """
    smallest = sum(min(o.choice.nbytes for o in own) for own in options)
    if smallest > budget:
        raise UsageError(
            f"the budget leaves {show_bytes(budget)} for what can be quantized, and no recipe of these formats takes"
            f" less than {show_bytes(smallest)}; give more, or allow fewer bits"
        )
    least = sum(min(o.choice.active for o in own) for own in options)
    if active is not None and least > active:
        raise UsageError(
            f"a token may read {show_bytes(active)} of what can be quantized, and no recipe of these formats reads less"
            f" than {show_bytes(least)}; ask for fewer tokens a second, or for a faster chip"
        )
    useful = [_undominated(own) for own in options]
    if all(len(own) == 1 for own in useful):
        return Allocation(tuple(own[0] for own in useful))
    return Allocation(tuple(_solved(useful, budget, active)))


def frontier(options: Sequence[Sequence[Option]]) -> list[tuple[int, float, int]]:
    """Bytes, damage and active bytes of the best choices from the fewest bytes on, on the convex hull of all.

    Each point is optimal at its bytes: a step takes the group's choice that saves the most damage a byte (Lagrange).
    """
    hulls = [_hull(own) for own in options]
    steps = sorted(
        (step for hull in hulls for step in pairwise(hull)),
        key=lambda step: _slope(*step),
    )
    nbytes, damage, active = (
        sum(hull[0].choice.nbytes for hull in hulls), sum(hull[0].damage for hull in hulls),
        sum(hull[0].choice.active for hull in hulls),
    )  # fmt: skip
    points = [(nbytes, damage, active)]
    for before, after in steps:
        nbytes += after.choice.nbytes - before.choice.nbytes
        damage += after.damage - before.damage
        active += after.choice.active - before.choice.active
        points.append((nbytes, max(0.0, damage), active))
    return points


def _hull(options: Sequence[Option]) -> list[Option]:
    """The lower convex hull of options over bytes: each next one costs more and saves less damage a byte."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda o: (o.choice.nbytes, o.damage)):
        if hull and option.damage >= hull[-1].damage:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def _slope(a: Option, b: Option) -> float:
    return (b.damage - a.damage) / max(1, b.choice.nbytes - a.choice.nbytes)


def _undominated(options: Sequence[Option]) -> list[Option]:
    """The options that no other beats in bytes, active bytes and damage alike."""
    order = sorted(options, key=lambda o: (o.choice.nbytes, o.choice.active, o.damage))
    undominated: list[Option] = []
    for option in order:
        if not any(k.damage <= option.damage and k.choice.active <= option.choice.active for k in undominated):
            undominated.append(option)
    return undominated


def _solved(options: Sequence[Sequence[Option]], budget: int, active: int | None) -> list[Option]:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    flat = [option for own in options for option in own]
    owner = np.repeat(np.arange(len(options)), [len(own) for own in options])
    pick = csr_array((np.ones(len(flat)), (owner, np.arange(len(flat)))), shape=(len(options), len(flat)))
    damage = np.array([option.damage for option in flat])
    unit = damage.max() or 1.0
    limits = [([o.choice.nbytes for o in flat], budget)]
    limits += [([o.choice.active for o in flat], active)] if active is not None else []
    room = 1.0
    for _ in range(5):
        constraints = [LinearConstraint(pick, 1, 1)]
        for amounts, limit in limits:
            row = np.array(amounts, dtype=np.float64)[None] / max(limit, 1)
            constraints.append(LinearConstraint(row, -np.inf, room))
        with without_native_output():
            answer = milp(
                damage / unit,
                constraints=constraints,
                integrality=np.ones(len(flat)),
                bounds=Bounds(0, 1),
                options={"mip_rel_gap": GAP, "time_limit": SECONDS},
            )
        if answer.x is None:
            break
        chosen = [flat[i] for i in np.flatnonzero(answer.x > 0.5)]
        totals = [sum(o.choice.nbytes for o in chosen), sum(o.choice.active for o in chosen)]
        if all(total <= limit for total, (_, limit) in zip(totals, limits, strict=False)):
            return chosen
        room -= 1e-6  # the solver's own tolerance: a budget is one to the byte
    raise UsageError(f"no choice of formats within {show_bytes(budget)} was found; give a little more")


@contextmanager
def without_native_output() -> Iterator[None]:
    """Let nothing that native code prints reach stdout, where a record may stand.

    HiGHS as SciPy 1.17 has it prints a line of debugging for some problems, whatever its options say.
    """
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    stdout, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(nowhere)
