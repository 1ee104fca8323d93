"""GPTQ and AWQ twins of bf16 checkpoints, packed by numpy as AutoGPTQ and AutoAWQ pack, and the floats that they are.

AutoGPTQ 0.7.1, nn_modules/qlinear/qlinear_cuda.py, `pack`; AutoAWQ 0.2.9, modules/linear/gemm.py, `from_linear`. Field
by field, as those do it; nothing of mlxquant computes the values here.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.source.packed_checkpoints import LINEAR, Array, Parts, wide
from tests.support.builds import Stored, config_of, stored
from tests.support.safetensor_files import encoded, header

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Transposed:
    """How a checkpoint is packed."""

    method: str = "gptq"
    bits: int = 4
    group: int = 64  # -1: one for a column
    symmetric: bool = True
    act_order: bool = False
    version: str = "gptq"
    scales: str = "F16"

    @property
    def settings(self) -> dict[str, Any]:
        """The config's quantization_config."""
        common = {"quant_method": self.method, "bits": self.bits, "group_size": self.group}
        if self.method == "awq":
            return {**common, "version": "gemm", "zero_point": not self.symmetric}
        return {**common, "desc_act": self.act_order, "sym": self.symmetric, "checkpoint_format": self.version}


def strings(codes: NDArray[np.int64], bits: int) -> NDArray[np.uint32]:
    """Fields along the first axis as one string of bits, the first in the lowest: (n, m) to (n * bits / 32, m)."""
    flat = (codes[:, None, :] >> np.arange(bits)[None, :, None]) & 1
    flat = flat.reshape(-1, 32, codes.shape[1]).astype(np.uint64)
    words: NDArray[np.uint32] = (flat << np.arange(32, dtype=np.uint64)[None, :, None]).sum(1).astype(np.uint32)
    return words


def pack(weight: Array, how: Transposed, seed: int) -> tuple[Parts, Array]:
    """Parts of a matrix (out, in), and the values that they stand for, (out, in) of the scales' dtype as float32."""
    width = weight.shape[1]
    group = width if how.group == -1 else how.group
    groups = np.arange(width) // group
    if how.act_order:
        groups = np.random.default_rng(seed).permutation(groups)
    top = (1 << how.bits) - 1
    columns = [weight[:, groups == g] for g in range(width // group)]
    if how.symmetric:
        scales = np.stack([np.abs(c).max(1) * 2 / top for c in columns])
        zeros = np.full(scales.shape, 1 << (how.bits - 1))
    else:
        low, high = (np.stack([f(c.T, 0) for c in columns]) for f in (np.min, np.max))
        scales = (high - low) / top
        zeros = np.clip(np.round(-low / scales), 1, top).astype(np.int64)
    kept = scales.astype(np.float16)
    steps = kept.astype(np.float32)
    codes = np.clip(np.round(weight.T / steps[groups]) + zeros[groups], 0, top).astype(np.int64)
    values = ((codes - zeros[groups]).astype(np.float16) * kept[groups]).astype(np.float32).T
    scale_parts: Stored = ("F16", kept.shape, kept.tobytes())
    if how.method == "awq":
        awq = {"qweight": _awq(codes), "qzeros": _awq(zeros)}
        return {**awq, "scales": scale_parts}, values
    stored_zeros = zeros - (1 if how.version == "gptq" else 0)
    packed = strings(codes, how.bits), np.ascontiguousarray(strings(stored_zeros.T.copy(), how.bits).T)
    parts: Parts = {
        name: ("I32", array.shape, array.tobytes()) for name, array in zip(("qweight", "qzeros"), packed, strict=True)
    }
    order = groups.astype(np.int32)
    return {**parts, "scales": scale_parts, "g_idx": ("I32", order.shape, order.tobytes())}, values


def _awq(codes: NDArray[np.int64]) -> Stored:
    lines, out = codes.shape
    words = np.zeros((lines, out // 8), np.uint32)
    for column in range(out // 8):
        for i in range(8):
            words[:, column] |= (codes[:, column * 8 + AWQ_ORDER[i]] << (i * 4)).astype(np.uint32)
    return "I32", words.shape, words.tobytes()


def write_transposed(
    source: Path, folder: Path, how: Transposed, *, twin: Path, chosen: re.Pattern[str] = LINEAR
) -> None:
    """Write a checkpoint's packed form, and as `twin` the floats that it stands for, in F16 where it was packed."""
    packed: Parts = {}
    floats: Parts = {}
    for seed, (name, (dtype, shape, data)) in enumerate(stored(source).items()):
        if not chosen.search(name):
            packed[name] = floats[name] = (dtype, shape, data)
            continue
        weight = wide(np.frombuffer(data, np.uint16)).reshape(shape)
        parts, values = pack(weight, how, seed)
        packed |= {f"{name.removesuffix('.weight')}.{part}": value for part, value in parts.items()}
        floats[name] = ("F16", shape, values.astype(np.float16).tobytes())
    for out, tensors, settings in ((folder, packed, how.settings), (twin, floats, None)):
        shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors*"))
        table = {name: (dtype, list(shape)) for name, (dtype, shape, _) in tensors.items()}
        data = b"".join(value for _, _, value in tensors.values())
        (out / "model.safetensors").write_bytes(encoded(header(table), data))
        config = config_of(source) | ({"quantization_config": settings} if settings else {})
        (out / "config.json").write_text(json.dumps(config))
