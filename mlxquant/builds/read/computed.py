"""Arrays that mlx-lm computes each time it loads a build, as tensors that can be read by blocks like any other.

A build may be of an older layout that mlx-lm still loads: DeepSeek's `kv_b_proj` was one quantized matrix, which
`sanitize` now dequantizes, takes apart and quantizes again as `embed_q` and `unembed_out` (deepseek_v3.py@0.32.2).
What is loaded are these two, so they are the modules of the build. Their values are computed by mlx-lm's own recorded
calls, once for all the blocks that are read of them; the last `HELD` arrays stay in memory, about one module.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...layout.views.bytes import SAFETENSORS_DTYPES, to_numpy
from ...layout.views.read import evaluate
from ...layout.views.view import Computed, Joined, View, source_view
from ...source.headers import Read, Tensor

HELD = 6  # weight, scales and biases of the two modules of one kv_b_proj


class _Values:
    """The values of the arrays that were read last, computed by the first thread that asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[int, tuple[View, NDArray[np.uint8]]] = OrderedDict()

    def of(self, view: View, read: Read) -> NDArray[np.uint8]:
        """The bytes of a view; it is held too, so that its id stays its own."""
        with self._lock:
            entry = self._held.pop(id(view), None) or (view, to_numpy(evaluate(view, read)))
            self._held[id(view)] = entry
            while len(self._held) > HELD:
                self._held.popitem(last=False)
            return entry[1]


_values = _Values()


@dataclass(frozen=True, slots=True)
class ComputedTensor(Tensor):
    """A tensor whose values are those of a computed view; it is made of the tensors `origins`, which are in files."""

    view: View
    origins: tuple[Tensor, ...]

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """The tensors in the files that its values are made of."""
        return self.origins

    def read_into(self, read: Read, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of its values from byte `start` of them on."""
        np.frombuffer(buffer, np.uint8)[:] = _values.of(self.view, read)[start : start + len(buffer)]


def computed_view(name: str, view: View, origins: Sequence[Tensor]) -> View:
    """A view of the same values that can be read by blocks without computing the whole for each."""
    first = origins[0]
    dtype = SAFETENSORS_DTYPES[view.dtype]
    return source_view(
        ComputedTensor(name, dtype, view.shape, first.file, first.start, view.nbytes, view, tuple(origins))
    )


def is_computed(view: View) -> bool:
    """Whether mlx computes values of a view, rather than taking them as they are stored."""
    match view.expr:
        case Computed():
            return True
        case Joined(_, parts):
            return any(is_computed(p) for p in parts)
    return False
