"""softmax(q kᵀ · scale + mask) v by BLAS, a head of keys and a block of queries at a time.

Query heads that share a head of keys are multiplied together. Under a causal mask a block of queries sees the keys up
to its own end alone, and what is masked within the block takes the smallest float, as mlx has it. So memory is that of
the scores of one head's block, where mlx on a CPU holds those of all heads and queries.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .threads import spread
from .weights import Array, view

QUERIES = 256
_LEAST = np.finfo(np.float32).min


def attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    mask: mx.array | str | None,
    sinks: mx.array | None,
) -> mx.array:
    """Attend from queries (batch, heads, n, d) to keys (batch, key heads, m, d): sums of values (batch, heads, n, v).

    Values are (batch, key heads, m, v).
    `mask` is "causal", None, booleans that are true where a query sees a key, or floats to add, broadcast to
    (batch, heads, n, m). `sinks` (heads,) are scores of a key without a value.
    """
    q, k, v = view(queries), view(keys), view(values)
    batch, n_heads, n, _ = q.shape
    shared, m = n_heads // k.shape[1], k.shape[2]
    seen = np.broadcast_to(np.asarray(mask), (batch, n_heads, n, m)) if isinstance(mask, mx.array) else None
    sink = view(sinks) if sinks is not None else None
    out = np.empty((batch, n_heads, n, v.shape[-1]), np.float32)

    def one(place: tuple[int, int]) -> None:
        b, head = place
        group = slice(head * shared, (head + 1) * shared)
        key, value = np.ascontiguousarray(k[b, head]).T, np.ascontiguousarray(v[b, head])
        for at in range(0, n, QUERIES):
            part = slice(at, min(at + QUERIES, n))
            end = m - n + part.stop if mask == "causal" else m
            block = np.ascontiguousarray(q[b, group, part]) * np.float32(scale)
            scores = (block.reshape(-1, block.shape[-1]) @ key[:, :end]).reshape(shared, -1, end)
            if seen is not None:
                _mask(scores, seen[b, group, part])
            elif mask == "causal":
                _mask(scores, np.tri(part.stop - at, end, end - (part.stop - at), dtype=np.bool_))
            weights = _softmax(scores, None if sink is None else sink[group])
            out[b, group, part] = (weights.reshape(-1, end) @ value[:end]).reshape(shared, -1, v.shape[-1])

    places = [(b, head) for b in range(batch) for head in range(k.shape[1])]
    spread(one, places, 2.0 * batch * n_heads * n * m * (q.shape[-1] + v.shape[-1]))
    return mx.array(out)


def _mask(scores: Array, mask: NDArray[Any]) -> None:
    if mask.dtype == np.bool_:
        np.copyto(scores, _LEAST, where=np.logical_not(mask))
    else:
        scores += mask


def _softmax(scores: Array, sinks: Array | None) -> Array:
    """Over the last axis of (heads, n, m), in place; `sinks` (heads,) take their part of the whole."""
    most = scores.max(axis=-1, keepdims=True)
    if sinks is not None:
        most = np.maximum(most, sinks[:, None, None])
    scores -= most
    np.exp(scores, out=scores)
    whole = scores.sum(axis=-1, keepdims=True)
    if sinks is not None:
        whole += np.exp(sinks[:, None, None] - most)
    scores /= whole
    return scores
