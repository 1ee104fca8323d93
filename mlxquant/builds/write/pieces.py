"""Cutting the work of a build into pieces, and making one: source rows in, output bytes out.

A piece is a run of rows of one array, small enough that losing it costs little (`PIECE` bytes of source). It
is made block by block (`BLOCK` bytes), so a worker holds one block whatever the tensor's size. Where pieces and
blocks begin depends on shapes alone, never on how many workers there are: so error sums, which are added in
row order, come out the same in every run.

What this does not do: threads, files, order (see `convert`).

Which files of a source a piece of work reads, so that others may come later or be gone already.

A piece is rows of a view (see `views`); of the parts that are joined into it only those that its rows lie in count.
Where mlx computes a whole array at once, all of its sources do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...errors import NonFiniteError
from ...layout.views.bytes import MLX_DTYPES, to_mlx, to_numpy
from ...layout.views.read import Segment, read_rows, row_wise, rows_in, segments
from ...layout.views.strided import SPAN, Strided
from ...layout.views.view import Joined, View, views_among
from ...plan.plan import OutputArray, Plan
from ...source.headers import Read
from ...words.formats import DTYPES, FLOATS

# --- pieces ---


# Source bytes of one piece: what is journaled, and at most made again after a crash, as one.
PIECE = 8 << 20
# Source bytes of one block: what a worker holds. About the size of a core's share of the last-level cache.
BLOCK = 2 << 20

# What a worker may need beside its block, to gather scattered rows.
SPAN_COST = 2 * SPAN

# Bit patterns of a float's exponent field; all ones means infinity or NaN
_EXPONENT = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}


@dataclass(frozen=True, slots=True)
class Job:
    """One view of the source and the arrays of the build that it fills: one dense, or packed parts."""

    name: str
    view: View
    dtype: str
    parts: tuple[OutputArray, ...]

    @property
    def columns(self) -> int:
        """Values in a row: the length of the last axis."""
        return self.view.shape[-1] if self.view.ndim else 1

    @property
    def rows(self) -> int:
        """Rows when all leading axes are flattened."""
        return self.view.size // self.columns if self.columns else 0

    def row_bytes(self, part: OutputArray) -> int:
        """Bytes that one row takes in one of the parts."""
        return part.nbytes // self.rows if self.rows else 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows ``start … start+rows`` of a job, made in one go."""

    job: Job
    start: int
    rows: int
    blocks: tuple[tuple[int, int], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the output."""
        return self.rows * sum(self.job.row_bytes(p) for p in self.job.parts)

    @property
    def work(self) -> int:
        """Bytes that making it costs: what is read or what is written, whichever is more."""
        return max(self.nbytes, self.rows * self.job.columns * self.job.view.itemsize)


def jobs(plan: Plan, views: Mapping[str, View]) -> list[Job]:
    """What there is to make, in the order of the build's arrays."""
    grouped: dict[str, list[OutputArray]] = {}
    for array in (*plan.arrays(), *plan.carried_arrays()):
        grouped.setdefault(array.source, []).append(array)
    return [Job(name, views[name], parts[0].values, tuple(parts)) for name, parts in grouped.items()]


def pieces(job: Job) -> Iterator[Piece]:
    """Cut a job into pieces of about `PIECE` source bytes, each of blocks of about `BLOCK`."""
    row = max(1, job.columns * job.view.itemsize)
    blocks: list[tuple[int, int]] = []
    for start, rows in _blocks(segments(job.view), max(1, BLOCK // row), max(1, PIECE // row)):
        if blocks and (start + rows - blocks[0][0]) * row > PIECE:
            yield Piece(job, blocks[0][0], start - blocks[0][0], tuple(blocks))
            blocks = []
        blocks.append((start, rows))
    if blocks:
        yield Piece(job, blocks[0][0], blocks[-1][0] + blocks[-1][1] - blocks[0][0], tuple(blocks))


def _blocks(found: list[Segment], rows: int, most: int) -> Iterator[tuple[int, int]]:
    """Rows of each block: long segments cut, short neighbours (small experts) put together."""
    held_start, held = 0, 0
    for segment in found:
        if not segment.divisible or segment.rows > rows:
            if held:
                yield held_start, held
                held = 0
            step = rows if segment.divisible else segment.rows
            for at in range(0, segment.rows, step):
                yield segment.start + at, min(step, segment.rows - at)
            continue
        if held and held + segment.rows > rows:
            yield held_start, held
            held = 0
        if not held:
            held_start = segment.start
        held += segment.rows
    if held:
        yield held_start, held


class Scratch:
    """A worker's buffer, kept from block to block so that memory is not asked for anew each time."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.uint8)

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        """The first `nbytes` of the buffer, grown if need be."""
        if self._buffer.size < nbytes:
            self._buffer = np.empty(nbytes, np.uint8)
        return self._buffer[:nbytes]


def read_block(job: Job, read: Read, start: int, rows: int, scratch: Scratch) -> NDArray[np.uint8]:
    """Read source rows and cast them to the job's dtype. Gives (rows, columns * itemsize) bytes.

    The result lies in `scratch`, unless it was cast, and is overwritten by the next call.
    """
    width = job.columns * job.view.itemsize
    out = scratch.take(rows * width).reshape(rows, width)
    read_rows(job.view, read, start, out)
    wanted = MLX_DTYPES[job.dtype]
    if wanted == job.view.dtype:
        return out
    cast = to_mlx(out, (rows, job.columns), job.view.dtype).astype(wanted)
    return to_numpy(cast).reshape(rows, job.columns * DTYPES[job.dtype].nbytes)


def check_finite(block: NDArray[np.uint8], dtype: str, name: str, start: int) -> None:
    """Raise NonFiniteError, naming tensor and place, if a dense block of floats holds NaN or infinity."""
    if dtype not in FLOATS:
        return
    words: NDArray[Any] = block.view(np.uint32 if dtype == "F32" else np.uint16)
    exponent = words.dtype.type(_EXPONENT[dtype])
    bad = (words & exponent) == exponent
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise nonfinite(name, start + row, column, "NaN or infinity")


def nonfinite(name: str, row: int, column: int, kind: str) -> NonFiniteError:
    """The error for a value that has no finite quantization, saying where and what to do."""
    found = "a group whose range overflows its scale" if kind == "overflow" else kind
    return NonFiniteError(
        f"{name}: row {row:,}, column {column:,}: finite values expected, {found} found (the first; there may be more);"
        " download the shard again, or pass --allow-nonfinite to store it as it is"
    )


def worker_stream() -> mx.Stream:
    """A CPU stream of the calling thread's own: mlx streams belong to the thread that made them."""
    return mx.new_stream(mx.cpu)


# --- needs ---


def needs_of(pieces: Iterable[Piece]) -> list[frozenset[str]]:
    """The files that each piece reads."""
    return [frozenset(_files(p.job.view, p.start, p.rows)) for p in pieces]


def _files(view: View, start: int, rows: int) -> Iterator[str]:
    match view.expr:
        case Strided() as s:
            yield from (t.file for t in s.tensor.stored)
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
