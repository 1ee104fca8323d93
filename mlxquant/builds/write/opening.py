"""What a conversion takes, told before it begins: bytes to read and to write, room on the disk, and how long.

The time comes from this machine: some pieces are made and thrown away, which reads the source and runs the encoder as
the work will, and some megabytes are written where OUT will be and flushed. Both take a second together. What comes
from the Hub is not timed, since the download decides; nor is what is done in a few seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...disk import files as disk
from ...plan.plan import OutputArray
from .filling import Filling
from .making import Target, make_together
from .partial import Partial
from .pieces import Output, Piece
from .workers import ordered_map

# Less work than this is done before it could be timed.
LEAST = 1 << 30
_SECONDS = 0.5
_WRITE, _BLOCK = 64 << 20, 4 << 20


@dataclass(frozen=True, slots=True)
class Opening:
    """What a conversion takes: bytes of the source, bytes of all builds, bytes free in `folder`, where they will be.

    `from_hub` says that the source comes from the Hub, `cached_bytes` of which are in the usual cache. `left` are the
    output bytes that earlier runs have not finished, None where there was none; `seconds` is how long the rest takes
    here, None where that was not measured.
    """

    read_bytes: int
    write_bytes: int
    free_bytes: int
    folder: Path
    from_hub: bool
    left: int | None = None
    seconds: float | None = None
    cached_bytes: int = 0


def timed(opening: Opening, fillings: Sequence[Filling], threads: int, partial: Partial) -> Opening:
    """Say how much is left and how long it takes, with this machine's own speed; writes to a file that it removes."""
    everything = list(zip(*(f.todo for f in fillings), strict=True))
    rows = [pieces for pieces in everything if not _is_begun(pieces, fillings)]
    left = sum(piece.nbytes for pieces in rows for piece in pieces)
    work = sum(max(piece.work for piece in pieces) for pieces in rows)
    if len(rows) < len(everything):
        opening = replace(opening, left=left)
    if opening.from_hub or max(work, left) < LEAST:
        return opening
    making = work / _making_speed(rows, fillings, threads)
    writing = left / _writing_speed(partial.folder)
    return replace(opening, seconds=making + writing)


def _is_begun(pieces: Sequence[Piece], fillings: Sequence[Filling]) -> bool:
    return all(piece.key in filling.journal.finished for piece, filling in zip(pieces, fillings, strict=True))


class _Nowhere(Target):
    """Takes what would be written, and writes nothing."""

    def write(self, output: Output, part: OutputArray, row: int, data: NDArray[Any]) -> None:
        """Do nothing."""


def _making_speed(rows: Sequence[Sequence[Piece]], fillings: Sequence[Filling], threads: int) -> float:
    """Bytes of work a second that all threads make, reading included; pieces from everywhere in the source."""
    makers = [replace(filling.maker, target=_Nowhere({})) for filling in fillings]
    began, warm, done = time.monotonic(), 0.0, 0

    def chosen() -> Iterator[Sequence[Piece]]:
        """Pieces far from each other, the largest kinds most often, until the time is over."""
        step = max(1, len(rows) // 97)
        for number in range(len(rows)):
            if warm and time.monotonic() - warm > _SECONDS:
                return
            yield rows[number * step % len(rows)]

    results = ordered_map(lambda pieces, scratch: make_together(makers, pieces, scratch), chosen(), threads)
    for number, (pieces, _) in enumerate(results):
        if number < 2 * threads:  # kernels are compiled, threads begin
            warm = time.monotonic()
        else:
            done += max(piece.work for piece in pieces)
    now = time.monotonic()
    if not done:
        return sum(max(p.work for p in pieces) for pieces in rows[: 2 * threads]) / max(now - began, 1e-6)
    return done / max(now - warm, 1e-6)


def _writing_speed(folder: Path) -> float:
    """Bytes a second that a file in `folder` takes, flushed to the disk."""
    handle, path = disk.open_new(folder)
    try:
        disk.remove(path)  # the open file stays until it is closed
        block = memoryview(os.urandom(_BLOCK))
        began = time.monotonic()
        for at in range(0, _WRITE, _BLOCK):
            disk.write_at(handle, block, at, path)
        disk.flush(handle, path)
        return _WRITE / max(time.monotonic() - began, 1e-6)
    finally:
        os.close(handle)
