"""The format of one packed matrix, read from the shapes and dtypes of its tensors.

mlx packs a matrix (…, in) of `bits` into uint32 words along its last axis, beside one scale for each group:

    bits = 32 · words / in        group_size = in / scales        mode = affine where scales are floats

The class that mlx-lm has for the model knows `in`, so both are certain: 192 words for 768 values are 8 bits. Where
it does not (a vision tower, an architecture that mlx-lm lacks) only ``bits · group_size = 32 · words / scales`` is:
512 is 8-bit g64 as well as 4-bit g128.

Tensors that no class has a place for are grouped by name: see `strays`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...layout.views.bytes import SAFETENSORS_DTYPES
from ...layout.views.view import View
from ...words.formats import FLOATS, MODES, Format, shape_formats
from ...words.modules import Module


@dataclass(frozen=True, slots=True)
class Stored:
    """One module as the bytes have it.

    `dtype` is that of its values, or of its scales. `views` gives its arrays by suffix; `trouble` is why its
    format is not certain, None where it is. `placed` says that mlx-lm's class has it. `origins` are the paths of the
    tensors that it is made of where these are others, as in builds of an older layout; `computed` says that mlx-lm
    computes it from them. `fused` says that it holds several modules of the class in one.
    """

    module: Module
    format: Format | None
    dtype: str
    views: Mapping[str, View]
    trouble: str | None = None
    placed: bool = True
    origins: tuple[str, ...] = ()
    computed: bool = False
    fused: bool = False

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
            return f"{seen}: affine biases of the scales' shape and dtype expected, {shown(biases)} found"
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
    return shape_formats(weight.shape[-1], scales.shape[-1], SAFETENSORS_DTYPES[scales.dtype])


def shown(view: View | None) -> str:
    """Dtype and shape of an array, as messages have it."""
    return "none" if view is None else f"{SAFETENSORS_DTYPES[view.dtype]} {list(view.shape)}"
