"""The hidden states that travel through the layers: streams × tokens × width, in memory or in files.

A layer reads one set of states and writes another; which set is which turns round. In files there are three sets, so
that the one which a resumed run would start from is never written to. Files are written and read by position: the
system's page cache keeps in memory what fits, and a full disk is an error, not a crash.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import xxhash
from numpy.typing import NDArray

from ..disk import files as disk
from ..layout.views.bytes import to_mlx, to_numpy
from ..source.checkpoint import read_at

SETS = 3


class Hidden:
    """States of `streams` for documents of `lengths` tokens, `width` values of `dtype` each; in `folder` if given."""

    def __init__(self, folder: Path | None, streams: int, lengths: Sequence[int], width: int, dtype: mx.Dtype) -> None:
        self._folder, self._streams, self._lengths = folder, streams, list(lengths)
        self._width, self._dtype = width, dtype
        self._row = width * int(dtype.size)
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)]).astype(int)
        self.current, self.kept = 0, None if folder is None else 0
        self._memory: dict[tuple[int, int, int], NDArray[np.uint8]] = {}
        self._handles: dict[int, int] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of one set."""
        return self._streams * int(self._starts[-1]) * self._row

    @property
    def following(self) -> int:
        """The set that is written: neither the one that is read nor the one that is kept for a resumed run."""
        return next(s for s in range(SETS) if s not in (self.current, self.kept))

    def read(self, stream: int, document: int) -> mx.array:
        """One document's state in the current set, (1, n, width)."""
        return self._get(self.current, stream, document)

    def read_following(self, stream: int, document: int) -> mx.array:
        """The same in the set that is being written."""
        return self._get(self.following, stream, document)

    def write(self, stream: int, document: int, state: mx.array) -> None:
        """Put one document's state (1, n, width) into the following set."""
        data = to_numpy(state)
        if self._folder is None:
            self._memory[self.following, stream, document] = data
            return
        disk.write_at(self._handle(self.following), data.data, self._at(stream, document), self._path(self.following))

    def turn(self) -> None:
        """Let the following set be the current one."""
        old, self.current = self.current, self.following
        if self._folder is None:
            for key in [k for k in self._memory if k[0] == old]:
                del self._memory[key]

    def digest(self, which: int) -> str:
        """Checksum of a set's file."""
        seen = xxhash.xxh3_128()
        for block in self._blocks(which):
            seen.update(block.data)
        return seen.hexdigest()

    def matches(self, which: int, digest: str) -> bool:
        """Whether a set's file is there, whole, and has this checksum."""
        if self._folder is None or not self._path(which).is_file() or self._path(which).stat().st_size < self.nbytes:
            return False
        return self.digest(which) == digest

    def start_from(self, which: int) -> None:
        """Go on from a set that an earlier run kept."""
        self.current = self.kept = which

    def close(self) -> None:
        """Close the files; they stay where they are."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()
        self._memory.clear()

    def _get(self, which: int, stream: int, document: int) -> mx.array:
        n = self._lengths[document]
        if self._folder is None:
            data = self._memory[which, stream, document]
        else:
            data = np.empty(n * self._row, np.uint8)
            read_at(self._handle(which), self._path(which).name, self._at(stream, document), data.data)
        return to_mlx(data, (1, n, self._width), self._dtype)

    def _at(self, stream: int, document: int) -> int:
        return (stream * int(self._starts[-1]) + int(self._starts[document])) * self._row

    def _blocks(self, which: int, size: int = 1 << 22) -> Iterator[NDArray[np.uint8]]:
        for at in range(0, self.nbytes, size):
            data = np.empty(min(size, self.nbytes - at), np.uint8)
            read_at(self._handle(which), self._path(which).name, at, data.data)
            yield data

    def _path(self, which: int) -> Path:
        assert self._folder is not None
        return self._folder / f"hidden-{which}.bin"

    def _handle(self, which: int) -> int:
        if which not in self._handles:
            self._handles[which] = disk.open_to_write(self._path(which))
        return self._handles[which]
