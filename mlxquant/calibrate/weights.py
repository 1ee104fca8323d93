"""Column weights from a calibration: mean squares of each column, with little trust in experts that few tokens reached.

An expert's mean squares d of n rows are drawn towards a prior p, scaled to d's own mean:

    weights = (n·d + TRUST·p·mean(d)/mean(p)) / (n + TRUST)

For gate and up projections p is the layer's own, over all experts, since they read the same hidden state. For down
projections p is flat: their columns are the expert's own hidden channels, which do not correspond between experts. An
expert that no row reached takes the prior as it is. Everything is divided by its mean and given a floor, so that no
column is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import InputCounts
from .inputs import FITTED, HELD_OUT, Sums

TRUST = 128  # rows at which an expert's own figures weigh as much as the prior
FLOOR = np.float32(1e-4)


@dataclass
class CalibratedColumns:
    """Column weights of modules by path, from their sums; `origin` says what these were made from, as JSON.

    Modules that the calibration does not have (an embedding that is looked up) have the flat weights of `mse`.
    `rows_each` has the rows of a weight that use one set, by path.
    """

    sums: Mapping[str, Sums]
    rows_each: Mapping[str, int]
    origin: Mapping[str, Any]
    _made: dict[tuple[str, int], NDArray[np.float32]] = field(default_factory=dict)

    @property
    def signature(self) -> Mapping[str, Any]:
        """What the weights come from."""
        return self.origin

    def of(self, module: str) -> tuple[NDArray[np.float32], int] | None:
        """The sets (experts or 1, columns) of weights, and how many rows use each; None for a module without."""
        return self._sets(module, FITTED)

    def held_out(self, module: str) -> tuple[NDArray[np.float32], int] | None:
        """The same from documents that were held out."""
        return self._sets(module, HELD_OUT)

    def counts(self, module: str) -> InputCounts | None:
        """The rows that the sets of a module come from; None for a module without."""
        if module not in self.sums or not self.sums[module].rows.any():
            return None
        return InputCounts.of(*self.sums[module].rows)

    def _sets(self, module: str, part: int) -> tuple[NDArray[np.float32], int] | None:
        if module not in self.sums or not self.sums[module].rows.any():
            return None
        if (module, part) not in self._made:  # threads may both make it: the same arrays
            shared = not module.rpartition(".")[2].startswith("down")
            self._made[module, part] = shrunk(self.sums[module], part, shared_prior=shared)
        return self._made[module, part], self.rows_each[module]


def shrunk(sums: Sums, part: int, *, shared_prior: bool) -> NDArray[np.float32]:
    """Column weights (sets, columns), of mean 1 each; `shared_prior` draws experts towards the mean of all of them."""
    rows, squares = sums.rows[part], sums.squares[part]
    if not rows.any():
        rows, squares = sums.rows.sum(0), sums.squares.sum(0)
    own = squares / np.maximum(rows, 1)[:, None]
    flat = np.ones(squares.shape[1])
    prior = squares.sum(0) / rows.sum() if shared_prior and rows.sum() else flat
    prior = prior / prior.mean() if prior.mean() > 0 else flat
    size = own.mean(1, keepdims=True)
    trust = rows[:, None]
    mixed = np.where(size > 0, (trust * own + TRUST * prior * size) / (trust + TRUST), prior)
    weights: NDArray[np.float32] = (mixed / mixed.mean(1, keepdims=True)).astype(np.float32) + FLOOR
    return weights
