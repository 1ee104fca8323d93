"""`mlxquant recipes`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from mlxquant.builds.read.formats import Stored
from mlxquant.cli import main
from mlxquant.plan.decide import decide
from mlxquant.plan.recipe.recipe import Recipe, load_recipe
from tests.plan.recipe_models import QWEN


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["recipes", *words])


def test_the_list_names_every_shipped_recipe() -> None:
    result = run()
    assert result.exit_code == 0
    for name in ("none", "gates-8bit", "deepseek-8bit", "mixed-3-6", "mlx-lm-default"):
        assert name in result.stdout


def test_a_recipe_is_printed_with_its_rules_and_reasons_in_order() -> None:
    shown = run("deepseek-8bit", "--set", "role=mlp:bits=6").stdout
    places = [shown.index(label) for label in ("[--set#1]", "[deepseek-8bit#1]", "[deepseek-8bit#2]", "[gates-8bit#1]")]
    assert places == sorted(places)
    assert "role attention, layer_type full_attention → keep" in shown
    assert "K and V are written to the cache" in shown
    assert load_recipe("deepseek-8bit", sets=["role=mlp:bits=6"]).sha256 in shown


def test_json_is_the_record_and_nothing_else() -> None:
    assert Recipe.from_dict(json.loads(run("mixed-3-6", "--json").stdout)) == load_recipe("mixed-3-6")
    listed = json.loads(run("--json").stdout)
    assert listed["schema"] == "mlxquant.recipes/1"
    assert {Recipe.from_dict(record).name for record in listed["recipes"]} >= {"none", "deepseek-8bit"}


def test_a_users_file_is_linted(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "gates-8bit"\n[[rules]]\nmatch = { role = "atention" }\nkeep = true\n')
    result = run(str(file))
    assert result.exit_code == 2
    assert "unknown role 'atention' (did you mean 'attention'?)" in result.stderr
    assert "every rule needs a reason" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gates-8bit", "--from", "build"], "--from BUILD takes no NAME"),
        (["-o", "x.toml"], "-o FILE goes with --from BUILD"),
        (["--bits", "4"], "give its NAME"),
    ],
)
def test_words_that_do_not_go_together_are_a_usage_error(words: list[str], expected: str) -> None:
    result = run(*words)
    assert (result.exit_code, expected in result.stderr) == (2, True)


def test_help_has_an_example() -> None:
    assert "mlxquant recipes deepseek-8bit" in run("--help").stdout


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> str:
    """Stand in for a 122 B build, as `read_build` would report it: only its formats matter here."""
    decisions = decide(load_recipe("gates-8bit"), QWEN, n_layers=48).by_path
    formats = {p: d.format for p, d in decisions.items()}
    stored = {m.path: Stored(m, formats[m.path], "BF16", {}) for m in QWEN}
    read = SimpleNamespace(known=True, stored=stored, absent=(), formats=formats, n_layers=48)
    monkeypatch.setattr("mlxquant.check.recipe.read_build", lambda path: read)
    return "some/build"


def test_from_prints_the_recipe_that_a_build_amounts_to(build: str, tmp_path: Path) -> None:
    file = tmp_path / "again.toml"
    file.write_text(run("--from", build).stdout)
    again = load_recipe(str(file)).default
    assert (
        load_recipe(str(file)).sha256
        == load_recipe("gates-8bit", group_size=again.group_sizes if again else None).sha256
    )


def test_from_writes_a_file_and_refuses_to_overwrite_one(build: str, tmp_path: Path) -> None:
    file = tmp_path / "found.toml"
    result = run("--from", build, "-o", str(file))
    assert (result.exit_code, result.stdout) == (0, "")
    assert load_recipe(str(file)).name == "found"
    again = run("--from", build, "-o", str(file))
    assert (again.exit_code, "already exists" in again.stderr) == (3, True)


def test_from_as_json_is_the_recipes_record(build: str) -> None:
    assert json.loads(run("--from", build, "--json").stdout)["rules"][0]["match"] == {
        "role": ["router", "shared_expert_gate"]
    }
