"""Module tables typed in by hand, for testing rules without mlx or a config."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlxquant.errors import PlanError
from mlxquant.plan.decide import Decisions, decide
from mlxquant.plan.recipe.recipe import Recipe, parse_recipe
from mlxquant.words.formats import Format
from mlxquant.words.modules import Array, Module

MXFP4 = Format(4, 32, "mxfp4")


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
    """Make a module with one weight."""
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


def tiny(**changes: tuple[int, ...]) -> list[Module]:
    """Two layers of everything that a test may want to name; `changes` gives a module another shape."""
    shapes = {
        "model.embed_tokens": ("embedding", (512, 256)),
        "lm_head": ("lm_head", (512, 256)),
        **{
            f"model.layers.{i}.{name}": stated
            for i in (0, 1)
            for name, stated in {
                "self_attn.q_proj": ("attention", (256, 256)),
                "self_attn.v_proj": ("attention", (64, 256)),
                "mlp.gate": ("router", (8, 256)),
                "mlp.switch_mlp.up_proj": ("expert", (8, 128, 256)),
                "mlp.switch_mlp.down_proj": ("expert", (8, 256, 128)),
            }.items()
        },
    }
    modules = [module("model.norm", "norm", (256,), kind="RMSNorm", quantizable=False)]
    for path, (role, shape) in shapes.items():
        layer = int(path.split(".")[2]) if "layers" in path else None
        kind = {"embedding": "Embedding", "expert": "SwitchLinear"}.get(role, "Linear")
        shape = changes.get(path.rpartition(".")[2], shape)
        modules.append(
            module(
                path, role, shape, kind=kind, layer=layer, layer_type="full_attention" if layer is not None else None
            )
        )
    return modules


def stored() -> list[Module]:
    """The same with experts that the source already stores as MXFP4."""
    return [replace(m, prequantized=MXFP4) if m.role == "expert" else m for m in tiny()]


def rules(*texts: str, quantize: str = "[quantize]\nbits = 8\ngroup_size = 64") -> Recipe:
    """A recipe of rules given as the inside of their tables."""
    return parse_recipe(quantize + "".join(f"\n[[rules]]\nreason = 'because {i}'\n{t}\n" for i, t in enumerate(texts)))


def on_tiny(recipe: Recipe, modules: list[Module] | None = None) -> Decisions:
    """Lay a recipe over `tiny()`, or over these."""
    return decide(recipe, modules or tiny(), n_layers=2)


def misfit(recipe: Recipe, modules: list[Module] | None = None) -> str:
    """What a recipe is refused for."""
    with pytest.raises(PlanError) as caught:
        on_tiny(recipe, modules)
    return str(caught.value)
