"""A recipe as mlx-lm's quant_predicate, and the recipes that claim to be mlx-lm's own, on real tiny checkpoints."""

from __future__ import annotations

import pytest

from mlxquant.decide import quant_predicate, quantize_arguments
from mlxquant.errors import PlanError
from mlxquant.recipe import load_recipe

from .recipe_models import rules, stored, tiny


def test_a_recipe_answers_as_a_quant_predicate() -> None:
    recipe = load_recipe("mixed-4-6", sets=["role=lm_head:group_size=32"])
    predicate = quant_predicate(recipe, tiny(), n_layers=2)
    assert predicate("model.layers.0.mlp.gate", None) is False
    assert predicate("lm_head", None) == {"group_size": 32, "bits": 4, "mode": "affine"}
    assert predicate("model.norm", None) is False
    assert quantize_arguments(recipe) == {"q_bits": 4, "q_group_size": 32, "q_mode": "affine"}


def test_a_quant_predicate_refuses_another_models_modules() -> None:
    with pytest.raises(PlanError, match="elsewhere: recipe gates-8bit was laid over a model that has no such module"):
        quant_predicate(load_recipe("gates-8bit"), tiny(), n_layers=2)("elsewhere", None)


def test_a_quant_predicate_leaves_prequantized_modules_to_mlx_lm() -> None:
    assert quant_predicate(rules(), stored(), n_layers=2)("model.layers.0.mlp.switch_mlp.up_proj", None) is False
