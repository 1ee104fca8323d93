"""Tensors that no class of mlx-lm has a place for: grouped into modules, with roles and formats by name.

A vision tower in a text model's build, multi-token prediction, what an older mlx-lm stored under other names, or the
whole of a model that mlx-lm lacks. Widths are not known here, so where shapes leave a format open the config decides,
and where it does not help, the module's `trouble` says which formats it may be.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from ...layout.views.bytes import SAFETENSORS_DTYPES
from ...layout.views.view import View, source_view
from ...source.checkpoint import Checkpoint
from ...words.modules import CARRIED, Array, Module
from .files import Claims
from .formats import Stored, possible_formats, shown

_PACKED = ("weight", "scales", "biases")

# Roles of tensors that no class of mlx-lm places, by the first of these that fits a part of the name
_ROLE_NAMES = (
    ("vision", re.compile(r"vision|visual|image|audio|multi_modal|mm_")),
    ("mtp", re.compile(r"^mtp|^nextn")),
    ("norm", re.compile(r"norm|^ln_?\d?$")),
    ("embedding", re.compile(r"embed|^wte$")),
    ("lm_head", re.compile(r"^lm_head$|^output$|embed_out")),
    ("expert", re.compile(r"^experts$|switch_")),
    ("shared_expert", re.compile(r"shared_expert")),
    ("linear_attention", re.compile(r"linear_attn|mamba|^mixer$|conv1d")),
    ("attention", re.compile(r"attn|attention")),
    ("router", re.compile(r"^gate$|^router$")),
    ("mlp", re.compile(r"mlp|ffn|feed_forward")),
)


def stored_by_names(checkpoint: Checkpoint, names: Sequence[str], claims: Claims) -> list[Stored]:
    """Group tensors into modules by their names, with what can be told of their formats."""
    groups: dict[str, dict[str, View]] = defaultdict(dict)
    for name in names:
        tensor = checkpoint.tensors[name]
        if tensor.dtype not in SAFETENSORS_DTYPES.values():
            continue
        path, _, suffix = name.rpartition(".")
        leaf = suffix in (*_PACKED, "bias", "global_scale")
        groups[path if leaf else name][suffix if leaf else ""] = source_view(tensor)
    return [_stored_by_name(path, views, claims) for path, views in groups.items()]


def _stored_by_name(path: str, views: dict[str, View], claims: Claims) -> Stored:
    first = views.get("weight", next(iter(views.values())))
    shape, dtype, fmt, trouble = first.shape, SAFETENSORS_DTYPES[first.dtype], None, None
    if {"weight", "scales"} <= views.keys():
        dtype = SAFETENSORS_DTYPES[views["scales"].dtype]
        options = possible_formats(views)
        claimed = claims.of(path)
        fmt = claimed if claimed in options else options[0] if len(options) == 1 else None
        if fmt is None:
            either = " or ".join(str(o) for o in options) or "no format of mlx"
            trouble = f"{shown(views['weight'])} words with scales {shown(views['scales'])}: {either}"
        else:
            shape = (*first.shape[:-1], 32 * first.shape[-1] // fmt.bits)
    packed = ("scales", "biases") if fmt else ()
    arrays = tuple(
        Array(suffix, shape if suffix in ("weight", "") else v.shape, SAFETENSORS_DTYPES[v.dtype], dtype)
        for suffix, v in views.items()
        if suffix not in packed
    )
    role = role_by_name(path)
    carried = role in ("vision", "mtp")
    layer = None if carried else _layer_by_name(path)
    module = Module(path, CARRIED if carried else "stored", role, layer, None, arrays, False)
    return Stored(module, fmt, dtype, views, trouble, placed=False)


def role_by_name(path: str) -> str:
    """The role that a name suggests. ``role_by_name("vision_tower.blocks.0.attn.qkv") == "vision"``."""
    parts = path.split(".")
    return next((role for role, name in _ROLE_NAMES if any(name.search(p) for p in parts)), "other")


def _layer_by_name(path: str) -> int | None:
    found = re.search(r"(?:^|\.)(?:layers|blocks|h)\.(\d+)\.", path)
    return int(found[1]) if found else None
