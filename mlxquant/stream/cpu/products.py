"""Products of activations with weights: one BLAS call for a dense layer, a head or an expert.

Where mlx multiplies row by row with a gathered expert, the rows are brought together by expert first and multiplied
once; each row's sums stay its own, so only their order differs from mlx's. Inputs of 16 bits are widened, and products
rounded to their dtype (see `stream.widened`). Shapes are those of mlx's modules.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .threads import cut_rows, spread
from .weights import Array, Weights, view


def dense(weights: Weights, module: Any, x: mx.array) -> mx.array:
    """Multiply x (…, in) by a weight (out, in), with the module's bias: (…, out)."""
    rows, w = view(x).reshape(-1, x.shape[-1]), weights.of(module).T
    out = np.empty((len(rows), w.shape[1]), np.float32)

    def multiply(part: slice) -> None:
        np.matmul(rows[part], w, out=out[part])

    operations = 2.0 * rows.size * w.shape[1]
    spread(multiply, cut_rows(len(rows), operations), operations)
    return _with_bias(module, mx.array(out.reshape(*x.shape[:-1], -1)).astype(x.dtype))


def heads(weights: Weights, module: Any, x: mx.array, *, transpose: bool) -> mx.array:
    """Multiply x (batch, heads or 1, n, in) by weights (heads, out, in), or (heads, in, out) without `transpose`."""
    w = weights.of(module)
    return mx.array(np.matmul(view(x), w.swapaxes(-1, -2) if transpose else w)).astype(x.dtype)


def switched(weights: Weights, module: Any, x: mx.array, indices: mx.array) -> mx.array:
    """Multiply x (…, 1, in) by the weights (experts, out, in) that `indices` (…) choose: (…, 1, out).

    The leading axes of x and of `indices` are broadcast over one another, as mlx gathers.
    """
    w, chosen, values = weights.of(module), np.asarray(indices), view(x)
    lead = np.broadcast_shapes(values.shape[:-2], chosen.shape)
    rows = np.broadcast_to(values[..., 0, :], (*lead, values.shape[-1])).reshape(-1, values.shape[-1])
    experts = np.broadcast_to(chosen, lead).reshape(-1)
    out = mx.array(_by_expert(rows, experts, w).reshape(*lead, 1, -1)).astype(x.dtype)
    return _with_bias(module, out, mx.broadcast_to(indices, lead))


def _with_bias(module: Any, out: mx.array, indices: mx.array | None = None) -> mx.array:
    """Add a module's bias, of the experts that `indices` choose where it has one for each; after rounding, as mlx."""
    if "bias" not in module:
        return out
    return out + (module["bias"] if indices is None else mx.expand_dims(module["bias"][indices], -2))


def _by_expert(rows: Array, experts: NDArray[np.integer[Any]], w: Array) -> Array:
    """Each row (n, in) times its expert's weight (out, in): (n, out)."""
    order = None
    if (experts[1:] < experts[:-1]).any():
        order = np.argsort(experts, kind="stable")
        rows, experts = rows[order], experts[order]
    bounds = np.searchsorted(experts, np.arange(len(w) + 1))
    products = np.empty((len(rows), w.shape[-2]), np.float32)

    def multiply(expert: int) -> None:
        part = slice(bounds[expert], bounds[expert + 1])
        np.matmul(rows[part], w[expert].T, out=products[part])

    spread(multiply, list(np.flatnonzero(np.diff(bounds))), 2.0 * rows.size * w.shape[-2])
    if order is None:
        return products
    out = np.empty_like(products)
    out[order] = products
    return out
