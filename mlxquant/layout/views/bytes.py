"""Dtypes of safetensors files as mlx has them, and bytes as mx.arrays and back.

Beside `words.formats`, which must not import mlx.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

MLX_DTYPES: dict[str, mx.Dtype] = {
    "BOOL": mx.bool_, "U8": mx.uint8, "I8": mx.int8, "F8_E4M3": mx.uint8, "F8_E8M0": mx.uint8,
    "U16": mx.uint16, "I16": mx.int16, "F16": mx.float16, "BF16": mx.bfloat16, "U32": mx.uint32,
    "I32": mx.int32, "F32": mx.float32, "U64": mx.uint64, "I64": mx.int64, "C64": mx.complex64,
}  # fmt: skip
SAFETENSORS_DTYPES: dict[mx.Dtype, str] = {v: k for k, v in MLX_DTYPES.items() if not k.startswith("F8")}


def to_mlx(block: NDArray[np.uint8], shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """Bytes, of any shape, as an mx.array of `shape` and `dtype`.

    numpy has no bfloat16: integers of its size carry it.
    """
    return mx.array(block.view(f"uint{8 * int(dtype.size)}").reshape(shape)).view(dtype)


def to_numpy(array: mx.array) -> NDArray[np.uint8]:
    """The bytes of an mx.array, row-major: (size * itemsize,) uint8."""
    carrier = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}[int(array.dtype.size)]
    return np.array(mx.contiguous(array).view(carrier)).reshape(-1).view(np.uint8)
