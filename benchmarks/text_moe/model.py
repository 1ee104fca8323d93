"""The text model: a Qwen3-MoE of 2.3 million parameters (4.6 MB in bf16), one tensor for each expert, none shared.

Another architecture than the store model's on purpose: rotated attention in every layer, no linear attention, no shared
expert, a checkpoint whose experts stand apart (`mlp.experts.7.gate_proj.weight`), a vocabulary of BPE pieces.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[1] / "tiny_moe"))  # after this folder: some names stand in both
import fast  # products, sorted experts: the store model's training has them

VOCABULARY = 2048
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "bos_token_id": None,
    "decoder_sparse_step": 1,
    "dtype": "bfloat16",
    "eos_token_id": 0,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 256,
    "max_position_embeddings": 2048,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "router_aux_loss_coef": 0.001,
    "tie_word_embeddings": False,
    "vocab_size": VOCABULARY,
}


def empty_model() -> Any:
    """Build transformers' `Qwen3MoeForCausalLM` in float32, freshly initialized, always the same."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**{**CONFIG, "dtype": "float32"})).float()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                continue
            if name.endswith(("o_proj.weight", "experts.down_proj")):
                parameter.normal_(0, 0.01, generator=generator)
            elif "embed_tokens" in name:
                parameter.normal_(0, 0.5, generator=generator)
            elif "lm_head" in name:
                parameter.normal_(0, 0.02, generator=generator)
            else:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
    return model


def logits(model: Any, tokens: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
    """Logits (B, T, vocabulary) of tokens (B, T), and each layer's router logits (B * T, experts); as transformers'."""
    x = F.embedding(tokens, model.model.embed_tokens.weight)
    cos, sin = fast.rotations(model, tokens.shape[1])
    routers = []
    for layer in model.model.layers:
        x = x + attention(layer.self_attn, norm(x, layer.input_layernorm), cos, sin, dtype)
        out, router = experts(layer.mlp, norm(x, layer.post_attention_layernorm), dtype)
        routers.append(router)
        x = x + out
    return fast.product(norm(x, model.model.norm), model.lm_head.weight, dtype), routers


def norm(x: Tensor, module: Any) -> Tensor:
    """RMS norm: ``x / rms(x) * w``."""
    return F.rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)


def attention(module: Any, x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """Full attention with normed, rotated queries and keys over x (B, T, hidden)."""
    batch, length, _ = x.shape
    head = module.head_dim
    query, key, value = (
        fast.product(x, p.weight, dtype).view(batch, length, -1, head)
        for p in (module.q_proj, module.k_proj, module.v_proj)
    )
    query, key = norm(query, module.q_norm).transpose(1, 2), norm(key, module.k_norm).transpose(1, 2)
    groups = module.num_key_value_groups
    key = fast.rotate(key, cos, sin).repeat_interleave(groups, dim=1)
    value = value.transpose(1, 2).repeat_interleave(groups, dim=1)
    out = F.scaled_dot_product_attention(
        fast.rotate(query, cos, sin).to(dtype), key.to(dtype), value.to(dtype), is_causal=True
    ).to(x.dtype)
    return fast.product(out.transpose(1, 2).reshape(batch, length, -1), module.o_proj.weight, dtype)


def experts(module: Any, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The routed experts' answer to x (B, T, hidden), and the router's logits."""
    flat = x.reshape(-1, x.shape[-1])
    scores = F.linear(flat, module.gate.weight)
    top, chosen = scores.softmax(-1).topk(CONFIG["num_experts_per_tok"], dim=-1)
    top = top / top.sum(-1, keepdim=True)
    place, source, counts = fast._places(chosen, scores.shape[-1])
    rows = flat.to(dtype).index_select(0, source)
    weights = module.experts.gate_up_proj.to(dtype), module.experts.down_proj.to(dtype)
    done = fast._Experts.apply(rows, *weights, counts)
    done = done.index_select(0, place).view(*chosen.shape, -1).to(x.dtype)
    return (done * top[..., None]).sum(1).view_as(x), scores


def write(folder: Path, parameters: dict[str, Tensor], tokenizer: Path) -> None:
    """Write the checkpoint in the Hub's layout: bf16, one shard, one tensor for each expert's projection."""
    import shutil

    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, value in parameters.items():
        value = value.detach().bfloat16()
        if name.endswith("experts.gate_up_proj"):
            for i, both in enumerate(value):
                gate, up = both.chunk(2)
                stem = name.removesuffix("gate_up_proj")
                tensors |= {f"{stem}{i}.gate_proj.weight": gate.clone(), f"{stem}{i}.up_proj.weight": up.clone()}
        elif name.endswith("experts.down_proj"):
            stem = name.removesuffix("down_proj")
            tensors |= {f"{stem}{i}.down_proj.weight": one.clone() for i, one in enumerate(value)}
        else:
            tensors[name] = value.clone()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(sorted(tensors.items())), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)
