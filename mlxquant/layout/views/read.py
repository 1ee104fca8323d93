"""Values of views: which rows can be computed independently of others, and reading them by position.

Rows are those of the flattened leading axes. A window on a stored tensor or a join of some is gathered straight
from the file's bytes; where a view is computed, mlx computes it, by blocks of rows if rows suffice.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...source.headers import Read
from .bytes import to_mlx, to_numpy
from .strided import Strided
from .view import Computed, Joined, View, astype, map_views

# Functions of one array and scalars whose rows depend on the same rows alone
_ROW_WISE = {operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, astype}


def row_wise(view: View) -> View | None:
    """The one argument whose same rows suffice to compute a row of `view`, or None."""
    if not isinstance(view.expr, Computed) or view.expr.function not in _ROW_WISE:
        return None
    views = [a for a in view.expr.args if isinstance(a, View)]
    scalars = [a for a in view.expr.args if not isinstance(a, View)]
    if len(views) == 1 and views[0].shape == view.shape and all(isinstance(a, (int, float, mx.Dtype)) for a in scalars):
        return views[0]
    return None


def rows_in(view: View) -> int:
    """Rows of the flattened leading axes; a scalar is one row of one value."""
    return prod(view.shape[:-1])


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows ``start … start+rows`` of a flattened view; read as a whole unless `divisible`."""

    start: int
    rows: int
    divisible: bool


def segments(view: View) -> list[Segment]:
    """Cut the rows of a view where it must not, or need not, be read across.

    Rows of a plain window can be cut anywhere; one transposed matrix, or one result that mlx computes as a
    whole, is a piece; joined views are cut between their parts.
    """
    rows = rows_in(view)
    match view.expr:
        case Strided() as s:
            window = s.rows()
            if not window.transposed:
                return [Segment(0, rows, True)]
            inner = window.shape[-2]
            return [Segment(i, inner, False) for i in range(0, rows, inner)]
        case Joined(axis, parts) if axis < view.ndim - 1:
            cut = [segments(p) for p in parts]
            outer = prod(view.shape[:axis])
            if outer > 1 and all(s.divisible for part in cut for s in part):
                return [Segment(0, rows, True)]
            return _interleaved(cut, [rows_in(p) // outer for p in parts], outer) or [Segment(0, rows, False)]
        case Joined(_, parts):
            return [Segment(0, rows, all(_all_divisible(p) for p in parts))]
    inside = row_wise(view)
    return segments(inside) if inside is not None else [Segment(0, rows, False)]


def _interleaved(cut: Sequence[Sequence[Segment]], spans: Sequence[int], outer: int) -> list[Segment]:
    """Segments of parts that take turns, `spans` rows of each, `outer` times. Empty where one crosses a turn."""
    turns: list[list[list[Segment]]] = []
    for part, span in zip(cut, spans, strict=True):
        rows: list[list[Segment]] = [[] for _ in range(outer)]
        for s in part:
            if not s.divisible and s.start // max(span, 1) != (s.start + s.rows - 1) // max(span, 1):
                return []
            at = s.start
            while at < s.start + s.rows:
                turn, within = divmod(at, span)
                count = min(span - within, s.start + s.rows - at)
                rows[turn].append(Segment(within, count, s.divisible))
                at += count
        turns.append(rows)
    laid, at = list[Segment](), 0
    for turn in range(outer):
        for rows, span in zip(turns, spans, strict=True):
            laid += [Segment(at + s.start, s.rows, s.divisible) for s in rows[turn]]
            at += span
    return laid


def _all_divisible(view: View) -> bool:
    return all(s.divisible for s in segments(view))


def read_rows(view: View, read: Read, start: int, out: NDArray[np.uint8]) -> None:
    """Read rows ``start … start+len(out)`` of a view, its leading axes flattened.

    `out` is (rows, columns * itemsize) bytes, C-contiguous. Raises SourceError where a file ends early.
    """
    match view.expr:
        case Strided() as s:
            s.read_rows(read, start, out)
        case Joined(axis, parts) if axis < view.ndim - 1:
            _read_joined_rows(view, axis, parts, read, start, out)
        case Joined(_, parts):
            at = 0
            for p in parts:
                width = (p.shape[-1] if p.ndim else 1) * p.itemsize
                piece = np.empty((len(out), width), np.uint8)
                read_rows(p, read, start, piece)
                out[:, at : at + width] = piece
                at += width
        case _:
            inside = row_wise(view)
            if inside is None:
                whole = to_numpy(evaluate(view, read)).reshape(-1, out.shape[1])
                out[:] = whole[start : start + len(out)]
                return
            cols = view.shape[-1] if view.ndim else 1
            rows = np.empty((len(out), cols * inside.itemsize), np.uint8)
            read_rows(inside, read, start, rows)
            block = to_mlx(rows, (len(out), cols), inside.dtype)
            out[:] = to_numpy(_call(view.expr, lambda a: block if a is inside else a)).reshape(out.shape)


def _read_joined_rows(
    view: View, axis: int, parts: tuple[View, ...], read: Read, start: int, out: NDArray[np.uint8]
) -> None:
    below = prod(view.shape[axis + 1 : -1])
    spans = [p.shape[axis] * below for p in parts]
    period = sum(spans)
    done = 0
    while done < len(out):
        outer, at = divmod(start + done, period)
        for p, span in zip(parts, spans, strict=True):
            if at < span:
                count = min(span - at, len(out) - done)
                read_rows(p, read, outer * span + at, out[done : done + count])
                done += count
                break
            at -= span


def evaluate(view: View, read: Read) -> mx.array:
    """The whole view as an mx.array, computed by mlx on the calling thread's default stream."""
    match view.expr:
        case Computed():
            return _call(view.expr, lambda a: evaluate(a, read))
        case _:
            cols = view.shape[-1] if view.ndim else 1
            out = np.empty((rows_in(view), cols * view.itemsize), np.uint8)
            if out.size:
                read_rows(view, read, 0, out)
            return to_mlx(out, view.shape, view.dtype)


def _call(expr: Computed, values: Callable[[View], Any]) -> mx.array:
    result = expr.function(*map_views(values, expr.args), **map_views(values, expr.kwargs))
    picked: mx.array = result if expr.pick is None else result[expr.pick]
    return picked
