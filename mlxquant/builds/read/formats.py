"""The format of one packed matrix, read from the shapes and dtypes of its tensors.

mlx packs a matrix (…, in) of `bits` into uint32 words along its last axis, beside one scale for each group:

    bits = 32 · words / in        group_size = in / scales        mode = affine where scales are floats

The class that mlx-lm has for the model knows `in`, so both are certain: 192 words for 768 values are 8 bits. Where
it does not (a vision tower, an architecture that mlx-lm lacks) only ``bits · group_size = 32 · words / scales`` is:
512 is 8-bit g64 as well as 4-bit g128.

So the second half of this module groups by name the tensors that no class has a place for: a vision tower in a text
model's build, multi-token prediction, what an older mlx-lm stored under other names, or the whole of a model that
mlx-lm lacks. Where shapes leave a format open the config decides, and where it does not help, the module's `trouble`
says which formats it may be.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...layout.views.bytes import SAFETENSORS_DTYPES
from ...layout.views.view import View, source_view
from ...source.checkpoint import Checkpoint
from ...words.formats import FLOATS, MODES, Format
from ...words.modules import CARRIED, Array, Module
from .files import Claims


@dataclass(frozen=True, slots=True)
class Stored:
    """One module as the bytes have it.

    `dtype` is that of its values, or of its scales. `views` gives its arrays by suffix; `trouble` is why its
    format is not certain, None where it is. `placed` says that mlx-lm's class has it.
    """

    module: Module
    format: Format | None
    dtype: str
    views: Mapping[str, View]
    trouble: str | None = None
    placed: bool = True

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(v.nbytes for v in self.views.values())


def packed_format(shape: Sequence[int], views: Mapping[str, View]) -> Format | str:
    """The format in which a matrix of `shape` is packed, or why no format of mlx fits.

    `views` has `weight`, `scales` and, for affine, `biases`.
    """
    weight, scales, biases = views["weight"], views["scales"], views.get("biases")
    *lead, width = shape
    words, groups = weight.shape[-1], scales.shape[-1] if scales.shape else 0
    seen = f"weight {shown(weight)} and scales {shown(scales)} for a matrix {list(shape)}"
    if SAFETENSORS_DTYPES[weight.dtype] != "U32":
        return f"{seen}: packed weights are U32"
    if list(weight.shape[:-1]) != lead or list(scales.shape[:-1]) != lead or not groups:
        return f"{seen}: rows differ"
    if 32 * words % width or width % groups:
        return f"{seen}: {32 * words / width:.4g} bits and groups of {width / groups:.4g} are no whole numbers"
    bits, group = 32 * words // width, width // groups
    if SAFETENSORS_DTYPES[scales.dtype] in FLOATS:
        if biases is None or biases.shape != scales.shape or biases.dtype != scales.dtype:
            return f"{seen}: affine biases like the scales expected, {shown(biases)} found"
        fmt = Format(bits, group)
        return f"{seen}: {problem}" if (problem := fmt.problem()) else fmt
    named = next((m for m, (g, b) in MODES.items() if m != "affine" and (bits, group) == (b[0], g[0])), None)
    if SAFETENSORS_DTYPES[scales.dtype] != "U8" or named is None:
        return f"{seen}: {bits} bits, group size {group}, scales {SAFETENSORS_DTYPES[scales.dtype]} are no mode of mlx"
    return Format(bits, group, named) if biases is None else f"{seen}: mode {named} has no biases, but they are there"


def possible_formats(views: Mapping[str, View]) -> list[Format]:
    """The formats that packed words and scales allow where the matrix's width is not known."""
    weight, scales = views["weight"], views["scales"]
    if not scales.shape or not scales.shape[-1] or SAFETENSORS_DTYPES[weight.dtype] != "U32":
        return []
    affine = SAFETENSORS_DTYPES[scales.dtype] in FLOATS
    return [
        Format(bits, group, mode)
        for mode, (groups, widths) in MODES.items()
        if (mode == "affine") == affine
        for bits in reversed(widths)
        for group in groups
        if bits * group * scales.shape[-1] == 32 * weight.shape[-1]
    ]


def shown(view: View | None) -> str:
    """Dtype and shape of an array, as messages have it."""
    return "none" if view is None else f"{SAFETENSORS_DTYPES[view.dtype]} {list(view.shape)}"


# --- tensors without a place in the class ---


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
    """Group tensors into modules by their names, with their formats where these are certain."""
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
    match = re.search(r"(?:^|\.)(?:layers|blocks|h)\.(\d+)\.", path)
    return int(match[1]) if match else None
