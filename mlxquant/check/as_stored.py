"""Modules whose bytes cannot be made again here: how far they are from the source, beside rounding.

The bytes of the methods gptq and distill depend on documents, BLAS and machine. So of such modules `verify --source`
reads what is stored, takes the distance of its values from the source's, and that of rounding in the same format. A
build of other weights is about sqrt(2) away where its own are 0.1 at 4 bits, so distances tell the one from the other,
though not whether every integer is the one that the pass chose; the manifest's hashes do that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..kernels import ErrorSums, Quantized, Rows, measure_rows, merged_sums, quantize_rows
from ..source.headers import Read, Tensor
from ..words.formats import BY_LAYER

# Farther from the source than this many times rounding's distance, a module was not made of it
_FARTHEST = 3.0


@dataclass(frozen=True)
class AsStored:
    """An encoder that gives rows as a build's `tensors` have them, and sums their errors and rounding's by module."""

    tensors: Mapping[str, Tensor]
    read: Read
    sums: dict[str, tuple[ErrorSums | None, ErrorSums | None]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def signature(self) -> Mapping[str, Any]:
        """Empty: nothing is chosen here."""
        return {}

    def encode(self, rows: Rows, out: Quantized, *, errors: bool) -> ErrorSums | None:
        """Read `rows` as they are stored into `out`."""
        parts = (("weight", out.packed), ("scales", out.scales), ("biases", out.biases))
        for part, array in parts:
            if array is not None:
                tensor = self.tensors[f"{rows.module}.{part}"]
                start = tensor.start + rows.first_row * array[0].nbytes
                self.read(tensor.file, start, array.reshape(-1).view(np.uint8).data)
        own = measure_rows(rows.values, rows.dtype, out, rows.format)
        rounded = quantize_rows(rows.values, rows.dtype, rows.format, errors=True, allow_nonfinite=True)[1]
        with self.lock:
            before = self.sums.get(rows.module, (None, None))
            self.sums[rows.module] = merged_sums(before[0], own, 0), merged_sums(before[1], rounded, 0)
        return own if errors else None

    def distances(self) -> dict[str, tuple[float, float]]:
        """Relative RMS distance of each module's values from the source's, and rounding's."""
        return {
            path: (own.relative_rms_error, rounded.relative_rms_error)
            for path, (own, rounded) in sorted(self.sums.items())
            if own is not None and rounded is not None
        }

    def differences(self) -> list[str]:
        """Modules that are so far away that they are not of this source."""
        return [
            f"{path}: {own:.4f} of the source's size away where rounding is {rounded:.4f}: not made of this source"
            for path, (own, rounded) in self.distances().items()
            if not own <= _FARTHEST * rounded
        ]

    def note(self, methods: Iterable[str]) -> str | None:
        """What was measured, in a sentence; None where no module was. `methods` are those of the build's modules."""
        distances = self.distances()
        if not distances:
            return None
        path, (distance, rounded) = max(distances.items(), key=lambda item: item[1][0])
        own = set(methods)
        return (
            f"method {' or '.join(method for method in BY_LAYER if method in own)}:"
            f" {len(distances):,} modules depend on documents and machine: measured, not made again, at most"
            f" {distance:.4f} of the source's size away ({path}; rounding {rounded:.4f})"
        )
