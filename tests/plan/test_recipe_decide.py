"""Rules against a small model: what becomes of each module, what is an error, what a note."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlxquant.plan.decide import Decision, decide
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.words.formats import Format
from tests.plan.recipe_models import MXFP4, misfit, module, on_tiny, rules, stored, tiny

# --- one rule ---


def test_the_first_rule_that_matches_decides() -> None:
    decisions = on_tiny(rules("match={role='attention', layers=0}\nbits=6", "match={role='attention'}\nkeep=true"))
    assert decisions.by_path["model.layers.0.self_attn.q_proj"] == Decision(
        Format(6, 64), False, "because 0", "recipe#1"
    )
    assert decisions.by_path["model.layers.1.self_attn.q_proj"] == Decision(None, True, "because 1", "recipe#2")


@pytest.mark.parametrize(
    ("match", "n"),
    [
        ("{}", 12),
        ("{role='attention'}", 4),
        ("{role=['attention', 'router']}", 6),
        ("{role='attention', layers=0}", 2),
        ("{layers=-1}", 5),
        ("{path='*.v_proj'}", 2),
        ("{path=['*.v_proj', 'lm_head']}", 3),
        ("{path='model.layers.?.mlp.gate'}", 2),
        ("{path='*proj', role='expert', layers='0..1/2'}", 2),
        ("{layer_type='full_attention'}", 10),
    ],
)
def test_a_match_finds_what_meets_all_of_it(match: str, n: int) -> None:
    assert sum(d.protected for d in on_tiny(rules(f"match = {match}\nkeep = true")).by_path.values()) == n


def test_paths_are_matched_whole_and_case_counts() -> None:
    assert "path 'gate' matches no module; '*gate' would" in misfit(rules("match={path='gate'}\nkeep=true"))
    assert "matches no module" in misfit(rules("match={path='*.V_proj'}\nkeep=true"))


def test_hybrid_layers_are_attention_and_linear_attention_at_once() -> None:
    both = [module("a.0.attn", "attention", (64, 64), layer=0, layer_type="hybrid")]
    for layer_type in ("full_attention", "linear_attention", "hybrid"):
        recipe = rules(f"match={{layer_type='{layer_type}'}}\nkeep=true")
        assert decide(recipe, both, n_layers=1).by_path["a.0.attn"].protected


def test_a_method_that_a_mode_leaves_nothing_to_choose_is_warned_of() -> None:
    both = rules("match={role='attention'}\nbits=4\ngroup_size=32\nmode='mxfp4'\nmethod='gptq'")
    assert "4 modules are rounded (rtn), not encoded by gptq: mxfp4 has no bias to choose" in on_tiny(both).warnings
    alone = rules("match={role='attention'}\nbits=4\ngroup_size=32\nmode='mxfp4'")
    assert not any("rounded" in warning for warning in on_tiny(alone).warnings)


def test_use_default_takes_the_default_and_excepts_from_later_rules() -> None:
    decisions = on_tiny(rules("match={path='*.v_proj'}\nuse='default'", "match={role='attention'}\nkeep=true"))
    assert decisions.by_path["model.layers.0.self_attn.v_proj"].format == Format(8, 64)


def test_a_rule_takes_from_the_default_what_it_leaves_open() -> None:
    recipe = rules(
        "match={role='router'}\nbits=6", "match={role='expert'}\nmode='mxfp4'", "match={role='lm_head'}\ngroup_size=32"
    )
    by_path = on_tiny(recipe).by_path
    assert by_path["model.layers.0.mlp.gate"].format == Format(6, 64)
    assert by_path["model.layers.0.mlp.switch_mlp.up_proj"].format == MXFP4
    assert by_path["lm_head"].format == Format(8, 32)


def test_rules_can_quantize_a_few_modules_of_a_model_that_is_otherwise_kept() -> None:
    decisions = on_tiny(rules("match={role='expert'}\nbits=4", quantize="quantize = false"))
    assert decisions.by_path["model.layers.0.mlp.switch_mlp.up_proj"].format == Format(4, 64)
    assert decisions.by_path["lm_head"].format is None
    assert not decisions.by_path["lm_head"].protected


# --- what mlx cannot quantize ---


def test_a_norm_is_not_protected_but_says_that_mlx_cannot_quantize_it() -> None:
    decisions = on_tiny(rules("keep = true"))
    assert decisions.by_path["model.norm"] == Decision(None, False, "RMSNorm: mlx has no quantized form")


def test_a_raw_array_router_says_so_and_a_role_rule_for_it_is_a_note() -> None:
    raw = [*tiny(), module("model.layers.1.mlp.gate2", "router", (8, 256), kind="MoEGate", quantizable=False)]
    raw = [m for m in raw if not m.path.endswith(".gate")]
    decisions = on_tiny(rules("match={role='router'}\nbits=8"), raw)
    assert "raw array" in decisions.by_path["model.layers.1.mlp.gate2"].reason
    expected = "recipe#1 (role router): the routers stay at source precision anyway: MoEGate is a raw array"
    assert any(expected in note for note in decisions.notes)


def test_a_path_rule_for_what_mlx_cannot_quantize_is_an_error_unless_it_keeps() -> None:
    assert "no quantized form of what it matches here (RMSNorm)" in misfit(rules("match={path='*.norm'}\nbits=8"))
    assert not on_tiny(rules("match={path='*.norm'}\nkeep=true")).by_path["model.norm"].protected


# --- what the source already stores quantized ---


def test_prequantized_experts_stay_as_they_are_under_a_blanket_default() -> None:
    decisions = on_tiny(rules(), stored())
    expert = decisions.by_path["model.layers.0.mlp.switch_mlp.up_proj"]
    assert (expert.format, expert.protected) == (MXFP4, False)
    assert "the source already stores 4 expert modules as mxfp4 g32; they stay so" in decisions.notes


@pytest.mark.parametrize("match", ["{role='expert'}", "{path='*.switch_mlp.*'}", "{role=['router','expert']}"])
def test_a_rule_that_names_them_with_another_format_is_an_error(match: str) -> None:
    assert "already stores model.layers.0.mlp.switch_mlp.up_proj and 3 more as mxfp4 g32" in misfit(
        rules(f"match={match}\nbits=4"), stored()
    )


@pytest.mark.parametrize("rule", ["match={role='expert'}\nmode='mxfp4'", "match={role='expert'}\nkeep=true", "bits=4"])
def test_a_rule_that_asks_the_same_or_names_nobody_is_none(rule: str) -> None:
    assert on_tiny(rules(rule), stored()).by_path["model.layers.0.mlp.switch_mlp.up_proj"].format == MXFP4


# --- dimensions ---


def test_a_dimension_that_does_not_divide_is_an_error_that_names_the_modules() -> None:
    message = misfit(load_recipe("uniform-8bit", group_size=128), tiny(down_proj=(8, 256, 96)))
    assert message == (
        "recipe uniform-8bit --group-size 128: model.layers.0.mlp.switch_mlp.down_proj,"
        " model.layers.1.mlp.switch_mlp.down_proj: "
        "group size 128 (the default) does not divide the input dimension 96; "
        "group size 32 would, or leave them with --unaligned keep"
    )


def test_unaligned_keep_leaves_them_and_says_so_without_calling_them_protected() -> None:
    decisions = on_tiny(load_recipe("uniform-8bit", group_size=128, unaligned="keep"), tiny(down_proj=(8, 256, 96)))
    left = decisions.by_path["model.layers.0.mlp.switch_mlp.down_proj"]
    assert (left.format, left.protected, left.unaligned) == (None, False, 128)
    assert left.reason == "left unquantized: group size 128 does not divide its input dimension 96"
    assert any(note.startswith("2 modules are left unquantized") for note in decisions.notes)


def test_every_rule_and_width_that_fails_is_told_at_once() -> None:
    recipe = rules("match={role='expert'}\nbits=4\ngroup_size=128", "match={role='lm_head'}\nmode='mxfp4'")
    message = misfit(recipe, tiny(down_proj=(8, 256, 96), lm_head=(512, 40), gate=(8, 40)))
    assert "group size 128 (recipe#1) does not divide the input dimension 96; group size 32 would" in message
    assert (
        "lm_head: group size 32 (recipe#2) does not divide the input dimension 40; no group size of mxfp4 does"
        in message
    )
    assert "mlp.gate: group size 64 (the default) does not divide the input dimension 40" in message


def test_what_is_kept_need_not_divide() -> None:
    assert on_tiny(rules("match={role='router'}\nkeep=true"), tiny(gate=(8, 40)))


def test_under_use_model_the_defaults_group_must_divide_first_as_in_mlx_lm() -> None:
    odd = [replace(m, model_rule=Format(8, 32)) if m.role == "router" else m for m in tiny(gate=(8, 96))]
    decisions = on_tiny(load_recipe("mlx-lm-default"), odd)
    assert decisions.by_path["model.layers.0.mlp.gate"].format is None
    assert decisions.by_path["model.layers.0.mlp.gate"].unaligned == 64


@pytest.mark.parametrize(
    ("answer", "chosen", "protected"),
    [
        (True, Format(4, 64), False),
        (None, Format(4, 64), False),
        (False, None, True),
        (Format(6, 32), Format(6, 32), False),
    ],
)
def test_use_model_takes_each_kind_of_answer(
    answer: Format | bool | None, chosen: Format | None, protected: bool
) -> None:
    modules = [replace(m, model_rule=answer) for m in tiny()]
    decision = on_tiny(load_recipe("mlx-lm-default"), modules).by_path["lm_head"]
    assert (decision.format, decision.protected) == (chosen, protected)
