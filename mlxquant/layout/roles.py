"""What each module of a model is for: its role, its layer, and the type of that layer.

Structure first, names second. Experts are what carries `num_experts`; the block that holds them holds the
router too, and the router is the module there that is as wide as the number of experts. A mixer with a
convolution or a decay (`A_log`) is linear attention whatever it is called. Names decide only where
structure leaves a choice: between an attention and a dense MLP, or among several candidates for a router.

This module imports neither mlx_lm nor any architecture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .layer_types import layer_types

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
class Found:
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


def find_roles(model: Any, owners: Mapping[str, str], config: Mapping[str, Any]) -> Found:
    """Give every entry of `owners` a role.

    `owners` maps the path of each module or lone array to the path of the nn.Module that holds it (itself,
    for a module). Raises LayoutError where config and modules disagree about a layer's type.
    """
    tree = dict(model.named_modules())
    layers = {path: i for i, path in enumerate(layer_paths(model, tree))}
    containers = _expert_containers(tree)
    blocks = _expert_blocks(tree, containers, set(layers))
    routers = {p for block, inside in blocks.items() for p in _routers(tree, block, inside)}
    finder = _Finder(tree, layers, blocks, routers, config)
    roles = {path: finder.role(path, owner) for path, owner in owners.items()}
    bare = Found(roles, layers, [None] * len(layers), containers)
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
    found: dict[str, int] = {}
    for path, module in tree.items():
        weight = module.get("weight")
        stacked = weight is not None and weight.ndim == 3 and hasattr(module, "num_experts")
        if stacked and not _in_attention(tree, path):  # attention in groups (deepseek_v41) is no choice of experts
            found[path.rpartition(".")[0]] = int(weight.shape[0])
        for key, value in module.items():
            if "expert" in key and isinstance(value, list) and len(value) > 1:
                found[f"{path}.{key}"] = len(value)
    return found


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
        if not path.startswith(prefix) or any(path == c or path.startswith(c + ".") for c in containers):
            continue
        rel, weight = path.removeprefix(prefix), module.get("weight")
        if (
            weight is None
            or weight.ndim != 2
            or _SHARED_NAME.search(rel)
            or _inside_mlp(tree, block, path)
            or _in_mixer(rel)
        ):
            continue
        if int(weight.shape[0]) in experts:
            wide.append(path)
        elif _ROUTER_NAME.search(rel) and int(weight.shape[0]) >= max(experts):
            named.append(path)
    if len(wide) > 1:
        wide = [p for p in wide if _ROUTER_NAME.search(p.removeprefix(prefix))] or wide
    return wide or named


def _in_mixer(rel: str) -> bool:
    return any(_ATTENTION_NAME.search(part) for part in rel.split(".")) or rel.startswith(("linear_attn", "mamba"))


def _inside_mlp(tree: Mapping[str, Any], block: str, path: str) -> bool:
    """Whether a module lies in a smaller MLP within the block, such as a shared expert."""
    parent = path.rpartition(".")[0]
    while len(parent) > len(block):
        if parent in tree and _MLP_CHILDREN & set(tree[parent]):
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


# --- roles ---


class _Finder:
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
        if block is not None and (found := self._in_block(path, owner, block, at_layer=block == layer)):
            return found
        return self._in_layer(path, layer)

    def _in_block(self, path: str, owner: str, block: str, *, at_layer: bool) -> str | None:
        if any(path.startswith(c + ".") for c in self.blocks[block]):
            return "expert"
        if owner in self.routers:
            return "router"
        if at_layer:  # the whole layer is the block: what else is in it is no part of the experts' business
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
