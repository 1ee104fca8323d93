"""Cutting the work of a build into pieces, and finding the files of the source that each piece reads.

An `Output` is one view of the source and the arrays of the build that it fills. A piece is a run of its rows, small
enough that losing it costs little: what is journaled, and at most made again after a crash, as one. It is made block
by block, so a worker holds one block whatever the tensor's size. Where pieces and blocks begin depends on shapes and
`Sizes` alone, never on how many workers there are: so error sums, which are added in row order, come out the same in
every run.

A piece needs the files that its rows lie in, no others: those may come later, or be gone already. Where mlx computes a
whole array at once, all of its sources are needed.

What this does not do: read, write, threads (see `making`, `workers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...layout.views.read import Segment, row_wise, rows_in, segments
from ...layout.views.strided import SPAN, Strided
from ...layout.views.view import Joined, View, views_among
from ...plan.plan import OutputArray, Plan
from .shards import SHARD_BYTES

# What a worker may need beside its block, to gather scattered rows.
SPAN_COST = 2 * SPAN


@dataclass(frozen=True, slots=True)
class Sizes:
    """The portions in which a build is made, in bytes.

    `piece` and `block` are bytes of the source; a block is about a core's share of the last-level cache. `unflushed`
    is the work between two flushes, `in_flight` the work handed out to workers and not yet taken back: what a crash
    costs is less than both together. `shard` is the most that the tensors of one file take. Input that is refused
    before more than `worth_keeping` was made leaves nothing behind.
    """

    piece: int = 8 << 20
    block: int = 2 << 20
    unflushed: int = 64 << 20
    in_flight: int = 160 << 20
    shard: int = SHARD_BYTES
    worth_keeping: int = 256 << 20


SIZES = Sizes()


@dataclass(frozen=True, slots=True)
class Output:
    """One view of the source and the arrays of the build that it fills: one dense, or the parts of a packed one.

    `name` is that of the view, `module` the path of the module that the arrays belong to, `dtype` what values are cast
    to before they are stored or encoded.
    """

    name: str
    module: str
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

    @property
    def source_row_bytes(self) -> int:
        """Bytes of one row in the source's dtype."""
        return self.columns * self.view.itemsize

    def row_bytes(self, part: OutputArray) -> int:
        """Bytes that one row takes in one of the parts."""
        return part.nbytes // self.rows if self.rows else 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows ``start … start+rows`` of an output, made in one go; `blocks` are (first row, rows) within the output."""

    output: Output
    start: int
    rows: int
    blocks: tuple[tuple[int, int], ...]

    @property
    def key(self) -> tuple[str, int]:
        """What a journal knows it by: the output's name and the first row."""
        return self.output.name, self.start

    @property
    def nbytes(self) -> int:
        """Bytes of the output."""
        return self.rows * sum(self.output.row_bytes(p) for p in self.output.parts)

    @property
    def work(self) -> int:
        """Bytes that making it costs: what is read or what is written, whichever is more."""
        return max(self.nbytes, self.rows * self.output.source_row_bytes)


def outputs(plan: Plan, views: Mapping[str, View]) -> list[Output]:
    """What there is to make, in the order of the build's arrays."""
    arrays: dict[str, list[OutputArray]] = {}
    paths: dict[str, str] = {}
    for planned in (*plan.modules, *plan.carried_apart):
        for array in planned.arrays():
            arrays.setdefault(array.source, []).append(array)
            paths[array.source] = planned.module.path
    return [Output(name, paths[name], views[name], parts[0].values, tuple(parts)) for name, parts in arrays.items()]


def pieces(output: Output, sizes: Sizes = SIZES) -> Iterator[Piece]:
    """Cut an output into pieces of about `sizes.piece` source bytes, each of blocks of about `sizes.block`."""
    row = max(1, output.source_row_bytes)
    blocks: list[tuple[int, int]] = []
    for start, rows in _blocks(segments(output.view), max(1, sizes.block // row)):
        if blocks and (start + rows - blocks[0][0]) * row > sizes.piece:
            yield Piece(output, blocks[0][0], start - blocks[0][0], tuple(blocks))
            blocks = []
        blocks.append((start, rows))
    if blocks:
        yield Piece(output, blocks[0][0], blocks[-1][0] + blocks[-1][1] - blocks[0][0], tuple(blocks))


def _blocks(runs: Iterable[Segment], rows: int) -> Iterator[tuple[int, int]]:
    """First row and rows of each block: long segments are cut, short neighbours (small experts) are put together."""
    held_start, held = 0, 0
    for segment in runs:
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


def needs_of(pieces: Iterable[Piece]) -> list[frozenset[str]]:
    """The files that each piece reads."""
    return [frozenset(_files(p.output.view, p.start, p.rows)) for p in pieces]


def _files(view: View, start: int, rows: int) -> Iterator[str]:
    """The files that rows ``start … start+rows`` of a view lie in; rows count through all leading axes."""
    match view.expr:
        case Strided() as s:
            yield from (t.file for t in s.tensor.stored)
        case Joined(axis, parts) if axis == view.ndim - 1:  # side by side: a row has values of each part
            for part in parts:
                yield from _files(part, start, rows)
        case Joined(axis, parts) if any(n != 1 for n in view.shape[:axis]):  # interleaved: all of each part
            for part in parts:
                yield from _files(part, 0, rows_in(part))
        case Joined(_, parts):  # one below the other: the parts that these rows lie in
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
