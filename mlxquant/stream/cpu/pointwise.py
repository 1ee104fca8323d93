"""Activations between products: numpy's exponential is vectorised, mlx's on a CPU takes ten times as long.

Alone in its module because attention, experts and linear attention share it.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from .weights import Array, view


def swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """Compute silu(gate) · x."""
    out = sigmoid(view(gate))
    out *= view(gate)
    out *= view(x)
    return mx.array(out)


def sigmoid(x: Array) -> Array:
    """Compute 1 / (1 + exp(-x))."""
    out = np.negative(x)
    with np.errstate(over="ignore"):  # an infinite exponential is a sigmoid of 0
        np.exp(out, out=out)
    out += 1
    return np.reciprocal(out, out=out)
