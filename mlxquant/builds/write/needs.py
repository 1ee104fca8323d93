"""Which files of a source a piece of work reads, so that others may come later or be gone already.

A piece is rows of a view (see `views`); of the parts that are joined into it only those that its rows lie in count.
Where mlx computes a whole array at once, all of its sources do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...layout.views.read import row_wise, rows_in
from ...layout.views.strided import Strided
from ...layout.views.view import Joined, View, views_among
from ...source.headers import Tensor
from ...source.quantized import Scaled
from .pieces import Piece


def needs_of(pieces: Iterable[Piece]) -> list[frozenset[str]]:
    """The files that each piece reads."""
    return [frozenset(_files(p.job.view, p.start, p.rows)) for p in pieces]


def _files(view: View, start: int, rows: int) -> Iterator[str]:
    match view.expr:
        case Strided() as s:
            yield from _stored(s.tensor)
        case Joined(axis, parts) if axis == view.ndim - 1:
            for part in parts:
                yield from _files(part, start, rows)
        case Joined(axis, parts) if any(n != 1 for n in view.shape[:axis]):
            for part in parts:
                yield from _files(part, 0, rows_in(part))
        case Joined(_, parts):
            at = 0
            for part in parts:
                count = rows_in(part)
                begin, end = max(start, at), min(start + rows, at + count)
                if begin < end:
                    yield from _files(part, begin - at, end - begin)
                at += count
        case _:
            inside = row_wise(view)
            if inside is not None:
                yield from _files(inside, start, rows)
                return
            for argument in views_among([view.expr.args, view.expr.kwargs]):
                yield from _files(argument, 0, rows_in(argument))


def _stored(tensor: Tensor) -> Iterator[str]:
    if isinstance(tensor, Scaled):
        yield from (t.file for t in tensor.stored)
    else:
        yield tensor.file
