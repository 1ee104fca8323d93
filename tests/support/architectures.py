"""The architectures of `architectures.toml`: a config for each, and what is expected of it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What all configs of the table have; an architecture's own facts win.
SIZES = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 64,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 256, "tie_word_embeddings": False,
}  # fmt: skip
TABLE: dict[str, dict[str, Any]] = tomllib.loads((Path(__file__).parent / "architectures.toml").read_text())


def config_of(table: Mapping[str, Any]) -> dict[str, Any]:
    """A whole config from the facts of the table."""
    facts: dict[str, Any] = nulls(table)
    if "text_config" in facts:
        return {**facts, "text_config": SIZES | facts["text_config"]}
    return SIZES | facts


def nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: nulls(v) for k, v in value.items()}
    if isinstance(value, list):
        return [nulls(v) for v in value]
    return None if value == "null" else value
