"""Number formats: how many bytes a tensor takes, and which quantizations mlx has.

Words follow mlx: `bits` per stored value, `group_size` values that share a scale, `mode`. Bits per weight
(`bpw`) counts scales and biases too. Affine with 16-bit scales costs ``bits + 32 / group_size``:
8 bits at group 64 is 8 + 32/64 = 8.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

# safetensors' dtype names -> bytes per element (https://github.com/huggingface/safetensors, dtype.rs)
DTYPE_BYTES: dict[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip

FLOATS = ("F16", "BF16", "F32")

# config.json's words -> safetensors' words
TORCH_DTYPES: dict[str, str] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}

# mlx.core.quantize's table of modes (mlx 0.32): mode -> (group sizes, bits)
MODES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "affine": ((32, 64, 128), (2, 3, 4, 5, 6, 8)),
    "mxfp4": ((32,), (4,)),
    "mxfp8": ((32,), (8,)),
    "nvfp4": ((16,), (4,)),
}
MODE_DEFAULTS: dict[str, tuple[int, int]] = {
    "affine": (64, 4), "mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Format:
    """One way to quantize a matrix: mlx's `bits`, `group_size`, `mode`."""

    bits: int
    group_size: int
    mode: str = "affine"

    def problem(self) -> str | None:
        """Why mlx has no such quantization, or None if it has."""
        if self.mode not in MODES:
            return f"mode {self.mode!r} is unknown; mlx has {', '.join(MODES)}"
        groups, bits = MODES[self.mode]
        found = [f"{_either(bits)} bits, not {self.bits}"] if self.bits not in bits else []
        if self.group_size not in groups:
            found.append(f"group size {_either(groups)}, not {self.group_size}")
        return f"mode {self.mode} has {', and '.join(found)}" if found else None

    def as_dict(self) -> dict[str, Any]:
        """The three keys that mlx-lm's config.json takes, in its order."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Format:
        """Read what `as_dict` wrote; a missing mode is affine, as old configs mean it."""
        return cls(int(value["bits"]), int(value["group_size"]), str(value.get("mode", "affine")))

    def __str__(self) -> str:
        name = f"{self.bits}-bit" if self.mode == "affine" else self.mode
        return f"{name} g{self.group_size}"

    def tensors(self, shape: tuple[int, ...], dtype: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The arrays that mlx stores for a matrix: suffix -> (dtype, shape).

        `shape` is (..., in) with `in` divisible by the group size. Values are packed into uint32 along
        the last axis, ``in * bits / 32`` words; scales and biases are (..., in / group_size), of the
        matrix's dtype for affine, uint8 (and no biases) for the others.
        """
        *lead, width = shape
        packed = ("U32", (*lead, width * self.bits // 32))
        groups = (*lead, width // self.group_size)
        if self.mode == "affine":
            return {"weight": packed, "scales": (dtype, groups), "biases": (dtype, groups)}
        return {"weight": packed, "scales": ("U8", groups)}


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a dense tensor. ``nbytes("BF16", (2, 3)) == 12``."""
    return DTYPE_BYTES[dtype] * prod(shape)


def _either(values: tuple[int, ...]) -> str:
    words = [str(v) for v in values]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]
