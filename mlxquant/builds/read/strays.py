"""Tensors of a build that mlx-lm's class has no place for, grouped into modules by their names.

A vision tower in a text model's build, multi-token prediction, projections that another tool stored in one, weights
packed by a codebook, what is left of a module whose weight is lost, or the whole of a model that mlx-lm lacks. Where
shapes leave a format open the config decides, and where it does not help, `trouble` says which formats it may be.

Arrays that are packed in no way that mlx has say nothing of how many values they stand for. Where the class has a
module of that path, it says so; otherwise they are of the kind UNREAD and count in bytes alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...layout.views.bytes import SAFETENSORS_DTYPES
from ...layout.views.view import View, source_view
from ...source.checkpoint import Checkpoint
from ...words.formats import BY_NAME, FLOATS
from ...words.modules import CARRIED, UNREAD, Array, Module
from .files import Claims
from .formats import Stored, possible_formats, shown

_PACKED = ("weight", "scales", "biases", "global_scale")
_PARTS = (*_PACKED, "bias")

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


def stored_by_names(
    checkpoint: Checkpoint, names: Sequence[str], claims: Claims, modules: Sequence[Module] = ()
) -> list[Stored]:
    """Group tensors into modules by their names, with their formats where these are certain.

    `modules` are those of mlx-lm's class: arrays beside the weight of one of them belong to it, whatever their names.
    """
    known = {m.path: m for m in modules}
    layer_types = {m.layer: m.layer_type for m in modules if m.layer is not None}
    groups: dict[str, dict[str, View]] = defaultdict(dict)
    for name in names:
        tensor = checkpoint.tensors[name]
        if tensor.dtype not in SAFETENSORS_DTYPES.values():
            continue
        path, _, suffix = name.rpartition(".")
        leaf = suffix in _PARTS or (path in known and known[path].quantizable)
        groups[path if leaf else name][suffix if leaf else ""] = source_view(tensor)
    stored = [_stored_by_name(path, views, claims, known.get(path)) for path, views in groups.items()]
    return [_in_layer(s, layer_types, known) for s in stored]


def with_strays(stored: Sequence[Stored], strays: Sequence[Stored]) -> list[Stored]:
    """Both in one list; arrays beside a module whose packing is not known (a codebook) become part of it."""
    joined = {s.module.path: s for s in stored}
    for stray in strays:
        path, placed = stray.module.path, joined.get(stray.module.path)
        if placed is None:
            joined[path] = stray
        elif placed.trouble:
            joined[path] = replace(placed, views={**placed.views, **stray.views})
        else:  # one array more beside a module that is whole
            for suffix, view in stray.views.items():
                name = f"{path}.{suffix}"
                joined[name] = _stored_by_name(name, {"": view}, Claims(False, None, {}, ()), None)
    return list(joined.values())


def _in_layer(stored: Stored, layer_types: Mapping[int, str | None], known: Mapping[str, Module]) -> Stored:
    """With the type of its layer, and whether it holds several of its neighbours in one: gate_up_proj, say."""
    module = stored.module
    if module.kind == CARRIED or not known:
        return stored
    block, _, name = module.path.rpartition(".")
    words = name.removesuffix("_proj").split("_")
    parts = [f"{block}.{word}_proj" for word in words] if name.endswith("_proj") and len(words) > 1 else []
    fused = bool(parts) and module.path not in known and all(part in known for part in parts)
    layer_type = None if module.layer is None else layer_types.get(module.layer)
    return replace(stored, module=replace(module, layer_type=layer_type), fused=fused)


def _stored_by_name(path: str, views: dict[str, View], claims: Claims, known: Module | None) -> Stored:
    first = views.get("weight", next(iter(views.values())))
    shape, dtype, fmt, trouble = first.shape, SAFETENSORS_DTYPES[first.dtype], None, None
    if {"weight", "scales"} <= views.keys():
        dtype = SAFETENSORS_DTYPES[views["scales"].dtype]
        options = possible_formats(views)
        claimed = claims.of(path)
        usual = [f for f in options if f.bits not in BY_NAME.get(f.mode, ())] or options
        fmt = claimed if claimed in options else usual[0] if len(usual) == 1 else None
        if fmt is None:
            either = " or ".join(str(o) for o in usual) or "no format of mlx"
            trouble = f"{shown(views['weight'])} words with scales {shown(views['scales'])}: {either}"
        else:
            shape = (*first.shape[:-1], 32 * first.shape[-1] // fmt.bits)
    elif packed := _packed_otherwise(views, known):
        trouble = packed
    kind = "stored"
    if trouble and known is not None and known.quantizable and not views.keys() <= {*_PARTS} - {"weight"}:
        shape = known.shape  # whatever holds them: the class says which values these are
        arrays: tuple[Array, ...] = known.arrays
    else:
        kind = UNREAD if trouble else kind
        parts = ("scales", "biases") if fmt else ()
        arrays = tuple(
            Array(suffix, shape if suffix in ("weight", "") else v.shape, SAFETENSORS_DTYPES[v.dtype], dtype)
            for suffix, v in views.items()
            if suffix not in parts
        )
    role = known.role if known else role_by_name(path)
    carried = role in ("vision", "mtp")
    layer = known.layer if known else None if carried else _layer_by_name(path)
    module = Module(path, CARRIED if carried and kind != UNREAD else kind, role, layer, None, arrays, False)
    return Stored(module, fmt, dtype, views, trouble, placed=False)


def _packed_otherwise(views: Mapping[str, View], known: Module | None) -> str | None:
    """What holds a module's values where that is no weight of floats or packed in mlx's way; None where it is one."""
    if known is not None and "weight" not in views:
        return f"its weight is not in the shards, which hold {_listing(views)}"
    if "weight" not in views and "" not in views and views.keys() & {*_PACKED}:
        return f"scales without a weight: {_listing(views)}"
    values = views.get("weight", views.get("", next(iter(views.values()))))
    if SAFETENSORS_DTYPES[values.dtype] in FLOATS or values.size <= 1:
        return None
    return f"integers without scales, which mlx has no form of: {_listing(views)}"


def _listing(views: Mapping[str, View]) -> str:
    return ", ".join(f"{suffix} {shown(view)}".lstrip() for suffix, view in views.items())


def role_by_name(path: str) -> str:
    """The role that a name suggests. ``role_by_name("vision_tower.blocks.0.attn.qkv") == "vision"``."""
    parts = path.split(".")
    return next((role for role, name in _ROLE_NAMES if any(name.search(p) for p in parts)), "other")


def _layer_by_name(path: str) -> int | None:
    match = re.search(r"(?:^|\.)(?:layers|blocks|h)\.(\d+)\.", path)
    return int(match[1]) if match else None
