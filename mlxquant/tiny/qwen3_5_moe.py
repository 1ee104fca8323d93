"""Qwen3.5-MoE in small: every tensor name, dtype and config field of the real one, at any size.

Fused 3-D experts, three GatedDeltaNet layers to one of full attention, a shared expert with its gate, `A_log` in
float32, the multi-token-prediction head under `mtp.`, and the vision tower if asked for. Norms are stored
zero-centred, as the Hub has them: the model adds 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .blueprint import Blueprint, Tensor, matrix, vector, write
from .tokenizer import token_ids

_HEAD = 64  # width of an attention head, and of a linear-attention key or value head
_VISION = {"depth": 1, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "num_position_embeddings": 64}


def write_tiny_qwen3_5_moe(
    folder: Path,
    *,
    seed: int = 0,
    shards: int = 3,
    vision: bool = False,
    mtp: bool = True,
    dtype: str = "bfloat16",
    layers: int = 4,
    hidden: int = 128,
    experts: int = 8,
    experts_per_token: int = 2,
    moe_intermediate: int = 128,
    vocab: int = 512,
) -> None:
    """Write a Qwen3.5-MoE checkpoint in the Hub's layout; the defaults make 5 MB.

    The benchmark's 3.3 GB: ``layers=8, hidden=1024, experts=128, experts_per_token=8, moe_intermediate=512``.
    """
    config = _config(
        dtype=dtype,
        layers=layers,
        hidden=hidden,
        experts=experts,
        experts_per_token=experts_per_token,
        moe_intermediate=moe_intermediate,
        vocab=vocab,
        vision=vision,
        mtp=mtp,
    )
    write(folder, blueprint(config), seed=seed, shards=shards)


def blueprint(config: dict[str, Any]) -> Blueprint:
    """List the tensors that a Qwen3.5-MoE `config` asks for, and the processor files of its vision tower."""
    text = config["text_config"]
    dtype = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[text["dtype"]]
    tensors: list[Tensor] = []
    files: dict[str, Any] = {}
    if "vision_config" in config:
        tensors += _vision(config["vision_config"], dtype)
        files["preprocessor_config.json"] = _preprocessor(config["vision_config"])
    model = "model.language_model"
    tensors.append(Tensor(f"{model}.embed_tokens.weight", (text["vocab_size"], text["hidden_size"]), 1.0, dtype=dtype))
    for i, kind in enumerate(text["layer_types"]):
        tensors += _layer(f"{model}.layers.{i}", kind, text, dtype)
    tensors.append(vector(f"{model}.norm.weight", text["hidden_size"], dtype=dtype))
    tensors.append(matrix("lm_head.weight", text["vocab_size"], text["hidden_size"], dtype=dtype, gain=2.0))
    if text["mtp_num_hidden_layers"]:
        tensors += _mtp(text, dtype)
    return Blueprint(config, tensors, files)


def _layer(path: str, kind: str, text: dict[str, Any], dtype: str) -> Iterator[Tensor]:
    hidden = text["hidden_size"]
    yield from _attention(path, text, dtype) if kind == "full_attention" else _delta_net(path, text, dtype)
    yield from _experts(f"{path}.mlp", text, dtype)
    yield vector(f"{path}.input_layernorm.weight", hidden, dtype=dtype)
    yield vector(f"{path}.post_attention_layernorm.weight", hidden, dtype=dtype)


def _attention(path: str, text: dict[str, Any], dtype: str) -> Iterator[Tensor]:
    hidden, head = text["hidden_size"], text["head_dim"]
    q, kv = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    attn = f"{path}.self_attn"
    yield matrix(f"{attn}.q_proj.weight", 2 * q, hidden, dtype=dtype)  # queries and the output gate
    yield matrix(f"{attn}.k_proj.weight", kv, hidden, dtype=dtype)
    yield matrix(f"{attn}.v_proj.weight", kv, hidden, dtype=dtype)
    yield matrix(f"{attn}.o_proj.weight", hidden, q, dtype=dtype)
    yield vector(f"{attn}.q_norm.weight", head, dtype=dtype)
    yield vector(f"{attn}.k_norm.weight", head, dtype=dtype)


def _delta_net(path: str, text: dict[str, Any], dtype: str) -> Iterator[Tensor]:
    hidden, heads = text["hidden_size"], text["linear_num_value_heads"]
    key = text["linear_num_key_heads"] * text["linear_key_head_dim"]
    value = heads * text["linear_value_head_dim"]
    attn = f"{path}.linear_attn"
    # decay per token is exp(-exp(A_log) * softplus(a + dt_bias)): about 0.8 here
    yield vector(f"{attn}.dt_bias", heads, mean=-3.0, std=0.5, dtype=dtype)
    yield vector(f"{attn}.A_log", heads, mean=1.5, std=0.5, dtype="F32")
    width = 2 * key + value
    yield matrix(f"{attn}.conv1d.weight", width, 1, text["linear_conv_kernel_dim"], dtype=dtype)
    yield vector(f"{attn}.norm.weight", text["linear_value_head_dim"], mean=1.0, dtype=dtype)
    yield matrix(f"{attn}.out_proj.weight", hidden, value, dtype=dtype)
    yield matrix(f"{attn}.in_proj_qkv.weight", width, hidden, dtype=dtype)
    yield matrix(f"{attn}.in_proj_z.weight", value, hidden, dtype=dtype)
    yield matrix(f"{attn}.in_proj_b.weight", heads, hidden, dtype=dtype)
    yield matrix(f"{attn}.in_proj_a.weight", heads, hidden, dtype=dtype)


def _experts(path: str, text: dict[str, Any], dtype: str) -> Iterator[Tensor]:
    hidden, experts, inner = text["hidden_size"], text["num_experts"], text["moe_intermediate_size"]
    shared = text["shared_expert_intermediate_size"]
    yield matrix(f"{path}.gate.weight", experts, hidden, dtype=dtype, gain=2.0)
    yield matrix(f"{path}.experts.gate_up_proj", experts, 2 * inner, hidden, dtype=dtype)
    yield matrix(f"{path}.experts.down_proj", experts, hidden, inner, dtype=dtype)
    yield matrix(f"{path}.shared_expert.gate_proj.weight", shared, hidden, dtype=dtype)
    yield matrix(f"{path}.shared_expert.up_proj.weight", shared, hidden, dtype=dtype)
    yield matrix(f"{path}.shared_expert.down_proj.weight", hidden, shared, dtype=dtype)
    yield matrix(f"{path}.shared_expert_gate.weight", 1, hidden, dtype=dtype)


def _mtp(text: dict[str, Any], dtype: str) -> Iterator[Tensor]:
    hidden = text["hidden_size"]
    yield matrix("mtp.fc.weight", hidden, 2 * hidden, dtype=dtype)
    for i in range(text["mtp_num_hidden_layers"]):
        yield from _layer(f"mtp.layers.{i}", "full_attention", text, dtype)
    for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        yield vector(f"mtp.{name}.weight", hidden, dtype=dtype)


def _vision(vision: dict[str, Any], dtype: str) -> Iterator[Tensor]:
    hidden, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    path = "model.visual"
    yield Tensor(
        f"{path}.patch_embed.proj.weight",
        (hidden, vision["in_channels"], vision["temporal_patch_size"], patch, patch),
        0.02,
        dtype=dtype,
    )
    yield vector(f"{path}.patch_embed.proj.bias", hidden, dtype=dtype)
    yield matrix(f"{path}.pos_embed.weight", vision["num_position_embeddings"], hidden, dtype=dtype)
    for i in range(vision["depth"]):
        block = f"{path}.blocks.{i}"
        for norm in ("norm1", "norm2"):
            yield vector(f"{block}.{norm}.weight", hidden, mean=1.0, dtype=dtype)
            yield vector(f"{block}.{norm}.bias", hidden, dtype=dtype)
        yield from _linear(f"{block}.attn.qkv", 3 * hidden, hidden, dtype)
        yield from _linear(f"{block}.attn.proj", hidden, hidden, dtype)
        yield from _linear(f"{block}.mlp.linear_fc1", inner, hidden, dtype)
        yield from _linear(f"{block}.mlp.linear_fc2", hidden, inner, dtype)
    merged = hidden * vision["spatial_merge_size"] ** 2
    yield vector(f"{path}.merger.norm.weight", hidden, mean=1.0, dtype=dtype)
    yield vector(f"{path}.merger.norm.bias", hidden, dtype=dtype)
    yield from _linear(f"{path}.merger.linear_fc1", merged, merged, dtype)
    yield from _linear(f"{path}.merger.linear_fc2", vision["out_hidden_size"], merged, dtype)


def _linear(path: str, out: int, into: int, dtype: str) -> Iterator[Tensor]:
    yield matrix(f"{path}.weight", out, into, dtype=dtype)
    yield vector(f"{path}.bias", out, dtype=dtype)


def _config(
    *,
    dtype: str,
    layers: int,
    hidden: int,
    experts: int,
    experts_per_token: int,
    moe_intermediate: int,
    vocab: int,
    vision: bool,
    mtp: bool,
) -> dict[str, Any]:
    """The fields of Qwen3.5-122B-A10B's config.json, in its order, with other numbers."""
    ids = token_ids()
    heads = max(4, hidden // _HEAD)
    text = {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_output_gate": True,
        "dtype": dtype,
        "eos_token_id": ids["<|im_end|>"],
        "full_attention_interval": 4,
        "head_dim": _HEAD,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "layer_types": ["linear_attention" if (i + 1) % 4 else "full_attention" for i in range(layers)],
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": _HEAD,
        "linear_num_key_heads": heads // 2,
        "linear_num_value_heads": heads,
        "linear_value_head_dim": _HEAD,
        "max_position_embeddings": 262144,
        "mlp_only_layers": [],
        "model_type": "qwen3_5_moe_text",
        "moe_intermediate_size": moe_intermediate,
        "mtp_num_hidden_layers": int(mtp),
        "mtp_use_dedicated_embeddings": False,
        "num_attention_heads": heads,
        "num_experts": experts,
        "num_experts_per_tok": experts_per_token,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "router_aux_loss_coef": 0.001,
        "shared_expert_intermediate_size": moe_intermediate,
        "use_cache": True,
        "vocab_size": vocab,
        "mamba_ssm_dtype": "float32",
        "rope_parameters": {
            "mrope_interleaved": True,
            "mrope_section": [3, 3, 2],
            "rope_type": "default",
            "rope_theta": 10000000,
            "partial_rotary_factor": 0.25,
        },
    }
    config: dict[str, Any] = {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "image_token_id": ids["<|image_pad|>"],
        "model_type": "qwen3_5_moe",
        "text_config": text,
        "tie_word_embeddings": False,
        "transformers_version": "4.57.0.dev0",
        "video_token_id": ids["<|video_pad|>"],
    }
    if vision:
        config["vision_config"] = {
            "deepstack_visual_indexes": [],
            **_VISION,
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "initializer_range": 0.02,
            "model_type": "qwen3_5_moe",
            "out_hidden_size": hidden,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        }
    config["vision_end_token_id"] = ids["<|vision_end|>"]
    config["vision_start_token_id"] = ids["<|vision_start|>"]
    return config


def _preprocessor(vision: dict[str, Any]) -> dict[str, Any]:
    return {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "merge_size": vision["spatial_merge_size"],
        "patch_size": vision["patch_size"],
        "processor_class": "Qwen3VLProcessor",
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        "temporal_patch_size": vision["temporal_patch_size"],
    }
