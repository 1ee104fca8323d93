"""Recipes that name several group sizes: a module takes the first that divides its input, and every record says so."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlxquant.builds.read.build import read_build
from mlxquant.check.audit import audit_build
from mlxquant.cli import main
from mlxquant.errors import RecipeError
from mlxquant.evals.store.model import write_store_moe
from mlxquant.plan.predicate import quantize_arguments
from mlxquant.plan.recipe.infer import recipe_of
from mlxquant.plan.recipe.recipe import Recipe, load_recipe, parse_recipe
from mlxquant.plan.recipe.variation import load_variation, name_of
from mlxquant.report.audit import audit_text
from mlxquant.report.plan import plan_text
from mlxquant.sweep.candidates import split_words, variations
from mlxquant.words.formats import Format, FormatChoice

from .recipe_models import QWEN, misfit, on_tiny, tiny

DOWN = "model.layers.0.mlp.switch_mlp.down_proj"
LISTED = "[quantize]\nbits = 8\ngroup_size = [128, 64, 32]\n"


def listed(text: str = "") -> Recipe:
    return parse_recipe(LISTED + text)


@pytest.mark.parametrize(("width", "size"), [(256, 128), (192, 64), (96, 32)])
def test_a_module_takes_the_first_group_size_that_divides_its_input(width: int, size: int) -> None:
    decision = on_tiny(listed(), tiny(down_proj=(8, 256, width))).by_path[DOWN]
    assert decision.format == Format(8, size)
    assert decision.preferred == (None if size == 128 else 128)


def test_a_decision_says_why_it_took_a_smaller_one() -> None:
    decisions = on_tiny(listed(), tiny(down_proj=(8, 256, 96)))
    assert decisions.by_path[DOWN].reason.endswith("; group size 32, since 128 does not divide its input dimension 96")
    ruled = on_tiny(
        listed('[[rules]]\nmatch = {role = "expert"}\nbits = 4\nreason = "why"'), tiny(down_proj=(8, 256, 96))
    )
    assert ruled.by_path[DOWN].reason == "why; group size 32, since 128 does not divide its input dimension 96"


def test_an_input_that_none_divides_is_an_error_that_names_them_all() -> None:
    message = misfit(listed(), tiny(down_proj=(8, 256, 80)))
    assert "group size 128, 64 or 32 (the default) does not divide the input dimension 80; no group size of" in message
    left = on_tiny(replace(listed(), unaligned="keep"), tiny(down_proj=(8, 256, 80))).by_path[DOWN]
    assert (left.format, left.unaligned) == (None, 32)


def test_a_rule_may_have_a_list_too_and_so_may_set() -> None:
    rule = '[[rules]]\nmatch = {role = "expert"}\ngroup_size = [64, 32]\nreason = "why"'
    assert on_tiny(parse_recipe(f"[quantize]\nbits = 8\n{rule}")).by_path[DOWN].format == Format(8, 64)
    typed = load_recipe("uniform-8bit", sets=["role=expert:group_size=64,32,bits=4"])
    assert on_tiny(typed, tiny(down_proj=(8, 256, 96))).by_path[DOWN].format == Format(4, 32)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ("[]", "group_size is a list of whole numbers such as [128, 64, 32], not []"),
        ("[64, 'x']", "group_size is a list of whole numbers such as [128, 64, 32], not [64, 'x']"),
        ("[64, true]", "group_size is a list of whole numbers"),
        ("[32, 64]", "group_size [32, 64]: 64 is never taken, since 32 before it divides all that it does"),
        ("[64, 64]", "64 is never taken"),
        ("[128, 48]", "mode affine has group size 32, 64 or 128, not 48"),
        ("'64'", "group_size is a whole number, or a list of them, not '64'"),
    ],
)
def test_a_list_that_means_nothing_is_refused(sizes: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"[quantize]\nbits = 8\ngroup_size = {sizes}")
    assert words in str(caught.value)


def test_a_plain_group_size_hashes_and_reads_as_ever() -> None:
    plain = parse_recipe("[quantize]\nbits = 8\ngroup_size = 128")
    decides = {"quantize": {"group_size": 128, "bits": 8, "mode": "affine"}, "unaligned": "error", "rules": []}
    text = json.dumps(decides, sort_keys=True, separators=(",", ":"))
    assert plain.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert plain.as_dict()["schema"] == "mlxquant.recipe/1"
    assert parse_recipe("[quantize]\nbits = 8\ngroup_size = [128]").sha256 == plain.sha256


def test_a_list_is_part_of_the_hash_and_comes_back_from_the_record() -> None:
    recipe = listed('[[rules]]\nmatch = {role = "expert"}\ngroup_size = [64, 32]\nreason = "why"')
    assert recipe.sha256 != parse_recipe("[quantize]\nbits = 8\ngroup_size = 128").sha256
    record = json.loads(json.dumps(recipe.as_dict()))
    assert (record["schema"], record["quantize"]["group_size"]) == ("mlxquant.recipe/2", [128, 64, 32])
    assert Recipe.from_dict(record) == recipe


def test_the_papers_recipes_give_the_papers_model_group_128_throughout() -> None:
    from mlxquant.plan.decide import decide

    for name in ("gates-8bit", "deepseek-8bit", "uniform-8bit", "naive-linear-8bit"):
        decisions = decide(load_recipe(name), QWEN, n_layers=48).by_path.values()
        assert {d.format for d in decisions if d.format} == {Format(8, 128)}
        assert not any(d.preferred for d in decisions)


def test_the_command_line_and_variations_take_several() -> None:
    recipe = load_recipe("gates-8bit", group_size=(128, 64))
    assert recipe.default == FormatChoice(8, (128, 64))
    assert recipe.overrides == ("--group-size 128,64",)
    assert load_variation("gates-8bit:group_size=128,64,bits=4") == load_recipe(
        "gates-8bit", bits=4, group_size=[128, 64]
    )
    assert name_of("gates-8bit:group-size=128,64", recipe) == "gates-8bit:group_size=128,64"
    assert split_words("gates-8bit:group_size=128,64,none") == ["gates-8bit:group_size=128,64", "none"]
    assert variations(["gates-8bit:group_size=128,64"], [4]) == ["gates-8bit:bits=4,group_size=128,64"]
    with pytest.raises(RecipeError, match="group_size is a whole number, or several with commas, not '128,x'"):
        load_variation("gates-8bit:group_size=128,x")


def test_mlx_lm_gets_the_smallest_so_that_it_drops_nothing() -> None:
    assert quantize_arguments(load_recipe("gates-8bit"))["q_group_size"] == 32


def test_the_recipe_of_a_build_has_a_list_where_that_saves_rules() -> None:
    modules = tiny(down_proj=(8, 256, 96))
    formats = {path: d.format for path, d in on_tiny(listed(), modules).by_path.items()}
    again = parse_recipe(recipe_of(modules, formats, n_layers=2))
    assert (again.default, again.rules) == (FormatChoice(8, (128, 32)), ())


def test_plan_audit_and_manifest_say_where_a_smaller_one_was_taken(tmp_path: Path) -> None:
    source, build = tmp_path / "store-moe", tmp_path / "build"
    write_store_moe(source)
    runner = CliRunner()
    shown = runner.invoke(main, ["plan", str(source), "-r", "gates-8bit", "--json"])
    plan = json.loads(shown.stdout)
    smaller = {m["path"]: m["format"]["group_size"] for m in plan["modules"] if m.get("preferred_group_size") == 128}
    assert smaller and set(smaller.values()) <= {64, 32}
    assert "in place of 128, which does not divide their input, in" in " ".join(plan_text(plan).split())
    assert runner.invoke(main, ["convert", str(source), "-r", "gates-8bit", "-o", str(build)]).exit_code == 0
    assert json.loads((build / "mlxquant.json").read_text())["smaller_group_sizes"] == smaller
    record = audit_build(read_build(build))
    assert {m["path"] for m in record["modules"] if m.get("preferred_group_size")} == set(smaller)
    assert "in place of 128, which does not divide" in " ".join(audit_text(record, "build").split())
    assert "in place of 128, which does not divide" in (build / "AUDIT.md").read_text()
