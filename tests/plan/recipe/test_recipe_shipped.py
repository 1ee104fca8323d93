"""The shipped recipes over Qwen3.5-122B-A10B as config.json has it: the paper's builds, mlx-lm's rules."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mlxquant.evals.store.model import write_store_moe
from mlxquant.layout.layout import read_layout
from mlxquant.plan.decide import Decisions, decide
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import available, load_recipe, parse_recipe
from mlxquant.plan.recipe.rules import MATCH_KEYS, RULE_KEYS
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.words.formats import MODES, Format
from mlxquant.words.modules import LAYER_TYPES, ROLES
from tests.plan.recipe_models import QWEN, qwen35


def on_qwen(name: str, **overrides: Any) -> Decisions:
    return decide(load_recipe(name, **overrides), QWEN, n_layers=48)


def protected_roles(decisions: Decisions) -> dict[str, int]:
    return dict(Counter(m.role for m in QWEN if decisions.by_path[m.path].protected))


# --- the paper's builds ---


def test_the_agentic_build_protects_146_modules() -> None:
    assert protected_roles(on_qwen("deepseek-8bit")) == {
        "embedding": 1, "lm_head": 1, "attention": 48, "router": 48, "shared_expert_gate": 48,
    }  # fmt: skip


def test_the_base_build_protects_96_gates() -> None:
    assert protected_roles(on_qwen("gates-8bit")) == {"router": 48, "shared_expert_gate": 48}


def test_the_uniform_build_protects_nothing_and_quantizes_all_that_mlx_can() -> None:
    decisions = on_qwen("uniform-8bit")
    assert {decisions.by_path[m.path].format for m in QWEN if m.quantizable} == {Format(8, 128)}
    assert protected_roles(decisions) == {}


def test_the_naive_build_quantizes_the_routers_and_misses_the_experts() -> None:
    decisions = on_qwen("naive-linear-8bit")
    assert {m.role for m in QWEN if decisions.by_path[m.path].format == Format(8, 128)} >= {"router", "embedding"}
    assert {m.role for m in QWEN if decisions.by_path[m.path].protected} == {"expert"}


@pytest.mark.parametrize(
    ("name", "bpw"),
    [("uniform-8bit", 8.2501), ("gates-8bit", 8.2525), ("deepseek-8bit", 8.4093), ("naive-linear-8bit", 15.610)],
)
def test_bits_per_weight_are_the_papers(name: str, bpw: float) -> None:
    decisions, total = on_qwen(name), 0.0
    for m in QWEN:
        chosen = decisions.by_path[m.path].format
        total += m.parameters * (chosen.bits + 32 / chosen.group_size if chosen else 16)
    assert total / sum(m.parameters for m in QWEN) == pytest.approx(bpw, abs=0.0006)


def test_none_quantizes_nothing_and_protects_nothing() -> None:
    decisions = on_qwen("none")
    assert all(d.format is None and not d.protected and d.rule is None for d in decisions.by_path.values())
    assert decisions.warnings == []


def test_a_4_bit_recipe_keeps_what_its_8_bit_sister_keeps() -> None:
    for name in ("gates", "deepseek"):
        assert protected_roles(on_qwen(f"{name}-4bit")) == protected_roles(on_qwen(f"{name}-8bit"))
    assert on_qwen("gates-4bit").by_path["language_model.lm_head"].format == Format(4, 64)


# --- shipped recipes ---


@pytest.mark.parametrize("name", [recipe.name for recipe in available()])
def test_every_shipped_recipe_decides_on_every_module_of_qwen35(name: str) -> None:
    decisions = on_qwen(name)
    assert list(decisions.by_path) == [m.path for m in QWEN]
    assert all(decision.reason for decision in decisions.by_path.values())
    assert bool(decisions.warnings) == (name == "mlx-lm-default")


@pytest.mark.parametrize(("name", "low"), [("mixed-3-6", 3), ("mixed-4-6", 4)])
@pytest.mark.parametrize("n", [1, 2, 4, 7, 8, 9, 24, 46, 48, 61])
def test_mixed_recipes_are_mlx_lms_rule_but_for_the_routers(name: str, low: int, n: int) -> None:
    modules = qwen35(n)
    decisions = decide(load_recipe(name), modules, n_layers=n)

    def mlx_lm(path: str) -> int:  # mixed_quant_predicate in mlx_lm/convert.py (0.32.2); the layer is component 3
        index = int(path.split(".")[3]) if len(path.split(".")) > 3 else 0
        more = index < n // 8 or index >= 7 * n // 8 or (index - n // 8) % 3 == 2
        if ("v_proj" in path or "v_a_proj" in path or "v_b_proj" in path) and more:
            return 6
        if "down_proj" in path and more:
            return 6
        return 6 if "lm_head" in path else low

    for m in modules:
        if m.quantizable:
            gate = m.role in ("router", "shared_expert_gate")
            assert decisions.by_path[m.path].format == (None if gate else Format(mlx_lm(m.path), 64)), m.path


def test_mlx_lm_default_takes_the_classs_own_answers() -> None:
    decisions = on_qwen("mlx-lm-default")
    gate = decisions.by_path["language_model.model.layers.0.mlp.gate"]
    assert gate.format == Format(8, 64)
    assert gate.reason.endswith("(the class says: 8-bit g64)")
    assert decisions.by_path["language_model.model.layers.3.self_attn.q_proj"].format == Format(4, 64)


# --- their README ---


def test_the_readmes_recipe_is_a_recipe(root: Path) -> None:
    text = (root / "recipes" / "README.md").read_text()
    recipe = parse_recipe(text.split("```toml\n")[1].split("```")[0])
    assert [rule.label for rule in recipe.rules] == ["mine#1", "gates-8bit#1"]


def test_the_readme_names_every_role_layer_type_and_key(root: Path) -> None:
    text = (root / "recipes" / "README.md").read_text()
    for word in (*ROLES, *LAYER_TYPES, *MATCH_KEYS, *RULE_KEYS, *MODES):
        assert word in text, word
    for words in re.findall(r'--set "([^"]+)"', text):
        assert load_recipe("uniform-8bit", sets=[words]).rules[0].label == "--set#1"


# --- bits by role ---


def bits_on_qwen(name: str, **overrides: Any) -> float:
    decisions = on_qwen(name, **overrides)
    formats = {m: decisions.by_path[m.path].format for m in QWEN}
    return sum(m.parameters * (f.bits + 32 / f.group_size if f else 16) for m, f in formats.items())


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_bits_by_role_take_no_more_than_uniform_bits_with_the_routers_kept(bits: int, tmp_path: Path) -> None:
    assert bits_on_qwen(f"roles-{bits}bit") < bits_on_qwen("gates-8bit", bits=bits, group_size=64)
    write_store_moe(tmp_path / "store")
    source = open_checkpoint(tmp_path / "store")
    layout = read_layout(source)
    uniform = load_recipe("gates-8bit", bits=bits, group_size=64)
    sizes = [make_plan(layout, each, source).totals["bytes"] for each in (load_recipe(f"roles-{bits}bit"), uniform)]
    assert 0.95 * sizes[1] < sizes[0] <= sizes[1]


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_bits_by_role_keep_the_routers_and_search_the_rest(bits: int) -> None:
    decisions = on_qwen(f"roles-{bits}bit")
    assert protected_roles(decisions) == {"router": 48, "shared_expert_gate": 48}
    assert {d.method for d in decisions.by_path.values() if d.format} == {"mse"}
    assert decisions.warnings == [] or bits == 2  # two bits for an embedding are worth a warning
