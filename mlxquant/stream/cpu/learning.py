"""Products that gradients go through, computed as `products` computes them: forward and backward by BLAS.

mlx's own products on a CPU are its reference BLAS, and its gather has experts one row at a time; both are several times
slower. Here each product is a function of its own for mlx's gradients: rows x (n, in) and weights w (out, in) give
x·wᵀ, and a cotangent c (n, out) gives c·w and cᵀ·x. For experts the rows are brought together by expert first. Only
float32 is covered: with narrower inputs there is no form, and mlx's own is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .delta import CHUNK
from .threads import cut_rows, spread
from .weights import Array, view


def dense(module: Any, x: mx.array) -> mx.array:
    """Multiply x (…, in) by a weight (out, in), with the module's bias: (…, out)."""
    product: mx.array = _product(x.reshape(-1, x.shape[-1]), module["weight"])
    out = product.reshape(*x.shape[:-1], -1)
    return out + module["bias"] if "bias" in module else out


def switched(module: Any, x: mx.array, indices: mx.array) -> mx.array:
    """Multiply x (…, 1, in) by the weights (experts, out, in) that `indices` (…) choose: (…, 1, out)."""
    lead = np.broadcast_shapes(x.shape[:-2], indices.shape)
    rows = mx.broadcast_to(x[..., 0, :], (*lead, x.shape[-1])).reshape(-1, x.shape[-1])
    experts = np.broadcast_to(np.asarray(mx.stop_gradient(indices).astype(mx.int32)), lead).reshape(-1)
    out = _by_expert(experts)(rows, module["weight"]).reshape(*lead, 1, -1)
    return out + mx.expand_dims(module["bias"][mx.broadcast_to(indices, lead)], -2) if "bias" in module else out


# --- one matrix ---


def _multiply(rows: Array, w: Array) -> Array:
    """Multiply rows (n, in) by w (in, out), spread over the cores."""
    out = np.empty((len(rows), w.shape[1]), np.float32)
    operations = 2.0 * rows.size * w.shape[1]

    def multiply(part: slice) -> None:
        np.matmul(rows[part], w, out=out[part])

    spread(multiply, cut_rows(len(rows), operations), operations)
    return out


def _forward(x: mx.array, w: mx.array) -> mx.array:
    return mx.array(_multiply(view(x), view(w).T))


def _backward(primals: Any, cotangent: mx.array, _: Any) -> tuple[mx.array, mx.array]:
    x, w = (view(a) for a in primals)
    c = view(cotangent)
    return mx.array(_multiply(c, w)), mx.array(_multiply(c.T, x))


def _with_gradient(forward: Callable[..., mx.array], backward: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays that mlx's gradients go through by `backward`."""
    function = mx.custom_function(forward)
    function.vjp(backward)
    return function


_product = _with_gradient(_forward, _backward)


# --- a matrix for each expert ---


def _by_expert(experts: NDArray[np.int32]) -> Callable[[mx.array, mx.array], mx.array]:
    """The product of rows (n, in) with the weights (experts, out, in) that `experts` (n,) says, for gradients."""
    order = np.argsort(experts, kind="stable")
    counts = np.sort(experts)

    def parts(count: int) -> list[tuple[int, slice]]:
        bounds = np.searchsorted(counts, np.arange(count + 1))
        return [(e, slice(bounds[e], bounds[e + 1])) for e in range(count) if bounds[e] < bounds[e + 1]]

    def forward(x: mx.array, w: mx.array) -> mx.array:
        rows, weights = view(x)[order], view(w)
        out = np.empty((len(rows), weights.shape[-2]), np.float32)

        def multiply(part: tuple[int, slice]) -> None:
            out[order[part[1]]] = rows[part[1]] @ weights[part[0]].T

        spread(multiply, parts(len(weights)), 2.0 * rows.size * weights.shape[-2])
        return mx.array(out)

    def backward(primals: Any, cotangent: mx.array, _: Any) -> tuple[mx.array, mx.array]:
        rows, weights, c = view(primals[0])[order], view(primals[1]), view(cotangent)[order]
        of_rows, of_weights = np.empty(primals[0].shape, np.float32), np.zeros(weights.shape, np.float32)

        def multiply(part: tuple[int, slice]) -> None:
            expert, which = part
            of_rows[order[which]] = c[which] @ weights[expert]
            np.matmul(c[which].T, rows[which], out=of_weights[expert])

        spread(multiply, parts(len(weights)), 4.0 * rows.size * weights.shape[-2])
        return mx.array(of_rows), mx.array(of_weights)

    return _with_gradient(forward, backward)


# --- the gated delta rule ---


def gated_delta(
    q: mx.array, k: mx.array, v: mx.array, decay: mx.array, beta: mx.array, state: mx.array | None
) -> tuple[mx.array, mx.array]:
    """As `delta.gated_delta`, in operations of mlx, with one decay for all channels of a head."""
    heads, n = v.shape[2], v.shape[1]
    short = -n % CHUNK

    def cut(t: mx.array) -> mx.array:  # (batch, n, heads, …) to (batch, heads, chunks, CHUNK, …)
        t = mx.moveaxis(t.astype(mx.float32), 2, 1)
        t = mx.pad(t, [(0, 0), (0, 0), (0, short), *[(0, 0)] * (t.ndim - 3)])
        return t.reshape(*t.shape[:2], -1, CHUNK, *t.shape[3:])

    q, k = (mx.repeat(t, heads // t.shape[2], axis=2) for t in (q, k))
    logs = mx.log(mx.maximum(decay, float(np.finfo(np.float32).tiny)))
    queries, keys, values, steps = cut(q), cut(k), cut(v), cut(beta)[..., None]
    sums = mx.cumsum(cut(logs), axis=-1)[..., None]  # (batch, heads, chunks, CHUNK, 1)
    earlier = mx.tril(mx.ones((CHUNK, CHUNK)))
    faded = mx.exp(mx.where(earlier > 0, sums - sums.swapaxes(-1, -2), 0)) * earlier
    across, scaled = keys.swapaxes(-1, -2), keys * steps
    solve = _inverse((scaled @ across) * faded * (1 - mx.eye(CHUNK)))
    within, since = (queries @ across) * faded, mx.exp(sums)
    value, reading = solve @ (values * steps), solve @ (scaled * since)
    queries, keys, whole = queries * since, keys * mx.exp(sums[..., -1:, :] - sums), since[..., -1:, :]
    held = mx.zeros((*keys.shape[:2], keys.shape[-1], values.shape[-1]))
    if state is not None:
        held = state.astype(mx.float32).swapaxes(-1, -2)
    parts = []
    for i in range(values.shape[2]):
        new = value[:, :, i] - reading[:, :, i] @ held
        parts.append(queries[:, :, i] @ held + within[:, :, i] @ new)
        held = held * whole[:, :, i] + keys[:, :, i].swapaxes(-1, -2) @ new
    out = mx.concatenate(parts, axis=2)[:, :, :n]
    return mx.moveaxis(out, 1, 2).astype(q.dtype), held.swapaxes(-1, -2)


def _inverse(lower: mx.array) -> mx.array:
    """(1 + lower)⁻¹ of strictly lower triangular matrices (…, CHUNK, CHUNK), by blocks of 1, 2, 4, …

    Two inverses on the diagonal become that of the block of both: [[A, 0], [C, B]]⁻¹ has -B⁻¹·C·A⁻¹ below.
    """
    out = mx.broadcast_to(mx.eye(CHUNK), lower.shape)
    size = 1
    while size < CHUNK:
        block = np.arange(CHUNK) // size
        below = (block[:, None] == block + 1) & (block % 2 == 0)
        out = out - out @ (lower * mx.array(below.astype(np.float32))) @ out
        size *= 2
    return out
