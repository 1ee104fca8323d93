"""Integers that make up for each other's errors: GPTQ for one matrix, then scales, biases and integers in turn.

What is minimized, for the rows w of a matrix and the moments H = mean of x·xᵀ over its inputs x, is the squared error
of its output, tr((w - ŵ)·H·(w - ŵ)ᵀ). The steps, each row by itself:

    start    scale and bias of each group as `search` finds them under the diagonal of H, which is llama.cpp's imatrix
    gptq     columns in the order of falling H_jj; each takes its nearest integer under the group's stored scale and
             bias, and its error, times the row of the inverse's Cholesky factor, is taken off the columns that follow,
             also those of other groups (GPTQ, Frantar et al., arXiv 2210.17323). Groups stay where they are in the file
    refit    all scales and biases of a row by least squares under H, given its integers; rounded to what is stored
    descend  integers one by one to the level that is best given all others (coordinate descent), column by column

The last two are repeated, and a row keeps whatever was best under H. H is damped: a share of its mean diagonal is added
to the diagonal, since moments of few tokens are singular.

Columns go in blocks: within a block a compiled loop goes row by row, and a matrix product brings a block's changes to
the columns beyond. The products are BLAS's, so bytes are the same on one machine, BLAS and number of its threads, not
on others. HQQ (https://mobiusml.github.io/hqq_blog), which needs no inputs, was tried and did worse than rounding at 4
bits. Which inputs, and what becomes of experts that saw few, is `calibrate`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..words.formats import Format, widen
from ..words.jit import jit
from .rows import Quantized, dequantize_rows, has_fast_path, quantize_rows

__all__ = ["Codes", "Curvature", "compensate", "compensate_rows", "loss", "output_errors"]

# Columns that a compiled loop handles before a matrix product brings their changes to all others
_BLOCK = 128
# Rows of `refit` whose normal equations are in memory at once
_ROWS = 64
_RIDGE = 1e-3
# The share of the mean diagonal that is added to the diagonal: with few tokens 0.1 is far better than the usual 0.01
DAMPING = 0.1
ROUNDS = 2
# Weight of columns that nothing enters, as a share of the mean
_FLOOR = np.float32(1e-4)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Codes:
    """A matrix (rows, cols) in levels (rows, cols) uint8; scales and biases (rows, groups) as stored, in float32."""

    levels: NDArray[np.uint8]
    scales: Floats
    biases: Floats

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return int(self.levels.shape[1] // self.scales.shape[1])

    def values(self) -> Floats:
        """The matrix that it stands for."""
        rows, groups = self.scales.shape
        levels = self.levels.reshape(rows, groups, -1).astype(np.float32)
        return (levels * self.scales[..., None] + self.biases[..., None]).reshape(rows, -1)

    def chosen(self, other: Codes, rows: NDArray[np.bool_]) -> Codes:
        """These, with the rows of `other` where `rows` says so."""
        which = rows[:, None]
        return Codes(
            np.where(which, other.levels, self.levels),
            np.where(which, other.scales, self.scales),
            np.where(which, other.biases, self.biases),
        )


@dataclass(frozen=True, slots=True)
class Curvature:
    """Damped moments (cols, cols) of a matrix's inputs, and what `compensate` needs of them for every row.

    `order` has the columns by falling diagonal, `upper` is the upper U with Uᵀ·U the inverse of the moments in that
    order. Made once for all rows that share them.
    """

    moments: Floats
    order: NDArray[np.int64]
    upper: Floats

    @classmethod
    def of(cls, moments: NDArray[Any], damping: float = DAMPING) -> Curvature:
        """Damp and factor moments, in float32, and in float64 where that fails. Raises numpy's LinAlgError."""
        damped = np.array(moments, np.float32)
        diagonal = damped.diagonal()
        damped[np.diag_indices_from(damped)] += np.float32(damping * diagonal.mean(dtype=np.float64) + 1e-10)
        order = np.argsort(-damped.diagonal(), kind="stable")
        return cls(damped, order, _upper(damped[np.ix_(order, order)]))

    def column_weights(self) -> Floats:
        """The diagonal as column weights of mean 1, (1, cols)."""
        diagonal = self.moments.diagonal()
        return np.asarray(diagonal / diagonal.mean() + _FLOOR, np.float32)[None]


def loss(weights: Floats, codes: Codes, moments: Floats) -> NDArray[np.float64]:
    """(w - ŵ)·H·(w - ŵ)ᵀ of each row."""
    error = weights - codes.values()
    return np.asarray(np.einsum("rc,rc->r", error @ moments, error, dtype=np.float64))


def output_errors(weights: Floats, values: Floats, inputs: Floats) -> NDArray[np.float64]:
    """Σ (x·(w - ŵ)ᵀ)² over the inputs x (n, cols), for each row w of `weights` and ŵ of `values`, both (rows, cols)."""
    return np.asarray(np.square(inputs @ (weights - values).T).sum(0, dtype=np.float64))


def compensate_rows(
    values: NDArray[Any], dtype: str, fmt: Format, curvature: Curvature, rounded: Quantized
) -> Quantized | None:
    """Quantize rows (rows, cols) of a matrix, `rounded` being what rounding makes of them.

    None where there is nothing to choose: modes without biases, 1 bit, weights or moments that are not finite. No row
    is worse under the damped moments than the search under their diagonal is.
    """
    weights = widen(values, dtype)
    if not has_fast_path(fmt, dtype) or rounded.biases is None:
        return None
    if not np.isfinite(weights).all() or not np.isfinite(curvature.upper).all():
        return None
    from .search import search

    out = Quantized(rounded.packed.copy(), rounded.scales.copy(), rounded.biases.copy())
    assert out.biases is not None
    used = np.zeros(len(values), np.int64)
    columns = curvature.column_weights()
    search(dtype, fmt.group_size, fmt.bits, values, out.packed, out.scales, out.biases, columns, used, stretch=False)
    start = _nearest(weights, widen(out.scales, dtype), widen(out.biases, dtype), fmt.bits)
    codes = compensate(weights, curvature, start, fmt.bits, lambda a: widen(_narrow(a, dtype), dtype))
    _pack(codes.levels, fmt.bits, out.packed)
    out.scales[:], out.biases[:] = _narrow(codes.scales, dtype), _narrow(codes.biases, dtype)
    return out


def rounded_rows(values: NDArray[Any], dtype: str, fmt: Format) -> tuple[Quantized, Floats]:
    """What rounding makes of rows, and the values that this stands for."""
    rounded = quantize_rows(values, dtype, fmt, allow_nonfinite=True)[0]
    return rounded, dequantize_rows(rounded, dtype, fmt)


def compensate(
    weights: Floats,
    curvature: Curvature,
    start: Codes,
    bits: int,
    store: Callable[[Floats], Floats],
    *,
    rounds: int = ROUNDS,
) -> Codes:
    """Quantize `weights` (rows, cols) from the scales and biases of `start` on.

    `store` rounds float32 scales and biases to what is stored. No row comes out worse under the damped moments than
    `start` is.
    """
    top, moments = float((1 << bits) - 1), curvature.moments
    best, least = start, loss(weights, start, moments)
    codes = _gptq(weights, curvature, start, top)
    for step in range(rounds + 1):
        if step:
            codes = _descend(weights, moments, _refit(weights, moments, best, store), top)
        losses = loss(weights, codes, moments)
        better = losses < least  # NaN is not less
        best, least = best.chosen(codes, better), np.where(better, losses, least)
    return best


# --- the inverse ---


def _upper(moments: Floats) -> Floats:
    """Upper U with Uᵀ·U the inverse of the moments, in float32 where that is regular, else in float64.

    With R upper and R·Rᵀ = H, which is the Cholesky factor of H with rows and columns reversed, U is R's inverse.
    """
    from scipy.linalg.lapack import get_lapack_funcs

    for dtype in (np.float32, np.float64):
        factor, inverse = get_lapack_funcs(("potrf", "trtri"), dtype=dtype)
        lower, fault = factor(moments[::-1, ::-1].astype(dtype), lower=1, clean=1)
        if fault == 0:
            upper, fault = inverse(np.ascontiguousarray(lower[::-1, ::-1]), lower=0)
        if fault == 0 and np.isfinite(upper).all():
            return np.ascontiguousarray(upper, np.float32)
    raise np.linalg.LinAlgError("moments whose damped form is not positive definite")


# --- the steps ---


def _nearest(weights: Floats, scales: Floats, biases: Floats, bits: int) -> Codes:
    """The nearest levels under scales and biases."""
    rows, groups = scales.shape
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    levels = np.rint((weights.reshape(rows, groups, -1) - biases[..., None]) * inverse[..., None])
    return Codes(np.clip(levels, 0, (1 << bits) - 1).astype(np.uint8).reshape(rows, -1), scales, biases)


def _gptq(weights: Floats, curvature: Curvature, start: Codes, top: float) -> Codes:
    order, upper = curvature.order, curvature.upper
    left = np.ascontiguousarray(weights[:, order])
    groups = order // start.group
    levels = np.empty(weights.shape, np.uint8)
    for first in range(0, len(order), _BLOCK):
        last = min(first + _BLOCK, len(order))
        block = np.ascontiguousarray(left[:, first:last])
        errors, chosen = np.empty(block.shape, np.float32), np.empty(block.shape, np.uint8)
        factor = np.ascontiguousarray(upper[first:last, first:last])
        at = np.ascontiguousarray(groups[first:last])
        _round_block(block, factor, at, start.scales, start.biases, np.float32(top), chosen, errors)
        levels[:, order[first:last]] = chosen
        left[:, last:] -= errors @ upper[first:last, last:]
    return Codes(levels, start.scales, start.biases)


@jit
def _round_block(block, factor, groups, scales, biases, top, levels, errors):  # type: ignore[no-untyped-def]
    """Round a block's columns in order, each error taken off the columns of the block that follow."""
    rows, cols = block.shape
    for r in range(rows):
        for j in range(cols):
            scale, bias, value = scales[r, groups[j]], biases[r, groups[j]], block[r, j]
            q = np.rint((value - bias) / scale) if scale != np.float32(0) else np.float32(0)
            q = np.float32(min(max(q, np.float32(0)), top))
            levels[r, j] = np.uint8(q)
            error = (value - (q * scale + bias)) / factor[j, j]
            errors[r, j] = error
            for k in range(j + 1, cols):
                block[r, np.uintp(k)] -= error * factor[j, np.uintp(k)]


def _descend(weights: Floats, moments: Floats, codes: Codes, top: float) -> Codes:
    """One sweep over all columns."""
    levels = codes.levels.astype(np.float32)
    gradient = (weights - codes.values()) @ moments
    groups = np.arange(weights.shape[1]) // codes.group
    for first in range(0, weights.shape[1], _BLOCK):
        last = min(first + _BLOCK, weights.shape[1])
        inner = np.ascontiguousarray(moments[first:last, first:last])
        part, slope = (np.ascontiguousarray(a[:, first:last]) for a in (levels, gradient))
        changes = np.zeros(part.shape, np.float32)
        _descend_block(part, slope, inner, groups[first:last], codes.scales, np.float32(top), changes)
        levels[:, first:last] = part
        gradient[:, last:] -= changes @ moments[first:last, last:]
    return Codes(levels.astype(np.uint8), codes.scales, codes.biases)


@jit
def _descend_block(levels, gradient, moments, groups, scales, top, changes):  # type: ignore[no-untyped-def]
    """Give each level of a block the integer that is best for the row, given all others."""
    rows, cols = levels.shape
    for r in range(rows):
        for j in range(cols):
            scale = scales[r, groups[j]]
            if scale == np.float32(0):
                continue
            q = np.rint(levels[r, j] + gradient[r, j] / (moments[j, j] * scale))
            q = np.float32(min(max(q, np.float32(0)), top))
            change = (q - levels[r, j]) * scale
            if change != np.float32(0):
                levels[r, j] = q
                changes[r, j] = change
                for k in range(cols):
                    gradient[r, np.uintp(k)] -= change * moments[j, np.uintp(k)]


def _refit(weights: Floats, moments: Floats, codes: Codes, store: Callable[[Floats], Floats]) -> Codes:
    """Scales and biases of all groups of a row at once, by least squares under the moments; integers stay."""
    rows, groups = codes.scales.shape
    group = codes.group
    slope = ((weights - codes.values()) @ moments).reshape(rows, groups, group)
    # sums of the moments over the columns of two groups: what their biases do to each other
    both = moments.reshape(groups, group, groups, group).sum((1, 3))
    scales, biases = codes.scales.copy(), codes.biases.copy()
    for first in range(0, rows, _ROWS):
        part = slice(first, first + _ROWS)
        levels = codes.levels[part].astype(np.float32).reshape(-1, groups, group)
        normal = np.empty((len(levels), 2 * groups, 2 * groups), np.float32)
        for g in range(groups):
            # a group's levels with the moments, group by group: (rows, groups, group)
            product = (levels[:, g] @ moments[g * group : (g + 1) * group]).reshape(-1, groups, group)
            normal[:, g, :groups] = np.einsum("nkc,nkc->nk", product, levels)
            normal[:, g, groups:] = product.sum(2)
        normal[:, groups:, :groups] = normal[:, :groups, groups:].transpose(0, 2, 1)
        normal[:, groups:, groups:] = both
        right = np.concatenate([(slope[part] * levels).sum(2), slope[part].sum(2)], axis=1).astype(np.float64)
        matrix = normal.astype(np.float64)
        diagonal = np.einsum("nii->ni", matrix)
        diagonal += _RIDGE * diagonal + 1e-12
        change = np.linalg.solve(matrix, right[..., None])[..., 0]
        scales[part] += change[:, :groups].astype(np.float32)
        biases[part] += change[:, groups:].astype(np.float32)
    return Codes(codes.levels, store(scales), store(biases))


# --- what is stored ---


def _narrow(values: Floats, dtype: str) -> NDArray[Any]:
    """float32 values in the carrier of a dtype, half to even."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
            np.uint16
        )
    return values.astype(np.float16 if dtype == "F16" else np.float32)


@jit
def _pack(levels, bits, packed):  # type: ignore[no-untyped-def]
    """Write each row's levels as a string of bits, lowest first, into its 32-bit words."""
    rows, cols = levels.shape
    for r in range(rows):
        held, count, word = np.uint64(0), 0, 0
        for c in range(cols):
            held |= np.uint64(levels[r, c]) << np.uint64(count)
            count += bits
            if count >= 32:
                packed[r, word] = np.uint32(held & np.uint64(0xFFFFFFFF))
                held >>= np.uint64(32)
                word, count = word + 1, count - 32
