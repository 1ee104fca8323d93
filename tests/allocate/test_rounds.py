"""Rounds: what is chosen has been measured, once, and corrects what is inferred from it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from mlxquant.allocate.groups import BITS, GROUP_SIZES, FormatChoice, ModuleGroup
from mlxquant.allocate.measure import Probe, options_of, probes_of
from mlxquant.allocate.rounds import allocate_in_rounds
from mlxquant.allocate.solve import Allocation, Option, allocate
from mlxquant.words.formats import Format

GROUPS = 4
BUDGET = GROUPS * 450


def choices() -> tuple[FormatChoice, ...]:
    formats = [Format(bits, size) for bits in BITS for size in GROUP_SIZES]
    sized = [FormatChoice(fmt, 100 * fmt.bits + 3200 // fmt.group_size, 0) for fmt in formats]
    return tuple(sorted((*sized, FormatChoice(None, 1600, 0)), key=lambda choice: choice.nbytes))


class Model:
    """Groups whose KL in every format is known, with luck of its own in each, and a count of what was asked."""

    def __init__(self, seed: int) -> None:
        rng = Random(seed)
        self.groups = [ModuleGroup("expert", f"g{i}", (), (), choices()) for i in range(GROUPS)]
        self.kl = {
            Probe(i, choice.format).name(self.groups): 4.0**-choice.format.bits * rng.lognormvariate(0, 1)
            for i, group in enumerate(self.groups)
            for choice in group.choices
            if choice.format is not None
        }
        self.asked: list[str] = []

    def measured(self, groups: Sequence[ModuleGroup], probes: Sequence[Probe]) -> dict[str, float]:
        names = [probe.name(groups) for probe in probes]
        self.asked += names
        return {name: self.kl[name] for name in names}

    def solved(self, groups: Sequence[ModuleGroup], options: Sequence[Sequence[Option]]) -> list[Allocation]:
        return [allocate(groups, options, BUDGET), allocate(groups, options, BUDGET // 2 * 3)]

    def damage(self, allocation: Allocation) -> float:
        formats = [option.choice.format for option in allocation.options]
        return sum(self.kl[Probe(i, fmt).name(self.groups)] for i, fmt in enumerate(formats) if fmt is not None)


@pytest.mark.parametrize("seed", range(1))
def test_what_is_chosen_in_the_end_has_been_measured_and_nothing_twice(seed):
    model = Model(seed)
    solved = allocate_in_rounds(model.groups, model.measured, model.solved, rounds=20)
    assert all(option.measured for allocation in solved.allocations for option in allocation.options)
    assert len(model.asked) == len(set(model.asked))
    assert len(model.asked) < len(model.kl)
    for allocation in solved.allocations:
        assert allocation.damage == pytest.approx(model.damage(allocation))
    assert len(solved.options) == GROUPS


def test_rounds_do_less_damage_than_what_the_first_one_infers():
    first, last = 0.0, 0.0
    for seed in range(2):
        model = Model(seed)
        first += model.damage(allocate_in_rounds(model.groups, model.measured, model.solved, rounds=1).allocations[0])
        last += model.damage(allocate_in_rounds(model.groups, model.measured, model.solved).allocations[0])
    assert last < 0.9 * first


def test_a_measured_number_of_bits_corrects_those_beside_it():
    model = Model(0)
    kl = model.measured(model.groups, probes_of(model.groups))
    five = Probe(0, Format(5, 64)).name(model.groups)
    before, after = ({str(o.choice): o for o in options_of(model.groups, each)[0]} for each in (kl, kl | {five: 1.0}))
    assert not before["5-bit g64"].measured
    assert after["5-bit g64"].measured
    assert after["5-bit g64"].damage == 1.0
    assert after["5-bit g32"].damage > before["5-bit g32"].damage
