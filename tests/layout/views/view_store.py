"""Views of arrays in memory, and holding what is done to them against mlx, for the tests of recording."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np

from mlxquant.layout.views.bytes import to_numpy
from mlxquant.layout.views.read import evaluate, read_rows, rows_in, segments
from mlxquant.layout.views.record import recording
from mlxquant.layout.views.view import View, source_view
from mlxquant.source.headers import Tensor

NAMES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16", mx.uint8: "U8", mx.int32: "I32", mx.bool_: "BOOL"}


class Store:
    """Tensors in one file in memory, and the same as mlx's arrays."""

    def __init__(self) -> None:
        self.data = b""
        self.reads = 0

    def put(self, array: mx.array) -> View:
        raw = to_numpy(array).tobytes()
        tensor = Tensor("w", NAMES[array.dtype], tuple(array.shape), "f", len(self.data), len(raw))
        self.data += raw
        return source_view(tensor)

    def read(self, file: str, start: int, buffer: memoryview) -> None:
        assert start + len(buffer) <= len(self.data)
        buffer[:] = self.data[start : start + len(buffer)]
        self.reads += len(buffer)


def numbers(*shape: int, dtype: mx.Dtype = mx.float32, start: int = 0) -> mx.array:
    return mx.arange(start, start + prod(shape)).reshape(shape).astype(dtype)


def recorded(function: Callable[..., Any], *arrays: mx.array) -> tuple[Any, Store]:
    """What a function gives for views of the arrays."""
    store = Store()
    views = [store.put(a) for a in arrays]
    with recording():
        return function(*views), store


def same(view: View, store: Store, array: mx.array) -> None:
    """A view has an array's shape, dtype and values, as a whole and by any rows."""
    assert view.shape == tuple(array.shape) and view.dtype == array.dtype
    assert view.ndim == array.ndim and view.size == array.size and view.nbytes == array.nbytes
    want = to_numpy(array)
    np.testing.assert_array_equal(to_numpy(evaluate(view, store.read)), want)
    rows = rows_in(view)
    by_row = want.reshape(rows, -1) if want.size else np.empty((rows, 0), np.uint8)
    for segment in segments(view):
        step = max(1, segment.rows // 3) if segment.divisible else segment.rows
        for start in range(segment.start, segment.start + segment.rows, max(1, step)):
            count = min(step, segment.start + segment.rows - start)
            out = np.full((count, by_row.shape[1]), 0xEE, np.uint8)
            read_rows(view, store.read, start, out)
            np.testing.assert_array_equal(out, by_row[start : start + count])
    assert sum(s.rows for s in segments(view)) == rows


def matches(function: Callable[..., Any], *arrays: mx.array) -> Any:
    """Check a function on views against the same on arrays; give what it gave for views."""
    got, store = recorded(function, *arrays)
    want = function(*arrays)
    for one, other in zip(got, want, strict=True) if isinstance(want, (list, tuple)) else [(got, want)]:
        same(one, store, other)
    return got
