"""Fields that an mlx-lm class wants in another form than transformers 5 writes them: one function for each class.

transformers 5 describes layers by lists (`layer_types`, `mlp_layer_types`); many classes count
(`first_k_dense_replace`, `full_attention_interval`). Each function takes the config's table and gives the class's
fields with where each comes from; a pattern that cannot be expressed is an `Inexpressible`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Inexpressible(Exception):
    """A field whose value a class cannot express: what it computes instead."""

    def __init__(self, field: str, value: Any, computes: str) -> None:
        super().__init__(field)
        self.field, self.value, self.computes = field, value, computes


Fields = dict[str, tuple[Any, str]]


def _words(config: Mapping[str, Any], name: str) -> list[str] | None:
    """A list of words, one for each layer; None where it is not there or is something else."""
    value = config.get(name)
    return value if isinstance(value, list) and value and all(isinstance(v, str) for v in value) else None


def _dense_first(config: Mapping[str, Any]) -> Fields:
    """`mlp_layer_types` as `first_k_dense_replace`."""
    kinds = _words(config, "mlp_layer_types")
    if kinds is None:
        return {}
    dense = next((i for i, kind in enumerate(kinds) if kind != "dense"), len(kinds))
    if "dense" in kinds[dense:]:
        raise Inexpressible("mlp_layer_types", kinds, "has dense layers before all others only")
    return {"first_k_dense_replace": (dense, "mlp_layer_types")}


def _every_nth_full(config: Mapping[str, Any]) -> Fields:
    """`layer_types` as `full_attention_interval`: every n-th layer attends to all."""
    kinds = _words(config, "layer_types")
    if kinds is None:
        return {}
    full = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
    if not full or not full[0] or full != list(range(full[0], len(kinds), full[0] + 1)):
        return {}  # `roles` refuses it, layer by layer
    return {"full_attention_interval": (full[0] + 1, "layer_types")}


def _full_attention_only(config: Mapping[str, Any]) -> Fields:
    kinds = _words(config, "layer_types")
    if kinds is not None and set(kinds) - {"full_attention"}:
        raise Inexpressible("layer_types", sorted(set(kinds)), "attends to the whole context in every layer")
    return {}


def _exaone(config: Mapping[str, Any]) -> Fields:
    kinds = _words(config, "mlp_layer_types")
    if kinds is None:
        return {}
    return {"is_moe_layer": ([kind == "sparse" for kind in kinds], "mlp_layer_types")}


def _deepseek_v2(config: Mapping[str, Any]) -> Fields:
    """The class cannot do without YaRN; by a factor of 1 it is plain RoPE."""
    if config.get("rope_scaling") is not None:
        return {}
    return {"rope_scaling": ({"type": "yarn", "factor": 1.0}, "plain RoPE, which is YaRN by a factor of 1")}


def _granite_hybrid(config: Mapping[str, Any]) -> Fields:
    """Transformers 5 calls its layers linear_attention and full_attention."""
    kinds, fields = _words(config, "layer_types"), Fields()
    names = {"linear_attention": "mamba", "full_attention": "attention"}
    if kinds is not None and set(kinds) & names.keys():
        fields["layer_types"] = [names.get(kind, kind) for kind in kinds], "layer_types"
    if config.get("position_embedding_type") != "rope":  # null too, of which the class makes RoPE
        fields["position_embedding_type"] = "nope", "position_embedding_type, without which transformers has no RoPE"
    return fields


def _minimax(config: Mapping[str, Any]) -> Fields:
    """Two sizes that transformers 5 leaves out: whole heads are rotated, and there is no shared expert."""
    fields: Fields = {"shared_intermediate_size": (0, "transformers' class, which has no shared expert")}
    if config.get("head_dim") is not None:
        fields["rotary_dim"] = config["head_dim"], "head_dim, since no partial_rotary_factor is given"
    return {name: value for name, value in fields.items() if config.get(name) is None}


def _solar(config: Mapping[str, Any]) -> Fields:
    """Every layer has experts, so that there is no other MLP to give a size for."""
    fields: Fields = {
        "first_k_dense_replace": (0, "transformers' class, which has experts in every layer"),
        "partial_rotary_factor": (1.0, "transformers' class, which rotates whole heads"),
        "intermediate_size": (config.get("moe_intermediate_size"), "moe_intermediate_size, as no layer uses it"),
    }
    return {name: value for name, value in fields.items() if config.get(name) is None}


def _longcat(config: Mapping[str, Any]) -> Fields:
    """What transformers' class always does, and the model's own code could leave out."""
    fields: dict[str, Any] = {"attention_method": "MLA", "zero_expert_type": "identity"}
    fields |= dict.fromkeys(("mla_scale_q_lora", "mla_scale_kv_lora"), True)
    return {k: (v, "what transformers' class always does") for k, v in fields.items() if config.get(k) is None}


def _llama4(config: Mapping[str, Any]) -> Fields:
    """`no_rope_layers` and `moe_layers`, which the class computes from intervals."""
    layers = config.get("num_hidden_layers")
    if not isinstance(layers, int) or isinstance(layers, bool):
        return {}
    rotated = config.get("no_rope_layers")
    expected = [int((i + 1) % 4 != 0) for i in range(layers)]
    if isinstance(rotated, list) and rotated and rotated != expected:
        raise Inexpressible("no_rope_layers", rotated, "leaves RoPE out in every fourth layer")
    moe, step = config.get("moe_layers"), config.get("interleave_moe_layer_step", 1)
    if isinstance(moe, list) and isinstance(step, int) and step > 0 and moe != list(range(step - 1, layers, step)):
        raise Inexpressible("moe_layers", moe, "has experts in every layer at interleave_moe_layer_step")
    return {}


def _kimi_linear(config: Mapping[str, Any]) -> Fields:
    """`linear_attn_config`, which transformers 5 takes apart."""
    kinds = _words(config, "layer_types")
    if kinds is None or config.get("linear_attn_config") is not None:
        return _dense_first(config)
    numbered = {
        "kda_layers": [i + 1 for i, kind in enumerate(kinds) if kind == "linear_attention"],
        "full_attn_layers": [i + 1 for i, kind in enumerate(kinds) if kind == "full_attention"],
        "num_heads": config.get("linear_num_heads"),
        "head_dim": config.get("linear_head_dim"),
        "short_conv_kernel_size": config.get("linear_conv_kernel_dim"),
    }
    return {"linear_attn_config": (numbered, "layer_types and linear_*")} | _dense_first(config)


def _mimo(config: Mapping[str, Any]) -> Fields:
    """`rope_parameters` by layer type, of which the class has two bases and one part of each head that is rotated."""
    rope = config.get("rope_parameters")
    kinds = rope if isinstance(rope, dict) else {}
    full, sliding = kinds.get("full_attention"), kinds.get("sliding_attention")
    if not isinstance(full, dict) or not isinstance(sliding, dict):
        return {}
    part = full.get("partial_rotary_factor")
    if any(kind.get("rope_type", "default") != "default" for kind in (full, sliding)):
        raise Inexpressible("rope_parameters", kinds, "computes plain RoPE")
    if sliding.get("partial_rotary_factor") != part:
        raise Inexpressible("rope_parameters", kinds, "rotates the same part of each head in every layer")
    fields = {
        "rope_theta": (full.get("rope_theta"), "rope_parameters.full_attention.rope_theta"),
        "swa_rope_theta": (sliding.get("rope_theta"), "rope_parameters.sliding_attention.rope_theta"),
        "partial_rotary_factor": (part, "rope_parameters.full_attention.partial_rotary_factor"),
    }
    return {name: value for name, value in fields.items() if value[0] is not None}


def _dbrx(config: Mapping[str, Any]) -> Fields:
    """The base of RoPE, which the class reads in `attn_config` and transformers 5 in `rope_parameters`."""
    rope, attention = config.get("rope_parameters"), config.get("attn_config")
    theta = rope.get("rope_theta") if isinstance(rope, dict) else None
    if theta is None or not isinstance(attention, dict):
        return {}
    return {"attn_config": ({**attention, "rope_theta": theta}, "rope_parameters.rope_theta")}


# Classes with a base of RoPE for each of two layer types.
ROPE_BY_KIND = ("mimo_v2_flash",)

DERIVED: Mapping[str, Callable[[Mapping[str, Any]], Fields]] = {
    "dbrx": _dbrx,
    "deepseek_v2": lambda config: _deepseek_v2(config) | _dense_first(config),
    "deepseek_v3": _dense_first,
    "deepseek_v32": _dense_first,
    "dots1": lambda config: _full_attention_only(config) | _dense_first(config),
    "exaone_moe": _exaone,
    "glm4_moe": _dense_first,
    "glm4_moe_lite": _dense_first,
    "glm_moe_dsa": _dense_first,
    "granitemoehybrid": _granite_hybrid,
    "kimi_linear": _kimi_linear,
    "longcat_flash": _longcat,
    "mimo_v2_flash": _mimo,
    "minimax": _minimax,
    "llama4": _llama4,
    "qwen3_5": _every_nth_full,
    "qwen3_next": _every_nth_full,
    "solar_open": _solar,
}
