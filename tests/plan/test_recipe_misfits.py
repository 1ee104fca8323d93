"""Rules that do not fit a model: errors, notes and warnings, all told at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlxquant.plan.recipe.recipe import load_recipe
from tests.plan.recipe_models import misfit, on_tiny, rules, tiny

# --- rules that do not fit ---


@pytest.mark.parametrize(
    ("glob", "advice"),
    [
        ("*.v_prj", "(did you mean 'v_proj'?)"),
        ("*.v_proj.weight", "paths name modules, not their arrays: write '*.v_proj'"),
        ("embed_tokens", "'*embed_tokens' would"),
        ("*.switch_mlp", "'*.switch_mlp*' would"),
    ],
)
def test_a_path_that_matches_nothing_is_an_error_with_a_better_one(glob: str, advice: str) -> None:
    assert advice in misfit(rules(f"match={{path='{glob}'}}\nkeep=true"))


def test_every_glob_of_a_list_must_match_unless_the_rule_is_optional() -> None:
    text = "match={path=['*.v_proj', '*.v_a_proj']}\nkeep=true"
    assert "'*.v_a_proj' matches no module" in misfit(rules(text))
    assert on_tiny(rules(text + "\noptional=true")).by_path["model.layers.0.self_attn.v_proj"].protected


def test_a_role_that_the_model_lacks_is_a_note() -> None:
    notes = on_tiny(
        rules("match={role=['router','shared_expert_gate']}\nkeep=true", "match={role='mtp'}\nkeep=true")
    ).notes
    assert notes[0] == "recipe#1 (role router or shared_expert_gate): this model has no shared_expert_gate"
    assert notes[1] == "recipe#2 (role mtp): this model has no mtp"


def test_what_is_noted_of_one_rule_is_one_note() -> None:
    raw = [replace(m, kind="MoEGate", quantizable=False) if m.role == "router" else m for m in tiny()]
    notes = on_tiny(rules("match={role=['router','shared_expert_gate']}\nkeep=true"), raw).notes
    assert notes[0] == (
        "recipe#1 (role router or shared_expert_gate): this model has no shared_expert_gate; the routers stay at"
        " source precision anyway: MoEGate is a raw array, which mlx cannot quantize"
    )
    assert not any("recipe#1" in note for note in notes[1:])


def test_layers_and_layer_types_that_the_model_lacks_are_notes() -> None:
    notes = on_tiny(rules("match={layers=60}\nkeep=true", "match={layer_type='sliding'}\nkeep=true")).notes
    assert "lie outside this model's 2, 0 to 1" in notes[0]
    assert "this model has no sliding_attention layer; it has full_attention" in notes[1]


def test_what_set_asks_must_be_there() -> None:
    for text in ("role=mtp:keep", "layers=60:keep", "role=attention,layer_type=sliding:keep"):
        assert text in misfit(load_recipe("uniform-8bit", sets=[text]))


def test_a_rule_wholly_shadowed_by_its_own_files_rules_is_an_error() -> None:
    message = misfit(rules("match={role='attention'}\nkeep=true", "match={path='*.q_proj'}\nbits=6"))
    assert "recipe#2 (path *.q_proj): never applies: recipe#1 before it matches all 2 of its modules" in message


def test_a_rule_shadowed_by_two_together_is_shadowed() -> None:
    halves = [f"match={{role='attention', layers={i}}}\nkeep=true" for i in (0, 1)]
    assert "never applies: recipe#1, recipe#2 before it match all" in misfit(
        rules(*halves, "match={role='attention'}\nbits=6")
    )


def test_overriding_an_extended_recipes_rule_is_a_note() -> None:
    notes = on_tiny(load_recipe("gates-8bit", sets=["role=router:bits=8"])).notes
    assert any("gates-8bit#1" in note and "overridden by --set#1 for all 2" in note for note in notes)


def test_all_misfits_are_told_at_once() -> None:
    recipe = rules("match={path='*.nope'}\nkeep=true", "match={path='*.norm'}\nbits=6")
    messages = misfit(recipe, tiny(lm_head=(512, 40))).splitlines()
    assert len(messages) == 3


# --- warnings and notes ---


def test_a_router_or_embedding_below_8_bits_that_no_rule_names_is_a_warning() -> None:
    warnings = on_tiny(rules(quantize="[quantize]\nbits=4")).warnings
    assert [warning.split(" though")[0] for warning in warnings] == ["embedding at 4-bit g64", "router at 4-bit g64"]


@pytest.mark.parametrize(
    "rule", ["match={role=['router','embedding']}\nbits=4", "match={path=['*.gate','*embed*']}\nuse='default'"]
)
def test_none_where_a_rule_names_them(rule: str) -> None:
    assert on_tiny(rules(rule, quantize="[quantize]\nbits=4")).warnings == []


def test_sweeping_over_everything_is_not_naming() -> None:
    assert len(on_tiny(rules("match={path='*'}\nbits=4")).warnings) == 2


def test_what_fits_no_rule_is_counted_by_role() -> None:
    notes = on_tiny(rules("match={role='attention'}\nkeep=true")).notes
    assert notes == [
        "no rule matches 8 modules, which take the default, 8-bit g64: 4 expert, 2 router, 1 embedding, 1 lm_head"
    ]
