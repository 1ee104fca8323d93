"""Filling the shards of a build: what is proven to be there is taken over, the rest is made, flushed and journaled.

Every output byte's place is known beforehand, so shard files are laid out whole and workers fill them piece by
piece. A piece counts as finished once its bytes are flushed and a line of the journal says so; a later run believes
the line only after it has read the bytes back. What a crash costs is what lies between: less than `UNFLUSHED` bytes
made and not yet journaled, and `worker.IN_FLIGHT` bytes at work, 256 MB together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import xxhash

from ...disk import files as disk
from ...disk.journal import Finished, Journal
from ...errors import MlxquantError
from ...kernels import BlockErrors
from ...source.checkpoint import Checkpoint
from .hashing import FollowingHasher
from .pieces import Piece
from .shards import Shard
from .signature import Watched
from .worker import Settings, Target, Workers

# Bytes of work between two flushes.
UNFLUSHED = 64 << 20


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a conversion is: output bytes done and in all, and the module at hand."""

    done: int
    total: int
    module: str


Watch = Callable[[Progress], None]


class Filling:
    """The open shards of one build, what is finished of them, and what the checks found.

    `errors` are the error sums of each quantized module, `resumed` the output bytes taken over from earlier runs,
    `made` those of this one. `release` is told the number of each piece that needs no source any more.
    """

    def __init__(self, shards: Sequence[Shard], folder: Path, source: Checkpoint, journal: Journal, watch: Watch):
        self.source, self.journal, self.watch = source, journal, watch
        self.release: Callable[[int], None] = lambda _: None
        self.errors: dict[str, BlockErrors] = {}
        self.resumed = self.made = 0
        self.hasher: FollowingHasher | None = None
        self._shards, self._folder = shards, folder
        self._handles: dict[str, int] = {}
        self._places: dict[str, tuple[int, Path, int]] = {}
        self._unflushed: list[tuple[Piece, Finished]] = []
        self._proven: dict[tuple[str, int], Finished | None] = {}
        self._watched = Watched(source)
        self._trusted = True

    def open(self, *, hash_files: bool) -> None:
        """Lay out the shards, as long as they will be, with their headers; keep what is in them."""
        disk.make_folder(self._folder)
        for shard in self._shards:
            path = self._folder / shard.name
            handle = self._handles[shard.name] = disk.open_to_write(path, shard.nbytes)
            disk.write_at(handle, memoryview(shard.header), 0, path)
            self._places |= {p.array.name: (handle, path, p.start) for p in shard.arrays}
        disk.flush_folder(self._folder)
        disk.flush_folder(self._folder.parent)
        if hash_files:
            self.hasher = FollowingHasher(self._shards, self._handles)
            self.hasher.start()

    def fill(self, todo: Sequence[Piece], workers: int, settings: Settings) -> None:
        """Bring every piece of `todo` onto the disk. What is finished when an error ends it is journaled first."""
        total, done = sum(p.nbytes for p in todo), 0
        stop = self.source.reader.stop if self.source.reader is not None else lambda: None
        pool = Workers(workers, self.source.read_into, Target(self._places), settings, stop)
        made = pool.run(self._missing(todo, settings))
        try:
            for number, piece in enumerate(todo):
                finished = self._prove(piece, settings)
                if finished is None:
                    _, finished = next(made)
                    self._record(piece, finished)
                self._account(piece, finished)
                self.release(number)
                done += piece.nbytes
                self.watch(Progress(done, total, _module(piece)))
            made.close()
            self._flush()
        except BaseException:
            made.close()
            self._rescue()
            raise
        for shard in self._shards:
            disk.flush(self._handles[shard.name], self._folder / shard.name)

    def check_source(self) -> None:
        """Raise SourceError if the source is no longer what it was."""
        self._watched.check()

    def close(self) -> None:
        """Stop the hasher and close every file."""
        if self.hasher is not None and self.hasher.is_alive():
            self.hasher.stop()
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()

    def _missing(self, todo: Iterable[Piece], settings: Settings) -> Iterator[Piece]:
        return (piece for piece in todo if self._prove(piece, settings) is None)

    def _prove(self, piece: Piece, settings: Settings) -> Finished | None:
        """What the journal says of a piece, if its bytes on the disk bear it out; looked at once."""
        key = piece.job.name, piece.start
        if key not in self._proven:
            finished = self.journal.finished.get(key)
            wanted = finished is not None and (finished.checked or settings.allow_nonfinite)
            good = wanted and finished is not None and finished.checksums == self._checksums(piece)
            self._proven[key] = finished if good else None
            self.resumed += piece.nbytes if good else 0
        return self._proven[key]

    def _checksums(self, piece: Piece) -> tuple[str, ...]:
        return tuple(checksum(self._places, piece, i) for i in range(len(piece.job.parts)))

    def _record(self, piece: Piece, finished: Finished) -> None:
        """Note a piece that this run made; flush and journal when enough has come together."""
        self.made += piece.nbytes
        self._unflushed.append((piece, finished))
        if sum(p.work for p, _ in self._unflushed) >= UNFLUSHED:
            self._flush()

    def _flush(self) -> None:
        """Wait for the disk, make sure that the source stood still, and journal what was made."""
        if not self._unflushed:
            return
        self._trusted = False  # after a failed fsync a second one may succeed without having written anything
        for handle, path in {self._places[a.name][:2] for p, _ in self._unflushed for a in p.job.parts}:
            disk.flush(handle, path)
        self._watched.check()
        self.journal.add([finished for _, finished in self._unflushed])
        self._unflushed, self._trusted = [], True

    def _rescue(self) -> None:
        """Journal what can still be; the error that ended the run is the one to tell."""
        if self._trusted:
            with suppress(MlxquantError):
                self._flush()

    def _account(self, piece: Piece, finished: Finished) -> None:
        """Count a finished piece, in order: its error sums, what of it may be hashed."""
        if finished.errors is not None:
            sums = BlockErrors(**finished.errors)
            before = self.errors.get(_module(piece))
            self.errors[_module(piece)] = sums if before is None else before.merge(sums, piece.start)
        if self.hasher is not None:
            for part in piece.job.parts:
                self.hasher.ready(part.name, (piece.start + piece.rows) * piece.job.row_bytes(part))


def checksum(places: Mapping[str, tuple[int, Path, int]], piece: Piece, index: int) -> str:
    """XXH3 of the bytes that lie where the piece's rows of its part `index` belong."""
    part = piece.job.parts[index]
    handle, _, start = places[part.name]
    row = piece.job.row_bytes(part)
    one, at, end = xxhash.xxh3_64(), start + piece.start * row, start + (piece.start + piece.rows) * row
    buffer = memoryview(bytearray(min(4 << 20, max(1, end - at))))
    while at < end:
        got = os.preadv(handle, [buffer[: end - at]], at)
        if not got:
            break
        one.update(buffer[:got])
        at += got
    return one.hexdigest()


def _module(piece: Piece) -> str:
    return piece.job.name.removesuffix(".weight")
