"""Filling the shards of builds: what is proven to be there is taken over, the rest is made, flushed and journaled.

Every output byte's place is known beforehand, so shard files are laid out whole and workers fill them piece by piece.
A piece counts as finished once its bytes are flushed and a line of the journal says so; a later run believes the line
only after it has read the bytes back. What a crash costs is what lies between: less than `Sizes.unflushed` bytes made
and not yet journaled, and `Sizes.in_flight` bytes at work, 256 MB together.

Several builds of one source are filled side by side: each row is read once and encoded for every build that still
needs it. They have the same pieces, and each its own shards, journal and checks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import xxhash

from ...disk import files as disk
from ...disk.journal import Finished, Journal
from ...errors import MlxquantError
from ...kernels import ErrorSums
from ...source.checkpoint import Checkpoint
from ...source.stamps import Watched
from ...words.progress import Progress, Watch
from .hashing import FollowingHasher
from .making import Maker, Target, make_together
from .pieces import Piece, Sizes
from .shards import Shard
from .workers import ordered_map

_READ = 4 << 20


class Filling:
    """The open shards of one build, what is finished of them, and what the checks gave.

    `todo` are the build's pieces, `maker` gives what makes them once it knows where to write. `errors` are the error
    sums of each quantized module by path, `resumed` the output bytes taken over from earlier runs, `made` those of
    this one.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        folder: Path,
        source: Checkpoint,
        journal: Journal,
        todo: Sequence[Piece],
        maker: Callable[[Target], Maker],
        sizes: Sizes,
    ) -> None:
        self.source, self.journal, self.todo, self.sizes = source, journal, todo, sizes
        self.errors: dict[str, ErrorSums] = {}
        self.resumed = self.made = 0
        self.hasher: FollowingHasher | None = None
        self._shards, self._folder = shards, folder
        self._handles: dict[str, int] = {}
        self._places: dict[str, tuple[int, Path, int]] = {}
        self._unflushed: list[tuple[Piece, Finished]] = []
        self._proven: dict[tuple[str, int], Finished | None] = {}
        self._watched = Watched(source)
        self._trusted = True
        self.maker = maker(Target(self._places))

    def open(self, *, hash_files: bool) -> None:
        """Lay out the shards, as long as they will be, with their headers; what is in them stays."""
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

    def missing(self, piece: Piece) -> Piece | None:
        """The piece, if it is not proven to be there."""
        return piece if self._prove(piece) is None else None

    def take(self, piece: Piece, finished: Finished | None) -> None:
        """Count a piece, in order: what this run made of it, or with None what an earlier one left."""
        if finished is not None:
            self._record(piece, finished)
        else:
            finished = self._prove(piece)
            assert finished is not None
        self._add_up(piece, finished)

    def flush_all(self) -> None:
        """Journal what was made, and wait for the disk."""
        self._flush()
        for shard in self._shards:
            disk.flush(self._handles[shard.name], self._folder / shard.name)

    def rescue(self) -> None:
        """Journal what can still be; the error that ended the run is the one to report."""
        if self._trusted:
            with suppress(MlxquantError):
                self._flush()

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

    def _prove(self, piece: Piece) -> Finished | None:
        """The journal's entry of a piece, if its bytes on the disk are those; checked only once."""
        if piece.key not in self._proven:
            finished = self.journal.finished.get(piece.key)
            if finished is not None and not (
                (finished.checked or self.maker.allow_nonfinite)
                and _is_readable(finished)
                and finished.checksums == self._checksums(piece)
            ):
                finished = None
            self._proven[piece.key] = finished
            self.resumed += piece.nbytes if finished is not None else 0
        return self._proven[piece.key]

    def _checksums(self, piece: Piece) -> tuple[str, ...]:
        return tuple(checksum(self._places, piece, i) for i in range(len(piece.output.parts)))

    def _record(self, piece: Piece, finished: Finished) -> None:
        """Note a piece that this run made; flush and journal when enough has come together."""
        self.made += piece.nbytes
        self._unflushed.append((piece, finished))
        if sum(p.work for p, _ in self._unflushed) >= self.sizes.unflushed:
            self._flush()

    def _flush(self) -> None:
        """Wait for the disk, make sure that the source did not change, and journal what was made."""
        if not self._unflushed:
            return
        self._trusted = False  # after a failed fsync a second one may succeed without having written anything
        for handle, path in {self._places[a.name][:2] for p, _ in self._unflushed for a in p.output.parts}:
            disk.flush(handle, path)
        self._watched.check()
        self.journal.add([finished for _, finished in self._unflushed])
        self._unflushed, self._trusted = [], True

    def _add_up(self, piece: Piece, finished: Finished) -> None:
        """Count a finished piece, in order: its error sums, and what of it may be hashed."""
        if finished.errors is not None:
            path, sums = piece.output.module, ErrorSums.from_dict(finished.errors)
            self.errors[path] = self.errors[path].merge(sums, piece.start) if path in self.errors else sums
        if self.hasher is not None:
            for part in piece.output.parts:
                self.hasher.ready(part.name, (piece.start + piece.rows) * piece.output.row_bytes(part))


def fill(
    fillings: Sequence[Filling], threads: int, watch: Watch, release: Callable[[int], None] = lambda _: None
) -> None:
    """Bring every piece of one or several builds onto the disk, reading each row of the source once.

    What is finished when an error ends it is journaled first. `release` is called with the number of each piece that
    no build needs the source for any more. Progress is in output bytes of all builds.
    """
    source, sizes = fillings[0].source, fillings[0].sizes
    makers = [filling.maker for filling in fillings]
    rows = list(zip(*(filling.todo for filling in fillings), strict=True))
    total, done = sum(piece.nbytes for pieces in rows for piece in pieces), 0
    jobs = (job for pieces in rows if any(job := [f.missing(p) for f, p in zip(fillings, pieces, strict=True)]))
    results = ordered_map(
        lambda job, scratch: make_together(makers, job, scratch),
        jobs,
        threads,
        cost=lambda job: max(piece.work for piece in job if piece is not None),
        at_most=sizes.in_flight,
        stop=source.reader.stop if source.reader is not None else lambda: None,
    )
    try:
        for number, pieces in enumerate(rows):
            finished: Sequence[Finished | None] = [None] * len(fillings)
            if any(filling.missing(piece) for filling, piece in zip(fillings, pieces, strict=True)):
                finished = next(results)[1]
            for filling, piece, result in zip(fillings, pieces, finished, strict=True):
                filling.take(piece, result)
            release(number)
            done += sum(piece.nbytes for piece in pieces)
            watch(Progress(done, total, pieces[0].output.module))
        results.close()
        for filling in fillings:
            filling.flush_all()
    except BaseException:
        results.close()
        for filling in fillings:
            filling.rescue()
        raise


def _is_readable(finished: Finished) -> bool:
    """Whether the error sums of a journal's entry are those of this version; else the piece is made again."""
    try:
        return finished.errors is None or ErrorSums.from_dict(finished.errors) is not None
    except (KeyError, TypeError, ValueError):
        return False


def checksum(places: Mapping[str, tuple[int, Path, int]], piece: Piece, index: int) -> str:
    """XXH3 of the bytes that lie where the piece's rows of its part `index` belong."""
    part = piece.output.parts[index]
    handle, _, start = places[part.name]
    row = piece.output.row_bytes(part)
    state, at, end = xxhash.xxh3_64(), start + piece.start * row, start + (piece.start + piece.rows) * row
    buffer = memoryview(bytearray(min(_READ, max(1, end - at))))
    while at < end:
        count = os.preadv(handle, [buffer[: end - at]], at)
        if not count:
            break
        state.update(buffer[:count])
        at += count
    return state.hexdigest()
