"""Rules against models: real module tables, typed in, no mlx."""

from __future__ import annotations

import pytest

from mlxquant.decide import Decisions, decide
from mlxquant.errors import PlanError
from mlxquant.formats import Format
from mlxquant.modules import Array, Module
from mlxquant.recipe import available, load_recipe


def module(
    path: str,
    role: str,
    shape: tuple[int, ...],
    *,
    kind: str = "Linear",
    layer: int | None = None,
    layer_type: str | None = None,
    quantizable: bool = True,
    model_rule: Format | bool | None = None,
    prequantized: Format | None = None,
) -> Module:
    arrays = (Array("weight", shape, "BF16", "BF16"),)
    return Module(path, kind, role, layer, layer_type, arrays, quantizable, model_rule, prequantized)


def qwen35(n_layers: int = 48) -> list[Module]:
    """Qwen3.5-122B-A10B as config.json has it: hidden 3072, 256 experts x 1024, full attention every fourth layer."""
    h, gate8, top = 3072, Format(8, 64), "language_model.model"
    modules = [
        module(f"{top}.embed_tokens", "embedding", (248320, h), kind="Embedding", model_rule=True),
        module("language_model.lm_head", "lm_head", (248320, h), model_rule=True),
        module(f"{top}.norm", "norm", (h,), kind="RMSNorm", quantizable=False),
    ]
    for i in range(n_layers):
        full = i % 4 == 3
        kind = "full_attention" if full else "linear_attention"

        def add(
            name: str, role: str, shape: tuple[int, ...], rule: Format | bool = True, *,
            cls: str = "Linear", can: bool = True, i: int = i, kind: str = kind,
        ) -> None:  # fmt: skip
            modules.append(
                module(f"{top}.layers.{i}.{name}", role, shape, kind=cls, layer=i, layer_type=kind,
                       quantizable=can, model_rule=rule if can else None)
            )  # fmt: skip

        if full:
            for name, shape in {
                "q_proj": (16384, h), "k_proj": (512, h), "v_proj": (512, h), "o_proj": (h, 8192),
            }.items():  # fmt: skip
                add(f"self_attn.{name}", "attention", shape)
            for name in ("q_norm", "k_norm"):
                add(f"self_attn.{name}", "norm", (256,), cls="RMSNorm", can=False)
        else:
            for name, shape in {
                "in_proj_qkv": (12288, h), "in_proj_z": (8192, h), "in_proj_b": (64, h), "in_proj_a": (64, h),
                "out_proj": (h, 8192),
            }.items():  # fmt: skip
                add(f"linear_attn.{name}", "linear_attention", shape)
            add("linear_attn.conv1d", "linear_attention", (12288, 4, 1), cls="Conv1d", can=False)
            add("linear_attn.A_log", "linear_attention", (64,), cls="array", can=False)
            add("linear_attn.norm", "norm", (128,), cls="RMSNormGated", can=False)
        add("mlp.gate", "router", (256, h), gate8)
        add("mlp.shared_expert_gate", "shared_expert_gate", (1, h), gate8)
        for name, shape in {"gate_proj": (1024, h), "up_proj": (1024, h), "down_proj": (h, 1024)}.items():
            add(f"mlp.switch_mlp.{name}", "expert", (256, *shape), cls="SwitchLinear")
            add(f"mlp.shared_expert.{name}", "shared_expert", shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            add(name, "norm", (h,), cls="RMSNorm", can=False)
    return modules


QWEN = qwen35()


def bytes_of(modules: list[Module], decisions: Decisions) -> int:
    total = 0
    for m in modules:
        chosen = decisions.by_path[m.path].format
        size = m.parameters
        total += size * chosen.bits // 8 + size // chosen.group_size * 4 if chosen else size * 2
    return total


def on_qwen(name: str, **overrides: object) -> Decisions:
    return decide(load_recipe(name, **overrides), QWEN, n_layers=48)  # type: ignore[arg-type]


def protected_roles(decisions: Decisions) -> dict[str, int]:
    roles = [m.role for m in QWEN if decisions.by_path[m.path].protected]
    return {role: roles.count(role) for role in dict.fromkeys(roles)}


@pytest.mark.parametrize("name", [recipe.name for recipe in available()])
def test_every_shipped_recipe_applies_to_qwen35_without_a_warning_or_with_a_known_one(name: str) -> None:
    decisions = on_qwen(name)
    assert list(decisions.by_path) == [m.path for m in QWEN]
    assert len(decisions.warnings) == (1 if name == "mlx-lm-default" else 0)


def test_the_papers_agentic_build_protects_146_modules() -> None:
    assert protected_roles(on_qwen("deepseek-8bit")) == {
        "embedding": 1, "lm_head": 1, "attention": 48, "router": 48, "shared_expert_gate": 48,
    }  # fmt: skip


def test_the_papers_base_build_protects_96_gates() -> None:
    assert protected_roles(on_qwen("gates-8bit")) == {"router": 48, "shared_expert_gate": 48}


@pytest.mark.parametrize(
    ("name", "bpw"),
    [("uniform-8bit", 8.2501), ("gates-8bit", 8.2525), ("deepseek-8bit", 8.4093), ("naive-linear-8bit", 15.610)]
)  # fmt: skip
def test_bits_per_weight_are_the_papers(name: str, bpw: float) -> None:
    parameters = sum(m.parameters for m in QWEN)
    assert bytes_of(QWEN, on_qwen(name)) * 8 / parameters == pytest.approx(bpw, abs=0.0006)


def test_a_group_size_that_does_not_divide_is_an_error_naming_the_module() -> None:
    odd = [module("lm_head", "lm_head", (100, 96))]
    with pytest.raises(
        PlanError, match=r"lm_head: group size 128 .* does not divide the input dimension 96; group size 32"
    ):
        decide(load_recipe("uniform-8bit"), odd, n_layers=1)
