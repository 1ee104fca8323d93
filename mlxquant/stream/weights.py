"""The arrays of one step of the pass (the embedding, a layer, the head), for the reference and for each candidate.

A source's array is read once, as mlx-lm's sanitize makes it and in the source's dtype, and kept as bytes while the
step lasts. From these bytes are made

    reference    float(view)                          one cast, to the computing dtype
    a recipe     float(scale), float(bias), packed    quantized as `convert` does, from the dtype that convert casts to
                 float(cast(view))                    what the recipe keeps

so no dequantized weight is ever rounded. A recipe's array that would equal the reference's is the reference's. Arrays
of a build on disk are read as mlx-lm would load them, and cast likewise.

A checkpoint's tensor is read from the disk once and whole, however many arrays are cut from it. Hub tensors are often
fused (gate and up projections of all experts in one), and gathering the rows of each part separately would read the
same bytes twice. `OnceReader` brings a tensor in when the first of its arrays is made, serves it to the others from
memory, and drops it with the last of them. So memory is that of the tensors of one module, and what was read can be
counted and held against what there was to read.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..builds.methods import methods_of, needs_columns, needs_documents
from ..builds.write.making import nonfinite_error
from ..builds.write.pieces import SIZES
from ..errors import UsageError
from ..kernels import BlockFault, ColumnWeights, Encoder, Quantized, Rounding, Rows, Searching, has_fast_path
from ..layout.arrays import tensors_of
from ..layout.views.bytes import MLX_DTYPES, SAFETENSORS_DTYPES, to_mlx, to_numpy
from ..layout.views.read import read_rows, rows_in
from ..layout.views.view import View
from ..plan.plan import OutputArray, Plan, PlannedModule
from ..source.checkpoint import Checkpoint, Reader
from ..source.headers import Tensor
from ..words.formats import BY_LAYER, DISTILL, FLOATS, GPTQ, IMATRIX, MSE, RTN, Format, carrier

# --- tensors, each read once ---


class OnceReader:
    """A reader before a checkpoint's own: `expect` views, read them, `done` with each."""

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
        """Announce views: their tensors are held until each of them is `done`."""
        for view in views:
            self._left.update(set(tensors_of(view)))

    def done(self, view: View) -> None:
        """Take note that a view was read."""
        for name in set(tensors_of(view)):
            self._left[name] -= 1
            if self._left[name] <= 0:
                del self._left[name]
                self._held.pop(name, None)

    # --- the interface of a reader ---

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of `file`. Raises SourceError."""
        tensor = self._at(file, start)
        # nobody expects it, or the range ends beyond it: such a read is passed on as it is
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

    def listing(self) -> list[str]:
        """Names of the files that lie there."""
        return self._reader.listing()

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
        # the tensor with the last start at or before this byte; the sign sorts after every name
        starts = self._starts.get(file, [])
        i = bisect_right(starts, (start, "\U0010ffff")) - 1
        return self._tensors[starts[i][1]] if i >= 0 else None

    def _read(self, file: str, start: int, buffer: memoryview) -> None:
        self._reader.read_into(file, start, buffer)
        self.bytes_read += len(buffer)


def read_once(source: Checkpoint) -> tuple[Checkpoint, OnceReader]:
    """The same checkpoint, its tensors read through `OnceReader`."""
    assert source.reader is not None, "a config alone has no weights"
    once = OnceReader(source.reader, source.tensors.values())
    return replace(source, reader=once), once


# --- arrays ---


Arrays = dict[str, mx.array]
# Methods whose integers depend on what enters a module
ON_INPUTS = (IMATRIX, *BY_LAYER)
# numpy's type for values of a dtype, as the kernels take them


@dataclass(frozen=True, slots=True)
class Raw:
    """An array of the source as bytes: (rows, bytes a row), its shape and dtype."""

    data: NDArray[np.uint8]
    shape: tuple[int, ...]
    dtype: str

    def array(self, dtype: str) -> mx.array:
        """As an mx.array of `shape` in a dtype, evaluated: nothing is left of the one that it was cast from."""
        array = to_mlx(self.data, self.shape, MLX_DTYPES[self.dtype])
        if dtype != self.dtype:
            array = array.astype(MLX_DTYPES[dtype])
        mx.eval(array)
        return array

    def rows(self, dtype: str) -> NDArray[Any]:
        """As (rows, columns) of a float dtype, leading axes (experts) joined, in the types that the kernels take."""
        data = self.data if dtype == self.dtype else to_numpy(self.array(dtype))
        values: NDArray[Any] = data.reshape(-1).view(carrier(dtype))
        return values.reshape(prod(self.shape[:-1]), self.shape[-1])


class Views:
    """Reads the views of a checkpoint, each tensor once. `computing` is the dtype of floats, None leaves them."""

    def __init__(self, checkpoint: Checkpoint, views: Mapping[str, View], computing: str | None) -> None:
        self._checkpoint, self._once = read_once(checkpoint)
        self._views, self.computing = views, computing
        self.bytes_of_arrays = 0

    @property
    def bytes_read(self) -> int:
        """Bytes that came from the disk so far."""
        return self._once.bytes_read

    def read(self, names: Iterable[str]) -> dict[str, Raw]:
        """Read arrays by name. Raises SourceError where a file ends early."""
        names = list(names)
        self._once.expect(self._views[n] for n in names)
        return {n: self._read(self._views[n]) for n in names}

    def _read(self, view: View) -> Raw:
        width = (view.shape[-1] if view.ndim else 1) * view.itemsize
        data = np.empty((rows_in(view), width), np.uint8)
        if data.size:
            read_rows(view, self._checkpoint.read_into, 0, data)
        self._once.done(view)
        return Raw(data, view.shape, SAFETENSORS_DTYPES[view.dtype])

    def computed(self, dtype: str) -> str:
        """The dtype in which values that are stored in `dtype` take part in the computation."""
        return self.computing if self.computing and dtype in FLOATS else dtype


def stored_arrays(views: Views, raws: Mapping[str, Raw]) -> Arrays:
    """Arrays as a build stores them, floats cast to the computing dtype."""
    return {name: raw.array(views.computed(raw.dtype)) for name, raw in raws.items()}


def reference_arrays(views: Views, raws: Mapping[str, Raw], planned: Iterable[PlannedModule]) -> Arrays:
    """The reference's arrays: from the source's dtype to the computing one at once, or as a build would keep them."""
    arrays: Arrays = {}
    for out in (out for module in planned for out in module.arrays()):
        raw = raws[out.source]
        arrays[out.name] = raw.array(views.computed(raw.dtype) if views.computing else out.values)
    return arrays


@dataclass(frozen=True, slots=True)
class OwnEncoder:
    """The encoder of a recipe's modules that need documents; recipes of one `origin` have them encoded alike."""

    encoder: Encoder
    origin: str


class Quantizer:
    """Makes a recipe's arrays; what a later recipe needs in the same format is kept for it until `forget`."""

    def __init__(
        self,
        views: Views,
        *,
        allow_nonfinite: bool = False,
        device: str = "cpu",
        columns: ColumnWeights | None = None,
    ) -> None:
        self._views, self._device = views, device
        rounding = Rounding(allow_nonfinite, device)
        self._encoders: dict[str, Encoder] = {RTN: rounding, MSE: Searching(None, allow_nonfinite)}
        if columns is not None:
            self._encoders[IMATRIX] = Searching(columns, allow_nonfinite)
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="quantize")
        self._quantized: dict[tuple[str, str, Format, str, str], Arrays] = {}

    def check(self, plan: Plan) -> None:
        """Raise UsageError for a method that there is no encoder for."""
        if needs_documents(plan):
            if DISTILL in methods_of(plan.modules).values():
                raise UsageError(
                    f"recipe {plan.recipe}: method {DISTILL} learns layer by layer on documents of its own, so it"
                    " cannot be judged without a build; write one with `mlxquant convert --data FILE -o OUT`, then"
                    " `mlxquant compare --build OUT`"
                )
            raise UsageError(
                f"recipe {plan.recipe}: method {GPTQ} encodes layer by layer on documents of its own; give"
                " --calibration-data FILE"
            )
        if needs_columns(plan) and IMATRIX not in self._encoders:
            raise UsageError(
                f"recipe {plan.recipe}: method {IMATRIX} needs a calibration; give --calibration CAL, a file written by"
                " `mlxquant calibrate`"
            )

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown()

    def forget(self) -> None:
        """Drop what was kept: the next step's arrays are others."""
        self._quantized.clear()

    def arrays(
        self,
        planned: Sequence[PlannedModule],
        raws: Mapping[str, Raw],
        reference: Mapping[str, mx.array],
        keep: Callable[[str, Format, str], bool] = lambda _name, _format, _method: False,
        own: OwnEncoder | None = None,
    ) -> Arrays:
        """The arrays of modules as a recipe plans them. `reference` are the reference's, to share.

        `keep` says which arrays a later recipe wants in the same format by the same method; `own` is the recipe's
        encoder where it is encoded on documents.

        Raises NonFiniteError as `convert` does.
        """
        arrays: Arrays = {}
        for module in planned:
            for out in module.arrays():
                if out.name not in arrays:  # weight, scales and biases come out of one quantization
                    arrays |= self._make(out, raws, reference, keep, own if out.method in ON_INPUTS else None)
        return arrays

    def _make(
        self,
        out: OutputArray,
        raws: Mapping[str, Raw],
        reference: Mapping[str, mx.array],
        keep: Callable[[str, Format, str], bool],
        own: OwnEncoder | None,
    ) -> Arrays:
        raw = raws[out.source]
        if out.format is None:
            same = out.values == raw.dtype or self._views.computing is None
            if same and out.source == out.name and out.name in reference:
                return {out.name: reference[out.name]}
            # two casts, as in a build: to the dtype that it would store, then to the one computed in
            cast = Raw(to_numpy(raw.array(out.values)).reshape(raw.data.shape[0], -1), raw.shape, out.values)
            return {out.name: cast.array(self._views.computed(out.values))}
        key = (out.source, out.values, out.format, out.method, "" if own is None else own.origin)
        if (arrays := self._quantized.pop(key, None)) is None:
            arrays = self._quantize(out, raw, self._encoders[out.method] if own is None else own.encoder)
        if keep(out.source, out.format, out.method):
            self._quantized[key] = arrays
        return arrays

    def _quantize(self, out: OutputArray, raw: Raw, encoder: Encoder) -> Arrays:
        fmt, dtype = out.format, out.values
        assert fmt is not None
        rows = raw.rows(dtype)
        quantized = Quantized.empty(len(rows), rows.shape[1], dtype, fmt)
        # rows are quantized independently, so blocks of them give the bytes that the whole would
        step = max(1, SIZES.block // max(1, rows.shape[1] * rows.itemsize))
        if not has_fast_path(fmt, dtype) or self._device != "cpu":
            step = len(rows)  # mlx does it, on this thread
        cuts = [(at, min(at + step, len(rows))) for at in range(0, len(rows), step)]

        path = out.source.rpartition(".")[0]

        def run(cut: tuple[int, int]) -> None:
            part = slice(*cut)
            try:
                encoder.encode(Rows(path, cut[0], rows[part], dtype, fmt), quantized.rows(part), errors=False)
            except BlockFault as fault:
                raise nonfinite_error(out.source, cut[0] + fault.row, fault.column, fault.kind) from None

        for _ in self._pool.map(run, cuts) if len(cuts) > 1 else map(run, cuts):
            pass
        return dict(self._parts(out, raw, quantized))

    def _parts(self, out: OutputArray, raw: Raw, quantized: Quantized) -> Iterator[tuple[str, mx.array]]:
        """Packed weight, scales and biases by name, in the shape that the module has them: (experts, out, …)."""
        path = out.name.rpartition(".")[0]
        lead = raw.shape[:-1]
        yield f"{path}.weight", mx.array(quantized.packed.reshape(*lead, -1))
        stored = out.values if quantized.biases is not None else "U8"
        scales = Raw(_bytes(quantized.scales), (*lead, quantized.scales.shape[-1]), stored)
        yield f"{path}.scales", scales.array(self._views.computed(scales.dtype))
        if quantized.biases is not None:
            biases = Raw(_bytes(quantized.biases), scales.shape, out.values)
            yield f"{path}.biases", biases.array(self._views.computed(out.values))


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)
