"""Models whose fused experts are not (expert, out, in): Llama-4 stores (expert, in, out), gpt-oss MXFP4 blocks.

Also what else is theirs alone: Llama-4's chunked attention, vision tensors to be dropped and sigmoid router; gpt-oss's
biases everywhere, sinks, interleaved gate and up rows, and a config that names no dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log2

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

_FP4_SPREAD = 2.93  # root mean square of the sixteen FP4 (E2M1) values
_BLOCK = 32  # values that share an MXFP4 scale


def llama4(size: Size) -> Blueprint:
    """Plan a Llama-4 (Scout's layout): one expert per token beside a shared one, in every layer."""
    model, tensors = "language_model.model", [embedding("language_model.model.embed_tokens", size)]
    for i in range(size.layers):
        path = f"{model}.layers.{i}"
        tensors += attention(f"{path}.self_attn", size)
        tensors += _llama4_experts(f"{path}.feed_forward", size)
        tensors += block_norms(path, size)
    tensors += [norm(f"{model}.norm", size.hidden, size.stored), head("language_model.lm_head", size)]
    tensors += linear("multi_modal_projector.linear_1", size.hidden, 64, size.stored)
    tensors += linear("vision_model.patch_embedding.linear", 64, 192, size.stored)
    ids = token_ids()
    text = {
        "attention_bias": False,
        "attention_chunk_size": 8192,
        "attn_scale": 0.1,
        "attn_temperature_tuning": True,
        "floor_scale": 8192,
        "head_dim": HEAD,
        "hidden_size": size.hidden,
        "interleave_moe_layer_step": 1,
        "intermediate_size": size.inner,
        "intermediate_size_mlp": 2 * size.inner,
        "max_position_embeddings": 10485760,
        "model_type": "llama4_text",
        "num_attention_heads": size.heads,
        "num_experts_per_tok": 1,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": 2,
        "num_local_experts": size.experts,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 500000.0,
        "torch_dtype": size.dtype,
        "use_qk_norm": True,
        "vocab_size": size.vocab,
    }
    config = {
        "architectures": ["Llama4ForConditionalGeneration"],
        "eos_token_id": ids["<|im_end|>"],
        "model_type": "llama4",
        "text_config": text,
        "torch_dtype": size.dtype,
        "transformers_version": "4.51.0.dev0",
    }
    return Blueprint(config, tensors)


def _llama4_experts(path: str, size: Size) -> Iterator[Tensor]:
    hidden, inner, dtype = size.hidden, size.inner, size.stored
    yield from linear(f"{path}.router", size.experts, hidden, dtype, gain=2.0)
    # (expert, in, out): the input is the middle axis
    yield Tensor(f"{path}.experts.gate_up_proj", (size.experts, hidden, 2 * inner), hidden**-0.5, dtype=dtype)
    yield Tensor(f"{path}.experts.down_proj", (size.experts, inner, hidden), inner**-0.5, dtype=dtype)
    yield from swiglu(f"{path}.shared_expert", inner, size)


def gpt_oss(size: Size) -> Blueprint:
    """Plan a gpt-oss: experts already in MXFP4, sliding and full attention in turn."""
    types = ["full_attention" if i % 2 else "sliding_attention" for i in range(size.layers)]
    tensors = [embedding("model.embed_tokens", size)]
    for i in range(size.layers):
        path = f"model.layers.{i}"
        tensors += attention(f"{path}.self_attn", size, bias=True)
        tensors.append(vector(f"{path}.self_attn.sinks", size.heads, std=1.0, dtype=size.stored))
        tensors += linear(f"{path}.mlp.router", size.experts, size.hidden, size.stored, bias=True, gain=2.0)
        tensors += _mxfp4(f"{path}.mlp.experts.gate_up_proj", size.experts, 2 * size.inner, size.hidden, size.stored)
        tensors += _mxfp4(f"{path}.mlp.experts.down_proj", size.experts, size.hidden, size.inner, size.stored)
        tensors += block_norms(path, size)
    tensors += [norm("model.norm", size.hidden, size.stored), head("lm_head", size)]
    config = {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "eos_token_id": token_ids()["<|im_end|>"],
        "head_dim": HEAD,
        "hidden_act": "silu",
        "hidden_size": size.hidden,
        "initial_context_length": 4096,
        "intermediate_size": size.inner,
        "layer_types": types,
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": size.heads,
        "num_experts_per_tok": size.experts_per_token,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": 2,
        "num_local_experts": size.experts,
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "sliding_window": 128,
        "tie_word_embeddings": False,
        "transformers_version": "4.55.0.dev0",
        "vocab_size": size.vocab,
    }
    return Blueprint(config, tensors)


def _mxfp4(path: str, experts: int, out: int, into: int, dtype: str) -> Iterator[Tensor]:
    """Blocks of 32 FP4 values, two to a byte: (expert, out, in / 32, 16), with a power of two each.

    A scale byte ``s`` means ``2 ** (s - 127)``; for 128 inputs it is about 122, as 2^-5 * 2.93 is near 128^-0.5.
    """
    exponent = 127 + log2(into**-0.5 / _FP4_SPREAD)
    yield Tensor(f"{path}_blocks", (experts, out, into // _BLOCK, _BLOCK // 2), 0.0, dtype="U8", fill="bytes")
    yield Tensor(f"{path}_scales", (experts, out, into // _BLOCK), 0.7, exponent, dtype="U8")
    yield vector(f"{path}_bias", experts, out, dtype=dtype)
