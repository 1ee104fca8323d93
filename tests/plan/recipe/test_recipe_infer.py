"""The recipe that a build amounts to: short, and the same build again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.errors import BuildError
from mlxquant.plan.decide import decide
from mlxquant.plan.recipe.infer import recipe_of
from mlxquant.plan.recipe.recipe import Recipe, available, load_recipe, parse_recipe
from mlxquant.words.formats import Format, FormatChoice
from mlxquant.words.modules import Module
from tests.plan.recipe_models import MXFP4, QWEN, qwen35, tiny

FORMATS = [None, Format(8, 64), Format(4, 64), Format(4, 32), MXFP4]


def formats(recipe: Recipe, modules: Sequence[Module], n_layers: int) -> dict[str, Format | None]:
    return {path: d.format for path, d in decide(recipe, modules, n_layers=n_layers).by_path.items()}


def found(wanted: dict[str, Format | None], modules: Sequence[Module], n_layers: int) -> Recipe:
    """The recipe found for a build, after seeing that it gives the build back."""
    recipe = parse_recipe(recipe_of(modules, wanted, n_layers=n_layers))
    assert formats(recipe, modules, n_layers) == wanted
    return recipe


def of_shipped(name: str) -> Recipe:
    return found(formats(load_recipe(name), QWEN, 48), QWEN, 48)


@pytest.mark.parametrize(
    ("name", "n_rules"),
    [
        ("none", 0), ("uniform-8bit", 0), ("gates-8bit", 1), ("deepseek-8bit", 1), ("naive-linear-8bit", 1),
        ("mlx-lm-default", 1), ("gates-4bit", 1), ("deepseek-4bit", 1), ("mixed-3-6", 3), ("mixed-4-6", 3),
    ],
)  # fmt: skip
def test_a_shipped_recipes_build_is_told_in_few_rules(name: str, n_rules: int) -> None:
    recipe = of_shipped(name)
    assert len(recipe.rules) == n_rules
    shipped = load_recipe(name).default
    assert recipe.default == (FormatChoice.of(shipped.formats[0]) if shipped else None)


@pytest.mark.parametrize(("name", "n_rules"), [("roles-4bit", 6), ("roles-3bit", 6), ("roles-2bit", 6)])
def test_a_build_with_bits_by_role_is_told_in_few_rules(name: str, n_rules: int) -> None:
    """Its default is the format of most weights, which the shipped recipe gives to experts by a rule."""
    assert len(of_shipped(name).rules) <= n_rules


def test_rules_speak_of_roles_layer_types_and_depth_before_they_list_paths() -> None:
    base = load_recipe("uniform-8bit", sets=["role=router,shared_expert_gate,layer_type=full_attention:keep"])
    (rule,) = found(formats(base, QWEN, 48), QWEN, 48).rules
    assert rule.match.as_dict() == {"role": ["router", "shared_expert_gate"], "layer_type": "full_attention"}

    deep = load_recipe("uniform-8bit", sets=["role=expert,layers=40..:bits=6"])
    (rule,) = found(formats(deep, QWEN, 48), QWEN, 48).rules
    assert rule.match.as_dict() == {"role": "expert", "layers": "40..48"}

    one = load_recipe("uniform-8bit", sets=["path=*.5.mlp.gate:keep"])
    (rule,) = found(formats(one, QWEN, 48), QWEN, 48).rules
    assert rule.match.as_dict() == {"role": "router", "layers": 5}

    named = load_recipe("uniform-8bit", sets=["path=*.v_proj:bits=4,group_size=64"])
    (rule,) = found(formats(named, QWEN, 48), QWEN, 48).rules
    assert (rule.match.as_dict(), rule.action()) == ({"path": "*.self_attn.v_proj"}, {"bits": 4, "group_size": 64})


def test_every_rule_says_what_was_seen() -> None:
    (rule,) = of_shipped("naive-linear-8bit").rules
    assert rule.reason == "as built: 144 expert not quantized"


def test_modules_that_do_not_divide_become_unaligned_keep() -> None:
    odd = tiny(down_proj=(8, 256, 96))
    recipe = found(formats(load_recipe("uniform-8bit", group_size=128, unaligned="keep"), odd, 2), odd, 2)
    assert (recipe.unaligned, recipe.rules) == ("keep", ())


def test_a_mode_beside_affine_comes_back() -> None:
    recipe = found(formats(load_recipe("uniform-8bit", sets=["role=router:mode=mxfp4"]), tiny(), 2), tiny(), 2)
    assert recipe.rules[0].action() == {"bits": 4, "mode": "mxfp4"}


def test_what_the_source_stored_quantized_needs_no_rule() -> None:
    modules = [replace(m, prequantized=MXFP4) if m.role == "expert" else m for m in tiny()]
    assert found(formats(load_recipe("uniform-8bit"), modules, 2), modules, 2).rules == ()


def test_a_format_that_mlx_lacks_cannot_become_a_recipe() -> None:
    with pytest.raises(BuildError, match="mode affine has 2, 3, 4, 5, 6 or 8 bits, not 7"):
        recipe_of(tiny(), {m.path: Format(7, 64) for m in tiny() if m.quantizable}, n_layers=2)


@given(st.data())
def test_any_choice_of_formats_comes_back(data: st.DataObject) -> None:
    modules = tiny()
    wanted = {m.path: data.draw(st.sampled_from(FORMATS)) if m.quantizable else None for m in modules}
    found(wanted, modules, 2)


SMALL = qwen35(8)
KEYS = {
    "role": lambda m: m.role,
    "type": lambda m: (m.role, m.layer_type),
    "name": lambda m: m.path.rpartition(".")[2],
    "depth": lambda m: (m.role, (m.layer or 0) // 3),
    "parity": lambda m: (m.layer or 0) % 2,
}


@pytest.mark.slow
@given(st.sampled_from(sorted(KEYS)), st.randoms(use_true_random=False), st.integers(0, 3))
def test_any_orderly_choice_with_a_few_strays_comes_back(key: str, random: object, strays: int) -> None:
    pick = random.choice  # type: ignore[attr-defined]
    by_key = {k: pick(FORMATS) for k in dict.fromkeys(KEYS[key](m) for m in SMALL)}
    wanted = {m.path: by_key[KEYS[key](m)] if m.quantizable else None for m in SMALL}
    for _ in range(strays):
        wanted[pick([m.path for m in SMALL if m.quantizable])] = pick(FORMATS)
    found(wanted, SMALL, 8)


def test_every_shipped_recipe_was_tried() -> None:
    assert len(available()) == 13
