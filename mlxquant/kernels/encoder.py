"""Encoders: rows of a module in; integers, scales and biases out.

`builds.write` reads rows, writes what an encoder makes of them, and knows nothing of how it chooses. The one here,
`Rounding`, needs no data: the bytes are those of `mx.quantize`. Encoders that search, weigh or compensate implement the
same protocol; which of them encodes which module is for whoever makes them to say, by `Rows.module`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from ..words.formats import Format
from .error_sums import ErrorSums
from .rows import Quantized, quantize_rows


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one module's weight, to be encoded in `format`.

    `values` are (rows, columns), C-contiguous: uint16 bit patterns for BF16, float16 for F16, float32 for F32.
    `first_row` is where they begin in the weight. Rows count through all experts: row 700 of a weight of shape
    (256, 512, 2048) is row 188 of expert 1, and one block may hold rows of several experts.
    """

    module: str
    first_row: int
    values: NDArray[Any]
    dtype: str
    format: Format


class Encoder(Protocol):
    """Encodes rows of weights. Threads call `encode` side by side.

    The bytes of a row must not depend on what other rows it comes with: blocks are cut to fit memory, and a check
    makes any of them again. What a row depends on beyond itself (moments of its expert's inputs, say) is fixed before.
    """

    @property
    def signature(self) -> Mapping[str, Any]:
        """All that its bytes depend on beside rows, dtype and format, as JSON; empty where there is nothing.

        Unfinished work is taken up again only where it is the same, and the manifest holds it.
        """
        ...

    def encode(self, rows: Rows, out: Quantized, *, errors: bool) -> ErrorSums | None:
        """Write integers, scales and biases of `rows` to `out`, of the shapes of `Quantized.empty`.

        Gives the error sums of the rows with `errors`, else None. Raises BlockFault for values that have no finite
        quantization.
        """
        ...


@dataclass(frozen=True, slots=True)
class Rounding:
    """Rounds to nearest, byte for byte as `mx.quantize` does on `device`, "cpu" or "gpu".

    With `allow_nonfinite`, NaN, infinity and ranges that overflow become what mlx makes of them.
    """

    allow_nonfinite: bool = False
    device: str = "cpu"

    @property
    def signature(self) -> Mapping[str, Any]:
        """Empty: dtype, device and finite values stand among the options of a conversion."""
        return {}

    def encode(self, rows: Rows, out: Quantized, *, errors: bool) -> ErrorSums | None:
        """Round `rows` to nearest into `out`."""
        return quantize_rows(
            rows.values,
            rows.dtype,
            rows.format,
            out=out,
            errors=errors,
            allow_nonfinite=self.allow_nonfinite,
            device=self.device,
        )[1]
