"""Windows on a tensor's bytes: what they show and what they read is what numpy shows, whatever was done to them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlxquant.layout.views import strided
from mlxquant.layout.views.strided import Strided, row_major
from mlxquant.source.headers import Tensor

START = 24  # where the tensor begins in its file


class File:
    """A file in memory that notes what is read of it, and refuses reads outside the tensor."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.data = bytes(START) + array.tobytes()
        self.tensor = Tensor("w", "U8", array.shape, "model.safetensors", START, array.nbytes)
        self.read_bytes = 0
        self.reads = 0
        self.largest = 0

    def read(self, file: str, start: int, buffer: memoryview) -> None:
        assert file == "model.safetensors"
        assert start >= START and start + len(buffer) <= len(self.data), "a read outside the tensor"
        buffer[:] = self.data[start : start + len(buffer)]
        self.read_bytes += len(buffer)
        self.reads += 1
        self.largest = max(self.largest, len(buffer))


def numbered(shape: tuple[int, ...], itemsize: int) -> NDArray[Any]:
    """An array in which every value is another, as far as its width goes."""
    return np.arange(1, prod(shape) + 1).astype(f"u{itemsize}").reshape(shape)


def whole(shape: tuple[int, ...], itemsize: int = 2) -> tuple[File, Strided, NDArray[Any]]:
    array = numbered(shape, itemsize)
    file = File(array)
    return file, Strided.whole(file.tensor, itemsize), array


def rows_of(window: Strided, file: File, start: int, count: int) -> NDArray[Any]:
    cols = window.shape[-1] if window.shape else 1
    out = np.full((count, cols * window.itemsize), 0xEE, np.uint8)
    window.read_rows(file.read, start, out)
    return out.view(f"u{window.itemsize}")


def rows_of_array(array: NDArray[Any], start: int, count: int) -> NDArray[Any]:
    cols = array.shape[-1] if array.ndim else 1
    return np.ascontiguousarray(array).reshape(-1, cols)[start : start + count]


def same(window: Strided, file: File, array: NDArray[Any]) -> None:
    """The window shows the array: shape, strides and every row."""
    assert window.shape == array.shape
    if array.size:
        count = array.size // (array.shape[-1] if array.ndim else 1)
        np.testing.assert_array_equal(rows_of(window, file, 0, count), rows_of_array(array, 0, count))


# --- chains of movements, drawn ---


def factors(draw: Any, n: int) -> list[int]:
    """Lengths whose product is n, ones among them."""
    lengths = []
    while n > 1:
        f = draw(st.sampled_from([d for d in range(2, n + 1) if n % d == 0]))
        lengths.append(f)
        n //= f
    for _ in range(draw(st.integers(0, 2))):
        lengths.insert(draw(st.integers(0, len(lengths))), 1)
    return lengths


@st.composite
def windows(draw: Any) -> tuple[File, Strided, NDArray[Any], list[str]]:
    """A tensor, and a window on it after some movements, with numpy's view after the same."""
    shape = tuple(draw(st.lists(st.integers(1, 6), max_size=4)))
    file, window, array = whole(shape, draw(st.sampled_from([1, 2, 4])))
    done: list[str] = []
    for _ in range(draw(st.integers(0, 6))):
        window, array, what = moved(draw, window, array)
        done.append(what)
    return file, window, array, done


def moved(draw: Any, window: Strided, array: NDArray[Any]) -> tuple[Strided, NDArray[Any], str]:
    kinds = ["insert", "reshape"] + (["permute", "slice", "drop"] if array.ndim else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "permute":
        axes = tuple(draw(st.permutations(range(array.ndim))))
        return window.permute(axes), array.transpose(axes), f"permute {axes}"
    if kind == "slice":
        axis = draw(st.integers(0, array.ndim - 1))
        n = array.shape[axis]
        start = draw(st.integers(0, n - 1))
        step = draw(st.integers(1, 3))
        length = draw(st.integers(1, (n - start + step - 1) // step))
        key = (slice(None),) * axis + (slice(start, start + length * step, step),)
        return window.slice(axis, start, step, length), array[key], f"slice {axis} {start} {step} {length}"
    if kind == "insert":
        axis = draw(st.integers(0, array.ndim))
        return window.insert(axis), np.expand_dims(array, axis), f"insert {axis}"
    if kind == "drop":
        ones = [i for i, n in enumerate(array.shape) if n == 1]
        if not ones:
            return window, array, "nothing"
        axis = draw(st.sampled_from(ones))
        return window.drop(axis), array.squeeze(axis), f"drop {axis}"
    shape = tuple(factors(draw, array.size))
    reshaped = window.reshape(shape)
    if reshaped is None:
        return window, array, "nothing"
    return reshaped, array.reshape(shape), f"reshape {shape}"


@given(windows())
def test_any_chain_of_movements_shows_what_numpy_shows(drawn):
    file, window, array, _ = drawn
    assert window.nbytes == array.nbytes
    same(window, file, array)


@given(windows(), st.data())
def test_any_range_of_rows_is_read_as_numpy_has_it(drawn, data):
    file, window, array, _ = drawn
    n = array.size // (array.shape[-1] if array.ndim else 1)
    start = data.draw(st.integers(0, n - 1))
    count = data.draw(st.integers(0, n - start))
    np.testing.assert_array_equal(rows_of(window, file, start, count), rows_of_array(array, start, count))


@pytest.mark.slow
@given(windows(), st.integers(1, 40), st.sampled_from([0.0, 0.25, 2.0]))
def test_however_little_one_read_may_span_the_values_are_the_same(drawn, span, dense):
    file, window, array, _ = drawn
    before = strided.SPAN, strided.DENSE
    strided.SPAN, strided.DENSE = span, dense
    try:
        same(window, file, array)
    finally:
        strided.SPAN, strided.DENSE = before


@given(windows())
def test_contiguous_means_contiguous(drawn):
    _, window, array, _ = drawn
    assert window.contiguous == array.flags.c_contiguous


@given(windows())
def test_merging_rows_changes_neither_columns_nor_their_order(drawn):
    file, window, array, _ = drawn
    merged = window.rows()
    cols = array.shape[-1] if array.ndim else 1
    assert len(merged.shape) >= 2 and merged.shape[-1] == cols and prod(merged.shape) == array.size
    same(merged, file, np.ascontiguousarray(array).reshape(merged.shape))


@given(windows(), st.data())
def test_a_reshape_that_strides_express_is_found(drawn, data):
    _, window, array, _ = drawn
    shape = tuple(factors(data.draw, array.size))
    view = array.view()
    try:
        view.shape = shape  # numpy raises where it would have to copy
    except AttributeError:
        return
    assert window.reshape(shape) is not None


@given(st.lists(st.integers(0, 5), max_size=4), st.sampled_from([1, 2, 4, 8]))
def test_row_major_strides_are_numpys(shape, itemsize):
    if 0 not in shape:
        assert row_major(tuple(shape), itemsize) == np.zeros(shape, f"u{itemsize}").strides


# --- cases that models have ---


def test_half_of_each_fused_expert_is_read_without_the_other_half():
    file, window, array = whole((4, 6, 5))
    gate = window.slice(1, 0, 1, 3)
    same(gate, file, array[:, :3])
    assert file.read_bytes == gate.nbytes and file.reads == 4


def test_a_block_of_rows_reads_its_own_bytes_alone():
    file, window, array = whole((4, 6, 5))
    rows = rows_of(window.slice(1, 3, 1, 3), file, 4, 3)
    np.testing.assert_array_equal(rows, rows_of_array(array[:, 3:], 4, 3))
    assert file.read_bytes == 3 * 5 * 2


def test_a_transposed_expert_is_read_once():
    file, window, array = whole((3, 8, 40))
    turned = window.permute((0, 2, 1))
    assert turned.transposed and not window.transposed
    np.testing.assert_array_equal(rows_of(turned, file, 40, 40), array[1].T)
    assert file.read_bytes == 8 * 40 * 2 and file.reads == 1


def test_interleaved_columns_of_a_transposed_tensor_are_read():
    # gpt-oss: gate and up take turns along the last axis of (E, in, 2 out)
    file, window, array = whole((2, 8, 12))
    same(window.slice(2, 0, 2, 6).permute((0, 2, 1)), file, array[..., ::2].swapaxes(1, 2))
    same(window.slice(2, 1, 2, 6).permute((0, 2, 1)), file, array[..., 1::2].swapaxes(1, 2))


def test_a_few_rows_far_apart_are_read_one_by_one():
    file, window, array = whole((100, 64))
    same(window.slice(0, 0, 50, 2).slice(1, 0, 1, 4), file, array[::50, :4])
    assert file.reads == 2 and file.read_bytes == 2 * 4 * 2


def test_rows_close_together_are_read_in_one_span():
    file, window, array = whole((100, 64))
    same(window.slice(1, 0, 1, 60), file, array[:, :60])
    assert file.reads == 1


def test_one_read_spans_no_more_than_its_limit():
    file, window, array = whole((64, 64))
    before, strided.SPAN = strided.SPAN, 1000
    try:
        same(window.slice(1, 0, 1, 60), file, array[:, :60])
    finally:
        strided.SPAN = before
    assert file.largest <= 1000 and file.reads == 10


def test_a_scalar_is_one_row_of_one_value():
    file, window, array = whole(())
    same(window, file, array)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (2, 0, 3)])
def test_an_empty_tensor_reads_nothing(shape):
    file, window, _ = whole(shape)
    assert window.contiguous and window.nbytes == 0
    out = np.empty((0, (shape[-1] if shape else 1) * 2), np.uint8)
    window.read_rows(file.read, 0, out)
    assert file.reads == 0


def test_a_reshape_across_a_gap_is_none():
    _, window, _ = whole((4, 6))
    assert window.slice(1, 0, 1, 3).reshape((12,)) is None
    assert window.permute((1, 0)).reshape((24,)) is None


def test_a_reshape_to_another_size_is_an_error():
    _, window, _ = whole((4, 6))
    with pytest.raises(ValueError, match="cannot reshape"):
        window.reshape((5, 5))


def test_bytes_are_seen_as_wider_and_narrower_values():
    file, window, array = whole((3, 8), itemsize=1)
    wide = window.reinterpret(4)
    assert wide is not None
    same(wide, file, array.view("u4"))
    narrow = wide.reinterpret(1)
    assert narrow == window
    assert window.reinterpret(1) is window


def test_bytes_that_do_not_lie_side_by_side_cannot_be_seen_as_wider_values():
    _, window, _ = whole((4, 8), itemsize=1)
    assert window.permute((1, 0)).reinterpret(4) is None
    assert window.slice(1, 0, 2, 4).reinterpret(4) is None
    assert window.slice(1, 0, 1, 6).reinterpret(4) is None
    assert whole((4, 6), itemsize=1)[1].reinterpret(4) is None
    assert whole((), itemsize=1)[1].reinterpret(4) is None
