"""Recording what `sanitize` does: any chain of steps, mlx as before afterwards, nobody else disturbed."""

from __future__ import annotations

import threading
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.layout.views.bytes import to_numpy
from mlxquant.layout.views.read import evaluate
from mlxquant.layout.views.record import recording
from mlxquant.layout.views.view import Computed, View, compute, source_view
from mlxquant.source.headers import Tensor
from tests.layout.views.view_store import Store, matches, numbers, recorded, same

NONSENSE: Any = "nonsense"
A = numbers(2, 3, 4)


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


@settings(max_examples=75)
@given(chains())
def test_any_chain_of_steps_gives_what_mlx_gives(drawn):
    arrays, steps = drawn
    matches(lambda *inputs: walk(list(inputs), steps), *arrays)


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
    with pytest.raises(TypeError, match="what sanitize does depends on a weight's value, which headers do not hold"):
        recorded(needs, A)


def test_evaluating_views_is_nothing_to_do():
    assert recorded(lambda a: mx.eval(a, [a], mx.ones(2)), A)[0] is None


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
