"""How many of its experts a model uses for one token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..words.modules import Module
from .arrays import module_at
from .roles import Found

_TOP_K = (
    "num_experts_per_tok", "num_experts_per_token", "top_k", "moe_top_k", "moe_topk", "top_k_experts", "moe_k",
    "num_local_experts_per_tok", "experts_per_token", "topk", "router_topk", "num_selected_experts", "k",
)  # fmt: skip


def expert_shares(
    model: Any, modules: Sequence[Module], config: Mapping[str, Any], found: Found
) -> dict[str, tuple[int, int]]:
    """Path of each expert module -> (experts that one token uses, experts there are)."""
    shares: dict[str, tuple[int, int]] = {}
    for module in modules:
        if module.role == "expert":
            k, path = None, module.path.rpartition(".")[0]
            while path and not k:
                k, path = _top_k(module_at(model, path)), path.rpartition(".")[0]
            n = found.experts_of(module.path)
            shares[module.path] = (min(k or _top_k_of_config(config) or n, n), n)
    return shares


def _top_k(module: Any) -> int | None:
    for name in _TOP_K:
        value = getattr(module, name, None)
        if type(value) is int and value > 0:
            return value
    return None


def _top_k_of_config(config: Mapping[str, Any]) -> int | None:
    tables = (config, *(config.get(key) or {} for key in ("text_config", "ffn_config", "llm_config")))
    for table in tables:
        for name in _TOP_K:
            value = table.get(name)
            if type(value) is int and value > 0:
                return value
    return None
