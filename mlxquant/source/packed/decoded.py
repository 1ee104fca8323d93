"""A tensor that is in no file: its values are computed from stored tensors, only those that are read.

`Decoded` does the positions; a format adds `_decode`, which fills a block of whole or partial rows. Reads of any length
from any value on are cut into blocks that fit a core's cache, so the memory that a read takes does not grow with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...words.formats import DTYPES, carrier
from ..headers import Read, Tensor

# Values decoded at once: their float32 forms stay in a core's own cache.
AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class Decoded(Tensor, ABC):
    """A tensor of floats, (…, rows, columns), whose values are computed from `stored` tensors when they are read.

    `file` and `start` are those of the first stored tensor; `nbytes` counts the decoded values, which are in no file.
    """

    @property
    @abstractmethod
    def stored(self) -> tuple[Tensor, ...]:
        """The tensors in the files that its values are made of, the codes first."""

    @property
    def storage(self) -> str:
        """What its values are stored in: the dtype of the codes."""
        return self.stored[0].dtype

    @abstractmethod
    def _decode(self, read: Read, row: int, column: int, out: NDArray[Any]) -> None:
        """Fill `out` (rows, columns), an array of the dtype's carrier, with the values from (`row`, `column`) on.

        Rows are those of the flattened leading axes. Several rows are whole rows that `_together` allows.
        """

    def _together(self, row: int, most: int) -> int:
        """How many whole rows from `row` on, at most `most`, are decoded at once."""
        return max(1, min(most, AT_ONCE // self.shape[-1]))

    def read_into(self, read: Read, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with values, from byte `start` of them on; `read` brings what is stored."""
        size = DTYPES[self.dtype].nbytes
        assert start % size == 0 and len(buffer) % size == 0, "part of a value was asked for"
        out = np.frombuffer(buffer, carrier(self.dtype))
        width, done, at = self.shape[-1], 0, start // size
        while done < len(out):
            row, column = divmod(at + done, width)
            left = len(out) - done
            rows = self._together(row, left // width) if column == 0 and left >= width else 1
            values = min(rows * width - column, left)
            self._decode(read, row, column, out[done : done + values].reshape(rows, -1))
            done += values
