"""Encoders: rows of a module in; integers, scales and biases out.

`builds.write` reads rows, writes what an encoder makes of them, and knows nothing of how it chooses. Two are here:
`Rounding`, whose bytes are those of `mx.quantize`, and `Searching`, which chooses each group's scale and bias for the
least squared error. Encoders that compensate errors implement the same protocol; which of them encodes which module is
for whoever makes them to say, by `Rows.module`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..words.formats import Format, widen
from ..words.progress import Watch
from .error_sums import ErrorSums
from .rows import Quantized, dequantize_rows, has_fast_path, measure_rows, quantize_rows


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


@runtime_checkable
class PreparedEncoder(Encoder, Protocol):
    """An encoder that has work to do before the first row, and says afterwards what came of it."""

    def prepare(self, folder: Path, watch: Watch) -> None:
        """Do it, keeping what is finished in `folder`, to go on from there. Called once, before `encode`."""
        ...

    def files(self) -> list[str]:
        """Names of the files that `prepare` may leave there, below the folder."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the disk that this takes there, at most."""
        ...

    @property
    def notes(self) -> list[str]:
        """What the audit says of it, once prepared."""
        ...


@runtime_checkable
class CalibratedEncoder(Encoder, Protocol):
    """An encoder that knows on how many inputs a module was fitted."""

    def inputs(self, module: str) -> Mapping[str, Any] | None:
        """What the audit says of a module's inputs, as JSON (see `InputCounts`); None where it had none."""
        ...


@dataclass(frozen=True, slots=True)
class InputCounts:
    """Rows of inputs that a module was fitted to, and that judged it.

    `rows` to fit, of all sets; `fewest` and `most` of one set: an expert of stacked weights, else the module itself.
    `held_out` judged, of all sets. `unreached` are the experts that no row to fit reached.
    """

    rows: int
    fewest: int
    most: int
    held_out: int
    unreached: tuple[int, ...]

    @classmethod
    def of(cls, fitted: NDArray[np.int64], held_out: NDArray[np.int64]) -> InputCounts:
        """From the rows of each set, (sets,)."""
        unreached = tuple(int(i) for i in np.flatnonzero(fitted == 0)) if len(fitted) > 1 else ()
        return cls(int(fitted.sum()), int(fitted.min()), int(fitted.max()), int(held_out.sum()), unreached)

    def as_dict(self) -> dict[str, Any]:
        """As the audit has it."""
        return {**asdict(self), "unreached": list(self.unreached)}


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


class ColumnWeights(Protocol):
    """Weights of modules' input columns, a set for each expert: mean squares of what enters them, say.

    A set is (columns,) positive and finite; sets come as (experts or 1, columns), with the rows of the weight that use
    each of them. None stands for a module that has no weights.
    """

    @property
    def signature(self) -> Mapping[str, Any]:
        """What the weights are and come from, as JSON."""
        ...

    def of(self, module: str) -> tuple[NDArray[np.float32], int] | None:
        """The sets that errors are weighed by."""
        ...

    def held_out(self, module: str) -> tuple[NDArray[np.float32], int] | None:
        """Sets of other data, by which what the first ones chose is judged."""
        ...

    def counts(self, module: str) -> InputCounts | None:
        """The rows that the sets come from."""
        ...


@dataclass(frozen=True, slots=True)
class Searching:
    """Searches scale and bias of each group for the least squared error, weighed by column where `columns` are given.

    Without columns no group is worse than rounded. With them a row stays rounded where it would be worse under the
    columns of the data held out. The bytes are the same on every CPU; see `search`. Modes that have no biases, and
    groups with NaN or infinity, are rounded.
    """

    columns: ColumnWeights | None = None
    allow_nonfinite: bool = False

    @property
    def signature(self) -> Mapping[str, Any]:
        """The method, and what its weights are made from."""
        if self.columns is None:
            return {"method": "mse"}
        return {"method": "imatrix", "columns": dict(self.columns.signature)}

    def inputs(self, module: str) -> Mapping[str, Any] | None:
        """The rows that a module's column weights come from."""
        counts = None if self.columns is None else self.columns.counts(module)
        return None if counts is None else counts.as_dict()

    def encode(self, rows: Rows, out: Quantized, *, errors: bool) -> ErrorSums | None:
        """Round `rows` into `out`, then better each group."""
        values, dtype, fmt = rows.values, rows.dtype, rows.format
        searched = has_fast_path(fmt, dtype) and out.biases is not None
        sums = quantize_rows(
            values, dtype, fmt, out=out, errors=errors and not searched, allow_nonfinite=self.allow_nonfinite
        )[1]
        if not searched or out.biases is None:
            return sums
        from .search import search

        weights = None if self.columns is None else _of_rows(self.columns.of(rows.module), rows)
        judges = None if self.columns is None else _of_rows(self.columns.held_out(rows.module), rows)
        rounded = None if judges is None else Quantized(out.packed.copy(), out.scales.copy(), out.biases.copy())
        search(dtype, fmt.group_size, fmt.bits, values, out.packed, out.scales, out.biases, *(weights or (None, None)))
        if rounded is not None and judges is not None:
            _restore_worse(rows, rounded, out, judges[0][judges[1]])
        return measure_rows(values, dtype, out, fmt) if errors else None


def _of_rows(
    sets: tuple[NDArray[np.float32], int] | None, rows: Rows
) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """The sets of column weights of the rows' module, and which set each row uses."""
    if sets is None:
        return None
    numbers = np.arange(rows.first_row, rows.first_row + len(rows.values), dtype=np.int64)
    return sets[0], numbers // sets[1]


def _restore_worse(rows: Rows, rounded: Quantized, out: Quantized, weights: NDArray[np.float32]) -> None:
    """Put rounded rows back where their error is less under `weights` (rows, columns)."""
    values = widen(rows.values, rows.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        losses = [
            (weights * np.square(dequantize_rows(q, rows.dtype, rows.format) - values)).sum(1, dtype=np.float64)
            for q in (out, rounded)
        ]
        worse = losses[0] > losses[1]
    if worse.any() and out.biases is not None and rounded.biases is not None:
        for ours, theirs in ((out.packed, rounded.packed), (out.scales, rounded.scales), (out.biases, rounded.biases)):
            ours[worse] = theirs[worse]


@dataclass(frozen=True, slots=True)
class ByModule:
    """Hands each module's rows to the encoder of its method; `others` encodes those that `encoders` does not name."""

    encoders: Mapping[str, Encoder]
    others: Encoder

    @property
    def signature(self) -> Mapping[str, Any]:
        """The signatures of all encoders that are used, each once; which module has which is the recipe's to say."""
        signatures = [dict(e.signature) for e in {id(e): e for e in (*self.encoders.values(), self.others)}.values()]
        own = [s for s in signatures if s]
        return {"encoders": own} if own else {}

    def inputs(self, module: str) -> Mapping[str, Any] | None:
        """What the module's own encoder says of its inputs."""
        encoder = self.encoders.get(module, self.others)
        return encoder.inputs(module) if isinstance(encoder, CalibratedEncoder) else None

    def encode(self, rows: Rows, out: Quantized, *, errors: bool) -> ErrorSums | None:
        """Encode by the module's own encoder."""
        return self.encoders.get(rows.module, self.others).encode(rows, out, errors=errors)
