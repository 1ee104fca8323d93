"""How fast this machine computes and encodes, from a moment of each: what a forecast of a pass is made of.

Products are float32, of the shape of a chunk of tokens and a matrix of a middling model, on mlx's default device.
Encoding is that of one thread on gaussian weights at 4 bits, group 64. Reading is not timed: from a warm cache it
would tell nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from ..kernels import Encoder, Quantized, Rounding, Rows, Searching
from ..words.formats import IMATRIX, MSE, RTN, Format

_SECONDS = 0.1
_TOKENS, _WIDTH, _ROWS = 512, 2048, 64


@dataclass(frozen=True, slots=True)
class Speeds:
    """`operations` a second (a multiplication and an addition are two), and parameters encoded a second, by method."""

    operations: float
    encoded: Mapping[str, float] = field(default_factory=dict)

    def parameters(self, method: str) -> float:
        """Parameters that a thread encodes in a second; of a method that was not timed, as rounding does."""
        return self.encoded.get(method, self.encoded[RTN])


def measure_speeds(method: str) -> Speeds:
    """Time products, rounding, and the search of a method that searches."""
    left, right = mx.ones((_TOKENS, _WIDTH)), mx.ones((_WIDTH, _WIDTH))
    products = _per_second(lambda: mx.eval(left @ right))
    encoders: dict[str, Encoder] = {RTN: Rounding(allow_nonfinite=False)}
    if method in (MSE, IMATRIX):
        encoders[method] = Searching(None, allow_nonfinite=False)
    fmt = Format(4, 64)
    values = np.random.default_rng(0).standard_normal((_ROWS, _WIDTH), dtype=np.float32)
    rows = Rows("timed", 0, values, "F32", fmt)
    out = Quantized.empty(_ROWS, _WIDTH, "F32", fmt)
    encoded = {
        name: values.size * _per_second(lambda e=encoder: e.encode(rows, out, errors=False))  # type: ignore[misc]
        for name, encoder in encoders.items()
    }
    return Speeds(2 * _TOKENS * _WIDTH * _WIDTH * products, encoded)


def _per_second(act: Callable[[], object]) -> float:
    """How often something is done in a second; the first time, which compiles, does not count."""
    act()
    began, count = time.monotonic(), 0
    while (passed := time.monotonic() - began) < _SECONDS or not count:
        act()
        count += 1
    return count / max(passed, 1e-9)
