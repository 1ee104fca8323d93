"""Integers that make up for each other's errors: GPTQ for one matrix, then scales, biases and integers in turn.

What is minimized, for the rows w of a matrix and the moments H = mean of x·xᵀ over its inputs x, is the squared error
of its output, tr((w - ŵ)·H·(w - ŵ)ᵀ). The steps, each row by itself:

    start    scale and bias of each group as `search` finds them under the diagonal of H, which is llama.cpp's imatrix
    gptq     columns in the order of falling H_jj; each takes the nearest integer, under the group's stored scale and
             bias, to what makes up best for the errors of the columns before it, also of those in other groups (GPTQ,
             Frantar et al., arXiv 2210.17323). Groups stay where they are in the file
    sweeps   group by group, given all others: scale and bias by least squares under H as they are stored, then integers
             one by one to their best level (coordinate descent)
    stretch  at 2 to 4 bits, integers as they are: scales and biases of a row times w·H·wᵀ / w·H·ŵᵀ. Least squares makes
             outputs too small by their squared error, as it does in `search`. KL of rounding's went from 0.20 to 0.15
             at 2 bits on the store model, from 0.49 to 0.46 on the text model, and hardly moved at 4

GPTQ is written as feedback of errors, which gives the same integers without H's inverse (QuIP, arXiv 2307.13304): with
H = R·Rᵀ, R upper triangular in the order of columns, the error of a row e = w - ŵ costs |e·R|², of which column p adds
R_pp²·(e_p + Σ_{i<p} e_i·R_ip/R_pp)². A step of a sweep is taken only where it lowers the error, so nothing is computed
twice to choose the better. A row that comes out worse than its start under H goes back to it. H is damped: a share of
its mean diagonal is added to the diagonal, since moments of few tokens are singular.

Columns go in blocks: a matrix product brings the changes of all other columns to a block, and a compiled loop handles
the block, 64 rows side by side. Arrays are transposed for that, (columns, rows). With C columns a weight takes C
floating-point operations for gptq and 2·C for each sweep. The products are BLAS's, so bytes are the same on one
machine, BLAS and number of its threads, not on others. HQQ (https://mobiusml.github.io/hqq_blog), which needs no
inputs, was tried and did worse than rounding at 4 bits. Which inputs, and what becomes of experts that saw few, is
`calibrate`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..words.formats import Format, widen
from ..words.jit import jit
from .compiled import _KINDS, _rounded, _widened
from .rows import Quantized, dequantize_rows, has_fast_path

__all__ = ["Curvature", "compensate_rows", "output_errors"]

# Columns that a compiled loop handles between two matrix products, at least a group
_BLOCK = 64
# Columns of the products that no loop waits for
_WIDE = 128
# Rows side by side in a loop: so many make up for what a loop costs beside its vectors
_LANES = 64
# The share of the mean diagonal that is added to the diagonal: with few tokens 0.1 is far better than the usual 0.01
DAMPING = 0.1
SWEEPS = 2
# Up to so many bits rows are stretched, by less than so much, as `search` does
_STRETCHED_BITS, _STRETCH = 4, 2.0
# What stored scales may add to the error of a stretched row
_MARGIN = 1.01
# Times that scale, bias and integers of a group are bettered in turn within a sweep
_TURNS = 2
# Weight of columns that nothing enters, as a share of the mean
_FLOOR = np.float32(1e-4)
# Below this share of its largest, a determinant of least squares is rounding: all integers of the group are equal
_SINGULAR = np.float32(1e-6)
_ZERO, _ONE = np.float32(0), np.float32(1)

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Curvature:
    """Damped moments (cols, cols) of a matrix's inputs, and what `compensate_rows` needs of them for every row.

    `order` has the columns by falling diagonal. With R as the module has it, `feedback` is the transpose of R with each
    column divided by its last, `pivots` (cols,) are these. Made once for all rows that share them.
    """

    moments: Floats
    order: NDArray[np.int64]
    feedback: Floats
    pivots: Floats

    @classmethod
    def of(cls, moments: NDArray[Any], damping: float = DAMPING) -> Curvature:
        """Damp and factor moments, in float32, and in float64 where that fails. Raises numpy's LinAlgError."""
        damped = np.array(moments, np.float32)
        diagonal = damped.diagonal()
        damped[np.diag_indices_from(damped)] += np.float32(damping * diagonal.mean(dtype=np.float64) + 1e-10)
        order = np.argsort(-damped.diagonal(), kind="stable")
        return cls(damped, order, *_factored(damped, order))

    def column_weights(self) -> Floats:
        """The diagonal as column weights of mean 1, (1, cols)."""
        diagonal = self.moments.diagonal()
        return np.asarray(diagonal / diagonal.mean() + _FLOOR, np.float32)[None]


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
    if not np.isfinite(weights).all() or not np.isfinite(curvature.feedback).all():
        return None
    from .search import search

    out = Quantized(rounded.packed.copy(), rounded.scales.copy(), rounded.biases.copy())
    assert out.biases is not None
    used = np.zeros(len(values), np.int64)
    columns = curvature.column_weights()
    search(dtype, fmt.group_size, fmt.bits, values, out.packed, out.scales, out.biases, columns, used, stretch=False)
    start = np.ascontiguousarray((weights - dequantize_rows(out, dtype, fmt)).T)
    codes = _gptq(np.ascontiguousarray(weights.T), curvature, out, dtype, fmt)
    for _ in range(SWEEPS):
        _sweep(codes, curvature, fmt, _KINDS[dtype])
    if fmt.bits <= _STRETCHED_BITS:
        _stretch(codes, curvature)
    better = _is_better(_MARGIN * codes.losses, start, curvature)
    packed = np.empty_like(out.packed)
    _pack(np.ascontiguousarray(codes.levels.T), fmt.bits, packed)
    out.packed[better] = packed[better]
    for stored, chosen in ((out.scales, codes.scales), (out.biases, codes.biases)):
        stored[better] = _narrow(np.ascontiguousarray(chosen.T), dtype)[better]
    return out


# --- the factor ---


def _factored(moments: Floats, order: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """`feedback` and `pivots` of a `Curvature`, by float32 where that is regular, else by float64.

    R is the Cholesky factor of the moments with rows and columns in reverse, and its own reversed.
    """
    from scipy.linalg.lapack import get_lapack_funcs

    reverse = np.ascontiguousarray(order[::-1])
    for dtype in (np.float32, np.float64):
        (factor,) = get_lapack_funcs(("potrf",), dtype=dtype)
        turned = np.take(np.take(moments, reverse, 0), reverse, 1).astype(dtype, copy=False)
        # symmetric, so its transpose is it in Fortran's order, and is overwritten
        lower, fault = factor(turned.T, lower=1, clean=1, overwrite_a=1)
        if fault == 0 and np.isfinite(lower).all():
            feedback = np.ascontiguousarray(lower.T[::-1, ::-1], np.float32)
            pivots = feedback.diagonal().copy()
            feedback /= pivots[:, None]
            return feedback, pivots
    raise np.linalg.LinAlgError("moments whose damped form is not positive definite")


# --- the steps ---


@dataclass(slots=True)
class _Codes:
    """A matrix on its way: `weights` and `levels` (cols, rows), and what the values of these lack, `errors`.

    Scales and biases (groups, rows) are as stored, in float32; `losses` (rows,) are under the damped moments.
    """

    weights: Floats
    levels: NDArray[np.uint8]
    errors: Floats
    scales: Floats
    biases: Floats
    losses: NDArray[np.float64]


def _blocks(columns: int, size: int = _BLOCK) -> list[slice]:
    return [slice(at, min(at + size, columns)) for at in range(0, columns, size)]


def _gptq(weights: Floats, curvature: Curvature, start: Quantized, dtype: str, fmt: Format) -> _Codes:
    assert start.biases is not None
    order, feedback, top = curvature.order, curvature.feedback, np.float32((1 << fmt.bits) - 1)
    ordered = weights[order]
    scales, biases = (np.ascontiguousarray(widen(a, dtype).T) for a in (start.scales, start.biases))
    errors, levels = np.empty_like(weights), np.empty(weights.shape, np.uint8)
    losses = np.zeros(weights.shape[1])
    groups = order // fmt.group_size
    for part in _blocks(len(order)):
        aims = ordered[part].copy()
        if part.start:
            aims += feedback[part, : part.start] @ errors[: part.start]
        inner = np.ascontiguousarray(feedback[part, part])
        _round_block(
            ordered[part], aims, inner, curvature.pivots[part], groups[part], scales, biases, top,
            levels[part], errors[part], losses,
        )  # fmt: skip
    in_file, errors_in_file = np.empty_like(levels), np.empty_like(errors)
    in_file[order], errors_in_file[order] = levels, errors
    return _Codes(weights, in_file, errors_in_file, scales, biases, losses)


@jit(fastmath={"contract"})
def _round_block(weights, aims, feedback, pivots, groups, scales, biases, top, levels, errors, losses):  # type: ignore[no-untyped-def]
    """Round a block's columns in order to what they aim at, each error moving the aims of those that follow."""
    cols, rows = weights.shape
    aim, error, cost = np.zeros((cols, _LANES), np.float32), np.zeros(_LANES, np.float32), np.zeros(_LANES)
    for first in range(0, rows, _LANES):
        width = min(_LANES, rows - first)
        for j in range(cols):
            for lane in range(width):
                aim[j, lane] = aims[j, first + lane]
        for lane in range(_LANES):
            cost[lane] = 0
        for j in range(cols):
            g = groups[j]
            square = pivots[j] * pivots[j]
            for lane in range(width):
                r = first + lane
                scale, bias = scales[g, r], biases[g, r]
                inverse = _ONE / scale if scale != _ZERO else _ZERO
                q = np.rint((aim[j, lane] - bias) * inverse)
                q = q if q > _ZERO else _ZERO
                q = q if q < top else top
                value = q * scale + bias
                off = aim[j, lane] - value
                cost[lane] += np.float64(square * off * off)
                error[lane] = weights[j, r] - value
                levels[j, r] = np.uint8(q)
                errors[j, r] = error[lane]
            for k in range(j + 1, cols):
                share = feedback[k, j]
                for lane in range(_LANES):
                    aim[np.uintp(k), np.uintp(lane)] += share * error[np.uintp(lane)]
        for lane in range(width):
            losses[first + lane] += cost[lane]


def _sweep(codes: _Codes, curvature: Curvature, fmt: Format, kind: int) -> None:
    """Better each group once, given all others."""
    group, moments, top = fmt.group_size, curvature.moments, np.float32((1 << fmt.bits) - 1)
    for part in _blocks(len(codes.weights), max(_BLOCK, group)):
        groups = slice(part.start // group, part.stop // group)
        slopes = moments[part] @ codes.errors
        inner = np.ascontiguousarray(moments[part, part])
        _better_block(
            codes.weights[part], slopes, inner, codes.scales[groups], codes.biases[groups], top, group, kind, _TURNS,
            codes.levels[part], codes.errors[part], codes.losses,
        )  # fmt: skip


@jit(fastmath={"contract"})
def _better_block(weights, slopes, moments, scales, biases, top, group, kind, turns, levels, errors, losses):  # type: ignore[no-untyped-def]
    """Better scales, biases and integers of a block's groups; `slopes` are the errors of all columns times H."""
    cols, rows = weights.shape
    slope, level = np.zeros((cols, _LANES), np.float32), np.zeros((cols, _LANES), np.float32)
    product, sums = np.zeros((cols, _LANES), np.float32), np.zeros((cols // group, cols), np.float32)
    lanes, gain = np.zeros((2, _LANES), np.float32), np.zeros(_LANES)
    for g in range(cols // group):
        for j in range(g * group, (g + 1) * group):
            for k in range(cols):
                sums[g, k] += moments[j, k]
    for first in range(0, rows, _LANES):
        width = min(_LANES, rows - first)
        for j in range(cols):
            for lane in range(width):
                slope[j, lane], level[j, lane] = slopes[j, first + lane], np.float32(levels[j, first + lane])
        for lane in range(_LANES):
            gain[lane] = 0
        for g in range(cols // group):
            for lane in range(_LANES):
                r = min(first + lane, rows - 1)
                lanes[0, lane], lanes[1, lane] = scales[g, r], biases[g, r]
            for turn in range(turns):
                _refit(slope, level, product, moments, sums[g], lanes, gain, g * group, group, kind)
                _descend(slope, level, moments, lanes, gain, g * group, group, top, turn == turns - 1)
            for lane in range(width):
                scales[g, first + lane], biases[g, first + lane] = lanes[0, lane], lanes[1, lane]
            for j in range(g * group, (g + 1) * group):
                for lane in range(width):
                    r = first + lane
                    levels[j, r] = np.uint8(level[j, lane])
                    errors[j, r] = weights[j, r] - (level[j, lane] * lanes[0, lane] + lanes[1, lane])
        for lane in range(width):
            losses[first + lane] -= gain[lane]


@jit(fastmath={"contract"})
def _refit(slope, level, product, moments, sums, lanes, gain, start, group, kind):  # type: ignore[no-untyped-def]
    """Scale and bias of a group by least squares, as they are stored, where that is better; integers stay."""
    cols = slope.shape[0]
    for column in range(cols):
        k = np.uintp(column)
        for lane in range(_LANES):
            product[k, np.uintp(lane)] = _ZERO
        for j in range(start, start + group, 4):  # four at once: half as much to load and store
            i0, i1, i2, i3 = np.uintp(j), np.uintp(j + 1), np.uintp(j + 2), np.uintp(j + 3)
            h0, h1, h2, h3 = moments[i0, k], moments[i1, k], moments[i2, k], moments[i3, k]
            for lane in range(_LANES):
                r = np.uintp(lane)
                product[k, r] += (h0 * level[i0, r] + h1 * level[i1, r]) + (h2 * level[i2, r] + h3 * level[i3, r])
    ones = _ZERO
    for column in range(start, start + group):
        ones += sums[column]
    shift = np.zeros((2, _LANES), np.float32)
    qq, q1, sq, s1 = (np.zeros(_LANES, np.float32), np.zeros(_LANES, np.float32), np.zeros(_LANES, np.float32),
                      np.zeros(_LANES, np.float32))  # fmt: skip
    for column in range(start, start + group):
        k = np.uintp(column)
        for lane in range(_LANES):
            r = np.uintp(lane)
            qq[r] += product[k, r] * level[k, r]
            q1[r] += product[k, r]
            sq[r] += slope[k, r] * level[k, r]
            s1[r] += slope[k, r]
    for lane in range(_LANES):
        most = qq[lane] * ones
        determinant = most - q1[lane] * q1[lane]
        regular = determinant > _SINGULAR * most
        scale, bias = lanes[0, lane], lanes[1, lane]
        step = (ones * sq[lane] - q1[lane] * s1[lane]) / (determinant if regular else _ONE)
        stored = _widened(_rounded(scale + step, kind), kind) if regular else scale
        d = stored - scale
        stored_bias = _widened(_rounded(bias + (s1[lane] - d * q1[lane]) / ones, kind), kind)
        b = stored_bias - bias
        change = d * d * qq[lane] + np.float32(2) * d * b * q1[lane] + b * b * ones
        change -= np.float32(2) * (d * sq[lane] + b * s1[lane])
        if change < _ZERO:
            lanes[0, lane], lanes[1, lane] = stored, stored_bias
            shift[0, lane], shift[1, lane] = d, b
            gain[lane] -= np.float64(change)
    for column in range(cols):
        k = np.uintp(column)
        total = sums[k]
        for lane in range(_LANES):
            r = np.uintp(lane)
            slope[k, r] -= shift[0, r] * product[k, r] + shift[1, r] * total


@jit(fastmath={"contract"})
def _descend(slope, level, moments, lanes, gain, start, group, top, last):  # type: ignore[no-untyped-def]
    """Give each level of a group, one after the other, the integer that is best for the row, given all others.

    For the `last` time slopes of columns that are through are left as they are.
    """
    cols = slope.shape[0]
    inverse, change = np.zeros(_LANES, np.float32), np.zeros(_LANES, np.float32)
    for lane in range(_LANES):
        inverse[lane] = _ONE / lanes[0, lane] if lanes[0, lane] != _ZERO else _ZERO
    for j in range(start, start + group):
        own = moments[j, j]
        for lane in range(_LANES):
            old = level[j, lane]
            q = np.rint(old + slope[j, lane] / own * inverse[lane])
            q = q if q > _ZERO else _ZERO
            q = q if q < top else top
            level[j, lane] = q
            d = (q - old) * lanes[0, lane]
            change[lane] = d
            gain[lane] += np.float64(d * (np.float32(2) * slope[j, lane] - d * own))
        for k in range(j + 1 if last else 0, cols):
            share = moments[j, k]
            for lane in range(_LANES):
                slope[np.uintp(k), np.uintp(lane)] -= share * change[np.uintp(lane)]


def _stretch(codes: _Codes, curvature: Curvature) -> None:
    """Make each row's output as large as its weights': w·H·wᵀ = w·H·ŵᵀ. Integers stay, losses grow by the factor.

    After a refit ŵ·H·(w - ŵ)ᵀ is about 0, so w·H·ŵᵀ = w·H·wᵀ - loss, and no product is needed for that.
    """
    ordered = codes.weights[curvature.order]
    sizes = np.sum([_costs(ordered, curvature, part) for part in _blocks(len(ordered), _WIDE)], 0)
    rest = sizes - codes.losses
    factors = np.divide(sizes, rest, out=np.ones_like(sizes), where=rest > 0)
    factors = np.where(factors < _STRETCH, factors, 1)
    codes.losses *= factors
    for stored in (codes.scales, codes.biases):
        stored *= factors.astype(np.float32)


def _is_better(losses: NDArray[np.float64], start: Floats, curvature: Curvature) -> NDArray[np.bool_]:
    """Which rows cost less than the errors `start` (cols, rows), whose costs are summed as far as that takes."""
    better, left = np.zeros(len(losses), np.bool_), np.arange(len(losses))
    errors, costs = np.empty_like(start), np.zeros(len(losses))
    for part in _blocks(len(errors), _WIDE):
        errors[part] = start[curvature.order[part]][:, left]
        costs += _costs(errors, curvature, part)
        decided = losses[left] < costs  # NaN is not less
        better[left[decided]] = True
        if decided.all():
            break
        left, costs, errors = left[~decided], costs[~decided], errors[:, ~decided]
    return better


def _costs(errors: Floats, curvature: Curvature, part: slice) -> NDArray[np.float64]:
    """What columns `part` add to e·H·eᵀ of each row e of `errors` (cols, rows), columns being in `order`."""
    costs = np.zeros(errors.shape[1])
    _add_squares(curvature.feedback[part, : part.stop] @ errors[: part.stop], curvature.pivots[part], costs)
    return costs


@jit
def _add_squares(values, factors, sums):  # type: ignore[no-untyped-def]
    """Add to the sums of rows the squares of values (cols, rows), each column times its factor."""
    for c in range(values.shape[0]):
        factor = factors[c]
        for r in range(values.shape[1]):
            value = values[c, r] * factor
            sums[r] += np.float64(value * value)


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
