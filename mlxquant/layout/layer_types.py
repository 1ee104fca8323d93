"""The type of each layer: how it mixes tokens.

Read from the config (`layer_types`, else its interval and pattern fields), else from the modules; a config that
calls a layer attention where the model has a linear mixer, or the other way round, is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import LayoutError
from ..source.headers import shown
from ..words.modules import LAYER_TYPE_WORDS
from .mlx_lm import MODEL_ERRORS


def layer_types(
    model: Any, config: Mapping[str, Any], roles: Sequence[set[str]], moe: Sequence[bool]
) -> list[str | None]:
    """The type of each layer: what the config says, else what the roles in it and the model's caches tell.

    `roles` are those present in each layer, `moe` says which have experts. Raises LayoutError where config and
    modules disagree.
    """
    seen = [_type_from_roles(present, has) for present, has in zip(roles, moe, strict=True)]
    stated = config_layer_types(config, len(seen))
    if stated is None:
        return _refined_by_caches(model, seen)
    wrong = [
        f"layer {i}: the config says {says}, the model has {has}"
        for i, (says, has) in enumerate(zip(stated, seen, strict=True))
        if says is not None and has is not None and not _agree(says, has)
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more layers)" if len(wrong) > 1 else ""
        raise LayoutError(f"config.json contradicts the model that mlx-lm builds from it: {wrong[0]}{more}")
    return [says or has for says, has in zip(stated, seen, strict=True)]


def _type_from_roles(roles: set[str], moe: bool) -> str | None:
    if "linear_attention" in roles:
        return "hybrid" if "attention" in roles else "linear_attention"
    if "attention" in roles:
        return "full_attention"
    return "moe" if moe else "mlp" if "mlp" in roles else None


def _agree(says: str, has: str) -> bool:
    if has == "hybrid" or says == "hybrid":
        return True
    kinds = {"linear_attention": "linear", "mlp": "none", "moe": "none"}
    return kinds.get(says, "attention") == kinds.get(has, "attention")


def config_layer_types(config: Mapping[str, Any], n_layers: int) -> list[str | None] | None:
    """What a config says of each layer: `layer_types`, else a pattern, else an interval, else None.

    Raises LayoutError for a list that is too short or a word that is not known.
    """
    for table in (config, config.get("text_config") or {}, config.get("llm_config") or {}):
        for key in ("layer_types", "layers_block_type", "block_types", "hybrid_override_pattern"):
            words = table.get(key)
            if isinstance(words, str):
                words = list(words)
            if isinstance(words, list) and words:
                if key == "block_types":  # a pattern that repeats
                    words = (words * n_layers)[:n_layers]
                if len(words) < n_layers:
                    raise LayoutError(f"config.json: {key} names {len(words)} layers, the model has {n_layers}")
                return [_word(w) for w in words[:n_layers]]
        if (types := _interval_types(table, n_layers)) is not None:
            return types
    return None


def _word(word: object) -> str | None:
    """One word for a config's; an unknown kind of attention is full attention, anything else says nothing."""
    text = str(word)
    if text in LAYER_TYPE_WORDS:
        return LAYER_TYPE_WORDS[text]
    return "full_attention" if "attention" in text and "linear" not in text else None


def _interval_types(table: Mapping[str, Any], n: int) -> list[str | None] | None:
    """Types from the fields with which configs say every how many layers, or which ones."""
    full, sliding, linear = "full_attention", "sliding_attention", "linear_attention"
    if every := _period(table, "full_attention_interval"):
        return [full if (i + 1) % every == 0 else linear for i in range(n)]
    if period := _period(table, "attn_layer_period"):
        offset = table.get("attn_layer_offset", 0)
        return [full if i % period == offset else linear for i in range(n)]
    if (chosen := _list(table, "full_attn_idxs")) is not None:
        return [full if i in chosen else linear for i in range(n)]
    if len(ratios := _list(table, "compress_ratios") or []) >= n > 0:  # 0: a window alone
        return [full if r else sliding for r in ratios[:n]]
    if (chosen := _list(table, "sliding_window_layers")) is not None:
        return [sliding if i in chosen else full for i in range(n)]
    if 0 in (kinds := _list(table, "attn_type_list") or []) and len(kinds) >= n:
        return [full if k == 1 else linear for k in kinds[:n]]
    mixed = table.get("linear_attn_config")
    if isinstance(mixed, dict) and (chosen := _list(mixed, "full_attn_layers")) is not None:
        return [full if i + 1 in chosen else linear for i in range(n)]
    if isinstance(letters := table.get("sliding_window_pattern"), str) and letters:  # LLLG, over and over
        return [full if letters[i % len(letters)] == "G" else sliding for i in range(n)]
    if every := _period(table, "sliding_window_pattern"):
        return [full if (i + 1) % every == 0 else sliding for i in range(n)]
    return None


def _period(table: Mapping[str, Any], key: str) -> int | None:
    value = table.get(key)
    if value is None or (type(value) is int and value >= 0):
        return value or None
    raise LayoutError(f"config.json: {key} is a number of layers, not {shown(value)}")


def _list(table: Mapping[str, Any], key: str) -> list[Any] | None:
    value = table.get(key)
    if value is None or isinstance(value, list):
        return value
    raise LayoutError(f"config.json: {key} is a list, not {shown(value)}")


def _refined_by_caches(model: Any, seen: Sequence[str | None]) -> list[str | None]:
    """Tell full from sliding and chunked attention by the cache that the model makes for each layer."""
    words = {"RotatingKVCache": "sliding_attention", "ChunkedKVCache": "chunked_attention"}
    try:
        caches = [_attention_cache(c) for c in model.make_cache()] if hasattr(model, "make_cache") else []
    except MODEL_ERRORS as error:
        what = f"{type(error).__name__}: {error}"
        raise LayoutError(f"config.json: mlx-lm cannot make the model's caches from it ({what})") from error
    mixers = [i for i, t in enumerate(seen) if t not in ("mlp", "moe", None)]
    where = range(len(seen)) if len(caches) == len(seen) else mixers if len(caches) == len(mixers) else []
    types = list(seen)
    for i, cache in zip(where, caches, strict=False):
        if types[i] == "full_attention":
            types[i] = words.get(type(cache).__name__, "full_attention")
    return types


def _attention_cache(cache: Any) -> Any:
    """The cache of a layer's attention, where a layer keeps a list of caches of several kinds."""
    inner = getattr(cache, "caches", None) or (cache,)
    return next((c for c in inner if "KVCache" in type(c).__name__), cache)
