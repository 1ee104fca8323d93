"""What entered the modules of one layer, row by row: kept while the layer is at hand, and turned into moments.

Of a module of weight (out, in) every input row x (in,) is kept in float32; of stacked experts (experts, out, in) every
row once, with the numbers of the experts that it was sent to. Projections that are called with one and the same array
(q, k and v; gate and up) share it. So memory grows with the documents, not with the square of the width: 7,000 tokens
at 3,072 wide are 86 MB, where the moments of 256 experts would be 9.7 GB.

Moments of an expert that few rows reached are drawn towards a prior P, scaled to the trace of its own, H of n rows:

    moments = (n·H + TRUST·P) / (n + TRUST)

For gate and up projections P is the layer's own, over the rows of all experts, since they read the same hidden state;
for down projections it is the expert's mean diagonal, since hidden channels of experts do not correspond. An expert
that no row reached has P.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .inputs import FITTED, HELD_OUT
from .weights import TRUST

Floats = NDArray[np.float32]
# Tokens by which a layer's prior is estimated, and rows by which what was chosen is judged: more would change little
SAMPLED_TOKENS, _JUDGING_ROWS = 4096, 2048
# Columns of moments that one thread sums
_COLUMNS = 512


@dataclass(frozen=True)
class Call:
    """What one call of a module gave it: `values` (m, columns), of a document to fit or of one held out (`part`).

    For stacked weights `index` (n,) says which of the values each row is, `sets` (n,) which expert or head it went to;
    for others both are None and the rows are the values. `sample` are some of the values, of all sets.
    """

    part: int
    values: Floats
    sample: Floats
    index: NDArray[np.int64] | None = None
    sets: NDArray[np.int64] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return sum(a.nbytes for a in (self.values, self.index, self.sets) if a is not None)

    @cached_property
    def _by_set(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The index in the order of the sets, and the sets in order."""
        assert self.index is not None and self.sets is not None
        order = np.argsort(self.sets, kind="stable")
        return self.index[order], self.sets[order]

    def of(self, number: int) -> Floats:
        """The rows of one set, in the order in which they came."""
        if self.sets is None:
            return self.values
        index, sets = self._by_set
        return self.values[index[slice(*np.searchsorted(sets, [number, number + 1]))]]

    def only(self, sets: range) -> Call:
        """The call as far as it concerns these sets, with only their values; the sample stays."""
        if self.sets is None or self.index is None or not len(self.index):
            return self
        chosen = (self.sets >= sets.start) & (self.sets < sets.stop)
        used, index = np.unique(self.index[chosen], return_inverse=True)
        sample = self.sample.copy()  # else it would hold all values
        return Call(self.part, self.values[used], sample, index.astype(np.int64), self.sets[chosen])


def call_of(part: int, values: Floats, chosen: NDArray[Any] | None, sets: int, stride: int) -> Call:
    """A call with `values` as the module was given them: (…, columns) for one set. Its sample is every `stride`th.

    For stacked experts (…, 1, columns), of which `chosen` (…) are the experts, each broadcast over the other, as mlx
    gathers; for heads without `chosen` (…, heads or 1, n, columns).
    """
    flat = np.ascontiguousarray(values).reshape(-1, values.shape[-1])
    if sets == 1 and chosen is None:
        return Call(part, flat, flat[:0])
    if chosen is not None:
        lead = np.broadcast_shapes(values.shape[:-2], chosen.shape)
        numbers = np.arange(len(flat)).reshape(values.shape[:-2])
        where, which = np.broadcast_to(numbers, lead), np.broadcast_to(chosen, lead)
    else:
        numbers = np.arange(len(flat)).reshape(values.shape[:-1])
        where = np.broadcast_to(numbers, (*values.shape[:-3], sets, values.shape[-2]))
        which = np.broadcast_to(np.arange(sets)[:, None], where.shape)
    return Call(part, flat, flat[::stride], where.reshape(-1).astype(np.int64), which.reshape(-1).astype(np.int64))


@dataclass
class InputRows:
    """All calls of modules that were given the same arrays; `shared_prior` says which prior their experts have."""

    columns: int
    sets: int
    shared_prior: bool
    calls: list[Call] = field(default_factory=list)
    _priors: dict[int, Floats] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, ...]:
        """What is equal where modules were given the same arrays."""
        return (*(id(call) for call in self.calls), int(self.shared_prior))

    def rows(self, number: int, part: int) -> Floats:
        """The rows of one set, (n, columns)."""
        return self._joined([call.of(number) for call in self.calls if call.part == part])

    def prepare(self, pool: Executor | None = None) -> None:
        """Make what all sets share, on the threads of `pool`, before others ask for it."""
        if self.sets == 1:
            self._priors[FITTED] = _second_moments([call.values for call in self.calls if call.part == FITTED], pool)
        elif self.shared_prior:
            fitted, held_out = (
                self._joined([call.sample for call in self.calls if call.part == part]) for part in (FITTED, HELD_OUT)
            )
            self._priors[FITTED] = (
                _second_moments([fitted], pool) if len(fitted) else np.eye(self.columns, dtype=np.float32)
            )
            self._priors[HELD_OUT] = _spread(held_out, _JUDGING_ROWS)

    def moments(self, number: int) -> Floats:
        """Second moments (columns, columns) of one set, drawn towards the prior of its kind."""
        if self.sets == 1:
            return self._priors[FITTED]
        rows = self.rows(number, FITTED)
        own = _second_moments([rows])
        trace = float(np.trace(own, dtype=np.float64))
        prior = self._priors[FITTED] if self.shared_prior else np.eye(self.columns, dtype=np.float32)
        if not len(rows) or trace <= 0:
            return prior
        prior = prior * np.float32(trace / max(float(np.trace(prior, dtype=np.float64)), 1e-30))
        return np.asarray((len(rows) * own + TRUST * prior) / np.float32(len(rows) + TRUST), np.float32)

    def judges(self, number: int) -> Floats:
        """Rows by which what was chosen for a set is judged: its own of documents held out, else its layer's.

        Where neither says anything, its own to fit.
        """
        rows = _spread(self.rows(number, HELD_OUT), _JUDGING_ROWS)
        if not len(rows) and HELD_OUT in self._priors:
            rows = self._priors[HELD_OUT]
        return rows if len(rows) else _spread(self.rows(number, FITTED), _JUDGING_ROWS)

    def _joined(self, parts: Sequence[Floats]) -> Floats:
        return np.concatenate(parts) if parts else np.empty((0, self.columns), np.float32)


def _second_moments(parts: Sequence[Floats], pool: Executor | None = None) -> Floats:
    """Mean of x·xᵀ over rows in order, (columns, columns): blocks of its upper half, on the threads of `pool`."""
    total, columns = sum(len(part) for part in parts), parts[0].shape[1]
    moments = np.zeros((columns, columns), np.float32)

    def add(first: int) -> None:
        last = min(first + _COLUMNS, columns)
        for part in parts:
            moments[first:last, first:] += part[:, first:last].T @ part[:, first:]
        moments[first:last, first:] /= np.float32(max(total, 1))
        moments[last:, first:last] = moments[first:last, last:].T

    list((map if pool is None else pool.map)(add, range(0, columns, _COLUMNS)))
    return moments


def _spread(rows: Floats, most: int) -> Floats:
    """At most so many of the rows, from all over."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
