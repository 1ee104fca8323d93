"""Making pieces on threads: read rows, cast, quantize, write in place, sum the error, checksum.

The kernels let go of the interpreter while they run, so threads use all cores and share one process's memory.
A worker holds one block of source and of output; pieces come out in order, whoever finishes first.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import xxhash
from numpy.typing import NDArray

from ...disk import files as disk
from ...disk.journal import Finished
from ...errors import MlxquantError
from ...kernels import BlockErrors, BlockFault, Quantized, quantize_rows
from ...layout.views.strided import Read
from ...plan.plan import OutputArray
from ...words.formats import Format
from .pieces import Job, Piece, Scratch, check_finite, nonfinite, read_block, worker_stream

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
        table, checked = asdict(errors) if errors is not None else None, not self._settings.allow_nonfinite
        return Finished(piece.job.name, piece.start, tuple(s.hexdigest() for s in sums), table, checked)

    def _dense(self, piece: Piece, see: list[Callable[[Any], None]]) -> None:
        job = piece.job
        for start, rows in piece.blocks:
            block = read_block(job, self._read, start, rows, self._local.scratch)
            if not self._settings.allow_nonfinite:
                check_finite(block, job.dtype, job.name, start)
            self._target.write(job, job.parts[0], start, block)
            see[0](block)

    def _quantized(self, piece: Piece, see: list[Callable[[Any], None]]) -> BlockErrors | None:
        job, settings = piece.job, self._settings
        fmt = job.parts[0].format
        assert fmt is not None
        total: BlockErrors | None = None
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
