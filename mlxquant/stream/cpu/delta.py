"""The gated delta rule in chunks, where mlx-lm on a CPU goes token by token.

For each head, with keys k, queries q (D,), values v, decay exp(g) and step β, the state S (D, values) follows

    S ← diag(exp(g)) S + β k (v - kᵀ diag(exp(g)) S)ᵀ        out = Sᵀ q

Within a chunk the updates solve a unit lower triangular system (arXiv:2412.06464, section 3.3; 2510.26692 for a decay
by channel), and a chunk is a few matrix products. The system is inverted by substitution and by blocks: the product of
powers (1 - N)(1 + N²)(1 + N⁴)…, shorter to write, loses all digits where keys repeat. Decays within a chunk are
differences of the logarithms' sums, taken in float64 and never above 0.

Worked: one token, S = 0, k = q = 1, v = 2, β = 0.5: the new value is 0.5 · 2 = 1, out = 1.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .weights import Array, view

CHUNK, CHUNK_BY_CHANNEL, BLOCK = 32, 16, 8


def gated_delta(
    q: mx.array, k: mx.array, v: mx.array, decay: mx.array, beta: mx.array, state: mx.array | None
) -> tuple[mx.array, mx.array]:
    """Outputs (batch, n, heads, values) in q's dtype, and the state (batch, heads, values, D) in float32 that follows.

    q and k are (batch, n, key heads, D), v (batch, n, heads, values), `beta` (batch, n, heads), `decay`, between 0 and
    1, that or with D.
    """
    heads = v.shape[2]
    keys, queries = (np.repeat(view(t), heads // t.shape[2], axis=2) for t in (k, q))
    logs = np.log(np.maximum(view(decay), np.finfo(np.float32).tiny))
    queries, keys, values, logs, steps = (np.moveaxis(t, 2, 1) for t in (queries, keys, view(v), logs, view(beta)))
    before = np.zeros((v.shape[0], heads, k.shape[3], v.shape[3]), np.float32)
    if state is not None:
        before = np.array(view(state).swapaxes(-1, -2))
    out, after = delta_rule(queries, keys, values, logs, steps, before)
    return mx.array(np.moveaxis(out, 1, 2)).astype(q.dtype), mx.array(after.swapaxes(-1, -2))


def delta_rule(q: Array, k: Array, v: Array, decay: Array, beta: Array, state: Array) -> tuple[Array, Array]:
    """Outputs (batch, heads, n, values) and the state (batch, heads, D, values) after n tokens.

    q and k are (batch, heads, n, D), v (batch, heads, n, values), `decay` (batch, heads, n) or with D, a logarithm,
    `beta` (batch, heads, n).
    """
    n, by_channel = v.shape[2], decay.ndim == 4
    size = CHUNK_BY_CHANNEL if by_channel else CHUNK
    q, k, v, decay, beta = (_in_chunks(t, size) for t in (q, k, v, decay, beta))
    sums = np.cumsum(decay if by_channel else decay[..., None], axis=3, dtype=np.float64)
    since, until = np.exp(sums).astype(np.float32), np.exp(sums[..., -1:, :] - sums).astype(np.float32)
    whole = since[..., -1, :, None]  # the decay of the state over a chunk, by row
    scaled = k * beta[..., None]
    lower, within = _pairs(scaled, k, q, sums)
    solved = _inverse(lower) @ np.concatenate([v * beta[..., None], scaled * since], axis=-1)
    value, reading = solved[..., : v.shape[-1]], solved[..., v.shape[-1] :]
    q, k = q * since, k * until
    out = np.empty_like(value)
    for i in range(v.shape[2]):
        new = value[:, :, i] - reading[:, :, i] @ state
        out[:, :, i] = q[:, :, i] @ state + within[:, :, i] @ new
        state = state * whole[:, :, i] + k[:, :, i].swapaxes(-1, -2) @ new
    return out.reshape(*out.shape[:2], -1, out.shape[-1])[:, :, :n], state


def _in_chunks(t: Array, size: int) -> Array:
    """Cut (batch, heads, n, …) into (batch, heads, chunks, size, …). Zeros behind change neither state nor outputs."""
    short = -t.shape[2] % size
    padded = np.pad(t, [(0, 0), (0, 0), (0, short), *[(0, 0)] * (t.ndim - 3)])
    return padded.reshape(*t.shape[:2], -1, size, *t.shape[3:])


def _pairs(scaled: Array, k: Array, q: Array, sums: NDArray[np.float64]) -> tuple[Array, Array]:
    """Products of every token's key, and query, with each earlier key of its chunk, faded by what lies between.

    The first without the token itself: (batch, heads, chunks, size, size) both.
    """
    size = k.shape[3]
    earlier = np.tri(size, dtype=np.bool_)
    if sums.shape[-1] == 1:  # one decay for all channels
        between = sums - sums.swapaxes(-1, -2)
        faded = np.exp(np.where(earlier, between, -np.inf)).astype(np.float32)
        across = k.swapaxes(-1, -2)
        return np.tril((scaled @ across) * faded, -1), (q @ across) * faded
    lower, within = (np.empty((*k.shape[:-1], size), np.float32) for _ in range(2))
    for i in range(k.shape[2]):  # chunk by chunk: (batch, heads, size, size, D) is large
        part = sums[:, :, i]
        between = part[..., :, None, :] - part[..., None, :, :]
        faded = np.exp(np.where(earlier[..., None], between, -np.inf).astype(np.float32)) * k[:, :, i, None]
        lower[:, :, i] = np.tril((faded @ scaled[:, :, i, ..., None])[..., 0], -1)
        within[:, :, i] = (faded @ q[:, :, i, ..., None])[..., 0]
    return lower, within


def _inverse(lower: Array) -> Array:
    """(1 + lower)⁻¹ of strictly lower triangular matrices (…, size, size), size a power of two times `BLOCK`.

    Blocks on the diagonal by substitution, all at once; then two inverses at a time become that of the block of both.
    """
    blocks = [slice(at, at + BLOCK) for at in range(0, lower.shape[-1], BLOCK)]
    diagonal = np.stack([lower[..., b, b] for b in blocks])
    solved = np.broadcast_to(np.eye(BLOCK, dtype=np.float32), diagonal.shape).copy()
    for i in range(1, BLOCK):
        solved[..., i, :i] = -(diagonal[..., i, None, :i] @ solved[..., :i, :i])[..., 0, :]
    out = np.zeros_like(lower)
    for b, inverse in zip(blocks, solved, strict=True):
        out[..., b, b] = inverse
    size = BLOCK
    while size < lower.shape[-1]:
        for at in range(0, lower.shape[-1], 2 * size):
            first, second = slice(at, at + size), slice(at + size, at + 2 * size)
            out[..., second, first] = -(out[..., second, second] @ (lower[..., second, first] @ out[..., first, first]))
        size *= 2
    return out
