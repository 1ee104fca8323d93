"""Filling the shards of a build: what is proven to be there is taken over, the rest is made, flushed and journaled.

Every output byte's place is known beforehand, so shard files are laid out whole and workers fill them piece by
piece. A piece counts as finished once its bytes are flushed and a line of the journal says so; a later run believes
the line only after it has read the bytes back. What a crash costs is what lies between: less than `UNFLUSHED` bytes
made and not yet journaled, and `worker.IN_FLIGHT` bytes at work, 256 MB together.

Making pieces on threads: read rows, cast, quantize, write in place, sum the error, checksum.

The kernels let go of the interpreter while they run, so threads use all cores and share one process's memory.
A worker holds one block of source and of output; pieces come out in order, whoever finishes first.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import xxhash
from numpy.typing import NDArray

from ...disk import files as disk
from ...disk.journal import Finished, Journal
from ...errors import MlxquantError
from ...kernels import BlockFault, ErrorSums, Quantized, quantize_rows
from ...plan.plan import OutputArray
from ...source.checkpoint import Checkpoint
from ...source.headers import Read
from ...words.formats import Format
from ...words.progress import Progress, Watch
from .hashing import FollowingHasher
from .pieces import Job, Piece, Scratch, check_finite, nonfinite, read_block, worker_stream
from .shards import Shard
from .signature import Watched

# --- worker ---


# Work that may be handed out and not yet taken back; what of it was done is lost in a crash.
IN_FLIGHT = 160 << 20

# numpy's type for values of a dtype, as the kernels take them
_VALUES: dict[str, Any] = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


@dataclass(frozen=True)
class Target:
    """Where arrays lie: name -> (open file, its path, first byte)."""

    places: Mapping[str, tuple[int, Path, int]]

    def write(self, job: Job, part: OutputArray, row: int, data: NDArray[Any]) -> None:
        """Write rows of one array from `row` on."""
        handle, path, start = self.places[part.name]
        disk.write_at(handle, data.data.cast("B"), start + row * job.row_bytes(part), path)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker needs to know of the options."""

    errors: bool = True
    allow_nonfinite: bool = False
    device: str = "cpu"


class _Local(threading.local):
    """A thread's own buffers and mlx stream, made when it first works."""

    def __init__(self) -> None:
        self.scratch = Scratch()
        self.packed: dict[tuple[Any, ...], Quantized] = {}
        self.stream = worker_stream()


class Workers:
    """A pool that makes pieces. `stop` is called when no more are wanted, before the last ones are waited for."""

    def __init__(
        self, count: int, read: Read, target: Target, settings: Settings, stop: Callable[[], None] = lambda: None
    ) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="worker")
        self._count, self._read, self._target, self._settings = count, read, target, settings
        self._stop, self._local = stop, _Local()
        self._stopped = threading.Event()

    def run(self, pieces: Iterable[Piece]) -> Generator[tuple[Piece, Finished]]:
        """Make pieces and yield them in order. Raises the first error once no worker is at work."""
        waiting: deque[tuple[Piece, Future[Finished]]] = deque()
        held = 0
        try:
            for piece in pieces:
                while waiting and (len(waiting) > 2 * self._count or held + piece.work > IN_FLIGHT):
                    first, future = waiting.popleft()
                    held -= first.work
                    yield first, future.result()
                waiting.append((piece, self._pool.submit(self._make, piece)))
                held += piece.work
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            self._stopped.set()
            self._stop()  # of reads that wait for their file
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _make(self, piece: Piece) -> Finished:
        if self._stopped.is_set():
            raise MlxquantError("stopped")
        with ExitStack() as stack:
            stack.enter_context(mx.stream(self._local.stream))
            make = self._dense if piece.job.parts[0].format is None else self._quantized
            sums = [xxhash.xxh3_64() for _ in piece.job.parts]
            errors = make(piece, [s.update for s in sums])
        table, checked = errors.as_dict() if errors is not None else None, not self._settings.allow_nonfinite
        return Finished(piece.job.name, piece.start, tuple(s.hexdigest() for s in sums), table, checked)

    def _dense(self, piece: Piece, see: list[Callable[[Any], None]]) -> None:
        job = piece.job
        for start, rows in piece.blocks:
            block = read_block(job, self._read, start, rows, self._local.scratch)
            if not self._settings.allow_nonfinite:
                check_finite(block, job.dtype, job.name, start)
            self._target.write(job, job.parts[0], start, block)
            see[0](block)

    def _quantized(self, piece: Piece, see: list[Callable[[Any], None]]) -> ErrorSums | None:
        job, settings = piece.job, self._settings
        fmt = job.parts[0].format
        assert fmt is not None
        total: ErrorSums | None = None
        for start, rows in piece.blocks:
            values = read_block(job, self._read, start, rows, self._local.scratch).view(_VALUES[job.dtype])
            try:
                made, errors = quantize_rows(
                    values,
                    job.dtype,
                    fmt,
                    out=self._room(rows, job, fmt),
                    errors=settings.errors,
                    allow_nonfinite=settings.allow_nonfinite,
                    device=settings.device,
                )
            except BlockFault as fault:
                raise nonfinite(job.name, start + fault.row, fault.column, fault.kind) from None
            arrays = (made.packed, made.scales) if made.biases is None else (made.packed, made.scales, made.biases)
            for part, data, update in zip(job.parts, arrays, see, strict=True):
                self._target.write(job, part, start, data)
                update(data)
            if errors is not None:
                total = errors if total is None else total.merge(errors, start - piece.start)
        return total

    def _room(self, rows: int, job: Job, fmt: Format) -> Quantized:
        """Output buffers of a block's shape; the few shapes of a model are kept, the last of each width."""
        key = (job.columns, job.dtype, fmt)
        kept = self._local.packed.get(key)
        if kept is None or kept.packed.shape[0] != rows:
            if len(self._local.packed) > 4:
                self._local.packed.clear()
            kept = self._local.packed[key] = Quantized.empty(rows, job.columns, job.dtype, fmt)
        return kept


# --- filling ---


# Bytes of work between two flushes.
UNFLUSHED = 64 << 20


class Filling:
    """The open shards of one build, what is finished of them, and what the checks found.

    `errors` are the error sums of each quantized module, `resumed` the output bytes taken over from earlier runs,
    `made` those of this one. `release` is told the number of each piece that needs no source any more.
    """

    def __init__(self, shards: Sequence[Shard], folder: Path, source: Checkpoint, journal: Journal, watch: Watch):
        self.source, self.journal, self.watch = source, journal, watch
        self.release: Callable[[int], None] = lambda _: None
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
            sums = ErrorSums.from_dict(finished.errors)
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
