"""NVIDIA ModelOpt: FP8, NVFP4 and MX formats, as its checkpoints for Hugging Face store them.

A config names an algorithm (`quant_algo`), in config.json or in hf_quant_config.json beside it; with MIXED_PRECISION
each layer names its own. How a weight is stored its dtypes tell:

    X.weight F8_E4M3, X.weight_scale a float for the tensor, a row, or a block      FP8
    X.weight F8_E4M3, X.weight_scale U8, a power of two for 32 values               MXFP8
    X.weight U8, two E2M1 values a byte, X.weight_scale F8_E4M3 for 16 values       NVFP4, times X.weight_scale_2
    X.weight U8, two E2M1 values a byte, X.weight_scale U8 for 32 values            MXFP4
    X.weight I8, X.weight_scale a float for the tensor or a row                     INT8

    value = code · (scale · scale_2)        in float32, then rounded to the model's dtype

as the library dequantizes NVFP4 and MXFP8 (0.47.0, quantization/qtensor). For FP8 the library rounds the scale to the
model's dtype first; here it stays in float32, as the runtimes use it. Fused experts have `experts.gate_up_proj` and
`experts.gate_up_proj_weight_scale`. Scales of activations and of the KV cache are of no use here.

Not read, and refused by name: AWQ and SVDQuant, whose weights need what inputs are scaled by (`pre_quant_scale`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any

from ...errors import SourceError
from ...words.formats import FLOATS, Format
from ...words.text import listed, some
from ..headers import Tensor, shown
from .declared import Declared
from .decoded import Decoded
from .grouped import GlobalScale, Grouped, Scales
from .shapes import grid, tensor_of

ALGORITHMS = (
    "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "NVFP4", "W4A16_NVFP4", "W4A8_NVFP4_FP8", "NVFP4_AWQ", "MXFP4",
    "W4A8_MXFP4_FP8", "MXFP8", "W8A16", "W8A8_SQ_PER_CHANNEL", "MIXED_PRECISION",
)  # fmt: skip
IGNORED = (
    "input_scale", "output_scale", ".k_scale", ".v_scale", ".q_scale", ".kv_scale", ".k_bmm_scale", ".v_bmm_scale",
    ".p_scale", "k_proj.output_scale", "v_proj.output_scale", "input_scale_2",
)  # fmt: skip
# What a weight cannot be read without, where a checkpoint has it
_UNREAD = (".pre_quant_scale", ".svdquant_lora_a", ".svdquant_lora_b", ".weight_scaling_factor")
_SCALE = "weight_scale"
FP8_BLOCK = (128, 128)
MOST_WILDCARDS = 4


def refusal(settings: Mapping[str, Any]) -> str | None:
    """What of the settings cannot be read, None where all can."""
    algorithms = algorithms_of(settings)
    unread = [a for a in algorithms if a not in ALGORITHMS]
    none = not algorithms and not settings.get("config_groups") and not only_cache(settings)
    if unread or none:
        return f"NVIDIA ModelOpt ({shown(unread[0]) if unread else 'no quant_algo'})"
    return None


def algorithms_of(settings: Mapping[str, Any]) -> list[str]:
    """The algorithms that a config names, those of layers too."""
    layers = settings.get("quantized_layers")
    own = (
        [layer.get("quant_algo") for layer in layers.values() if isinstance(layer, dict)]
        if isinstance(layers, dict)
        else []
    )
    named = [settings.get("quant_algo"), *own]
    return list(dict.fromkeys(str(a) for a in named if a))


def only_cache(settings: Mapping[str, Any]) -> bool:
    """Whether nothing but the KV cache is quantized, so that weights are floats."""
    return bool(
        settings.get("kv_cache_quant_algo") and not algorithms_of(settings) and not settings.get("config_groups")
    )


def decoded(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: str | None) -> dict[str, Decoded]:
    """The float tensors that packed ones stand for, by name, in `dtype`, or in bfloat16 where it is None.

    Raises SourceError listing what is lacking or not read.
    """
    scaled = [name for name in tensors if name.endswith(_UNREAD)]
    if scaled:
        raise SourceError(
            f"{tensors[scaled[0]].file}: {some(scaled)}: ModelOpt's AWQ or SVDQuant scales the inputs of its modules by"
            " it, and weights alone do not tell the values; use the original, unquantized repository"
        )
    result, problems = dict[str, Decoded](), list[str]()
    for name, scale in tensors.items():
        if not name.endswith(_SCALE):
            continue
        base = name.removesuffix(_SCALE)
        weight = base + "weight" if base.endswith(".") else base.rstrip("_")
        try:
            result[weight] = _decoded(weight, tensor_of(tensors, weight, name), scale, tensors, dtype or "BF16")
        except SourceError as error:
            problems.append(str(error))
    problems += [
        f"{t.file}: tensor {t.name} is FP8 ({t.dtype}) and its weight_scale is missing; is a shard missing?"
        for t in tensors.values()
        if t.dtype in ("F8_E4M3", "F8_E5M2") and t.name not in result and not t.name.endswith(_SCALE)
    ]
    if problems:
        raise SourceError(listed(problems))
    return result


def _decoded(name: str, codes: Tensor, scale: Tensor, tensors: Mapping[str, Tensor], dtype: str) -> Decoded:
    match codes.dtype, scale.dtype:
        case "U8", "F8_E4M3":
            shape = (*codes.shape[:-1], 2 * codes.shape[-1])
            whole = tensor_of(tensors, f"{scale.name}_2", scale.name)
            return _made(name, dtype, shape, codes, "e2m1", scale, (1, 16), "e4m3", whole)
        case "U8", "U8" | "F8_E8M0":
            shape = (*codes.shape[:-1], 2 * codes.shape[-1])
            return _made(name, dtype, shape, codes, "e2m1", scale, (1, 32), "e8m0")
        case "F8_E4M3", "U8" | "F8_E8M0":
            return _made(name, dtype, codes.shape, codes, "e4m3", scale, (1, 32), "e8m0")
        case "F8_E4M3" | "I8", floats if floats in FLOATS:
            coding = "i8" if codes.dtype == "I8" else "e4m3"
            squeezed, block = _squeezed(scale, codes.shape)
            return _made(name, dtype, codes.shape, codes, coding, squeezed, block)
    raise SourceError(
        f"{codes.file}: tensor {name} is {codes.dtype} and {scale.name} {scale.dtype}: no format of ModelOpt that is"
        " read here; use the original, unquantized repository"
    )


def _squeezed(scale: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, tuple[int, int] | None]:
    """The scales of 128 × 128 blocks as (lines, across), and the block: (8, 1, 4, 1) is (8, 4). Others as they are."""
    if len(shape) != 2:
        return scale, None
    blocks = (-(-shape[0] // FP8_BLOCK[0]), -(-shape[1] // FP8_BLOCK[1]))
    lengths = tuple(n for n in scale.shape if n != 1)
    if not lengths or lengths == shape[:1] or lengths != tuple(n for n in blocks if n != 1):
        return scale, None
    return replace(scale, shape=blocks), FP8_BLOCK


def _made(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    codes: Tensor,
    coding: str,
    scale: Tensor,
    block: tuple[int, int] | None,
    scales_coding: str | None = None,
    whole: Tensor | None = None,
) -> Decoded:
    table, fitted = grid(scale, shape, block, codes)
    if whole is not None:
        count, rows = prod(whole.shape), prod(shape[:-1])
        if whole.dtype not in FLOATS or not count or rows % count:
            raise SourceError(
                f"{whole.file}: tensor {whole.name}: a float for all rows of {name} or for equal parts of them"
                f" expected, {whole.dtype} {list(whole.shape)} found; download it again"
            )
    return Grouped.of(
        name,
        dtype,
        shape,
        codes,
        coding,
        Scales(table, fitted, scales_coding),
        "F32",
        global_scale=None if whole is None else GlobalScale(whole, inverse=False),
    )


# --- by the config alone ---

# algorithm -> word for it, bits, rows and columns that share a scale (None: the tensor; 0 columns: a row), bytes of a
# scale, mode of mlx
_DECLARED: dict[str, tuple[str, int, tuple[int, int] | None, int, str]] = {
    "FP8": ("F8_E4M3", 8, None, 4, ""), "FP8_PER_CHANNEL_PER_TOKEN": ("F8_E4M3", 8, (1, 0), 4, ""),
    "FP8_PB_WO": ("F8_E4M3", 8, FP8_BLOCK, 4, ""), "W8A16": ("I8", 8, (1, 0), 4, ""),
    "W8A8_SQ_PER_CHANNEL": ("I8", 8, (1, 0), 4, ""),
    "NVFP4": ("FP4", 4, (1, 16), 1, ""), "W4A16_NVFP4": ("FP4", 4, (1, 16), 1, ""),
    "W4A8_NVFP4_FP8": ("FP4", 4, (1, 16), 1, ""),
    "MXFP4": ("FP4", 4, (1, 32), 1, "mxfp4"), "W4A8_MXFP4_FP8": ("FP4", 4, (1, 32), 1, "mxfp4"),
    "MXFP8": ("F8_E4M3", 8, (1, 32), 1, "mxfp8"),
}  # fmt: skip


def declared(
    settings: Mapping[str, Any], names: tuple[str, ...], shape: tuple[int, ...], dtype: str
) -> Declared | None:
    """How a Linear module is stored; None where it is excluded, or layers differ."""
    excluded = [settings.get(key) for key in ("exclude_modules", "ignore")]
    patterns = [str(p) for value in excluded if isinstance(value, list) for p in value]
    if any(_excludes(p, name) for p in patterns for name in names):
        return None
    algorithms = algorithms_of(settings)
    if len(algorithms) != 1 or algorithms[0] not in _DECLARED:
        return None
    storage, bits, block, size, mode = _DECLARED[algorithms[0]]
    *lead, rows, width = (1, *shape)[-3:]
    scales = 1 if block is None else -(-rows // block[0]) * -(-width // (block[1] or width))
    whole = 4 if storage == "FP4" and not mode else 0
    form = Format(bits, block[1], mode) if mode and block else None
    return Declared(storage, lead[0] * (rows * width * bits // 8 + scales * size + whole), form)


def _excludes(pattern: str, name: str) -> bool:
    """Whether a name of `exclude_modules`, which may have wildcards, excludes a module or what it lies in."""
    if len(re.findall(r"\*", pattern)) > MOST_WILDCARDS:
        return False
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
