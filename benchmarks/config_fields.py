"""Do builds compute what transformers computes, field by field of a config?

For each MoE class that transformers and mlx-lm both have, a tiny model of transformers gets random weights, one field
of its config is changed, and transformers writes config and weights and computes logits in float32. `mlxquant convert
-r none --dtype float32` makes a build, mlx-lm loads it, and the largest difference of the logits stands in the table as
a share of the largest logit: `same` up to 0.2 %, `DIFFERS`, or `refused` with mlxquant's own words. A difference
without a word is what must not be.

    pip install torch transformers 'mlx[cpu]' mlx-lm -e .    # torch is not among mlxquant's dependencies
    python benchmarks/config_fields.py [mixtral qwen3_moe ...] [--out benchmarks/results/config_fields.json]

Not covered: classes that only a repository's own code describes, vision towers, and contexts longer than 40 tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from mlxquant.records.head import describe_machine, describe_versions

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
warnings.filterwarnings("ignore")

SCHEMA = "mlxquant.config_fields/1"
SAME = 2e-3
TOKENS = 40

# What is small in every class that has such a field.
SMALL: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 128, "intermediate_size": 48, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32, "num_experts": 8, "num_local_experts": 8, "n_routed_experts": 8,
    "moe_num_experts": 8, "num_experts_per_tok": 2, "moe_k": 2, "max_position_embeddings": 128, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "kv_lora_rank": 16, "q_lora_rank": 32, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8, "v_head_dim": 16, "index_head_dim": 16, "index_n_heads": 2, "index_topk": 64, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "num_dense_layers": 1, "layer_types": None, "mlp_layer_types": None,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2, "mamba_n_heads": 8,
    "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_dt_rank": 8, "chunk_size": 16,
    "mamba_chunk_size": 16, "shared_intermediate_size": 32, "num_shared_experts": 1, "n_shared_experts": 1,
    "moe_num_shared_experts": 1, "moe_layer_start_index": 1, "moe_layer_end_index": 3, "sliding_window": 8,
    "num_nextn_predict_layers": 0, "attention_dropout": 0.0, "use_mamba_kernels": False, "tie_word_embeddings": False,
}  # fmt: skip
LATENT = {"head_dim": 8, "num_key_value_heads": 4}
# The classes, with what each needs beside that.
CLASSES: dict[str, dict[str, Any]] = {
    "afmoe": {},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT | {"n_group": 2},
    "deepseek_v32": LATENT,
    "dots1": {},
    "ernie4_5_moe": {},
    "exaone_moe": {},
    "glm4_moe": {},
    "glm4_moe_lite": LATENT,
    "glm_moe_dsa": LATENT,
    "gpt_oss": {},
    "granitemoe": {},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2, "mamba_expand": 2},
    "jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        "num_experts": 4,
    },
    "laguna": {},
    "mellum": {},
    "minimax_m2": {},
    "mixtral": {"sliding_window": None},
    "nemotron_h": {"layers_block_type": ["mamba", "moe", "attention", "mlp"]},
    "olmoe": {},
    "phimoe": {"attention_bias": True, "lm_head_bias": True, "sliding_window": None},
    "qwen2_moe": {"sliding_window": None},
    "qwen3_moe": {"sliding_window": None},
    "qwen3_next": {"layer_types": ["linear_attention"] * 3 + ["full_attention"]},
    "solar_open": {},
}  # fmt: skip

DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 777.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
# One change at a time, where the class has the field.
CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "rope_theta 777": {"rope_parameters": DEFAULT_ROPE},
    "YaRN": {"rope_parameters": YARN},
    "linear RoPE": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    "llama3 RoPE": {
        "rope_parameters": YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    },
    "half of each head rotated": {"rope_parameters": DEFAULT_ROPE | {"partial_rotary_factor": 0.5}},
    "tied": {"tie_word_embeddings": True},
    "norm_topk_prob true": {"norm_topk_prob": True},
    "norm_topk_prob false": {"norm_topk_prob": False},
    "routed_scaling_factor 1.7": {"routed_scaling_factor": 1.7},
    "2 groups of experts": {"n_group": 2, "topk_group": 1},
    "gelu": {"hidden_act": "gelu"},
    "attention_bias": {"attention_bias": True},
    "sliding_window 8": {"sliding_window": 8, "use_sliding_window": True},
    "rope_interleave false": {"rope_interleave": False},
    "2 dense layers first": {"mlp_layer_types": ["dense", "dense", "sparse", "sparse"]},
    "rms_norm_eps 0.1": {"rms_norm_eps": 0.1},
    "clip_qkv 0.5": {"clip_qkv": 0.5},
    "logits_scaling 3": {"logits_scaling": 3.0},
    "attention_multiplier 0.1": {"attention_multiplier": 0.1},
    "swiglu_limit 1": {"swiglu_limit": 1.0},
    "route_scale 2": {"route_scale": 2.0},
    "mup_enabled": {"mup_enabled": True},
    "use_qk_norm": {"use_qk_norm": True},
    "RoPE in a hybrid": {"position_embedding_type": "rope"},
}  # fmt: skip


def config_of(name: str, change: Mapping[str, Any]) -> Any | None:
    """A tiny config of a class; None where it has none of the fields to change."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[name]
    fields = kind().to_dict().keys() | getattr(kind, "__dataclass_fields__", {}).keys()
    usable = {key: deepcopy(value) for key, value in change.items() if key in fields}  # transformers adds to tables
    if change and not usable:
        return None
    small = {key: value for key, value in SMALL.items() if key in fields}
    for alias, own in (getattr(kind, "attribute_map", None) or {}).items():
        if alias in SMALL and own in fields:
            small.setdefault(own, SMALL[alias])
    return kind(**{**small, **CLASSES[name], **usable})


def write_model(config: Any, folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Write a model of random weights; give token ids (1, n) and transformers' logits (n, vocabulary)."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "moe_statics" in name:
                p.zero_()  # mlx-lm's ernie4_5_moe drops it, which mlxquant notes
            elif p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=noise) * p.shape[-1] ** -0.5)
            elif name.endswith("bias"):
                p.copy_(torch.randn(p.shape, generator=noise) * 0.3)
            elif "norm" in name:
                p.add_(torch.randn(p.shape, generator=noise) * 0.1)
        for name, b in model.named_buffers():
            if "correction_bias" in name:
                b.copy_(torch.randn(b.shape, generator=noise) * 0.3)
        tokens = torch.arange(5, 5 + TOKENS)[None] % 100
        logits = model(input_ids=tokens, use_cache=False).logits[0].float().numpy()
    model.save_pretrained(folder)
    return tokens.numpy(), logits


def compare(name: str, change: Mapping[str, Any]) -> dict[str, Any] | None:
    """One row of the table; None where the class has no such field or transformers cannot run it."""
    from huggingface_hub.errors import StrictDataclassError
    from mlx_lm.utils import load_model

    with tempfile.TemporaryDirectory() as work:
        source, out = Path(work) / "source", Path(work) / "out"
        try:
            config = config_of(name, change)
            if config is None:
                return None
            tokens, expected = write_model(config, source)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError, StrictDataclassError) as error:
            return {"outcome": "transformers cannot", "why": f"{type(error).__name__}: {error}"[:200]}
        options = ["-r", "none", "--dtype", "float32", "-o", str(out)]
        command = [sys.executable, "-m", "mlxquant", "convert", str(source), *options]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return {"outcome": "refused", "why": done.stderr.strip().removeprefix("mlxquant: ").partition("\n")[0]}
        model, _ = load_model(out)
        logits = np.array(model(mx.array(tokens))[0].astype(mx.float32))
        off = float(np.abs(logits - expected).max() / np.abs(expected).max())
        notes = [n for n in json.loads((out / "audit.json").read_text())["notes"] if n.startswith("config.json")]
        return {"outcome": "same" if off <= SAME else "DIFFERS", "difference": off, "notes": notes}


def rows(names: list[str]) -> Iterator[dict[str, Any]]:
    """Every class with every change of a field that it has."""
    for name in names:
        for label, change in CHANGES.items():
            if (row := compare(name, change)) is not None:
                yield {"class": name, "change": label, **row}


def main() -> None:
    """Print the table, and write the record."""
    parser = argparse.ArgumentParser(description="Hold builds against transformers, field by field of a config.")
    parser.add_argument("classes", nargs="*", default=list(CLASSES), help="model types; all by default")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = []
    for row in rows(options.classes):
        results.append(row)
        print(f"{row['class']:18} {row['change']:26} {row['outcome']:20} {row.get('difference', row.get('why'))}")
    counts = {o: sum(r["outcome"] == o for r in results) for o in ("same", "refused", "DIFFERS")}
    print(tabulate([counts.values()], headers=list(counts)))
    if options.out:
        head = {"schema": SCHEMA, "machine": describe_machine(), "versions": describe_versions()}
        options.out.write_text(json.dumps({**head, "rows": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
