"""FP8 twins of bf16 checkpoints, as DeepSeek, Qwen and transformers store them, and the bf16 that they stand for."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxquant.layout.views.bytes import MLX_DTYPES, to_mlx, to_numpy
from tests.support.builds import Stored, config_of, stored
from tests.support.safetensor_files import encoded, header

SETTINGS = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}
# what such repositories store as FP8: linear layers inside the decoder's, routers and small gates excepted
LINEAR = re.compile(r"layers\.\d+\..*(_proj|in_proj_qkv|in_proj_z|w[123])(\.weight)?$")


def write_fp8(
    source: Path,
    folder: Path,
    *,
    twin: Path | None = None,
    block: tuple[int, int] | None = (128, 128),
    scales: str = "BF16",
    apart: bool = False,
    settings: dict[str, Any] | None = None,
    inside: bool = False,
) -> None:
    """Write the FP8 checkpoint of a bf16 one, and as `twin` the bf16 checkpoint of the same values.

    `block` None means a scale for each whole tensor or expert. `apart` stores fused experts one by one, as Qwen's
    FP8 repositories do. `inside` puts quantization_config into text_config.
    """
    tensors: dict[str, Stored] = {}
    meant: dict[str, Stored] = {}
    for name, (dtype, shape, data) in stored(source).items():
        if not LINEAR.search(name) or len(shape) < 2:
            tensors[name] = meant[name] = (dtype, shape, data)
            continue
        parts = (
            _split(name, _array(dtype, shape, data))
            if apart and len(shape) == 3
            else {name: _array(dtype, shape, data)}
        )
        values = []
        for part, array in parts.items():
            codes, scale, value = quantized(array, block, scales)
            tensors[part] = _tensor(codes, "F8_E4M3")
            tensors[f"{part}_scale_inv"] = _tensor(scale)
            values.append(value)
        whole = values[0] if len(parts) == 1 else _fused(name, values)
        meant[name] = _tensor(whole)
    config = config_of(source)
    stated = dict(SETTINGS if settings is None else settings)
    if settings is None:
        stated["weight_block_size"] = None if block is None else list(block)
    (config["text_config"] if inside else config)["quantization_config"] = stated
    _write(source, folder, config, tensors)
    if twin is not None:
        _write(source, twin, config_of(source), meant)


def quantized(array: mx.array, block: tuple[int, int] | None, scales: str) -> tuple[mx.array, mx.array, mx.array]:
    """E4M3 codes, scales and the bf16 values that mlx-lm's own dequantization makes of them: (…, out, in)."""
    rows, columns = block or array.shape[-2:]
    padded = _padded(mx.abs(array.astype(mx.float32)), rows, columns)
    *lead, m, n = padded.shape
    tiles = padded.reshape(*lead, m // rows, rows, n // columns, columns)
    scale = (mx.max(tiles, axis=(-1, -3)) / 448).astype(MLX_DTYPES[scales])
    wide = mx.repeat(mx.repeat(scale, rows, axis=-2), columns, axis=-1)[..., : array.shape[-2], : array.shape[-1]]
    codes = mx.to_fp8(array.astype(mx.float32) / wide.astype(mx.float32))
    return codes, scale, (mx.from_fp8(codes, dtype=mx.bfloat16) * wide).astype(mx.bfloat16)


def edit(folder: Path, change: Callable[[dict[str, Stored]], None]) -> None:
    """Rewrite a checkpoint of one shard after a change to its tensors."""
    tensors = stored(folder)
    change(tensors)
    _write(folder, folder, config_of(folder), tensors)


def _padded(array: mx.array, rows: int, columns: int) -> mx.array:
    *lead, m, n = array.shape
    return mx.pad(array, [*((0, 0) for _ in lead), (0, -m % rows), (0, -n % columns)])


def _split(name: str, array: mx.array) -> dict[str, mx.array]:
    """Fused experts by the names that they have one by one."""
    block, _, projection = name.rpartition(".")
    names = ("gate_proj", "up_proj") if projection == "gate_up_proj" else (projection,)
    return {
        f"{block}.{e}.{part}.weight": half
        for e in range(array.shape[0])
        for part, half in zip(names, mx.split(array[e], len(names)), strict=True)
    }


def _fused(name: str, values: list[mx.array]) -> mx.array:
    if name.endswith("gate_up_proj"):
        values = [mx.concatenate(values[i : i + 2]) for i in range(0, len(values), 2)]
    return mx.stack(values)


def _array(dtype: str, shape: tuple[int, ...], data: bytes) -> mx.array:
    return to_mlx(np.frombuffer(data, np.uint8), shape, MLX_DTYPES[dtype])


def _tensor(array: mx.array, dtype: str | None = None) -> Stored:
    words = {v: k for k, v in MLX_DTYPES.items() if not k.startswith("F8")}
    raw: NDArray[np.uint8] = to_numpy(array)
    return dtype or words[array.dtype], tuple(array.shape), raw.tobytes()


def _write(source: Path, folder: Path, config: dict[str, Any], tensors: dict[str, Stored]) -> None:
    """Write a checkpoint of one shard, with the small files of another."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if not path.name.startswith("model") and path.name != "config.json" and path.parent != folder:
            shutil.copy(path, folder)
    (folder / "config.json").write_text(json.dumps(config))
    table = header({name: (dtype, list(shape)) for name, (dtype, shape, _) in tensors.items()})
    data = b"".join(data for _, _, data in tensors.values())
    (folder / "model.safetensors").write_bytes(encoded(table, data))
