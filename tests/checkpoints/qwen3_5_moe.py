"""Qwen3.5-MoE in small: every tensor name, dtype and config field of the real one, at any size.

Fused 3-D experts, three GatedDeltaNet layers to one of full attention, a shared expert with its gate, `A_log` in
float32, the multi-token-prediction head under `mtp.`, and the vision tower if asked for. Norms are stored
zero-centred, as the Hub has them: the model adds 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.checkpoints.blueprint import (
    HEAD,
    Blueprint,
    Size,
    Tensor,
    block_norms,
    embedding,
    head,
    linear,
    matrix,
    norm,
    swiglu,
    vector,
)
from tests.checkpoints.tokenizer import token_ids

_KERNEL = 4
_VISION = {
    "deepstack_visual_indexes": [],
    "depth": 1,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 64,
    "in_channels": 3,
    "initializer_range": 0.02,
    "intermediate_size": 128,
    "model_type": "qwen3_5_moe",
    "num_heads": 2,
    "num_position_embeddings": 64,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def qwen3_5_moe(size: Size, *, vision: bool = False, mtp: bool = True) -> Blueprint:
    """Plan a Qwen3.5-MoE of that size, with or without vision tower and multi-token prediction."""
    model, files = "model.language_model", {}
    types = ["linear_attention" if (i + 1) % 4 else "full_attention" for i in range(size.layers)]
    config = _config(size, types, mtp)
    tensors: list[Tensor] = []
    if vision:
        config["vision_config"] = {**_VISION, "out_hidden_size": size.hidden}
        files["preprocessor_config.json"] = _preprocessor()
        tensors += _tower(config["vision_config"], size.stored)
    tensors.append(embedding(f"{model}.embed_tokens", size))
    for i, kind in enumerate(types):
        tensors += _layer(f"{model}.layers.{i}", kind, size)
    tensors += [norm(f"{model}.norm", size.hidden, size.stored, mean=0.0), head("lm_head", size)]
    if mtp:
        tensors += _mtp(size)
    return Blueprint(config, tensors, files)


def _layer(path: str, kind: str, size: Size) -> Iterator[Tensor]:
    yield from (_attention if kind == "full_attention" else _delta_net)(path, size)
    yield from _experts(f"{path}.mlp", size)
    yield from block_norms(path, size, mean=0.0)


def _attention(path: str, size: Size) -> Iterator[Tensor]:
    width, dtype, attn = size.heads * HEAD, size.stored, f"{path}.self_attn"
    yield from linear(f"{attn}.q_proj", 2 * width, size.hidden, dtype)  # queries and the output gate
    yield from linear(f"{attn}.k_proj", 2 * HEAD, size.hidden, dtype)
    yield from linear(f"{attn}.v_proj", 2 * HEAD, size.hidden, dtype)
    yield from linear(f"{attn}.o_proj", size.hidden, width, dtype)
    yield norm(f"{attn}.q_norm", HEAD, dtype, mean=0.0)
    yield norm(f"{attn}.k_norm", HEAD, dtype, mean=0.0)


def _delta_net(path: str, size: Size) -> Iterator[Tensor]:
    heads, dtype, attn = size.heads, size.stored, f"{path}.linear_attn"
    value = heads * HEAD
    mixed = 2 * value  # queries and keys have half as many heads as values
    # decay per token is exp(-exp(A_log) * softplus(a + dt_bias)): about 0.8 here
    yield vector(f"{attn}.dt_bias", heads, mean=-3.0, std=0.5, dtype=dtype)
    yield vector(f"{attn}.A_log", heads, mean=1.5, std=0.5, dtype="F32")
    yield matrix(f"{attn}.conv1d.weight", mixed, 1, _KERNEL, dtype=dtype)
    yield norm(f"{attn}.norm", HEAD, dtype)
    yield from linear(f"{attn}.out_proj", size.hidden, value, dtype)
    yield from linear(f"{attn}.in_proj_qkv", mixed, size.hidden, dtype)
    yield from linear(f"{attn}.in_proj_z", value, size.hidden, dtype)
    yield from linear(f"{attn}.in_proj_b", heads, size.hidden, dtype)
    yield from linear(f"{attn}.in_proj_a", heads, size.hidden, dtype)


def _experts(path: str, size: Size) -> Iterator[Tensor]:
    dtype = size.stored
    yield from linear(f"{path}.gate", size.experts, size.hidden, dtype, gain=2.0)
    yield matrix(f"{path}.experts.gate_up_proj", size.experts, 2 * size.inner, size.hidden, dtype=dtype)
    yield matrix(f"{path}.experts.down_proj", size.experts, size.hidden, size.inner, dtype=dtype)
    yield from swiglu(f"{path}.shared_expert", size.inner, size)
    yield from linear(f"{path}.shared_expert_gate", 1, size.hidden, dtype)


def _mtp(size: Size) -> Iterator[Tensor]:
    yield from linear("mtp.fc", size.hidden, 2 * size.hidden, size.stored)
    yield from _layer("mtp.layers.0", "full_attention", size)
    for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        yield norm(f"mtp.{name}", size.hidden, size.stored, mean=0.0)


def _tower(vision: dict[str, Any], dtype: str) -> Iterator[Tensor]:
    hidden, patch, path = vision["hidden_size"], vision["patch_size"], "model.visual"
    pixels = (hidden, vision["in_channels"], vision["temporal_patch_size"], patch, patch)
    yield Tensor(f"{path}.patch_embed.proj.weight", pixels, 0.02, dtype=dtype)
    yield vector(f"{path}.patch_embed.proj.bias", hidden, dtype=dtype)
    yield matrix(f"{path}.pos_embed.weight", vision["num_position_embeddings"], hidden, dtype=dtype)
    for i in range(vision["depth"]):
        block = f"{path}.blocks.{i}"
        for name in ("norm1", "norm2"):
            yield norm(f"{block}.{name}", hidden, dtype)
            yield vector(f"{block}.{name}.bias", hidden, dtype=dtype)
        yield from linear(f"{block}.attn.qkv", 3 * hidden, hidden, dtype, bias=True)
        yield from linear(f"{block}.attn.proj", hidden, hidden, dtype, bias=True)
        yield from linear(f"{block}.mlp.linear_fc1", vision["intermediate_size"], hidden, dtype, bias=True)
        yield from linear(f"{block}.mlp.linear_fc2", hidden, vision["intermediate_size"], dtype, bias=True)
    merged = hidden * vision["spatial_merge_size"] ** 2
    yield norm(f"{path}.merger.norm", hidden, dtype)
    yield vector(f"{path}.merger.norm.bias", hidden, dtype=dtype)
    yield from linear(f"{path}.merger.linear_fc1", merged, merged, dtype, bias=True)
    yield from linear(f"{path}.merger.linear_fc2", vision["out_hidden_size"], merged, dtype, bias=True)


def _config(size: Size, types: list[str], mtp: bool) -> dict[str, Any]:
    """The fields of Qwen3.5-122B-A10B's config.json with other numbers."""
    ids = token_ids()
    text = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_output_gate": True,
        "dtype": size.dtype,
        "eos_token_id": ids["<|endoftext|>"],
        "full_attention_interval": 4,
        "head_dim": HEAD,
        "hidden_act": "silu",
        "hidden_size": size.hidden,
        "initializer_range": 0.02,
        "layer_types": types,
        "linear_conv_kernel_dim": _KERNEL,
        "linear_key_head_dim": HEAD,
        "linear_num_key_heads": size.heads // 2,
        "linear_num_value_heads": size.heads,
        "linear_value_head_dim": HEAD,
        "mamba_ssm_dtype": "float32",
        "max_position_embeddings": 262144,
        "mlp_only_layers": [],
        "model_type": "qwen3_5_moe_text",
        "moe_intermediate_size": size.inner,
        "mtp_num_hidden_layers": int(mtp),
        "mtp_use_dedicated_embeddings": False,
        "num_attention_heads": size.heads,
        "num_experts": size.experts,
        "num_experts_per_tok": size.experts_per_token,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {
            "mrope_interleaved": True,
            "mrope_section": [3, 3, 2],  # half of the rotated quarter of a head: 64 / 4 / 2
            "partial_rotary_factor": 0.25,
            "rope_theta": 10000000,
            "rope_type": "default",
        },
        "router_aux_loss_coef": 0.001,
        "shared_expert_intermediate_size": size.inner,
        "use_cache": True,
        "vocab_size": size.vocab,
    }
    return {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "image_token_id": ids["<|image_pad|>"],
        "model_type": "qwen3_5_moe",
        "text_config": text,
        "tie_word_embeddings": False,
        "transformers_version": "4.57.0.dev0",
        "video_token_id": ids["<|video_pad|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
    }


def _preprocessor() -> dict[str, Any]:
    return {
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "image_std": [0.5, 0.5, 0.5],
        "merge_size": _VISION["spatial_merge_size"],
        "patch_size": _VISION["patch_size"],
        "processor_class": "Qwen3VLProcessor",
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        "temporal_patch_size": _VISION["temporal_patch_size"],
    }
