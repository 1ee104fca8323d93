"""Mixtures of experts that mlx-vlm has and mlx-lm lacks, in the Hub's layout, made from mlx-vlm's own classes.

A class is built from the least of a config, and its arrays are given the names and shapes that its `sanitize` expects:
experts one by one, gate and up apart, latent attention's kv_b_proj whole, no `language_model.` before the names. That
`mlx_vlm.convert` loads the checkpoint with strict names shows that they are right. Needs mlx-vlm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx.utils import tree_flatten

from mlxquant.layout.provider import MLX_VLM
from tests.checkpoints.blueprint import Blueprint, Size, Tensor
from tests.checkpoints.files import write
from tests.checkpoints.qwen3_5_moe import qwen3_5_moe

_SIZES = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 64, "head_dim": 32,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 256, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "eos_token_id": 3,
}  # fmt: skip
_LATENT = {
    "kv_lora_rank": 64, "q_lora_rank": 64, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64, "v_head_dim": 64,
    "n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    "num_key_value_heads": 4,
}  # fmt: skip
_WINDOWS = {
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 16,
    "num_experts": 8, "shared_expert_intermediate_size": 64,
}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "cohere2_moe": {
        "num_experts": 8, "num_shared_experts": 1, "first_k_dense_replace": 1, "intermediate_size": 64,
        "prefix_dense_intermediate_size": 256, "sliding_window": 16,
    },
    "flint": _WINDOWS,
    "hy_v4": {**_LATENT, "index_head_dim": 64, "index_n_heads": 4, "index_topk": 16},
    "kolibri1": _WINDOWS,
    "llada2_moe": {"num_experts": 8, "n_group": 4, "topk_group": 2},
    "longcat_flash_sparse": {
        **_LATENT, "num_layers": 2, "ffn_hidden_size": 256, "expert_ffn_hidden_size": 64, "moe_topk": 2,
        "zero_expert_num": 2, "attention_method": "MLA",
    },
    "xing4_0": {
        **_LATENT, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "routed_scaling_factor": 2.5,
        "norm_topk_prob": True, "moe_layer_freq": 1,
    },
}  # fmt: skip


MODEL_TYPES = (*CONFIGS, "qwen3_5_moe_text")


def write_of_mlx_vlm(folder: Path, model_type: str) -> None:
    """Write one of MODEL_TYPES, about 1.5 MB, in three shards."""
    if model_type == "qwen3_5_moe_text":  # Qwen3.5-MoE whose config is its text_config
        plan = qwen3_5_moe(Size(), mtp=False)
        config = {**plan.config["text_config"], "model_type": model_type, "torch_dtype": "bfloat16"}
        write(folder, replace(plan, config=config), shards=3)
        return
    config = {"model_type": model_type, **_SIZES, **CONFIGS[model_type]}
    model = MLX_VLM.build_model(MLX_VLM.prepared(config))
    arrays: Any = tree_flatten(model.parameters())
    tensors = [
        Tensor(hub, shape, 0.05) for name, array in arrays for hub, shape in _in_hub(name, tuple(array.shape), config)
    ]
    write(folder, Blueprint(config, tensors), shards=3)


def _in_hub(name: str, shape: tuple[int, ...], config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of which the class makes an array."""
    name = name.removeprefix("language_model.")
    if config["model_type"] == "hy_v4" and "_attn." in name:
        yield name, shape  # its sanitize knows kv_b_proj in MXFP8 alone
    elif name.endswith("embed_q.weight"):  # (heads, rank, nope) and unembed_out's (heads, value, rank) are one matrix
        heads, rank, nope = shape
        yield name.replace("embed_q", "kv_b_proj"), (heads * (nope + config["v_head_dim"]), rank)
    elif name.endswith("unembed_out.weight"):
        return
    elif ".switch_mlp." in name:
        for expert in range(shape[0]):
            one = name.replace("switch_mlp", f"experts.{expert}")
            if "gate_up_proj" in name:
                for half in ("gate_proj", "up_proj"):
                    yield one.replace("gate_up_proj", half), (shape[1] // 2, *shape[2:])
            else:
                yield one, shape[1:]
    else:
        yield name, shape
