"""FP8 with block scales, read as bfloat16.

DeepSeek-V3, MiniMax-M2 and Qwen's FP8 repositories store a linear layer as E4M3 bytes and one scale for every block
of 128 × 128 of them, under the weight's name and `_scale_inv`; Mistral stores one scale for a whole tensor or expert.
vLLM's older checkpoints (`weight_scale`) and FBGEMM's, with a scale for each row, mean the same:

    value[r, c] = bf16( float32(e4m3[r, c]) · scale[r // 128, c // 128] )

which is what mlx-lm computes where a class of its own dequantizes (deepseek_v3.py@0.32.2, `dequant`), to the bit.
Most classes do not, and some multiply the bytes as if they were integers. So it is done here, below them all.
Worked: the byte 0x3C is 1.5; under the scale 0.25 it is 0.375.

Left alone are bytes that stay packed: MXFP8, a power of two for each 32 values (minimax_m3_vl, deepseek_v41). mlx
has that format itself. A grid of scales that no block size explains is left to the model's class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ...words.formats import DTYPES, FLOATS, carrier, nbytes, widen
from ...words.text import listed
from ..headers import Read, Tensor, shown
from .decoded import AT_ONCE, Decoded

SUFFIX = "_scale_inv"
OTHER_SUFFIX = "_scale"  # of vLLM's, AutoFP8's and FBGEMM's checkpoints, for the same number
# what FP8 activations and KV caches are scaled by is of no use where they are floats
IGNORED = ("activation_scale", ".input_scale", ".input_scale_ub", ".k_scale", ".v_scale", ".kv_scale", ".output_scale")
CODES = ("F8_E4M3", "F8_E5M2")
METHODS = ("fp8", "fbgemm_fp8")
_SCALES = (*FLOATS, "F8_E8M0")  # dtypes of scales
BLOCK = (128, 128)  # what mlx-lm takes for granted where there are several scales

# E4M3's exponent is biased by 7, float32's by 127: shifted into place, a code's value is 2^-120 of what it means.
_REBIAS = np.float32(2.0**120)
_SIGN_AND_SIZE = np.int32(-(1 << 31) | 0x7F << 20)
_QUIET_NAN = np.uint16(0x7FC0)


@dataclass(frozen=True, slots=True)
class Scaled(Decoded):
    """A bfloat16 tensor that is stored as FP8 `codes` with one of `scales` for each block of (rows, columns).

    `scales` has the shape (matrices or 1, rows of blocks, columns of blocks). `file` and `start` are those of the
    codes; `nbytes` counts the bfloat16 values, which are in no file.
    """

    codes: Tensor
    scales: Tensor
    block: tuple[int, int]

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """The tensors in the files that its values are made of."""
        return self.codes, self.scales

    def _together(self, row: int, most: int) -> int:
        """How many whole rows from `row` on, at most `most`, share their scales and fit the cache."""
        inside, height = row % self.shape[-2], self.block[0]
        sharing = min(height - inside % height, self.shape[-2] - inside)
        return max(1, min(sharing, most, AT_ONCE // self.shape[-1]))

    def _decode(self, read: Read, row: int, column: int, out: NDArray[np.uint16]) -> None:
        """Fill `out` (rows, columns) from (`row`, `column`) on, all of one row of blocks."""
        codes = np.empty(out.size, np.uint8)
        read(self.codes.file, self.codes.start + row * self.shape[-1] + column, codes.data)
        scales = np.repeat(self._scales(read, row), self.block[1])[column : column + out.shape[1]]
        decode(codes.reshape(out.shape), scales, out)

    def _scales(self, read: Read, row: int) -> NDArray[np.float32]:
        """The scales of the row of blocks that a row lies in, as float32."""
        matrix, inside = divmod(row, self.shape[-2])
        grids, down, across = self.scales.shape
        line = across * DTYPES[self.scales.dtype].nbytes
        raw = np.empty(line, np.uint8)
        at = (matrix if grids > 1 else 0) * down + inside // self.block[0]
        read(self.scales.file, self.scales.start + at * line, raw.data)
        return widen(raw.view(carrier(self.scales.dtype)), self.scales.dtype)


def scaled_tensors(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: str | None) -> dict[str, Decoded]:
    """The bfloat16 tensors that a checkpoint's FP8 tensors stand for, by name; those that stay packed are not here.

    They are bfloat16 whatever the model's `dtype`, as mlx-lm has them. Raises SourceError listing FP8 tensors without a
    scale and scales without an FP8 tensor.
    """
    if stays_packed(settings):
        return {}
    fp8 = [t for t in tensors.values() if t.dtype in CODES]
    problems = [*_unpaired(tensors, fp8), *_unread(fp8)]
    if problems:
        raise SourceError(listed(problems))
    block = _block_size(settings)
    scaled = {t.name: _scaled(t, _scale_of(t.name, tensors), block) for t in fp8}
    return {name: tensor for name, tensor in scaled.items() if tensor is not None}


def stays_packed(settings: Mapping[str, Any]) -> bool:
    """Whether mlx-lm takes the bytes as MXFP8 (utils.py@0.32.2, load_model)."""
    return settings.get("scale_fmt") == "ue8m0" and settings.get("weight_block_size") == [32, 32]


def _scale_of(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    return tensors[name + SUFFIX] if name + SUFFIX in tensors else tensors[name + OTHER_SUFFIX]


def _unpaired(tensors: Mapping[str, Tensor], fp8: list[Tensor]) -> Iterator[str]:
    for t in fp8:
        if t.name + SUFFIX not in tensors and t.name + OTHER_SUFFIX not in tensors:
            yield f"{t.file}: tensor {t.name} is FP8 ({t.dtype}) and {t.name}{SUFFIX} is missing; is a shard missing?"
    for name, scale in tensors.items():
        base = name.removesuffix(SUFFIX)
        if base == name and name.endswith(".weight" + OTHER_SUFFIX):
            base = name.removesuffix(OTHER_SUFFIX)
        if base == name:
            continue
        if base not in tensors:
            yield f"{scale.file}: {name} is the scale of {base}, which is missing; is a shard missing?"
        elif tensors[base].dtype not in CODES:
            yield f"{scale.file}: {name} is the scale of {base}: FP8 expected, {tensors[base].dtype} found"


def _unread(fp8: list[Tensor]) -> Iterator[str]:
    for t in fp8:
        if t.dtype != "F8_E4M3":
            yield f"{t.file}: tensor {t.name}: FP8 as F8_E4M3 expected, {t.dtype} found; use the unquantized repository"


def _block_size(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns that share a scale, or None where the config names none."""
    declared = settings.get("weight_block_size")
    if declared is None:
        return None
    if isinstance(declared, list) and len(declared) == 2:
        rows, columns = declared
        if type(rows) is int and type(columns) is int and min(rows, columns) > 0:
            return rows, columns
    raise SourceError(f"config.json: weight_block_size: two lengths expected, {shown(declared)} found")


def _scaled(codes: Tensor, scales: Tensor, declared: tuple[int, int] | None) -> Scaled | None:
    """The bfloat16 tensor of codes and scales, or None where no block size makes their shapes fit."""
    shape = codes.shape
    if len(shape) not in (2, 3) or len(scales.shape) > len(shape) or scales.dtype not in _SCALES:
        return None
    matrices, *size = (1, *shape)[-3:]
    lengths = (*scales.shape, 1) if scales.shape == shape[:1] != (1,) and len(shape) == 2 else scales.shape
    grids, *grid = ((1,) * 3 + lengths)[-3:]
    # without a block size, one scale is that of the whole length, and as many as rows are one each
    block = declared or (
        size[0] if grid[0] == 1 else 1 if grid[0] == size[0] and grid[1] == 1 else BLOCK[0],
        size[1] if grid[1] == 1 else BLOCK[1],
    )
    if grids not in (1, matrices) or any(-(-m // b) != n for m, b, n in zip(size, block, grid, strict=True)):
        return None
    return Scaled(
        name=codes.name,
        dtype="BF16",
        shape=shape,
        file=codes.file,
        start=codes.start,
        nbytes=nbytes("BF16", shape),
        codes=codes,
        scales=replace(scales, shape=(grids, *grid)),
        block=(block[0], block[1]),
    )


def decode(codes: NDArray[np.uint8], scales: NDArray[np.float32], out: NDArray[np.uint16]) -> None:
    """Set `out` to the bits of ``bf16(float32(e4m3) · scale)``; codes and out are (rows, columns), scales (columns,).

    Rounded half to even; NaN codes and what comes of NaN scales are the one quiet NaN.
    """
    bits = codes.view(np.int8).astype(np.int32)
    bits <<= 20  # eeee mmm to where float32 keeps exponent and mantissa; the sign is there already
    bits &= _SIGN_AND_SIZE
    values = bits.view(np.float32)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        values *= _REBIAS
        values *= scales
    nan = (codes & 0x7F) == 0x7F
    if not np.isfinite(scales).all():
        nan |= np.isnan(values)
    rounded = bits.view(np.uint32)
    half = rounded >> 16
    half &= 1
    half += 0x7FFF
    rounded += half
    rounded >>= 16
    out[...] = rounded
    if nan.any():
        out[nan] = _QUIET_NAN
