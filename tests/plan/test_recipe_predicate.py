"""Recipes beside mlx-lm itself, on real tiny checkpoints: as its quant_predicate, and as its own defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.utils import load_model, quantize_model

from mlxquant.errors import PlanError
from mlxquant.layout.layout import Layout, read_layout
from mlxquant.plan.decide import decide
from mlxquant.plan.predicate import quant_predicate, quantize_arguments
from mlxquant.plan.recipe.recipe import Recipe, load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.words.formats import Format
from tests.checkpoints import write_tiny
from tests.plan.recipe_models import rules, stored, tiny

ARCHITECTURES = [
    "qwen3_5_moe",
    "qwen3_moe",
    "mixtral",
    "deepseek_v3",
    "llama",
    "gpt_oss",
    "llama4",
    "nemotron_h",
    "granitemoehybrid",
]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predicate") / str(request.param)
    write_tiny(folder, str(request.param))
    return folder


@pytest.fixture(scope="module")
def layout(checkpoint: Path) -> Layout:
    return read_layout(open_checkpoint(str(checkpoint)))


def decided(recipe: Recipe, layout: Layout) -> dict[str, Format]:
    by_path = decide(recipe, layout.modules, n_layers=layout.n_layers).by_path
    return {path: decision.format for path, decision in by_path.items() if decision.format}


def by_mlx_lm(
    checkpoint: Path,
    predicate: Callable[[Any], Any] | None = None,
    group_size: int | None = None,
    bits: int | None = None,
) -> dict[str, Format]:
    """What mlx-lm's quantize_model does to the model: path → format, read from the quantized modules."""
    model, config = load_model(checkpoint, lazy=True)
    chosen = predicate(model) if predicate else None
    model, _ = quantize_model(model, config, group_size, bits, quant_predicate=chosen)
    return {
        path: Format(module.bits, module.group_size, module.mode)
        for path, module in model.named_modules()
        if "scales" in module
    }


def test_mlx_lm_default_is_what_mlx_lm_does(checkpoint: Path, layout: Layout) -> None:
    assert decided(load_recipe("mlx-lm-default"), layout) == by_mlx_lm(checkpoint)


def test_mlx_lm_default_at_another_width_is_too(checkpoint: Path, layout: Layout) -> None:
    recipe = load_recipe("mlx-lm-default", bits=8, group_size=32)
    assert decided(recipe, layout) == by_mlx_lm(checkpoint, None, 32, bits=8)


@pytest.mark.parametrize(("name", "theirs"), [("mixed-3-6", "mixed_3_6"), ("mixed-4-6", "mixed_4_6")])
def test_mixed_is_mlx_lms_but_for_the_gates(checkpoint: Path, layout: Layout, name: str, theirs: str) -> None:
    gates = {m.path for m in layout.modules if m.role in ("router", "shared_expert_gate")}
    ours = decided(load_recipe(name, unaligned="keep"), layout)
    expected = by_mlx_lm(checkpoint, lambda model: mixed_quant_predicate_builder(theirs, model, 64), 64)
    assert ours == {path: chosen for path, chosen in expected.items() if path not in gates}


@pytest.mark.parametrize("name", ["deepseek-8bit", "mixed-4-6", "none"])
def test_a_recipe_as_quant_predicate_gives_mlx_lm_the_recipes_formats(
    checkpoint: Path, layout: Layout, name: str
) -> None:
    recipe = load_recipe(name, unaligned="keep", sets=["role=embedding:bits=8,group_size=32"])
    predicate = quant_predicate(recipe, layout.modules, n_layers=layout.n_layers)
    arguments = quantize_arguments(recipe)
    done = by_mlx_lm(checkpoint, lambda _: predicate, arguments["q_group_size"], bits=arguments["q_bits"])
    assert done == decided(recipe, layout)


def test_a_recipe_answers_as_a_quant_predicate() -> None:
    recipe = load_recipe("mixed-4-6", sets=["role=lm_head:group_size=32"])
    predicate = quant_predicate(recipe, tiny(), n_layers=2)
    assert predicate("model.layers.0.mlp.gate", None) is False
    assert predicate("lm_head", None) == {"group_size": 32, "bits": 4, "mode": "affine"}
    assert predicate("model.norm", None) is False
    assert quantize_arguments(recipe) == {"q_bits": 4, "q_group_size": 32, "q_mode": "affine"}


def test_a_quant_predicate_refuses_another_models_modules() -> None:
    with pytest.raises(PlanError, match="elsewhere: recipe gates-8bit was planned for a model that has no such module"):
        quant_predicate(load_recipe("gates-8bit"), tiny(), n_layers=2)("elsewhere", None)


def test_a_quant_predicate_leaves_prequantized_modules_to_mlx_lm() -> None:
    assert quant_predicate(rules(), stored(), n_layers=2)("model.layers.0.mlp.switch_mlp.up_proj", None) is False


def test_a_quant_predicate_refuses_a_module_of_another_shape(checkpoint: Path, layout: Layout) -> None:
    model, _ = load_model(checkpoint, lazy=True)
    path, module = next((p, m) for p, m in model.named_modules() if hasattr(m, "to_quantized"))
    other = [replace(m, arrays=(replace(m.weight, shape=(9, 64)),)) if m.path == path else m for m in layout.modules]
    predicate = quant_predicate(load_recipe("uniform-8bit", unaligned="keep"), other, n_layers=layout.n_layers)
    with pytest.raises(PlanError, match=r"shape \[9, 64\] expected, .* found; recipe uniform-8bit"):
        predicate(path, module)


def test_a_quant_predicate_refuses_what_mlx_lm_would_drop(tmp_path: Path) -> None:
    write_tiny(tmp_path / "source", "qwen3_5_moe_vision")
    layout = read_layout(open_checkpoint(tmp_path / "source"), keep=("vision",))
    with pytest.raises(PlanError, match=r"mlx-lm's model has no vision part, so mlx_lm\.convert would drop it"):
        quant_predicate(load_recipe("gates-8bit", unaligned="keep"), layout.modules, n_layers=layout.n_layers)
