"""Views: whatever is done to them, their values are what mlx gives for arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlxquant.layout.views.bytes import MLX_DTYPES, SAFETENSORS_DTYPES, to_mlx, to_numpy
from mlxquant.layout.views.read import read_rows, row_wise, segments
from mlxquant.layout.views.strided import Strided
from mlxquant.layout.views.view import Joined
from tests.layout.views.view_store import matches, numbers, recorded

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
    "join of transposes in turns": lambda a, b: mx.concatenate([a.swapaxes(1, 2), b.swapaxes(1, 2)], axis=1),
    "join of one that is transposed": lambda a, b: mx.concatenate([a.swapaxes(1, 2)[:, :3], b[..., :3]], axis=1),
    "join of computed ones in turns": lambda a, b: mx.concatenate([mx.exp(a / 100), b], axis=1),
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


def test_transposed_experts_that_take_turns_are_cut_at_each_turn():
    view, _ = recorded(lambda a, b: mx.concatenate([a.swapaxes(1, 2), b[:, :, :3]], axis=1), A, B)
    cut = [(s.start, s.rows, s.divisible) for s in segments(view)]
    assert cut == [(0, 4, False), (4, 3, True), (7, 4, False), (11, 3, True)]


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


# --- dtypes ---


@pytest.mark.parametrize("name", sorted(MLX_DTYPES))
def test_stored_bytes_become_the_dtype_that_mlx_loads(name, tmp_path):
    dtype = MLX_DTYPES[name]
    raw = np.arange(4 * int(dtype.size), dtype=np.uint8) % 2
    assert to_mlx(raw, (2, 2), dtype).dtype == dtype
    np.testing.assert_array_equal(to_numpy(to_mlx(raw, (2, 2), dtype)), raw)
    assert SAFETENSORS_DTYPES[dtype] == ("U8" if name.startswith("F8") else name)
