"""Every command over damaged inputs of every kind that it takes; what must hold is in `tests.fuzz.commands`.

A case that fails is named, and `python -m tests.fuzz.commands --debug --case NAME` runs it again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from mlxquant.plan.recipe.recipe import available
from tests.fuzz import configs
from tests.fuzz.commands import SCENARIOS, Fuzz, environment


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzz]:
    folder: Path = tmp_path_factory.mktemp("fuzz").resolve()
    with environment(folder):
        yield Fuzz(folder)


def failures(fuzz: Fuzz, names: list[str]) -> list[str]:
    return [f"{name}: {wrong}" for name in names if (wrong := fuzz.try_case(name)) is not None]


def test_no_damaged_input_is_more_than_a_line_or_changed(fuzz: Fuzz) -> None:
    names = fuzz.names(Random(2026), dear=False)
    assert failures(fuzz, [next(names) for _ in range(25)]) == []
    assert len(fuzz.codes) >= 3  # some damage is harmless, some refused, some a gate's


@pytest.mark.slow
def test_every_scenario_works_with_what_is_sound(fuzz: Fuzz) -> None:
    for number, scenario in enumerate(SCENARIOS):
        if not scenario.dear:
            assert fuzz.try_case(f"{number}:{scenario.name}:{scenario.inputs[0]}:none#0") is None
            assert fuzz.last_code == scenario.code, scenario.words


@pytest.mark.slow
def test_configs_with_a_wrong_value_are_planned_or_refused_in_a_line(tmp_path: Path) -> None:
    names = configs.cases(Random(2027))
    wrong = {case: configs.try_case(case, tmp_path) for case in [next(names) for _ in range(60)]}
    assert {case: what for case, what in wrong.items() if what is not None} == {}


@pytest.mark.slow
def test_every_config_is_planned_by_recipes_or_refused_in_a_line(tmp_path: Path) -> None:
    path, wrong, recipes = tmp_path / "config.json", {}, [entry.name for entry in available()]
    for i, (name, config) in enumerate(configs.configs().items()):
        path.write_text(json.dumps(config))
        for recipe in (recipes[i % len(recipes)], recipes[(i + 5) % len(recipes)]):  # each with many, in turn
            wrong[name, recipe] = configs.plan(path, recipe)
    assert {case: what for case, what in wrong.items() if what is not None} == {}


@pytest.mark.slow
def test_hundreds_of_wrong_configs_are_lines(tmp_path: Path) -> None:
    names = configs.cases(Random(0))
    wrong = {case: configs.try_case(case, tmp_path) for case in [next(names) for _ in range(300)]}
    assert {case: what for case, what in wrong.items() if what is not None} == {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_hundreds_of_damaged_inputs_are_lines(fuzz: Fuzz, seed: int) -> None:
    names = fuzz.names(Random(seed), dear=False)
    assert failures(fuzz, [next(names) for _ in range(600)]) == []


@pytest.mark.slow
def test_a_damaged_input_of_every_command_that_measures_is_a_line(fuzz: Fuzz) -> None:
    dear = [(number, scenario) for number, scenario in enumerate(SCENARIOS) if scenario.dear]
    names = [f"{n}:{s.name}:{s.inputs[0]}:{how}#1" for n, s in dear for how in ("cut", "missing")]
    assert failures(fuzz, names) == []


@pytest.mark.slow
@pytest.mark.skipif("MLXQUANT_FUZZ" not in os.environ, reason="loads builds that often: run with MLXQUANT_FUZZ=100")
def test_damaged_inputs_of_commands_that_measure_are_lines(fuzz: Fuzz) -> None:
    names = fuzz.names(Random(1), dear=True)
    assert failures(fuzz, [next(names) for _ in range(int(os.environ["MLXQUANT_FUZZ"]))]) == []
