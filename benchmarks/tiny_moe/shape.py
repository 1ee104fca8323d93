"""The tiny model's shape: a Qwen3.5-MoE of 2.0 million parameters, 4.0 MB in bf16, as transformers configures it.

Two GatedDeltaNet and two full-attention layers in turn, 16 experts of which 4 answer for a token beside a shared one,
embedding and head apart. Every input that a quantizer groups is a multiple of 64, not of 128: with experts 128 wide
only two layers would fit 4 MB, and two layers hardly look things up in two steps.
"""

from __future__ import annotations

from typing import Any

import torch
import vocabulary
from torch import Tensor

HIDDEN = 128
INNER = 64  # of one expert, and of the shared one
EXPERTS = 16
EXPERTS_PER_TOKEN = 4
HEAD = 32
QUERY_HEADS, KEY_HEADS = 4, 2  # of full attention
VALUE_HEADS_LINEAR, KEY_HEADS_LINEAR = 2, 1
LAYER_TYPES = ["linear_attention", "full_attention"] * 2
_TO_RESIDUAL = ("o_proj.weight", "out_proj.weight", "shared_expert.down_proj.weight")


def text_config() -> dict[str, Any]:
    """The fields of `text_config` in config.json."""
    ids = vocabulary.ids()
    return {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_output_gate": True,
        "dtype": "bfloat16",
        "eos_token_id": ids["<|im_end|>"],
        "full_attention_interval": 2,
        "head_dim": HEAD,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "layer_types": LAYER_TYPES,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": HEAD,
        "linear_num_key_heads": KEY_HEADS_LINEAR,
        "linear_num_value_heads": VALUE_HEADS_LINEAR,
        "linear_value_head_dim": HEAD,
        "mamba_ssm_dtype": "float32",
        "max_position_embeddings": 16384,
        "model_type": "qwen3_5_moe_text",
        "moe_intermediate_size": INNER,
        "num_attention_heads": QUERY_HEADS,
        "num_experts": EXPERTS,
        "num_experts_per_tok": EXPERTS_PER_TOKEN,
        "num_hidden_layers": len(LAYER_TYPES),
        "num_key_value_heads": KEY_HEADS,
        "pad_token_id": ids["<|endoftext|>"],
        "rms_norm_eps": 1e-06,
        "rope_parameters": {
            "mrope_section": [2, 1, 1],  # half of the rotated quarter of a head: 32 / 4 / 2
            "partial_rotary_factor": 0.25,
            "rope_theta": 10000.0,
            "rope_type": "default",
        },
        "router_aux_loss_coef": 0.001,
        "shared_expert_intermediate_size": INNER,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": vocabulary.SIZE,
    }


def model() -> Any:
    """Build transformers' `Qwen3_5MoeForCausalLM` in float32, freshly initialized, always the same."""
    from transformers import Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig

    made = Qwen3_5MoeForCausalLM(Qwen3_5MoeTextConfig(**{**text_config(), "dtype": "float32"})).float()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() >= 2:
                _fill(name, parameter, generator)
        for layer in made.model.layers:
            if layer.block_type == "linear_attention":
                _remember(layer.linear_attn)
    return made


def _fill(name: str, parameter: Tensor, generator: torch.Generator) -> None:
    if name.endswith(_TO_RESIDUAL):
        parameter.zero_()  # a layer begins by adding nothing, but for a little from its experts
    elif "embed_tokens" in name:
        parameter.normal_(0, 0.5, generator=generator)
    elif "conv1d" in name:
        parameter.normal_(0, 0.3, generator=generator)
        parameter[:, 0, -1] += 0.5  # mostly the token itself
    elif name.endswith(("lm_head.weight", "experts.down_proj")):
        parameter.normal_(0, 0.02, generator=generator)
    else:
        parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)


def _remember(linear: Any) -> None:
    """Let the heads forget at rates from about 1/1000 to 4/10 per token; transformers' own begin at 1 and more."""
    heads = linear.A_log.numel()
    linear.A_log.copy_(torch.linspace(1, 4, heads).log())
    linear.dt_bias.copy_(torch.logspace(-3, -1, heads).expm1().log())
