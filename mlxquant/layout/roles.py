"""What each module of a model is for: its role, its layer, the type of that layer, and its share of experts.

Structure first, names second. Experts are what carries `num_experts`; the block that holds them holds the
router too, and the router is the module there that is as wide as the number of experts. A mixer with a
convolution or a decay (`A_log`) is linear attention whatever it is called. Names decide only where
structure leaves a choice: between an attention and a dense MLP, or among several candidates for a router.

The type of a layer, which is how it mixes tokens, is read from the config (`layer_types`, else its interval and
pattern fields), else from the modules. A config that calls a layer attention where the model has a linear mixer, or
the other way round, is an error. How many experts a token uses is read from the modules, else from the config.

This module imports neither mlx_lm nor any architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import MODEL_ERRORS, LayoutError
from ..source.headers import shown
from ..words.modules import LAYER_TYPE_WORDS, Module
from .arrays import module_at

_ROUTER_NAME = re.compile(r"(^|\.)(gate|router|wg|classifier|gating)(\.|$)|router")
_LINEAR_CLASS = re.compile(
    r"Delta|Mamba|SSM|Recurrent|RGLRU|ShortConv|Linear_?Attention|Lightning|TimeMix|Retention|GLA", re.I
)
_ATTENTION_CLASS = re.compile(r"Attention|Attn|MLA\b|Indexer", re.I)
_ATTENTION_NAME = re.compile(r"(^|_)(attn|attention)(_|$)|self_attn")
_MLP_CLASS = re.compile(r"MLP|FeedForward|FFN|ChannelMix|GLU")
_MLP_NAME = re.compile(r"mlp|ffn|feed_forward|ff_layer")
_MLP_CHILDREN = {"down_proj", "w2", "fc2", "c_proj", "fc_out", "dense_4h_to_h", "output_linear", "wo", "proj_2", "v1"}
_SHARED_NAME = re.compile(r"shared|(^|\.)share_expert")
_HEAD_NAME = re.compile(r"lm_head|^output$|\.output$|embed_out|(^|\.)head$")
_DECAYS = {"A_log", "dt_bias", "decay", "w_lora", "a_param", "x_decay"}


@dataclass(frozen=True)
class Roles:
    """What `find_roles` gives: role by path, index by layer path, one type a layer, experts by container path."""

    roles: Mapping[str, str]
    layers: Mapping[str, int]
    layer_types: Sequence[str | None]
    experts: Mapping[str, int]

    def layer_of(self, path: str) -> int | None:
        """The index of the decoder layer that a path lies in, or None outside the layers."""
        return next((self.layers[p] for p in _ancestors(path) if p in self.layers), None)

    def experts_of(self, path: str) -> int:
        """How many experts the container of an expert's path holds."""
        return next(self.experts[p] for p in _ancestors(path) if p in self.experts)


def find_roles(model: Any, owners: Mapping[str, str], config: Mapping[str, Any]) -> Roles:
    """Give every entry of `owners` a role.

    `owners` maps the path of each module or lone array to the path of the nn.Module that holds it (itself,
    for a module). Raises LayoutError where config and modules disagree about a layer's type.
    """
    tree = dict(model.named_modules())
    layers = {path: i for i, path in enumerate(layer_paths(model, tree))}
    containers = _expert_containers(tree)
    blocks = _expert_blocks(tree, containers, set(layers))
    routers = {p for block, inside in blocks.items() for p in _routers(tree, block, inside)}
    finder = _RoleFinder(tree, layers, blocks, routers, config)
    roles = {path: finder.role(path, owner) for path, owner in owners.items()}
    bare = Roles(roles, layers, [None] * len(layers), containers)
    present: list[set[str]] = [set() for _ in layers]
    for path, role in roles.items():
        if (layer := bare.layer_of(path)) is not None:
            present[layer].add(role)
    moe = [path in finder.moe_layers for path in layers]
    return replace(bare, layer_types=layer_types(model, config, present, moe))


def layer_paths(model: Any, tree: Mapping[str, Any]) -> list[str]:
    """Paths of the decoder layers, in order: the model's own `layers`, else its longest list of modules."""
    layers = getattr(model, "layers", None)
    if isinstance(layers, list) and layers:
        where = {id(m): p for p, m in tree.items()}
        return [where[id(layer)] for layer in layers if id(layer) in where]
    lists = [
        [f"{p}.{k}.{i}".lstrip(".") for i in range(len(v))]
        for p, m in tree.items()
        for k, v in m.items()
        if isinstance(v, list) and v and all(isinstance(x, nn.Module) for x in v)
    ]
    return max(lists, key=len, default=[])


# --- structure ---


def _expert_containers(tree: Mapping[str, Any]) -> dict[str, int]:
    """Paths that hold experts -> how many: parents of stacked projections, and lists of expert modules."""
    containers: dict[str, int] = {}
    for path, module in tree.items():
        weight = module.get("weight")
        stacked = weight is not None and weight.ndim == 3 and hasattr(module, "num_experts")
        if stacked and not _in_attention(tree, path):  # attention in groups (deepseek_v41) is no choice of experts
            containers[path.rpartition(".")[0]] = int(weight.shape[0])
        for key, value in module.items():
            if "expert" in key and isinstance(value, list) and len(value) > 1:
                containers[f"{path}.{key}"] = len(value)
    return containers


def _expert_blocks(
    tree: Mapping[str, Any], containers: Mapping[str, int], layers: set[str]
) -> dict[str, dict[str, int]]:
    """Block path -> its expert containers.

    The block is the nearest ancestor of the experts, at most the layer, that holds a router besides them.
    """
    blocks: dict[str, dict[str, int]] = {}
    for container, n in containers.items():
        block = container.rpartition(".")[0] if container not in layers else container
        while block and block not in layers and not _routers(tree, block, {container: n}):
            block = block.rpartition(".")[0]
        blocks.setdefault(block, {})[container] = n
    return blocks


def _routers(tree: Mapping[str, Any], block: str, containers: Mapping[str, int]) -> list[str]:
    """The modules of a block that pick experts: as wide as their number, by name where several are."""
    experts = set(containers.values())
    prefix = block + "." if block else ""
    wide: list[str] = []
    named: list[str] = []
    for path, module in tree.items():
        if not path.startswith(prefix):  # first: it is asked of every module of the model for every block
            continue
        inside = any(path == c or path.startswith(c + ".") for c in containers)
        if inside and not _beside_stacks(path, module, containers):
            continue
        rel, weight = path.removeprefix(prefix), module.get("weight")
        if (
            weight is None
            or weight.ndim != 2
            or _SHARED_NAME.search(rel)
            or (not inside and _inside_mlp(tree, block, path))
            or _in_mixer(rel)
        ):
            continue
        if int(weight.shape[0]) in experts:
            wide.append(path)
        elif _ROUTER_NAME.search(rel) and 2 * int(weight.shape[0]) > max(experts):  # a shared one may be in the stack
            named.append(path)
    if len(wide) > 1:
        wide = [p for p in wide if _ROUTER_NAME.search(p.removeprefix(prefix))] or wide
    return wide or named


def _beside_stacks(path: str, module: Any, containers: Mapping[str, int]) -> bool:
    """Whether it is a router that the module which holds the stacked projections holds too (moondream3)."""
    parent, _, name = path.rpartition(".")
    weight = module.get("weight")
    wide = weight is not None and weight.ndim == 2 and int(weight.shape[0]) == containers.get(parent)
    return wide and bool(_ROUTER_NAME.search(name))


def _in_mixer(rel: str) -> bool:
    return any(_ATTENTION_NAME.search(part) for part in rel.split(".")) or rel.startswith(("linear_attn", "mamba"))


def _inside_mlp(tree: Mapping[str, Any], block: str, path: str) -> bool:
    """Whether a module lies in a smaller MLP within the block, such as a shared expert."""
    parent = path.rpartition(".")[0]
    while len(parent) > len(block):
        if parent in tree and _MLP_CHILDREN & set(tree[parent]) and not _ROUTER_NAME.search(parent.rpartition(".")[2]):
            return True
        parent = parent.rpartition(".")[0]
    return False


def _in_attention(tree: Mapping[str, Any], path: str) -> bool:
    return any(p in tree and _is_attention(p.rpartition(".")[2], tree[p]) for p in _ancestors(path)[1:])


def _is_linear_mixer(module: Any) -> bool:
    if _LINEAR_CLASS.search(type(module).__name__):
        return True
    if _DECAYS & set(module):
        return True
    return any(isinstance(child, nn.Conv1d) for child in module.values())


def _is_attention(name: str, module: Any) -> bool:
    return bool(_ATTENTION_CLASS.search(type(module).__name__) or (_ATTENTION_NAME.search(name) and module.children()))


def _is_mlp(name: str, module: Any) -> bool:
    if _MLP_CHILDREN & set(module) or _MLP_CLASS.search(type(module).__name__):
        return True
    return bool(_MLP_NAME.search(name) and module.children())


def _is_norm(path: str, module: Any) -> bool:
    name = path.rpartition(".")[2]
    if "Norm" in type(module).__name__ and not module.children():
        return True
    arrays = [v for v in module.values() if isinstance(v, mx.array)]
    return "norm" in name.lower() and not module.children() and all(a.ndim <= 1 for a in arrays)


# --- the role of one path ---


class _RoleFinder:
    """Finds the role of one path after another in one model."""

    def __init__(
        self,
        tree: Mapping[str, Any],
        layers: Mapping[str, int],
        blocks: Mapping[str, Mapping[str, int]],
        routers: set[str],
        config: Mapping[str, Any],
    ) -> None:
        self.tree, self.layers, self.blocks, self.routers, self.config = tree, layers, blocks, routers, config
        self.moe_layers = {a for block in blocks for a in _ancestors(block) if a in layers}

    def role(self, path: str, owner: str) -> str:
        """The role of a module, or of a lone array that `owner` holds."""
        parts = path.split(".")
        if any(part.startswith(("vision", "visual", "image", "audio", "multi_modal", "mm_")) for part in parts):
            return "vision"
        if any(part == "mtp" or part.startswith("mtp_") or part == "nextn" for part in parts):
            return "mtp"
        if _is_norm(owner, self.tree[owner]):
            return "norm"
        above = _ancestors(path)
        layer = next((p for p in above if p in self.layers), None)
        if layer is None:
            return _outside_layers(path, self.tree[owner], self.config)
        block = next((p for p in above if p in self.blocks), None)
        if block is not None and (role := self._in_block(path, owner, block, at_layer=block == layer)):
            return role
        return self._in_layer(path, layer)

    def _in_block(self, path: str, owner: str, block: str, *, at_layer: bool) -> str | None:
        if owner in self.routers:
            return "router"
        if any(path.startswith(c + ".") for c in self.blocks[block]):
            return "expert"
        if at_layer:  # the whole layer is the block: the rest of it does not belong to the experts
            return "router" if _ROUTER_NAME.search(path.removeprefix(block + ".").split(".")[0]) else None
        rel, weight = path.removeprefix(block + "."), self.tree[owner].get("weight")
        if owner == block:  # an array that the block itself holds, such as e_score_correction_bias
            return "router"
        if weight is not None and weight.ndim == 2 and weight.shape[0] <= 2:
            return "shared_expert_gate"
        if _SHARED_NAME.search(rel):
            return "shared_expert"
        return "router" if _ROUTER_NAME.search(rel) else "mlp"

    def _in_layer(self, path: str, layer: str) -> str:
        inner = [p for p in reversed(_ancestors(path)) if len(p) > len(layer) and p in self.tree]
        named = [(p.rpartition(".")[2], self.tree[p]) for p in inner]
        if any(_is_linear_mixer(m) and (_DECAYS & set(m) or not _MLP_NAME.search(name)) for name, m in named):
            return "linear_attention"
        if any(_is_attention(name, m) for name, m in named):
            return "attention"
        if any(_is_mlp(name, m) for name, m in named):
            shared = layer in self.moe_layers and _SHARED_NAME.search(path.removeprefix(layer))
            return "shared_expert" if shared else "mlp"
        return "other"


def _outside_layers(path: str, module: Any, config: Mapping[str, Any]) -> str:
    if isinstance(module, nn.Embedding):
        return "embedding"
    vocab = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    weight = module.get("weight")
    if _HEAD_NAME.search(path) or (
        isinstance(module, nn.Linear) and weight is not None and weight.shape[0] == vocab and "layers" not in path
    ):
        return "lm_head"
    if "norm" in path.rpartition(".")[2].lower():
        return "norm"
    return "embedding" if "embed" in path and not isinstance(module, nn.Linear) else "other"


def _ancestors(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


# --- layer types ---


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


# --- experts ---


_TOP_K = (
    "num_experts_per_tok", "num_experts_per_token", "top_k", "moe_top_k", "moe_topk", "top_k_experts", "moe_k",
    "num_local_experts_per_tok", "experts_per_token", "topk", "router_topk", "num_selected_experts", "k",
)  # fmt: skip


def expert_shares(
    model: Any, modules: Sequence[Module], config: Mapping[str, Any], roles: Roles
) -> dict[str, tuple[int, int]]:
    """Path of each expert module -> (experts that one token uses, experts there are)."""
    shares: dict[str, tuple[int, int]] = {}
    for module in modules:
        if module.role == "expert":
            k, path = None, module.path.rpartition(".")[0]
            while path and not k:
                k, path = _top_k(module_at(model, path)), path.rpartition(".")[0]
            n = roles.experts_of(module.path)
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
