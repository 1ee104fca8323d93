"""Sums of squares of what enters each module, taken down while the reference runs layer by layer.

For a module of weight (out, in), the rows x of its input (in,); for stacked experts (experts, out, in), the rows that
were sent to each expert; for heads of absorbed attention (heads, out, in), each head's rows. Summed are x² by column,
in float64, with the number of rows. Every fourth document is held out: its sums stand apart, to judge with what the
others chose.

An `InputSums` is a sink of the pass, so its sums travel with the pass: they resume after a kill and merge over ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..layout.arrays import module_at
from ..stream.model import Call, hook
from ..stream.scores import LayerAtHand, LayerScores, TokenScores
from ..words.modules import Module

# Of so many documents one is held out, from the first on.
HOLD_OUT_EVERY = 4
FITTED, HELD_OUT = 0, 1


@dataclass
class Sums:
    """Sums of one module: squares (2, sets, columns) and rows (2, sets), of documents to fit and of those held out."""

    squares: NDArray[np.float64]
    rows: NDArray[np.int64]

    @classmethod
    def empty(cls, sets: int, columns: int) -> Sums:
        """No rows yet."""
        return cls(np.zeros((2, sets, columns)), np.zeros((2, sets), np.int64))

    def add(self, part: int, values: NDArray[np.float32], sets: NDArray[np.integer[Any]] | None) -> None:
        """Add rows (n, columns); `sets` (n,) says which set each belongs to, None that there is one."""
        if sets is None:
            self.squares[part, 0] += np.square(values, dtype=np.float64).sum(0)
            self.rows[part, 0] += len(values)
            return
        order = np.argsort(sets, kind="stable")  # by set, in the order in which they came: one sum on every machine
        present, starts = np.unique(sets[order], return_index=True)
        self.squares[part, present] += np.add.reduceat(np.square(values[order], dtype=np.float64), starts, axis=0)
        self.rows[part] += np.bincount(sets, minlength=self.rows.shape[1])


class InputSums:
    """Takes down the inputs of every quantizable module that multiplies by its weight; see the module."""

    def __init__(self, modules: Sequence[Module]) -> None:
        """Prepare for these modules; those that mlx cannot quantize, or that look rows up, are left out."""
        self.modules = {m.path: m for m in modules if m.quantizable and not m.prequantized}
        self.sums = {
            path: Sums.empty(m.shape[0] if len(m.shape) == 3 else 1, m.shape[-1]) for path, m in self.modules.items()
        }
        self._part: int | None = None

    # --- the pass ---

    def attach(self, model: Any) -> None:
        """Listen to the modules of the reference's model."""
        for path in self.modules:
            module = module_at(model, path)
            if hasattr(module, "as_linear"):
                self._listen_as_linear(path, module)
            else:
                hook(module, self._listener(path))

    def begin(self, document: int | None) -> None:
        """Say which document comes next; None that what comes next is not to be summed."""
        self._part = None if document is None else HELD_OUT if document % HOLD_OUT_EVERY == 0 else FITTED

    def again(self, step: int | str, raws: Mapping[str, Any]) -> bool:
        """No: all sums are taken at once."""
        return False

    def instead(self, step: int | str, raws: Mapping[str, Any]) -> Mapping[str, mx.array]:
        """Nothing: documents go on through the reference."""
        return {}

    @property
    def learns(self) -> bool:
        """No: nothing is encoded."""
        return False

    def learn(self, layer: LayerAtHand, raws: Mapping[str, Any]) -> Mapping[str, mx.array]:
        """Nothing: nothing is encoded."""
        return {}

    def encoded(self, step: int | str, raws: Mapping[str, Any]) -> Mapping[str, mx.array]:
        """Nothing: nothing is encoded."""
        return {}

    def _listener(self, path: str) -> Any:
        def called(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if kwargs.get("transpose", True) is True and not (len(args) > 1 and args[1] is False):
                self._hear(path, *args)
            return call(*args, **kwargs)

        return called

    def _listen_as_linear(self, path: str, module: Any) -> None:
        """An embedding that is the head as well: its lookups multiply nothing, its calls as a head do."""
        kind, hear = type(module), self._hear

        def as_linear(own: Any, x: mx.array) -> mx.array:
            hear(path, x)
            result: mx.array = kind.as_linear(own, x)
            return result

        object.__setattr__(module, "__class__", type(kind.__name__, (kind,), {"as_linear": as_linear}))

    def _hear(self, path: str, *args: Any) -> None:
        if self._part is not None:
            self._take(self._part, path, *args)

    def _take(self, part: int, path: str, x: mx.array, indices: Any = None, *_: Any) -> None:
        sums, columns = self.sums[path], self.modules[path].shape[-1]
        sets = sums.rows.shape[1]
        values = np.asarray(x.astype(mx.float32))
        if sets == 1:
            sums.add(part, values.reshape(-1, columns), None)
        elif isinstance(indices, mx.array):
            # as mlx gathers: x (…, 1, in) against indices (…), each broadcast over the other
            chosen = np.asarray(indices.astype(mx.int32))
            lead = np.broadcast_shapes(values.shape[:-2], chosen.shape)
            rows = np.broadcast_to(values[..., 0, :], (*lead, columns)).reshape(-1, columns)
            sums.add(part, rows, np.broadcast_to(chosen, lead).reshape(-1))
        else:  # heads side by side: (batch, heads, n, in), or one for all of them
            values = np.broadcast_to(values, (*values.shape[:-3], sets, *values.shape[-2:]))
            heads = np.broadcast_to(np.arange(sets)[:, None], values.shape[:-1])
            sums.add(part, values.reshape(-1, columns), heads.reshape(-1))

    # --- the sink ---

    def layer(self, candidate: int, layer: int, case: str, document: int, start: int, scores: LayerScores) -> None:
        """Nothing: there are no candidates."""

    def tokens(self, candidate: int, case: str, document: int, start: int, scores: TokenScores) -> None:
        """Nothing: there are no candidates."""

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All sums so far."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for path, sums in self.sums.items():
            arrays |= {f"{path}.squares": sums.squares, f"{path}.rows": sums.rows}
        return arrays

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from sums given out earlier."""
        for path, sums in self.sums.items():
            sums.squares[:], sums.rows[:] = state[f"{path}.squares"], state[f"{path}.rows"]

    def merge(self, states: Sequence[Mapping[str, NDArray[np.generic]]]) -> None:
        """Become the sum of these states."""
        for path, sums in self.sums.items():
            sums.squares[:] = sum(np.asarray(s[f"{path}.squares"], np.float64) for s in states)
            sums.rows[:] = sum(np.asarray(s[f"{path}.rows"], np.int64) for s in states)
