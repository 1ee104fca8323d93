"""Making one piece of a build: read source rows, cast, encode, write them in their place, sum the error, checksum.

Which rows, and in what order, is for others to say (see `pieces`, `workers`); so is where bytes go: `Target` writes
them into open files, `check.remake` only compares them with what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from ...disk import files as disk
from ...disk.journal import Finished
from ...errors import NonFiniteError
from ...kernels import BlockFault, Encoder, ErrorSums, Rows, merged_sums
from ...layout.views.bytes import MLX_DTYPES, to_mlx, to_numpy
from ...layout.views.read import read_rows
from ...plan.plan import OutputArray
from ...source.headers import Read
from ...words.formats import DTYPES, FLOATS, Format, carrier, nonfinite
from .pieces import Output, Piece
from .workers import Scratch


@dataclass(frozen=True)
class Target:
    """Where arrays lie: name -> (open file, its path, first byte)."""

    places: Mapping[str, tuple[int, Path, int]]

    def write(self, output: Output, part: OutputArray, row: int, data: NDArray[Any]) -> None:
        """Write rows of one array from `row` on: (rows, words) of any dtype, C-contiguous."""
        handle, path, start = self.places[part.name]
        disk.write_at(handle, data.data.cast("B"), start + row * output.row_bytes(part), path)


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes pieces: reads by `read`, encodes by `encoder`, writes to `target`.

    `errors` asks for error sums. With `allow_nonfinite`, NaN and infinity in dense arrays are stored as they are; for
    quantized ones the encoder decides.
    """

    read: Read
    target: Target
    encoder: Encoder
    errors: bool = True
    allow_nonfinite: bool = False

    def make(self, piece: Piece, scratch: Scratch) -> Finished:
        """Make one piece. Raises NonFiniteError naming tensor, row and column; SourceError, OutputError."""
        checksums = [xxhash.xxh3_64() for _ in piece.output.parts]
        updates = [checksum.update for checksum in checksums]
        fmt = piece.output.parts[0].format
        errors = None
        if fmt is None:
            self._dense(piece, scratch, updates[0])
        else:
            errors = self._encoded(piece, fmt, scratch, updates)
        return Finished(
            output=piece.output.name,
            start=piece.start,
            checksums=tuple(checksum.hexdigest() for checksum in checksums),
            errors=errors.as_dict() if errors is not None else None,
            checked=not self.allow_nonfinite,
        )

    def _dense(self, piece: Piece, scratch: Scratch, update: Callable[[Any], None]) -> None:
        output = piece.output
        for start, rows in piece.blocks:
            block = read_block(output, self.read, start, rows, scratch)
            if not self.allow_nonfinite:
                check_finite(block, output.dtype, output.name, start)
            self.target.write(output, output.parts[0], start, block)
            update(block)

    def _encoded(
        self, piece: Piece, fmt: Format, scratch: Scratch, updates: Sequence[Callable[[Any], None]]
    ) -> ErrorSums | None:
        output, dtype = piece.output, piece.output.dtype
        total: ErrorSums | None = None
        for start, rows in piece.blocks:
            values = read_block(output, self.read, start, rows, scratch).view(carrier(dtype))
            packed = scratch.packed(rows, output.columns, dtype, fmt)
            try:
                errors = self.encoder.encode(Rows(output.module, start, values, dtype, fmt), packed, errors=self.errors)
            except BlockFault as fault:
                raise nonfinite_error(output.name, start + fault.row, fault.column, fault.kind) from None
            arrays = [a for a in (packed.packed, packed.scales, packed.biases) if a is not None]
            for part, data, update in zip(output.parts, arrays, updates, strict=True):
                self.target.write(output, part, start, data)
                update(data)
            total = merged_sums(total, errors, start - piece.start)
        return total


def read_block(output: Output, read: Read, start: int, rows: int, scratch: Scratch) -> NDArray[np.uint8]:
    """Read source rows and cast them to the output's dtype: (rows, columns * itemsize) bytes.

    The result lies in `scratch`, unless it was cast, and is overwritten by the next call.
    """
    width = output.source_row_bytes
    block = scratch.take(rows * width).reshape(rows, width)
    read_rows(output.view, read, start, block)
    dtype = MLX_DTYPES[output.dtype]
    if dtype == output.view.dtype:
        return block
    cast = to_mlx(block, (rows, output.columns), output.view.dtype).astype(dtype)
    return to_numpy(cast).reshape(rows, output.columns * DTYPES[output.dtype].nbytes)


def check_finite(block: NDArray[np.uint8], dtype: str, name: str, start: int) -> None:
    """Raise NonFiniteError, naming tensor and place, if a dense block of floats holds NaN or infinity.

    `block` is (rows, columns * itemsize) bytes, of which the first row is row `start` of the tensor.
    """
    if dtype not in FLOATS:
        return
    bad = nonfinite(block, dtype)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise nonfinite_error(name, start + row, column, "NaN or infinity")


def nonfinite_error(name: str, row: int, column: int, kind: str) -> NonFiniteError:
    """The error for a value that has no finite quantization, saying where and what to do."""
    what = "a group whose range overflows its scale" if kind == "overflow" else kind
    return NonFiniteError(
        f"{name}: row {row:,}, column {column:,}: finite values expected, {what} found (the first; there may be more);"
        " download the shard again, or pass --allow-nonfinite to store it as it is"
    )
