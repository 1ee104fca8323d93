"""A fit of few numbers within bounds, by scipy's trust-region reflective least squares.

It fits; whether the model is right is its caller's question, to be answered by points that were left out. Alone in its
module because it alone imports scipy.optimize, when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def bounded_least_squares(
    residuals: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    start: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
) -> list[float]:
    """Find the numbers between `low` and `high` that make the sum of squared residuals least, from `start` on.

    Numbers should be of one size, about 1. `residuals` maps (numbers,) to (points,).
    """
    from scipy.optimize import least_squares

    fit: Any = least_squares(residuals, start, bounds=(low, high))
    return [float(value) for value in fit.x]
