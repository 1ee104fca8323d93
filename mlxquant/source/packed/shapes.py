"""Shapes of stored parts: the width of packed rows, and the grid that scales make over a matrix.

Alone in its module because compressed-tensors and ModelOpt store their parts alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...errors import SourceError
from ..headers import Tensor


def tensor_of(tensors: Mapping[str, Tensor], name: str, partner: str) -> Tensor:
    """A stored tensor that another one needs. Raises SourceError where it is missing."""
    if name not in tensors:
        there = tensors[partner]
        raise SourceError(f"{there.file}: {partner} belongs to {name}, which is missing; is a shard missing?")
    return tensors[name]


def packed_width(codes: Tensor, bits: int) -> int:
    """Values in a row of 32-bit words: ``packed_width(I32 (8, 16), 4) == 128``."""
    return codes.shape[-1] * 32 // bits if codes.shape else 0


def grid(
    scales: Tensor, shape: tuple[int, ...], block: tuple[int, int] | None, codes: Tensor
) -> tuple[Tensor, tuple[int, int]]:
    """The scales as (matrices or 1, lines, across) over a weight of a logical `shape`, and the block that each is for.

    Without a `block` a scale is that of a row, or of a whole matrix or tensor, as the shape of the scales says. Raises
    SourceError where they do not fit.
    """
    if len(shape) in (2, 3) and 0 not in shape:
        matrices, rows, width = (1, *shape)[-3:]
        counts = _counts(scales.shape, matrices, rows)
        if counts is not None:
            grids, down, across = counts
            fitted = block or (1 if down == rows else rows, width)
            whole = (-(-rows // fitted[0]), -(-width // fitted[1]))
            if grids in (1, matrices) and (down, across) == whole:
                return replace(scales, shape=counts), fitted
    raise SourceError(
        f"{scales.file}: tensor {scales.name}: its shape {list(scales.shape)} does not fit {codes.name}"
        f" {list(codes.shape)}"
        + (f" with a scale for {block[0]} × {block[1]} values" if block else "")
        + "; config.json describes another checkpoint"
    )


def _counts(shape: tuple[int, ...], matrices: int, rows: int) -> tuple[int, int, int] | None:
    """Grids, lines and scales in a line, of scales that may lack axes of length 1."""
    if len(shape) > 3:
        return None
    if len(shape) == 1 and shape[0] == rows > 1:
        return 1, rows, 1
    if len(shape) == 1 and shape[0] == matrices > 1:
        return matrices, 1, 1
    grids, down, across = ((1,) * 3 + shape)[-3:]
    return grids, down, across
