"""Models without attention in most layers, and one without experts: Granite 4, Nemotron-H, a dense Llama.

Granite 4 names its fused experts input_linear and output_linear and ties its embeddings; Nemotron-H has one mixer per
layer by a pattern string, experts of two matrices, and a raw-array router.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    mamba2,
    matrix,
    norm,
    swiglu,
    vector,
)
from tests.checkpoints.per_expert import common_config

_MAMBA_HEAD, _STATES, _KERNEL = 32, 64, 4


def llama(size: Size) -> Blueprint:
    """Plan a dense Llama whose output head is its embedding."""
    tensors = [embedding("model.embed_tokens", size, tied=True)]
    for i in range(size.layers):
        path = f"model.layers.{i}"
        tensors += attention(f"{path}.self_attn", size)
        tensors += swiglu(f"{path}.mlp", 2 * size.inner, size)
        tensors += block_norms(path, size)
    tensors.append(norm("model.norm", size.hidden, size.stored))
    return Blueprint(common_config(size, "llama", "LlamaForCausalLM") | {"tie_word_embeddings": True}, tensors)


def granitemoehybrid(size: Size) -> Blueprint:
    """Plan a Granite 4: Mamba-2 layers with one of attention in four, experts in each."""
    types = ["mamba" if (i + 1) % 4 else "attention" for i in range(size.layers)]
    tensors = [embedding("model.embed_tokens", size, tied=True)]
    for i, kind in enumerate(types):
        path = f"model.layers.{i}"
        if kind == "attention":
            tensors += attention(f"{path}.self_attn", size, width=size.hidden)
        else:
            tensors += mamba2(f"{path}.mamba", size, head_dim=_MAMBA_HEAD, states=_STATES, kernel=_KERNEL)
        tensors += _granite_experts(path, size)
        tensors += block_norms(path, size)
    tensors.append(norm("model.norm", size.hidden, size.stored))
    config = common_config(size, "granitemoehybrid", "GraniteMoeHybridForCausalLM") | {
        "attention_multiplier": 1 / HEAD,
        "embedding_multiplier": 1.0,
        "intermediate_size": size.inner,
        "layer_types": types,
        "logits_scaling": 1.0,
        "mamba_chunk_size": 256,
        "mamba_conv_bias": True,
        "mamba_d_conv": _KERNEL,
        "mamba_d_head": _MAMBA_HEAD,
        "mamba_d_state": _STATES,
        "mamba_expand": 2,
        "mamba_n_groups": 1,
        "mamba_n_heads": 2 * size.hidden // _MAMBA_HEAD,
        "mamba_proj_bias": False,
        "num_attention_heads": size.hidden // HEAD,  # a Granite's heads are hidden / heads wide
        "num_experts_per_tok": size.experts_per_token,
        "num_local_experts": size.experts,
        "position_embedding_type": "nope",
        "residual_multiplier": 0.22,
        "shared_intermediate_size": size.inner,
        "tie_word_embeddings": True,
    }
    return Blueprint(config, tensors)


def _granite_experts(path: str, size: Size) -> Iterator[Tensor]:
    moe, dtype = f"{path}.block_sparse_moe", size.stored
    yield matrix(f"{moe}.input_linear.weight", size.experts, 2 * size.inner, size.hidden, dtype=dtype)
    yield matrix(f"{moe}.output_linear.weight", size.experts, size.hidden, size.inner, dtype=dtype)
    yield from linear(f"{moe}.router.layer", size.experts, size.hidden, dtype, gain=2.0)
    yield from linear(f"{path}.shared_mlp.input_linear", 2 * size.inner, size.hidden, dtype)
    yield from linear(f"{path}.shared_mlp.output_linear", size.hidden, size.inner, dtype)


def nemotron_h(size: Size) -> Blueprint:
    """Plan a Nemotron-H: each layer is one of Mamba-2 (M), experts (E), attention (*) or a dense MLP (-)."""
    pattern = ("ME*-" * size.layers)[: size.layers]
    tensors = [embedding("backbone.embeddings", size)]
    for i, kind in enumerate(pattern):
        path = f"backbone.layers.{i}"
        tensors.append(norm(f"{path}.norm", size.hidden, size.stored))
        tensors += _nemotron_mixer(f"{path}.mixer", kind, size)
    tensors += [norm("backbone.norm_f", size.hidden, size.stored), head("lm_head", size)]
    config = common_config(size, "nemotron_h", "NemotronHForCausalLM") | {
        "conv_kernel": _KERNEL,
        "hybrid_override_pattern": pattern,
        "layer_norm_epsilon": 1e-05,
        "mamba_head_dim": _MAMBA_HEAD,
        "mamba_num_heads": 2 * size.hidden // _MAMBA_HEAD,
        "mamba_proj_bias": False,
        "mlp_bias": False,
        "mlp_hidden_act": "relu2",
        "moe_intermediate_size": size.inner,
        "moe_shared_expert_intermediate_size": size.inner,
        "n_group": 1,
        "n_groups": 1,
        "n_routed_experts": size.experts,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_experts_per_tok": size.experts_per_token,
        "routed_scaling_factor": 2.5,
        "ssm_state_size": _STATES,
        "topk_group": 1,
        "use_bias": False,
        "use_conv_bias": True,
    }
    return Blueprint(config, tensors)


def _nemotron_mixer(path: str, kind: str, size: Size) -> Iterator[Tensor]:
    if kind == "M":
        yield from mamba2(path, size, head_dim=_MAMBA_HEAD, states=_STATES, kernel=_KERNEL)
    elif kind == "*":
        yield from attention(path, size)
    elif kind == "-":
        yield from _up_down(path, 2 * size.inner, size)
    else:
        yield from linear(f"{path}.gate", size.experts, size.hidden, size.stored, gain=2.0)
        yield vector(f"{path}.gate.e_score_correction_bias", size.experts, dtype="F32")
        for e in range(size.experts):
            yield from _up_down(f"{path}.experts.{e}", size.inner, size)
        yield from _up_down(f"{path}.shared_experts", size.inner, size)


def _up_down(path: str, inner: int, size: Size) -> Iterator[Tensor]:
    yield from linear(f"{path}.up_proj", inner, size.hidden, size.stored)
    yield from linear(f"{path}.down_proj", size.hidden, inner, size.stored)
