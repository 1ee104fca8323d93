"""Strided windows on a tensor's bytes, and gathering their rows by positioned reads.

Renames, slices, transposes and reshapes move no data: the result is still bytes of one stored tensor, at
``start + i0*strides[0] + i1*strides[1] + …`` (byte strides, as numpy has them). A fused Hub tensor
`gate_up_proj` (E, 2I, H) in bf16 cut to its first I rows is ``shape (E, I, H), strides (4IH, 2H, 2)``.
A block of rows of the result then needs only its own source bytes, read into one buffer.

What this leaves out: arithmetic (see `views`), and reshapes that no strides can express.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from ...source.headers import Read, Tensor

# Bytes of source that one read may span while rows are gathered out of it.
SPAN = 4 << 20
# Below this share of wanted bytes in a span, lines are read one by one.
DENSE = 0.25


@dataclass(frozen=True, slots=True)
class Strided:
    """A window on `tensor`: logical `shape`, byte `strides`, first element at `offset` from its start."""

    tensor: Tensor
    itemsize: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def whole(cls, tensor: Tensor, itemsize: int) -> Strided:
        """All of a tensor, row-major."""
        return cls(tensor, itemsize, 0, tensor.shape, row_major(tensor.shape, itemsize))

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        dense = row_major(self.shape, self.itemsize)
        return self.nbytes == 0 or all(
            n == 1 or s == want for n, s, want in zip(self.shape, self.strides, dense, strict=True)
        )

    @property
    def transposed(self) -> bool:
        """Whether the last axis is the wider spaced one: a row then draws on every line of the file."""
        return len(self.shape) > 1 and self.shape[-1] > 1 and self.strides[-1] > self.strides[-2]

    @property
    def nbytes(self) -> int:
        """Bytes of the elements it shows."""
        return prod(self.shape) * self.itemsize

    def permute(self, axes: tuple[int, ...]) -> Strided:
        """Reorder the axes, as numpy.transpose."""
        return replace(self, shape=tuple(self.shape[a] for a in axes), strides=tuple(self.strides[a] for a in axes))

    def slice(self, axis: int, start: int, step: int, length: int) -> Strided:
        """Take `length` entries of an axis from `start`, every `step`-th."""
        shape, strides = list(self.shape), list(self.strides)
        offset = self.offset + start * strides[axis]
        shape[axis], strides[axis] = length, strides[axis] * step
        return replace(self, offset=offset, shape=tuple(shape), strides=tuple(strides))

    def drop(self, axis: int) -> Strided:
        """Remove an axis of length 1."""
        return replace(
            self,
            shape=self.shape[:axis] + self.shape[axis + 1 :],
            strides=self.strides[:axis] + self.strides[axis + 1 :],
        )

    def insert(self, axis: int) -> Strided:
        """Insert an axis of length 1."""
        stride = self.itemsize
        return replace(
            self,
            shape=(*self.shape[:axis], 1, *self.shape[axis:]),
            strides=(*self.strides[:axis], stride, *self.strides[axis:]),
        )

    def reshape(self, shape: tuple[int, ...]) -> Strided | None:
        """Reshape without moving data, or None where strides cannot express it.

        Both shapes are cut into runs of axes with equal products; within a run the source must be evenly
        spaced (each stride the next one's times its length). E.g. (E, 2I, H) -> (E, 2, I, H) always works,
        (E, H, I) transposed from (E, I, H) -> (E, H*I) does not.
        """
        if prod(shape) != prod(self.shape):
            raise ValueError(f"cannot reshape {self.shape} into {shape}")
        if 0 in shape:
            return replace(self, shape=shape, strides=row_major(shape, self.itemsize))
        old = [(n, s) for n, s in zip(self.shape, self.strides, strict=True) if n != 1]
        strides, i = [0] * len(shape), 0
        j = 0
        while j < len(shape):
            if shape[j] == 1:
                strides[j] = self.itemsize
                j += 1
                continue
            first_i, first_j = i, j
            have, want = old[i][0], shape[j]
            i, j = i + 1, j + 1
            while have != want:
                if have < want:
                    have, i = have * old[i][0], i + 1
                else:
                    want, j = want * shape[j], j + 1
            run = old[first_i:i]
            if any(s != next_s * next_n for (_, s), (next_n, next_s) in pairwise(run)):
                return None
            step = run[-1][1]
            for axis in range(j - 1, first_j - 1, -1):
                strides[axis] = step
                step *= shape[axis]
        return replace(self, shape=shape, strides=tuple(strides))

    def reinterpret(self, itemsize: int) -> Strided | None:
        """View the bytes as elements of another size along the last axis (mx.array.view), or None."""
        if itemsize == self.itemsize:
            return self
        if not self.shape or self.strides[-1] != self.itemsize:
            return None
        width = self.shape[-1] * self.itemsize
        if width % itemsize or any(s % itemsize for s in self.strides[:-1]):
            return None
        return replace(
            self, itemsize=itemsize, shape=(*self.shape[:-1], width // itemsize), strides=(*self.strides[:-1], itemsize)
        )

    def rows(self) -> Strided:
        """The same with as few leading axes as strides allow: (…, cols), even runs of rows merged."""
        if not self.shape:
            return replace(self, shape=(1, 1), strides=(self.itemsize, self.itemsize))
        *lead, cols = self.shape
        shape: list[int] = []
        strides: list[int] = []
        for n, s in zip(lead, self.strides, strict=False):
            if n == 1:
                continue
            if shape and strides[-1] == n * s:
                shape[-1] *= n
                strides[-1] = s
            else:
                shape.append(n)
                strides.append(s)
        if not shape:
            shape, strides = [1], [cols * self.itemsize]
        return replace(self, shape=(*shape, cols), strides=(*strides, self.strides[-1]))

    def read_rows(self, read: Read, start: int, out: NDArray[np.uint8]) -> None:
        """Gather rows ``start … start+len(out)`` of the flattened leading axes into `out`.

        `out` is (rows, cols * itemsize) bytes, C-contiguous.
        """
        window = self.rows()
        *lead, _ = window.shape
        inner = lead[-1]
        done = 0
        while done < len(out):
            row = start + done
            count = min(inner - row % inner, len(out) - done)
            offset, rest = window.offset + (row % inner) * window.strides[-2], row // inner
            for n, s in zip(reversed(lead[:-1]), reversed(window.strides[:-2]), strict=True):
                offset += (rest % n) * s
                rest //= n
            window._read_matrix(read, offset, out[done : done + count])
            done += count

    def _read_matrix(self, read: Read, offset: int, out: NDArray[np.uint8]) -> None:
        """Gather one evenly spaced matrix: rows `strides[-2]` apart, columns `strides[-1]` apart."""
        rows, cols = len(out), self.shape[-1]
        row_step, col_step = self.strides[-2], self.strides[-1]
        size = self.itemsize
        if col_step == size and (row_step == cols * size or rows == 1):
            self.tensor.read_into(read, offset, out.data.cast("B"))
            return
        lines = out.view(f"u{size}")
        line_step, line_count, n, step = row_step, rows, cols, col_step
        if self.transposed:  # what is contiguous in the file are the columns
            lines = lines.T
            line_step, line_count, n, step = col_step, cols, rows, row_step
        extent = (n - 1) * step + size
        per_read = max(1, (SPAN - extent) // line_step + 1) if n * size >= DENSE * line_step else 1
        scratch = np.empty((per_read - 1) * line_step + extent, np.uint8)
        for i in range(0, line_count, per_read):
            k = min(per_read, line_count - i)
            span = scratch[: (k - 1) * line_step + extent]
            self.tensor.read_into(read, offset + i * line_step, span.data)
            picked = np.ndarray((k, n), lines.dtype, span, strides=(line_step, step))
            if self.transposed:
                from .tiles import copy_tiles

                copy_tiles(lines[i : i + k], picked)
            else:
                lines[i : i + k] = picked


def row_major(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Byte strides of a dense array. ``row_major((2, 3), 4) == (12, 4)``."""
    strides = [itemsize] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)
