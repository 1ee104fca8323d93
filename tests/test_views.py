"""Recording what `sanitize` does: whatever is done to views, their values are what mlx gives for arrays."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.gather import evaluate, read_rows, row_wise, rows_in, segments
from mlxquant.headers import Tensor
from mlxquant.mlx_bytes import MLX_DTYPES, SAFETENSORS_DTYPES, to_mlx, to_numpy
from mlxquant.recording import recording
from mlxquant.strided import Strided
from mlxquant.views import Computed, Joined, View, compute, source_view

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


NONSENSE: Any = "nonsense"
A, B, C = numbers(2, 3, 4), numbers(2, 3, 4, start=100), numbers(2, 5, 4, start=200)


# --- movements ---

MOVEMENTS: dict[str, Callable[[mx.array], Any]] = {
    "T": lambda a: a.T,
    "transpose": lambda a: a.transpose(),
    "transpose by axes": lambda a: a.transpose(2, 0, 1),
    "transpose by a list": lambda a: a.transpose([0, -1, 1]),
    "mx.transpose": lambda a: mx.transpose(a),
    "mx.transpose by axes": lambda a: mx.transpose(a, (1, 2, 0)),
    "mx.transpose by name": lambda a: mx.transpose(a, axes=[1, 0, 2]),
    "swapaxes": lambda a: a.swapaxes(-1, 0),
    "mx.swapaxes": lambda a: mx.swapaxes(a, 1, 2),
    "moveaxis": lambda a: a.moveaxis(2, 0),
    "mx.moveaxis": lambda a: mx.moveaxis(a, -1, -2),
    "reshape": lambda a: a.reshape(6, 4),
    "reshape by a tuple": lambda a: a.reshape((2, 12)),
    "reshape with one length open": lambda a: a.reshape(3, -1),
    "mx.reshape": lambda a: mx.reshape(a, (2, 3, 2, 2)),
    "reshape of a transpose": lambda a: a.transpose(1, 0, 2).reshape(3, 8),
    "reshape that must copy": lambda a: a.transpose(2, 0, 1).reshape(-1),
    "flatten": lambda a: a.flatten(),
    "flatten some": lambda a: a.flatten(1),
    "mx.flatten": lambda a: mx.flatten(a, 0, 1),
    "expand_dims": lambda a: mx.expand_dims(a, 1),
    "expand_dims of several": lambda a: mx.expand_dims(a, (0, -1)),
    "squeeze": lambda a: mx.squeeze(a[:1], 0),
    "squeeze all": lambda a: a[:1, 1:2].squeeze(),
    "contiguous": lambda a: mx.contiguous(a.swapaxes(0, 1)),
    "split in equal parts": lambda a: mx.split(a, 2, axis=-1),
    "split at indices": lambda a: mx.split(a, [1, 3], axis=2),
    "split method": lambda a: a.split(3, axis=1),
    "first rows": lambda a: a[:1],
    "index": lambda a: a[1],
    "index from the end": lambda a: a[-1, :, -2],
    "slice of each": lambda a: a[:, 1:],
    "slice from the end": lambda a: a[:, -2:, :-1],
    "slice beyond the end": lambda a: a[5:, :100],
    "every other": lambda a: a[..., ::2],
    "every other from one": lambda a: a[..., 1::2],
    "backwards": lambda a: a[..., ::-1],
    "new axis": lambda a: a[:, None],
    "new axis at the end": lambda a: a[..., None],
    "new axis, index and ellipsis": lambda a: a[None, 1, ..., 2],
    "index by an array": lambda a: a[:, mx.array([2, 0])],
    "take": lambda a: mx.take(a, mx.array([1, 1]), axis=2),
    "repeat": lambda a: mx.repeat(a, 2, axis=0),
    "pad": lambda a: mx.pad(a, [(0, 0), (1, 0), (0, 0)]),
    "broadcast": lambda a: mx.broadcast_to(a[:, :1], (2, 3, 4)),
    "as rows": lambda a: mx.stack(list(a)),
}


@pytest.mark.parametrize("name", MOVEMENTS)
def test_a_movement_gives_what_mlx_gives(name):
    matches(MOVEMENTS[name], A)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.uint8, mx.int32])
def test_movements_hold_for_every_dtype(dtype):
    matches(lambda a: mx.stack([a[:, ::2], a[:, 1::2]]).swapaxes(1, 2), numbers(4, 6, dtype=dtype))


SYMBOLIC = (
    "T", "transpose by axes", "swapaxes", "moveaxis", "reshape", "flatten", "expand_dims", "squeeze", "contiguous",
    "slice of each", "every other", "new axis, index and ellipsis", "index from the end",
)  # fmt: skip


@pytest.mark.parametrize("name", SYMBOLIC)
def test_what_strides_can_say_stays_a_window_on_the_file(name):
    view, _ = recorded(MOVEMENTS[name], A)
    assert isinstance(view.expr, Strided)


# --- joins ---

JOINS: dict[str, Callable[..., Any]] = {
    "stack": lambda a, b: mx.stack([a, b]),
    "stack in the middle": lambda a, b: mx.stack([a, b, a], axis=1),
    "stack last": lambda a, b: mx.stack([a, b], axis=-1),
    "concatenate": lambda a, b: mx.concatenate([a, b]),
    "concatenate rows of each": lambda a, b: mx.concatenate([a, b], axis=1),
    "concatenate last": lambda a, b: mx.concatenate([a, b], axis=-1),
    "concatenate of a join": lambda a, b: mx.concatenate([mx.concatenate([a, b], axis=1), a], axis=1),
    "slice across a join": lambda a, b: mx.concatenate([a, b], axis=1)[:, 2:5],
    "slice within a part": lambda a, b: mx.concatenate([a, b], axis=1)[:, 4:],
    "slice beside the joined axis": lambda a, b: mx.stack([a, b])[:, 1:, :, 1:3],
    "every other part": lambda a, b: mx.stack([a, b, a])[::2],
    "one part": lambda a, b: mx.stack([a, b])[1],
    "index beside the joined axis": lambda a, b: mx.stack([a, b], axis=1)[0],
    "transpose": lambda a, b: mx.stack([a, b]).transpose(1, 3, 0, 2),
    "swapaxes": lambda a, b: mx.stack([a, b]).swapaxes(-1, -2),
    "reshape below the joined axis": lambda a, b: mx.stack([a, b]).reshape(2, 6, 4),
    "reshape over the joined axis": lambda a, b: mx.stack([a, b]).reshape(-1, 4),
    "reshape that cuts the joined axis": lambda a, b: mx.concatenate([a, b]).reshape(2, 2, 3, 4),
    "reshape that cuts parts": lambda a, b: mx.concatenate([a.flatten(), b.flatten()]).reshape(16, 3),
    "reshape that mixes parts": lambda a, b: mx.concatenate([a, b], axis=-1).reshape(4, 3, 4),
    "flatten": lambda a, b: mx.stack([a, b]).flatten(),
    "new axis before": lambda a, b: mx.stack([a, b])[None],
    "new axis after": lambda a, b: mx.stack([a, b])[..., None],
    "split at the seam": lambda a, b: mx.split(mx.concatenate([a, b], axis=1), 2, axis=1),
    "split across the seam": lambda a, b: mx.split(mx.concatenate([a, b], axis=1), 3, axis=1),
    "join of slices": lambda a, b: mx.concatenate([a[:, :1], b[:, 1:], a[:, 2:]], axis=1),
    "join of transposes": lambda a, b: mx.stack([a.swapaxes(1, 2), b.swapaxes(1, 2)]),
    "join of different dtypes": lambda a, b: mx.concatenate([a, b.astype(mx.float16)]),
    "join with mlx's own": lambda a, b: mx.concatenate([a, mx.zeros((1, 3, 4)), b]),
    "join of one": lambda a, b: mx.concatenate([b]),
}


@pytest.mark.parametrize("name", JOINS)
def test_a_join_gives_what_mlx_gives(name):
    matches(JOINS[name], A, B)


def test_parts_of_different_lengths_are_joined():
    matches(lambda a, c: mx.concatenate([a, c, a], axis=1)[:, 2:9], A, C)


def test_experts_stacked_one_by_one_are_cut_between_experts():
    view, _ = recorded(lambda *parts: mx.stack(list(parts)), *(numbers(3, 4) for _ in range(5)))
    assert [(s.start, s.rows, s.divisible) for s in segments(view)] == [(3 * i, 3, True) for i in range(5)]


def test_transposed_experts_are_pieces_that_are_not_cut():
    view, _ = recorded(lambda a: a.swapaxes(1, 2), A)
    assert [(s.start, s.rows, s.divisible) for s in segments(view)] == [(0, 4, False), (4, 4, False)]


def test_reading_rows_of_a_join_reads_its_own_bytes_alone():
    view, store = recorded(lambda a, b: mx.concatenate([a, b], axis=1), A, B)
    read_rows(view, store.read, 2, np.empty((3, 16), np.uint8))
    assert store.reads == 3 * 16


# --- computing ---

COMPUTED: dict[str, Callable[[mx.array], Any]] = {
    "plus one": lambda a: a + 1,
    "one plus": lambda a: 1 + a,
    "minus": lambda a: 1 - a,
    "times": lambda a: a * 0.5,
    "divided": lambda a: 2.0 / (a + 1),
    "negative": lambda a: -a,
    "absolute": lambda a: abs(a - 5),
    "power": lambda a: a**2,
    "own exponential": lambda a: -mx.exp(a / 100),
    "cast": lambda a: a.astype(mx.bfloat16),
    "cast to its own dtype": lambda a: a.astype(mx.float32),
    "cast of a transpose": lambda a: a.swapaxes(0, 1).astype(mx.float16),
    "transpose of a cast": lambda a: a.astype(mx.float16).swapaxes(0, 2),
    "slice of a sum": lambda a: (a + 1)[:, 1:],
    "index of a sum": lambda a: (a + 1)[0],
    "reshape of a sum": lambda a: (a + 1).reshape(4, 6),
    "split of a sum": lambda a: mx.split(a + 1, 2, axis=0),
    "sum along an axis": lambda a: mx.sum(a, axis=-1, keepdims=True),
    "norm": lambda a: a / mx.linalg.norm(a, axis=-1, keepdims=True),
    "own method": lambda a: a.max(axis=0),
    "bits": lambda a: a.view(mx.uint32),
    "narrower bits": lambda a: a.view(mx.uint8),
    "bits of a transpose": lambda a: a.swapaxes(1, 2).view(mx.uint16),
    "where": lambda a: mx.where(a > 3, a, 0),
    "a constant of the model's own": lambda a: a * mx.array([1.0, 2.0, 3.0, 4.0]),
    "a lazy constant": lambda a: a * (mx.arange(4) + 1.5),
    "itself": lambda a: a + a,
    "a matrix product": lambda a: a @ mx.ones((4, 2)),
    "several results": lambda a: mx.divmod(a, 3),
    "a list of shares": lambda a: mx.meshgrid(a[0, 0], a[0, :, 0]),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_what_is_computed_gives_what_mlx_gives(name):
    matches(COMPUTED[name], A)


def test_quantized_triples_are_taken_apart():
    matches(lambda a: mx.quantize(a, group_size=32, bits=4), numbers(4, 64))


def test_bits_of_a_join_are_seen_part_by_part():
    view = matches(
        lambda a, b: mx.stack([a, b]).view(mx.uint32), numbers(2, 8, dtype=mx.uint8), numbers(2, 8, dtype=mx.uint8)
    )
    assert isinstance(view.expr, Joined)


def test_adding_one_to_a_norm_works_row_by_row_and_a_sum_over_rows_does_not():
    plus, _ = recorded(lambda a: a + 1, A)
    total, _ = recorded(lambda a: mx.sum(a, axis=0), A)
    other, _ = recorded(lambda a: a + mx.array(1.0), A)
    assert row_wise(plus) is not None and segments(plus)[0].divisible
    assert row_wise(total) is None and not segments(total)[0].divisible
    assert row_wise(other) is None


def test_casts_of_scalars_and_empty_arrays_have_values():
    matches(lambda a: a[0, 0, 0] + 1, A)
    matches(lambda a: a[:0].astype(mx.float16), A)
    matches(lambda a: mx.stack([a[:, :, :0], a[:, :, :0]]), A)


# --- chains, drawn ---


@st.composite
def chains(draw: Any) -> tuple[list[mx.array], list[tuple[str, Any]]]:
    """Some arrays of one shape, and a list of steps to take with them."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=3)))
    arrays = [numbers(*shape, start=50 * i) for i in range(draw(st.integers(1, 3)))]
    steps = draw(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 100), st.integers(0, 100)), max_size=6))
    return arrays, steps


STEPS = (
    "stack",
    "concatenate",
    "permute",
    "slice",
    "index",
    "step",
    "reshape",
    "merge",
    "insert",
    "split",
    "add",
    "cast",
    "bits",
)


def step(arrays: list[Any], kind: str, i: int, j: int) -> list[Any]:
    """Take one step with arrays or views alike; what a step cannot do to them leaves them."""
    first = arrays[0]
    axis = i % first.ndim if first.ndim else 0
    if kind == "stack":
        return [mx.stack(arrays, axis=i % (first.ndim + 1)), *arrays] if first.ndim < 5 else arrays
    if not first.ndim:
        return arrays
    n = first.shape[axis]
    if kind == "concatenate":
        return [mx.concatenate(arrays, axis=axis)]
    if kind == "permute":
        order = np.random.default_rng(i).permutation(first.ndim).tolist()
        return [a.transpose(order) for a in arrays if a.ndim == first.ndim]
    if kind == "slice":
        start = j % n
        return [a[(slice(None),) * axis + (slice(start, start + 1 + i % n),)] for a in arrays if a.shape == first.shape]
    if kind == "step":
        return [a[(slice(None),) * axis + (slice(j % n, None, 2),)] for a in arrays if a.shape == first.shape]
    if kind == "index":
        return [a[(slice(None),) * axis + (j % n,)] for a in arrays if a.shape == first.shape]
    if kind == "reshape":
        shape = [d for d in (2, 3, 4, 2, 6) if first.size % d == 0][: 1 + j % 2]
        return [first.reshape(shape[0], -1)] if shape else arrays
    if kind == "merge":
        return [a.flatten(axis) for a in arrays]
    if kind == "insert":
        return [a[(slice(None),) * axis + (None,)] for a in arrays] if first.ndim < 5 else arrays
    if kind == "split":
        return list(mx.split(first, [1 + j % n], axis=axis))[:1]
    if kind == "add":
        return [a + j for a in arrays]
    if kind == "cast":
        return [a.astype(mx.float16) for a in arrays]
    return [a.view(mx.uint8) for a in arrays]


def alike(arrays: list[Any]) -> list[Any]:
    """Those that can be stacked with the first."""
    return [a for a in arrays if a.shape == arrays[0].shape and a.dtype == arrays[0].dtype]


def walk(arrays: list[Any], steps: list[tuple[str, int, int]]) -> Any:
    for kind, i, j in steps:
        arrays = alike(step(arrays, kind, i, j))
    return arrays[0]


@settings(max_examples=150)
@given(chains())
def test_any_chain_of_steps_gives_what_mlx_gives(drawn):
    arrays, steps = drawn
    matches(lambda *given: walk(list(given), steps), *arrays)


# --- recording itself ---


def functions() -> dict[tuple[str, str], Any]:
    return {
        (module.__name__, name): value
        for module in (mx, mx.linalg, mx.fast)
        for name, value in vars(module).items()
        if callable(value)
    }


def test_mlx_is_as_before_when_recording_ends():
    before = functions()
    with recording():
        assert functions() != before
    assert functions() == before


def test_mlx_is_as_before_when_recording_ends_in_an_error():
    before = functions()
    with pytest.raises(RuntimeError, match="inside"), recording():
        raise RuntimeError("inside")
    assert functions() == before


def test_mlx_is_as_before_when_a_sanitize_fails():
    before = functions()
    with pytest.raises((TypeError, ValueError)):
        recorded(lambda a: mx.matmul(a, NONSENSE), A)
    assert functions() == before


def test_recordings_may_be_nested():
    before = functions()
    with recording(), recording():
        view: Any = Store().put(A)
        assert isinstance(mx.stack([view]), View)
    assert functions() == before


def test_arrays_are_computed_as_ever_while_recording():
    with recording():
        got = mx.stack([mx.ones((2,)), mx.zeros((2,))]).tolist()
    assert got == [[1, 1], [0, 0]]


def test_other_threads_compute_as_ever_meanwhile():
    results: list[Any] = []
    inside, done = threading.Event(), threading.Event()

    def work() -> None:
        inside.wait(10)
        with mx.stream(mx.new_stream(mx.cpu)):
            for _ in range(50):
                results.append(mx.concatenate([mx.arange(3), mx.arange(2)]).sum().item())
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    view: Any = Store().put(A)
    with recording():
        inside.set()
        for _ in range(50):
            assert isinstance(mx.concatenate([view, view]), View)
        done.wait(10)
    thread.join()
    assert results == [4] * 50


def test_a_view_made_on_one_thread_has_values_on_another():
    view, store = recorded(lambda a: (a * (mx.arange(4) + 1.5))[:, 1:] + 1, A)
    results: list[list[float]] = []

    def work() -> None:
        with mx.stream(mx.new_stream(mx.cpu)):
            results.append(to_numpy(evaluate(view, store.read)).tolist())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [to_numpy((A * (mx.arange(4) + 1.5))[:, 1:] + 1).tolist()]


@pytest.mark.parametrize(
    "needs",
    [
        lambda a: a.item(),
        lambda a: a.tolist(),
        lambda a: bool(a[0, 0, 0] > 0),
        lambda a: 1 if mx.all(a > 0) else 0,
        lambda a: float(a[0, 0, 0]),
        lambda a: int(a[0, 0, 0]),
        lambda a: np.array(a),
        lambda a: [1, 2][a[0, 0, 0]],
    ],
)
def test_what_needs_a_value_is_refused(needs):
    with pytest.raises(TypeError, match="the value of a weight decides what sanitize does, which headers cannot tell"):
        recorded(needs, A)


def test_evaluating_views_is_nothing_to_do():
    assert recorded(lambda a: mx.eval(a, [a]), A)[0] is None


def test_a_name_that_arrays_lack_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"mx\.array has no nonsense"):
        recorded(lambda a: a.nonsense, A)


def test_a_wrong_shape_is_mlxs_error():
    for wrong in (
        lambda a: a.reshape(5, 5),
        lambda a: mx.split(a, 5, axis=1),
        lambda a: a.squeeze(0),
        lambda a: mx.concatenate([a, a[:, :, 1:]], axis=0),
    ):
        with pytest.raises(ValueError, match=r"."):
            recorded(wrong, A)


def test_an_index_outside_is_an_index_error():
    with pytest.raises(IndexError, match="index 2 is outside axis 0"):
        recorded(lambda a: a[2], A)


def test_iterating_gives_rows_and_ends():
    rows, store = recorded(lambda a: list(a), A)
    assert len(rows) == 2
    same(rows[1], store, A[1])


def test_recording_takes_no_memory_for_values():
    stored: Any = source_view(Tensor("w", "BF16", (1 << 20, 1 << 16), "f", 0, 1 << 37))
    before = mx.get_peak_memory()
    with recording():
        view = mx.stack([stored] * 64).swapaxes(1, 2)[:, :, 1:] + 1
        view = mx.exp(view.astype(mx.float32))
    assert view.nbytes > 1 << 40 and mx.get_peak_memory() - before < 1 << 20


def test_a_call_is_recorded_with_what_it_was_given():
    store = Store()
    view = compute(mx.add, store.put(A), 2)
    assert isinstance(view.expr, Computed) and view.expr.function is mx.add and view.expr.args[1] == 2


# --- dtypes ---


@pytest.mark.parametrize("name", sorted(MLX_DTYPES))
def test_stored_bytes_become_the_dtype_that_mlx_loads(name, tmp_path):
    dtype = MLX_DTYPES[name]
    raw = np.arange(4 * int(dtype.size), dtype=np.uint8) % 2
    assert to_mlx(raw, (2, 2), dtype).dtype == dtype
    np.testing.assert_array_equal(to_numpy(to_mlx(raw, (2, 2), dtype)), raw)
    assert SAFETENSORS_DTYPES[dtype] == ("U8" if name.startswith("F8") else name)
