"""The solver: exact against trying everything, budgets to the byte, and what cannot be met."""

from __future__ import annotations

import os
import time
from itertools import product
from random import Random

import pytest

from mlxquant.allocate.groups import FormatChoice, ModuleGroup
from mlxquant.allocate.solve import Option, allocate, without_native_output
from mlxquant.errors import UsageError
from mlxquant.words.formats import Format


def problem(seed: int, groups: int, choices: int) -> tuple[list[ModuleGroup], list[list[Option]]]:
    rng = Random(seed)
    options = [
        [
            Option(
                FormatChoice(Format(rng.choice((2, 3, 4, 6, 8)), 64), rng.randint(1, 400), rng.randint(1, 50)),
                rng.lognormvariate(-6, 1),
                measured=True,
            )
            for _ in range(choices)
        ]
        for _ in range(groups)
    ]
    return [
        ModuleGroup("expert", f"g{i}", (), (), tuple(o.choice for o in own)) for i, own in enumerate(options)
    ], options


@pytest.mark.parametrize("seed", range(5))
def test_no_other_choice_within_the_budget_does_less_damage(seed):
    groups, options = problem(seed, 5, 4)
    budget = Random(seed).randint(700, 1400)
    every = [chosen for chosen in product(*options) if sum(o.choice.nbytes for o in chosen) <= budget]
    if not every:
        with pytest.raises(UsageError, match="give more"):
            allocate(groups, options, budget)
        return
    best = allocate(groups, options, budget)
    assert best.nbytes <= budget
    assert best.damage == pytest.approx(min(sum(o.damage for o in chosen) for chosen in every), rel=1e-3)


def test_a_second_budget_of_active_bytes_is_kept_too():
    groups, options = problem(1, 5, 4)
    free = allocate(groups, options, 2000)
    bound = allocate(groups, options, 2000, active=free.active - 1)
    assert bound.active < free.active
    assert bound.damage >= free.damage
    with pytest.raises(UsageError, match="fewer tokens a second"):
        allocate(groups, options, 2000, active=1)


def test_a_budget_for_everything_keeps_the_least_damage_of_each():
    groups, options = problem(2, 6, 5)
    best = allocate(groups, options, 10**6)
    assert best.damage == pytest.approx(sum(min(o.damage for o in own) for own in options))


def test_what_native_code_prints_does_not_reach_stdout(capfd):
    print("before")
    with without_native_output():
        os.write(1, b"HighsMipSolverData::transformNewIntegerFeasibleSolution\n")
    print("after")
    assert capfd.readouterr().out == "before\nafter\n"


@pytest.mark.slow
@pytest.mark.parametrize("bound", [None, 518 * 20])
def test_as_many_modules_as_122b_has_are_solved_within_ten_seconds(bound):
    groups, options = problem(3, 518, 19)
    began = time.process_time()
    best = allocate(groups, options, 518 * 100, active=bound)
    assert time.process_time() - began < 10
    assert 0.999 * 518 * 100 < best.nbytes <= 518 * 100
