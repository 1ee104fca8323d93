"""A checkpoint's tensors, each read from the disk once and whole, however many arrays are cut from it.

Hub tensors are often fused (gate and up projections of all experts in one), and gathering the rows of each part
separately would read the same bytes twice. Here a tensor is brought in with one read when the first of its arrays is
made, served from memory to the others, and dropped with the last of them. So memory is that of the tensors of one
module, and what was read can be counted and held against what there was to read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..layout.arrays import tensors_of
from ..layout.views.view import View
from ..source.checkpoint import Checkpoint
from ..source.headers import Tensor
from ..source.readers import Reader


class Once:
    """Stands before a checkpoint's reader: `expect` views, read them, `done` with each."""

    def __init__(self, reader: Reader, tensors: Iterable[Tensor]) -> None:
        self._reader = reader
        self._tensors = {t.name: t for t in tensors}
        self._starts: dict[str, list[tuple[int, str]]] = {}
        for t in self._tensors.values():
            self._starts.setdefault(t.file, []).append((t.start, t.name))
        for starts in self._starts.values():
            starts.sort()
        self._left: Counter[str] = Counter()
        self._held: dict[str, NDArray[np.uint8]] = {}
        self.bytes_read = 0

    def expect(self, views: Iterable[View]) -> None:
        """Say that these will be read; their tensors are held until `done` was said of every one."""
        for view in views:
            self._left.update(set(tensors_of(view)))

    def done(self, view: View) -> None:
        """Say that a view was read."""
        for name in set(tensors_of(view)):
            self._left[name] -= 1
            if self._left[name] <= 0:
                del self._left[name]
                self._held.pop(name, None)

    # --- what a checkpoint asks of its reader ---

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of `file`. Raises SourceError."""
        tensor = self._at(file, start)
        if tensor is None or self._left[tensor.name] <= 0 or start + len(buffer) > tensor.start + tensor.nbytes:
            self._read(file, start, buffer)
            return
        held = self._held.get(tensor.name)
        if held is None:
            held = np.empty(tensor.nbytes, np.uint8)
            self._read(file, tensor.start, held.data)
            self._held[tensor.name] = held
        at = start - tensor.start
        np.frombuffer(buffer, np.uint8)[:] = held[at : at + len(buffer)]

    def beside(self) -> list[str]:
        """Names of the files that lie there."""
        return self._reader.beside()

    def read_whole(self, file: str) -> bytes:
        """Read a small file."""
        return self._reader.read_whole(file)

    def stop(self) -> None:
        """Let reads that wait fail."""
        self._reader.stop()

    def close(self) -> None:
        """Let go of what reads have opened, and of what is held."""
        self._held.clear()
        self._reader.close()

    def _at(self, file: str, start: int) -> Tensor | None:
        starts = self._starts.get(file, [])
        i = bisect_right(starts, (start, "\U0010ffff")) - 1
        return self._tensors[starts[i][1]] if i >= 0 else None

    def _read(self, file: str, start: int, buffer: memoryview) -> None:
        self._reader.read_into(file, start, buffer)
        self.bytes_read += len(buffer)


def reading_once(source: Checkpoint) -> tuple[Checkpoint, Once]:
    """The same checkpoint, its tensors read through `Once`."""
    assert source.reader is not None, "a config alone has no weights"
    once = Once(source.reader, source.tensors.values())
    return replace(source, reader=once), once
