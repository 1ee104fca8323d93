"""Models that store each expert's matrices as tensors of their own, to be stacked: Qwen3-MoE, Mixtral, DeepSeek-V3.

DeepSeek-V3 also brings a router that is a raw array with a float32 bias, latent attention whose kv_b_proj is split and
transposed, leading dense layers, and, as an FP8 checkpoint, weights that must be dequantized by 128 × 128 blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.checkpoints.blueprint import (
    HEAD,
    Blueprint,
    Size,
    Tensor,
    attention,
    block_norms,
    embedding,
    head,
    linear,
    norm,
    swiglu,
    vector,
)
from tests.checkpoints.tokenizer import token_ids

_FP8_BLOCK = 128
_FP8_SPREAD = 100.0  # so that 4.3 standard deviations just fit below E4M3's 448


def common_config(size: Size, model_type: str, architecture: str) -> dict[str, Any]:
    """The fields that every plain decoder's config.json has."""
    return {
        "architectures": [architecture],
        "attention_bias": False,
        "eos_token_id": token_ids()["<|im_end|>"],
        "head_dim": HEAD,
        "hidden_act": "silu",
        "hidden_size": size.hidden,
        "intermediate_size": 2 * size.inner,
        "max_position_embeddings": 4096,
        "model_type": model_type,
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": size.dtype,
        "transformers_version": "4.51.0",
        "vocab_size": size.vocab,
    }


def qwen3_moe(size: Size) -> Blueprint:
    """Plan a Qwen3-MoE: normed queries and keys, no shared expert."""
    tensors = [embedding("model.embed_tokens", size)]
    for i in range(size.layers):
        path = f"model.layers.{i}"
        tensors += attention(f"{path}.self_attn", size)
        tensors += [norm(f"{path}.self_attn.{n}", HEAD, size.stored) for n in ("q_norm", "k_norm")]
        tensors += linear(f"{path}.mlp.gate", size.experts, size.hidden, size.stored, gain=2.0)
        for e in range(size.experts):
            tensors += swiglu(f"{path}.mlp.experts.{e}", size.inner, size)
        tensors += block_norms(path, size)
    tensors += [norm("model.norm", size.hidden, size.stored), head("lm_head", size)]
    config = common_config(size, "qwen3_moe", "Qwen3MoeForCausalLM") | {
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": size.inner,
        "norm_topk_prob": True,
        "num_experts": size.experts,
        "num_experts_per_tok": size.experts_per_token,
        "rope_scaling": None,
    }
    return Blueprint(config, tensors)


def mixtral(size: Size) -> Blueprint:
    """Plan a Mixtral: experts named w1, w2, w3 under block_sparse_moe."""
    tensors = [embedding("model.embed_tokens", size)]
    for i in range(size.layers):
        path = f"model.layers.{i}"
        tensors += attention(f"{path}.self_attn", size, width=size.hidden)
        tensors += linear(f"{path}.block_sparse_moe.gate", size.experts, size.hidden, size.stored, gain=2.0)
        for e in range(size.experts):
            tensors += swiglu(f"{path}.block_sparse_moe.experts.{e}", size.inner, size, names=("w1", "w3", "w2"))
        tensors += block_norms(path, size)
    tensors += [norm("model.norm", size.hidden, size.stored), head("lm_head", size)]
    config = common_config(size, "mixtral", "MixtralForCausalLM") | {
        "intermediate_size": size.inner,
        "num_experts_per_tok": size.experts_per_token,
        "num_local_experts": size.experts,
    }
    del config["head_dim"]  # a Mixtral's heads are hidden / heads wide
    config["num_attention_heads"] = size.hidden // HEAD
    return Blueprint(config, tensors)


def deepseek_v3(size: Size, *, fp8: bool = False) -> Blueprint:
    """Plan a DeepSeek-V3; with `fp8`, linear layers in E4M3 with a float32 scale per 128 × 128 block."""
    config = common_config(size, "deepseek_v3", "DeepseekV3ForCausalLM") | {
        "first_k_dense_replace": 1,
        "kv_lora_rank": 128,
        "moe_intermediate_size": size.inner,
        "moe_layer_freq": 1,
        "n_group": 2,
        "n_routed_experts": size.experts,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_experts_per_tok": size.experts_per_token,
        "num_key_value_heads": size.heads,
        "num_nextn_predict_layers": 0,
        "q_lora_rank": 128,
        "qk_nope_head_dim": 2 * HEAD,  # the input of a module that mlx quantizes: as wide as the largest group
        "qk_rope_head_dim": HEAD,
        "rope_scaling": None,
        "routed_scaling_factor": 1.5,
        "scoring_func": "sigmoid",
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "v_head_dim": 2 * HEAD,
    }
    del config["head_dim"]
    tensors = [embedding("model.embed_tokens", size)]
    for i in range(size.layers):
        path = f"model.layers.{i}"
        layer = list(_latent_attention(f"{path}.self_attn", size, config))
        if i < config["first_k_dense_replace"]:
            layer += swiglu(f"{path}.mlp", config["intermediate_size"], size)
        else:
            layer += _deepseek_experts(f"{path}.mlp", size)
        tensors += [part for t in layer for part in (_fp8(t) if fp8 else [t])]
        tensors += block_norms(path, size)
    tensors += [norm("model.norm", size.hidden, size.stored), head("lm_head", size)]
    if fp8:
        config["quantization_config"] = {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [_FP8_BLOCK, _FP8_BLOCK],
        }
    return Blueprint(config, tensors)


def _latent_attention(path: str, size: Size, config: dict[str, Any]) -> Iterator[Tensor]:
    dtype, heads, q_rank, kv_rank = size.stored, size.heads, config["q_lora_rank"], config["kv_lora_rank"]
    rope, nope, value = config["qk_rope_head_dim"], config["qk_nope_head_dim"], config["v_head_dim"]
    yield from linear(f"{path}.q_a_proj", q_rank, size.hidden, dtype)
    yield norm(f"{path}.q_a_layernorm", q_rank, dtype)
    yield from linear(f"{path}.q_b_proj", heads * (nope + rope), q_rank, dtype)
    yield from linear(f"{path}.kv_a_proj_with_mqa", kv_rank + rope, size.hidden, dtype)
    yield norm(f"{path}.kv_a_layernorm", kv_rank, dtype)
    yield from linear(f"{path}.kv_b_proj", heads * (nope + value), kv_rank, dtype)
    yield from linear(f"{path}.o_proj", size.hidden, heads * value, dtype)


def _deepseek_experts(path: str, size: Size) -> Iterator[Tensor]:
    yield from linear(f"{path}.gate", size.experts, size.hidden, size.stored, gain=2.0)
    yield vector(f"{path}.gate.e_score_correction_bias", size.experts, dtype="F32")
    for e in range(size.experts):
        yield from swiglu(f"{path}.experts.{e}", size.inner, size)
    yield from swiglu(f"{path}.shared_experts", size.inner, size)


def _fp8(tensor: Tensor) -> list[Tensor]:
    """Store a linear layer's weight (out, in) as E4M3 with weight_scale_inv (out / 128, in / 128), rounded up."""
    if not tensor.name.endswith("proj.weight") and not tensor.name.endswith("proj_with_mqa.weight"):
        return [tensor]
    blocks = tuple(-(-n // _FP8_BLOCK) for n in tensor.shape)
    scale = tensor.std / _FP8_SPREAD
    return [
        Tensor(tensor.name, tensor.shape, _FP8_SPREAD, dtype="F8_E4M3"),
        Tensor(f"{tensor.name}_scale_inv", blocks, scale / 8, scale, dtype="F32"),
    ]
