"""Packed twins of bf16 checkpoints, as compressed-tensors and ModelOpt store them, and the floats that they stand for.

Written with numpy alone, from the formats' descriptions; nothing of mlxquant computes the values here.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.builds import Stored, config_of, stored
from tests.support.safetensor_files import encoded, header

Array = NDArray[np.float32]
Parts = dict[str, Stored]

LINEAR = re.compile(r"layers\.\d+\..*_proj\.weight$")
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def bf16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Bits of values rounded to bfloat16, half to even."""
    words = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((words + 0x7FFF + (words >> 16 & 1)) >> 16).astype(np.uint16)


def wide(bits: NDArray[np.uint16]) -> Array:
    """bfloat16 bits as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _floats(values: NDArray[Any], dtype: str) -> tuple[Stored, Array]:
    """Values as stored in BF16, F16 or F32, and what is then there."""
    if dtype == "BF16":
        bits = bf16(values)
        return (dtype, bits.shape, bits.tobytes()), wide(bits)
    kept = np.asarray(values, np.float16 if dtype == "F16" else np.float32)
    return (dtype, kept.shape, kept.tobytes()), kept.astype(np.float32)


def _e4m3(values: NDArray[Any]) -> tuple[NDArray[np.uint8], Array]:
    """The nearest E4M3 codes, and what they stand for."""
    codes = np.arange(127, dtype=np.uint8)
    size = np.where(codes >> 3 == 0, (codes & 7) / 512, (1 + (codes & 7) / 8) * 2.0 ** ((codes >> 3) - 7.0))
    nearest = np.abs(np.abs(values)[..., None] - size).argmin(-1)
    signs = np.signbit(values)
    return (nearest | signs << 7).astype(np.uint8), np.where(signs, -size[nearest], size[nearest]).astype(np.float32)


def _words(codes: NDArray[Any], bits: int) -> NDArray[np.uint32]:
    """Unsigned codes along the last axis in 32-bit words, the first in the lowest bits."""
    each = 32 // bits
    padded = np.pad(codes.astype(np.uint64), [(0, 0)] * (codes.ndim - 1) + [(0, -codes.shape[-1] % each)])
    fields = padded.reshape(*codes.shape[:-1], -1, each) << (np.arange(each, dtype=np.uint64) * np.uint64(bits))
    words: NDArray[np.uint32] = fields.sum(-1).astype(np.uint32)
    return words


def _raw(array: NDArray[Any], dtype: str) -> Stored:
    return dtype, array.shape, np.ascontiguousarray(array).tobytes()


def integers(
    weight: Array, bits: int, group: int | None, *, zeros: bool = False, packed: bool = True, scales: str = "BF16",
    order: NDArray[np.int32] | None = None,
) -> tuple[Parts, Array]:  # fmt: skip
    """Integers of compressed-tensors with a scale for `group` values or for a row: stored parts, and the values."""
    rows, width = weight.shape
    across = width // (group or width)
    groups = np.arange(width) // (group or width) if order is None else order
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    columns = [weight[:, groups == g] for g in range(across)]
    if zeros:
        spans = [(np.minimum(c.min(1), 0), np.maximum(c.max(1), 0)) for c in columns]
        size = np.stack([(most - least) / (high - low) for least, most in spans], 1)
    else:
        size = np.stack([np.abs(c).max(1) / high for c in columns], 1)
    scale, kept = _floats(np.maximum(size, 1e-6), scales)
    zero = np.zeros((rows, across), np.int64)
    if zeros:
        zero = np.clip(np.round(low - np.stack([least for least, _ in spans], 1) / kept), low, high).astype(np.int64)
    codes = np.clip(np.round(weight / kept[:, groups]) + zero[:, groups], low, high).astype(np.int64)
    exact = (codes - zero[:, groups]).astype(np.float64) * kept[:, groups]  # 8 bits times at most 24: exact
    values = _floats(exact, scales)[1]
    parts: Parts = {"weight_scale": scale}
    if packed:
        parts["weight_packed"] = _raw(_words(codes - low, bits).view(np.int32), "I32")
        parts["weight_shape"] = _raw(np.array([rows, width], np.int64), "I64")
        if zeros:
            parts["weight_zero_point"] = _raw(_words((zero - low).T, bits).T.view(np.int32), "I32")
    else:
        parts["weight"] = _raw(codes.astype(np.int8), "I8")
        if zeros:
            parts["weight_zero_point"] = _raw(zero.astype(np.int8), "I8")
    if order is not None:
        parts["weight_g_idx"] = _raw(order.astype(np.int32), "I32")
    return parts, values


def fp8(weight: Array, block: tuple[int, int] | None, scales: str = "BF16") -> tuple[Parts, Array]:
    """E4M3 with a scale for each block, or one for the tensor."""
    rows, width = weight.shape
    height, across = block or weight.shape
    places = np.ix_(np.arange(rows) // height, np.arange(width) // across)
    size = np.zeros((-(-rows // height), -(-width // across)), np.float32)
    np.maximum.at(size, places, np.abs(weight))
    stored_scale, kept = _floats(np.maximum(size / 448, 1e-6), scales)
    if block is None:
        stored_scale = (scales, (1,), stored_scale[2])
    codes, numbers = _e4m3(weight / kept[places])
    return {"weight": _raw(codes, "F8_E4M3"), "weight_scale": stored_scale}, _floats(numbers * kept[places], scales)[1]


def _fp4(values: NDArray[Any]) -> tuple[NDArray[np.uint8], Array]:
    """The nearest E2M1 codes, two a byte, and what they stand for."""
    codes = np.abs(values[..., None] - FP4).argmin(-1).astype(np.uint8)
    return codes[..., 0::2] | codes[..., 1::2] << 4, FP4[codes]


def nvfp4(weight: Array, *, modelopt: bool = False) -> tuple[Parts, Array]:
    """Two E2M1 values a byte, an E4M3 scale for each 16 and a global one: divided by, or with ModelOpt multiplied."""
    rows, width = weight.shape
    groups = weight.reshape(rows, -1, 16)
    whole = np.float32(np.abs(weight).max() / (6 * 448) * 1.37)
    whole = whole if modelopt else np.float32(1 / whole)
    size = np.abs(groups).max(-1) / 6
    codes, near = _e4m3(size / whole if modelopt else size * whole)
    scale = (near * whole if modelopt else near / whole).astype(np.float32)
    packed, numbers = _fp4(groups / np.maximum(scale, 1e-9)[..., None])
    values = wide(bf16(numbers.astype(np.float32) * scale[..., None])).reshape(rows, width)
    names = ("weight", "weight_scale_2") if modelopt else ("weight_packed", "weight_global_scale")
    shape = () if modelopt else (1,)
    return {
        names[0]: _raw(packed.reshape(rows, -1), "U8"),
        "weight_scale": _raw(codes, "F8_E4M3"),
        names[1]: ("F32", shape, np.float32(whole).tobytes()),
        **({"input_scale": ("F32", (), np.float32(1).tobytes())} if modelopt else {}),
    }, values


def mx(weight: Array, bits: int, name: str = "weight_packed") -> tuple[Parts, Array]:
    """MXFP4 or MXFP8: a power of two for each 32 values."""
    rows, width = weight.shape
    groups = weight.reshape(rows, -1, 32)
    exponent = np.floor(np.log2(np.maximum(np.abs(groups).max(-1), 1e-20))) - (2 if bits == 4 else 8)
    scale = 2.0**exponent
    if bits == 4:
        codes, numbers = _fp4(groups / scale[..., None])
    else:
        codes, numbers = _e4m3(np.clip(groups / scale[..., None], -448, 448))
    values = wide(bf16(numbers * scale[..., None])).reshape(rows, width)
    return {
        name: _raw(codes.reshape(rows, -1), "U8" if bits == 4 else "F8_E4M3"),
        "weight_scale": _raw((exponent + 127).astype(np.uint8), "U8"),
    }, values


@dataclass(frozen=True)
class Packing:
    """One way to store a checkpoint: what its config says, and what becomes of a matrix."""

    pack: Callable[[Array], tuple[Parts, Array]]
    settings: dict[str, Any] = field(default_factory=dict)


def compressed(packing: str, weights: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The settings of compressed-tensors for all Linear modules but the head and the gates."""
    group = {"targets": ["Linear"], "weights": weights}
    return {
        "quant_method": "compressed-tensors",
        "format": packing,
        "quantization_status": "compressed",
        "ignore": ["lm_head", "re:.*mlp.gate$"],
        "config_groups": {"group_0": group},
        **more,
    }


def _int(bits: int, strategy: str, group: int | None = None, **more: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "strategy": strategy, "group_size": group, "symmetric": True, **more}


def _float(bits: int, strategy: str, **more: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": "float", "strategy": strategy, "symmetric": True, **more}


def _flat_scale(packed: tuple[Parts, Array]) -> tuple[Parts, Array]:
    """The same with scales of one axis, (rows,)."""
    parts, values = packed
    dtype, shape, data = parts["weight_scale"]
    return {**parts, "weight_scale": (dtype, shape[:1], data)}, values


def _order(weight: Array) -> NDArray[np.int32]:
    groups = np.arange(weight.shape[1], dtype=np.int32) // 32
    return np.random.default_rng(7).permutation(groups)


PACKINGS: dict[str, Packing] = {
    "int4 g32": Packing(lambda w: integers(w, 4, 32), compressed("pack-quantized", _int(4, "group", 32))),
    "int4 g64, f16": Packing(
        lambda w: integers(w, 4, 64, scales="F16"), compressed("pack-quantized", _int(4, "group", 64))
    ),
    "int4 g32 with zero points": Packing(
        lambda w: integers(w, 4, 32, zeros=True), compressed("pack-quantized", _int(4, "group", 32, symmetric=False))
    ),
    "int4 for each row": Packing(lambda w: integers(w, 4, None), compressed("pack-quantized", _int(4, "channel"))),
    "int4 g32 in act-order": Packing(
        lambda w: integers(w, 4, 32, order=_order(w)),
        compressed("pack-quantized", _int(4, "group", 32, actorder="group")),
    ),
    "int8 for each row": Packing(lambda w: integers(w, 8, None), compressed("pack-quantized", _int(8, "channel"))),
    "int8 g32 with zero points": Packing(
        lambda w: integers(w, 8, 32, zeros=True), compressed("pack-quantized", _int(8, "group", 32, symmetric=False))
    ),
    "int2 g32": Packing(lambda w: integers(w, 2, 32), compressed("pack-quantized", _int(2, "group", 32))),
    "w8a8 int8": Packing(
        lambda w: integers(w, 8, None, packed=False), compressed("int-quantized", _int(8, "channel"))
    ),
    "w8a8 int8 with zero points": Packing(
        lambda w: integers(w, 8, None, packed=False, zeros=True),
        compressed("int-quantized", _int(8, "channel", symmetric=False)),
    ),
    "fp8 for each row": Packing(lambda w: fp8(w, (1, w.shape[1])), compressed("float-quantized", _float(8, "channel"))),
    "fp8 for each tensor, f32": Packing(
        lambda w: fp8(w, None, "F32"), compressed("float-quantized", _float(8, "tensor"))
    ),
    "fp8 in blocks": Packing(
        lambda w: fp8(w, (48, 32)), compressed("float-quantized", _float(8, "block", block_structure=[48, 32]))
    ),
    "naive fp8": Packing(lambda w: fp8(w, (1, w.shape[1])), compressed("naive-quantized", _float(8, "channel"))),
    "nvfp4": Packing(nvfp4, compressed("nvfp4-pack-quantized", _float(4, "tensor_group", group_size=16))),
    "mxfp4": Packing(lambda w: mx(w, 4), compressed("mxfp4-pack-quantized", _float(4, "group", group_size=32))),
    "mxfp8": Packing(
        lambda w: mx(w, 8, "weight"), compressed("mxfp8-quantized", _float(8, "group", group_size=32))
    ),
    "modelopt fp8": Packing(
        lambda w: fp8(w, None, "F32"), {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}
    ),
    "modelopt nvfp4": Packing(
        lambda w: nvfp4(w, modelopt=True),
        {"quant_algo": "NVFP4", "ignore": ["lm_head"], "producer": {"name": "modelopt", "version": "0.47.0"}},
    ),
    "modelopt mxfp8": Packing(lambda w: mx(w, 8, "weight"), {"quant_method": "modelopt", "quant_algo": "MXFP8"}),
    "modelopt mxfp4": Packing(
        lambda w: mx(w, 4, "weight"), {"quant_method": "modelopt", "quant_algo": "W4A8_MXFP4_FP8"}
    ),
    "modelopt int8": Packing(
        lambda w: _flat_scale(integers(w, 8, None, packed=False, scales="F32")),
        {"quant_method": "modelopt", "quant_algo": "W8A16"},
    ),
    "modelopt fp8 in blocks": Packing(
        lambda w: fp8(w, (128, 128), "F32"), {"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"}
    ),
    "fp8 of vLLM": Packing(lambda w: fp8(w, None, "F32"), {"quant_method": "fp8", "activation_scheme": "static"}),
    "fbgemm fp8": Packing(lambda w: fp8(w, (1, w.shape[1]), "F32"), {"quant_method": "fbgemm_fp8"}),
}  # fmt: skip


def write_packed(
    source: Path,
    folder: Path,
    packing: Packing,
    *,
    twin: Path | None = None,
    chosen: re.Pattern[str] = LINEAR,
    inside: str = "config",
) -> None:
    """Write the packed checkpoint of a bf16 one, and as `twin` the bf16 checkpoint of the values it stands for.

    `inside` "file" puts the settings into ModelOpt's file beside the config.
    """
    tensors: dict[str, Stored] = {}
    meant: dict[str, Stored] = {}
    for name, (dtype, shape, data) in stored(source).items():
        if dtype != "BF16" or not chosen.search(name):
            tensors[name] = meant[name] = (dtype, shape, data)
            continue
        parts, values = packing.pack(wide(np.frombuffer(data, np.uint16)).reshape(shape))
        tensors |= {name.removesuffix("weight") + part: entry for part, entry in parts.items()}
        meant[name] = _raw(bf16(values), "BF16")
    config = config_of(source)
    settings = {} if inside == "file" else {"quantization_config": packing.settings}
    _write(source, folder, {**config, **settings}, tensors)
    if inside == "file":
        (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": packing.settings}))
    if twin is not None:
        _write(source, twin, config, meant)


def _write(source: Path, folder: Path, config: dict[str, Any], tensors: dict[str, Stored]) -> None:
    """Write a checkpoint of one shard, with the small files of another."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if not path.name.startswith("model") and path.name != "config.json":
            shutil.copy(path, folder)
    (folder / "config.json").write_text(json.dumps(config))
    table = header({name: (dtype, list(shape)) for name, (dtype, shape, _) in tensors.items()})
    (folder / "model.safetensors").write_bytes(encoded(table, b"".join(data for _, _, data in tensors.values())))
