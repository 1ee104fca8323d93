"""Variations of a recipe in one word: gates-8bit:bits=4."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from mlxquant.cli import main
from mlxquant.errors import RecipeError
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.plan.recipe.variation import load_variation, load_variations, name_of, split_variation


def test_a_variation_is_the_recipe_with_those_options():
    assert load_variation("gates-8bit:bits=4,group_size=32") == load_recipe("gates-8bit", bits=4, group_size=32)


def test_a_name_without_changes_is_the_recipe_itself():
    assert load_variation("gates-8bit") == load_recipe("gates-8bit")


def test_a_hyphen_does_as_well():
    assert split_variation("gates-8bit:group-size=32") == ("gates-8bit", {"group_size": 32})


def test_its_own_changes_win_over_those_for_all():
    both = load_variation("gates-8bit:bits=3", bits=6, group_size=32)
    assert both == load_recipe("gates-8bit", bits=3, group_size=32)


def test_a_recipe_without_a_default_format_keeps_that_beside_others():
    none, gates = load_variations(["none", "gates-8bit"], group_size=32, unaligned="keep")
    assert (none.default, none.unaligned) == (None, "keep")
    assert gates == load_variation("gates-8bit", group_size=32, unaligned="keep")
    with pytest.raises(RecipeError, match="--group-size 32: none has no default format to change"):
        load_variations(["none"], group_size=32)
    with pytest.raises(RecipeError, match="none has no default format to change"):
        load_variations(["none:bits=4", "gates-8bit"])


def test_a_variation_has_a_name_of_its_own():
    recipe = load_variation("gates-8bit:bits=4,group-size=32")
    assert name_of("gates-8bit:bits=4,group-size=32", recipe) == "gates-8bit:bits=4,group_size=32"
    assert name_of("gates-8bit", recipe) == "gates-8bit"


def test_a_path_may_have_a_colon(tmp_path):
    path = tmp_path / "a:b.toml"
    path.write_text('name = "mine"\n[quantize]\nbits = 4\ngroup_size = 64\n')
    assert load_variation(str(path)).name == "mine"
    changed = load_variation(f"{path}:bits=8")
    assert changed.default is not None and changed.default.bits == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "gates-8bit:bit=4",
            r"unknown key 'bit' \(did you mean 'bits'\?\); valid: bits, group_size, mode, method, unaligned",
        ),
        ("gates-8bit:bits=four", "bits is a whole number, not 'four'"),
        ("gates-8bit:bits=4,bits=5", "bits is given twice"),
        ("gates-8bit:bits=7", "7"),
        ("gate-8bit:bits=4", "gates-8bit"),
    ],
)
def test_a_change_that_means_nothing_is_refused(text, message):
    with pytest.raises(RecipeError, match=message):
        load_variation(text)


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "CONFIG", "-r", "gates-8bit:bits=4"],
        ["recipes", "gates-8bit:bits=4"],
        ["diff", "gates-8bit", "gates-8bit:bits=4", "--source", "CONFIG"],
        ["bench", "--predict", "CONFIG", "--recipe", "gates-8bit:bits=4", "--chip", "M3 Ultra"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_that_takes_a_recipe_takes_a_variation(words, tiny_qwen):
    config = str(tiny_qwen / "config.json")
    done = CliRunner().invoke(main, [config if word == "CONFIG" else word for word in words])
    assert done.exit_code == 0, done.stderr
    assert "gates-8bit --bits 4" in done.stdout or "gates-8bit:bits=4" in done.stdout
