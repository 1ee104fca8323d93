"""What transformers reads of a config and mlx-lm's class reads elsewhere, takes another default for, or does not read.

Data only. Each table is by module of mlx_lm.models; the defaults, which are transformers', by model_type. They were
made by comparing the config classes and modeling code of transformers 5.24 with the argument classes of mlx-lm 0.32.2
for all its MoE classes, and by the logits of tiny models in which one field at a time was changed
(benchmarks/config_fields.py does both). `class_config` applies the tables, and looks at the class first: a field that
the installed mlx-lm reads after all is not refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Where the fields of the text model lie in a table of their own: the class that reads it, by module.
TEXT_CLASSES: Mapping[str, tuple[str, str]] = {
    "gemma3": ("gemma3_text", "ModelArgs"),
    "gemma3n": ("gemma3n", "TextConfig"),
    "gemma4": ("gemma4_text", "ModelArgs"),
    "kimi_k25": ("deepseek_v3", "ModelArgs"),
    "kimi_k3": ("kimi_k3", "TextArgs"),
    "kimi_vl": ("kimi_vl", "TextArgs"),
    "lfm2-vl": ("lfm2", "ModelArgs"),
    "llama4": ("llama4", "TextArgs"),
    "minimax_m3_vl": ("minimax_m3_vl", "TextArgs"),
    "mistral3": ("llama", "ModelArgs"),
    "muse_spark": ("muse_spark", "TextArgs"),
    "pixtral": ("llama", "ModelArgs"),
    "qwen2_vl": ("qwen2", "ModelArgs"),
    "qwen3_5": ("qwen3_5", "TextModelArgs"),
    "qwen3_5_moe": ("qwen3_5", "TextModelArgs"),
    "qwen3_vl": ("qwen3", "ModelArgs"),
    "qwen3_vl_moe": ("qwen3_moe", "ModelArgs"),
}
# Text models that a class chooses by their own model_type.
TEXT_BY_TYPE: Mapping[tuple[str, str], tuple[str, str]] = {
    ("mistral3", "ministral3"): ("ministral3", "ModelArgs"),
    ("mistral3", "mistral4"): ("mistral4", "ModelArgs"),
}

# Text models that stand alone under a model_type of their own, with the class that reads them within a vision model.
TEXT_TYPES: Mapping[str, tuple[str, str]] = {
    "llama4_text": ("llama4", "TextArgs"),
    "qwen3_vl_moe_text": ("qwen3_moe", "ModelArgs"),
}

# Classes that compute plain RoPE whatever the config says: a scaled one (YaRN, linear, ...) cannot be expressed.
PLAIN_ROPE = frozenset({
    "Klear", "dbrx", "ernie4_5", "ernie4_5_moe", "exaone_moe", "gemma4_text", "glm4_moe", "granitemoehybrid", "jamba",
    "lfm2", "lfm2_moe", "llama4_text", "mimo_v2_flash", "minimax", "mixtral", "muse_glimmer", "muse_spark",
    "olmo_hybrid", "qwen2_moe", "qwen3_5", "qwen3_moe", "qwen3_next", "solar_open",
})  # fmt: skip

# The same for classes that read RoPE by layer type: the types that they compute as plain.
PLAIN_BY_LAYER: Mapping[str, frozenset[str]] = {
    "mellum": frozenset({"linear"}),
    "spark2_5": frozenset({"dynamic", "linear", "llama3", "longrope", "proportional", "yarn"}),
}

# Classes that have a field for the part of each head that is rotated, and rotate all of it.
WHOLE_HEADS = frozenset({"glm4_moe_lite"})

# Classes that take any scaling for the one that they compute.
ROPE_TYPES: Mapping[str, tuple[str, ...]] = {
    "deepseek": ("linear",),
    "deepseek_v2": ("yarn", "deepseek_yarn"),
    "minicpm3": ("longrope",),
    "phimoe": ("longrope",),
}

# Other names that transformers 5 writes for a field.
ALIASES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "qwen3_moe": {"num_experts": ("num_local_experts",)},
    "mellum": {"num_experts": ("num_local_experts",)},
    "deepseek_v2": {"n_routed_experts": ("num_experts", "num_local_experts")},
    "deepseek_v3": {"n_routed_experts": ("num_local_experts",)},
    "deepseek_v32": {"n_routed_experts": ("num_local_experts",)},
    "dots1": {"n_routed_experts": ("num_local_experts",)},
    "glm4_moe": {"n_routed_experts": ("num_local_experts",)},
    "glm4_moe_lite": {"n_routed_experts": ("num_local_experts",)},
    "glm_moe_dsa": {"n_routed_experts": ("num_local_experts",)},
    "solar_open": {"n_routed_experts": ("num_local_experts",)},
    "mimo_v2_flash": {"n_routed_experts": ("num_local_experts",)},
    "gpt_oss": {"num_local_experts": ("num_experts",)},
    "minimax": {"num_local_experts": ("num_experts",)},
    "mixtral": {"num_local_experts": ("num_experts",)},
    "olmoe": {"num_experts": ("num_local_experts",)},
    "kimi_linear": {
        "num_experts_per_token": ("num_experts_per_tok",),
        "num_shared_experts": ("n_shared_experts",),
        "num_expert_group": ("n_group",),
        "moe_renormalize": ("norm_topk_prob",),
        "model_max_length": ("max_position_embeddings",),
    },
}

# Values of fields that a class does not read, of which the first is what it computes; another cannot be expressed.
COMPUTED: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "mixtral": {"sliding_window": (None,)},
    "qwen2_moe": {
        "norm_topk_prob": (False, None), "decoder_sparse_step": (1, None), "mlp_only_layers": ([], None),
        "use_sliding_window": (False, None), "qkv_bias": (True, None),
    },
    "qwen3_moe": {"attention_bias": (False, None), "use_sliding_window": (False, None)},
    "deepseek_v2": {"mlp_bias": (False, None)},
    "deepseek_v3": {"rope_interleave": (True, None)},
    "glm4_moe_lite": {"rope_interleave": (True, None)},
    "olmoe": {"clip_qkv": (None,)},
    "gpt_oss": {"swiglu_alpha": (1.702, None), "swiglu_limit": (7.0, None), "attention_bias": (True, None)},
    "phimoe": {"sliding_window": (None,), "attention_bias": (True, None)},
    "gemma4_text": {"attention_bias": (False, None), "hidden_activation": ("gelu_pytorch_tanh", None)},
}  # fmt: skip
# Classes whose MLPs are SwiGLU whatever `hidden_act` says.
SWIGLU = frozenset({
    "afmoe", "bailing_hybrid", "bailing_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe",
    "exaone_moe", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "granitemoe", "granitemoehybrid", "jamba", "kimi_linear",
    "laguna", "llama4", "longcat_flash", "mellum", "mimo_v2_flash", "minimax", "mistral4", "mixtral", "olmoe", "phimoe",
    "qwen2_moe", "qwen3_5", "qwen3_moe", "qwen3_next", "solar_open", "step3p5",
})  # fmt: skip
ACTIVATIONS = ("silu", "swish", None)

# Words in a list of layers that make a checkpoint smaller than the class: what the class does, and what that means.
UNCOUNTED: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "glm_moe_dsa": {
        "indexer_types": (
            "shared",
            "makes an indexer for every layer, so parameters and bytes here are too high, and the checkpoint's shards"
            " will be refused",
        ),
    },
}

# Where a class computes otherwise whatever the config says: noted with every source.
DEVIATIONS: Mapping[str, str] = {
    "glm4_moe_lite": "takes 1e-06 for rms_norm_eps in the norms of its latent attention, whatever config.json says",
    "jamba": "weighs the chosen experts to a sum of 1, which transformers does not",
}

# Defaults of transformers for fields that a config leaves out, by model_type, where mlx-lm's class has another or none.
# Sizes are not among them: a config that leaves them out is damaged.
_EXPERT_GROUPS = {"n_group": 1, "topk_group": 1, "norm_topk_prob": True}
_DEEPSEEK = {
    "routed_scaling_factor": 2.5, "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
}  # fmt: skip
_GRANITE = {
    "attention_bias": False, "embedding_multiplier": 1.0, "attention_multiplier": 1.0, "logits_scaling": 1.0,
    "residual_multiplier": 1.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip
_SPARSE = {"decoder_sparse_step": 1, "mlp_only_layers": [], "rms_norm_eps": 1e-6}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "afmoe": {
        "num_experts_per_tok": 6, "num_dense_layers": 1, "route_scale": 1.0, "sliding_window": 1024,
        "mup_enabled": False,
    },
    "deepseek_v2": {"topk_method": "greedy"},
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v32": _DEEPSEEK,
    "dots1": {"first_k_dense_replace": 0, "norm_topk_prob": False, "rms_norm_eps": 1e-6, "routed_scaling_factor": 1.0},
    "ernie4_5_moe": {"moe_k": 6, "moe_layer_start_index": 1, "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
    "exaone_moe": {"num_experts_per_tok": 8, "rms_norm_eps": 1e-5, "sliding_window": 4096},
    "gemma4_text": {"final_logit_softcapping": None, "num_kv_shared_layers": 0, "use_double_wide_mlp": False},
    "glm4_moe": _EXPERT_GROUPS | {
        "attention_bias": False, "first_k_dense_replace": 1, "num_experts_per_tok": 8, "rms_norm_eps": 1e-5,
        "routed_scaling_factor": 1.0, "tie_word_embeddings": False, "use_qk_norm": False, "rope_scaling": None,
        "partial_rotary_factor": 0.5,
    },
    "glm_moe_dsa": _EXPERT_GROUPS | {
        "attention_bias": False, "first_k_dense_replace": 3, "index_topk": 2048, "num_experts_per_tok": 8,
        "rms_norm_eps": 1e-5, "routed_scaling_factor": 2.5, "moe_layer_freq": 1, "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
    },
    "granitemoe": _GRANITE | {"num_experts_per_tok": 2},
    "granitemoehybrid": _GRANITE,
    "jamba": {
        "attn_layer_offset": 4, "attn_layer_period": 8, "expert_layer_offset": 1, "expert_layer_period": 2,
        "num_experts_per_tok": 2, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    },
    "kimi_linear": {"num_experts_per_token": 8, "rms_norm_eps": 1e-5, "routed_scaling_factor": 2.446},
    "laguna": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        },
    },
    "lfm2_moe": {
        "conv_bias": False, "norm_eps": 1e-5, "norm_topk_prob": True, "num_dense_layers": 2, "num_experts_per_tok": 4,
        "use_expert_bias": True,
    },
    "llama4_text": {
        "attention_bias": False, "interleave_moe_layer_step": 1, "num_experts_per_tok": 1, "rms_norm_eps": 1e-5,
        "use_qk_norm": True, "rope_scaling": None, "attention_chunk_size": 8192,
    },
    "longcat_flash": {"attention_bias": False, "moe_topk": 12, "rms_norm_eps": 1e-5, "routed_scaling_factor": 6.0},
    "mellum": {
        "norm_topk_prob": True, "num_experts_per_tok": 8, "rms_norm_eps": 1e-6, "sliding_window": 1024,
        "tie_word_embeddings": False,
    },
    "minimax_m2": {"num_experts_per_tok": 8, "rms_norm_eps": 1e-6},
    "mistral4": _EXPERT_GROUPS | {
        "first_k_dense_replace": 0, "num_experts_per_tok": 4, "rms_norm_eps": 1e-6, "routed_scaling_factor": 1.0,
    },
    "nemotron_h": {"attention_bias": False, "layer_norm_epsilon": 1e-5, "mlp_bias": False, "use_conv_bias": True},
    "olmoe": {"num_experts_per_tok": 8, "rms_norm_eps": 1e-5, "tie_word_embeddings": False},
    "phimoe": {"rms_norm_eps": 1e-5},
    "qwen2_moe": {"num_experts_per_tok": 4, "rms_norm_eps": 1e-6},
    "qwen3_moe": _SPARSE | {"norm_topk_prob": False, "num_experts_per_tok": 8, "tie_word_embeddings": False},
    "qwen3_next": _SPARSE | {"norm_topk_prob": True, "num_experts_per_tok": 10},
    "qwen3_vl_moe_text": _SPARSE | {"norm_topk_prob": True, "num_experts_per_tok": 4},
    "solar_open": {
        "norm_topk_prob": True, "num_experts_per_tok": 8, "rms_norm_eps": 1e-5, "routed_scaling_factor": 1.0,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
# transformers' base of RoPE where a config gives none.
THETAS: Mapping[str, float] = {
    "ernie4_5_moe": 500000.0, "gpt_oss": 150000.0, "lfm2_moe": 1000000.0, "llama4_text": 500000.0,
    "longcat_flash": 10000000.0, "minimax_m2": 5000000.0, "mixtral": 1000000.0, "phimoe": 1000000.0,
    "qwen3_vl_moe_text": 500000.0, "solar_open": 1000000.0,
}  # fmt: skip
