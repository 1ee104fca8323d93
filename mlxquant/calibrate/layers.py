"""What listens to a pass for the method gptq: keeps a layer's inputs, encodes its modules, and writes them.

`Layers` is a sink and a listener of the streamed pass (see `stream`). While documents go through a step it keeps what
enters the modules of the method; when all went through, it encodes them (see `encoded`) and lets the inputs go. Where
inputs are kept in rounds (see `room`), it asks for the documents once more. Of modules of the method imatrix it sums
squares, as a calibration does, and these sums travel with the pass's state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..kernels import Encoder, Quantized, Rows, dequantize_rows
from ..plan.plan import OutputArray, PlannedModule
from ..words.modules import Module
from .encoded import (
    Encoding,
    ModuleReport,
    Verdict,
    encode_modules,
    read_reports,
    read_rows,
    report_of,
    write_encoded,
)
from .inputs import InputSums
from .room import Round, Step, step_of
from .rows import SAMPLED_TOKENS, Call, InputRows, call_of


def file_of(step: Step) -> str:
    """The name of the file that a step's modules are written to."""
    return f"layer-{step:04d}.safetensors" if isinstance(step, int) else f"{step}.safetensors"


class Layers(InputSums):
    """Encodes `planned` modules, of which `rounds` says in which round whose inputs are kept; sums those of `weighed`.

    Files go to `folder`; those that are there and have `made_by` are taken as they are. `others` gives the encoder of
    all other modules; it is asked for where documents go on through the encoded layer (`propagate`).
    """

    def __init__(
        self,
        modules: Sequence[Module],
        planned: Sequence[PlannedModule],
        rounds: Mapping[Step, Sequence[Round]],
        weighed: Sequence[str],
        folder: Path,
        made_by: Mapping[str, Any],
        *,
        tokens: int,
        threads: int,
        propagate: bool,
        others: Callable[[InputSums], Encoder],
        allow_nonfinite: bool = False,
        fresh: bool = False,
    ) -> None:
        super().__init__(modules)
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")
        self.reports: dict[Path, list[ModuleReport]] = {}
        self._planned = {p.module.path: p for p in planned}
        self._rounds, self._weighed, self._folder, self._made_by = rounds, list(weighed), folder, made_by
        self._stride = max(1, tokens // SAMPLED_TOKENS)
        self._propagate, self._others, self._allow, self._fresh = propagate, others, allow_nonfinite, fresh
        self._wanted = {path for parts in rounds.values() for part in parts for path in part}
        self._calls: dict[str, list[Call]] = {}
        self._recent: list[tuple[mx.array, Any, str, Call]] = []
        self._round = 0
        self._finished: set[str] = set()
        self._outs: dict[str, Quantized] = {}
        self._verdicts: list[Verdict] = []

    # --- what enters ---

    def begin(self, document: int) -> None:
        """Say which document comes next."""
        super().begin(document)
        self._recent.clear()

    def _take(self, path: str, x: mx.array, indices: Any = None, *rest: Any) -> None:
        if path in self._finished:
            return
        if self._round == 0:
            super()._take(path, x, indices, *rest)
        sets = self._sets_now(path)
        if sets is not None:
            self._calls.setdefault(path, []).append(self._call(path, x, indices, sets))

    def _sets_now(self, path: str) -> range | None:
        """The experts of a module that this round takes; None where it takes none."""
        if path not in self._wanted:
            return None
        rounds = self._rounds[step_of(self._planned[path])]
        return rounds[self._round].get(path) if self._round < len(rounds) else None

    def _call(self, path: str, x: mx.array, indices: Any, sets: range) -> Call:
        """The call of a module; one and the same where another was just called with the same arrays."""
        count = _count(self._planned[path])
        kind = f"{count} {sets}"
        for array, chosen, other, call in self._recent:
            if array is x and chosen is indices and other == kind:
                return call
        numbers = np.asarray(indices.astype(mx.int32)) if isinstance(indices, mx.array) else None
        call = call_of(self._part, np.asarray(x.astype(mx.float32)), numbers, count, self._stride)
        if len(sets) < count:
            call = call.only(sets)
        self._recent = [*self._recent[-3:], (x, indices, kind, call)]
        return call

    # --- a step is through ---

    def again(self, step: Step, raws: Mapping[str, Any]) -> bool:
        """Encode what this round kept; says whether there is another."""
        rounds, path = self._rounds.get(step, ()), self._folder / file_of(step)
        heard = [p for p in self._planned if f"{p}.weight" in raws]
        if self._round == 0 and rounds and not self._fresh and (reports := read_reports(path, self._made_by)):
            self.reports[path] = reports
            rounds = ()
        if self._round < len(rounds):
            encodings = [self._encoding(p, rounds[self._round][p], raws) for p in heard if self._calls.get(p)]
            self._verdicts += encode_modules(encodings, self.pool, allow_nonfinite=self._allow)
        self._calls.clear()
        self._recent.clear()
        self._round += 1
        if self._round < len(rounds):
            return True
        if self._outs:
            self._write(path)
        self._round, self._verdicts = 0, []
        self._finished.update(heard)
        return False

    def _encoding(self, path: str, sets: range, raws: Mapping[str, Any]) -> Encoding:
        planned = self._planned[path]
        out = weight_of(planned)
        assert out is not None and out.format is not None, "only quantized modules are heard"
        values = raws[out.source].rows(out.values)
        if path not in self._outs:
            self._outs[path] = Quantized.empty(len(values), values.shape[1], out.values, out.format)
        shared = not path.rpartition(".")[2].startswith("down")
        inputs = InputRows(values.shape[1], _count(planned), shared, self._calls[path])
        return Encoding(path, values, out.values, out.format, inputs, sets, self._outs[path])

    def _write(self, path: Path) -> None:
        layer = {}
        for name, out in self._outs.items():
            rows_each = len(out.packed) // _count(self._planned[name])
            layer[name] = out, report_of(name, rows_each, self.sums[name].rows, self._verdicts)
        write_encoded(path, self._made_by, layer)
        self.reports[path] = [report for _, report in layer.values()]
        self._outs = {}

    # --- where documents go on through what is encoded ---

    def instead(self, step: Step, raws: Mapping[str, Any]) -> Mapping[str, mx.array]:
        """The values of a layer's quantized modules, as the build will have them."""
        if not self._propagate:
            return {}
        path, others = self._folder / file_of(step), self._others(self)
        there = {report.path for report in self.reports.get(path, ())}
        arrays: dict[str, mx.array] = {}
        for name, planned in self._planned.items():
            out = weight_of(planned)
            if out is None or out.source not in raws or out.format is None:
                continue
            values: NDArray[Any] = raws[out.source].rows(out.values)
            quantized = Quantized.empty(len(values), values.shape[1], out.values, out.format)
            if name in there:
                read_rows(path, name, slice(0, len(values)), quantized)
            else:
                others.encode(Rows(name, 0, values, out.values, out.format), quantized, errors=False)
            restored = dequantize_rows(quantized, out.values, out.format)
            arrays[out.name] = mx.array(restored.reshape(planned.module.shape))
        return arrays

    # --- the sink ---

    def state(self) -> dict[str, NDArray[np.generic]]:
        """The sums of modules that are weighed by column; what was encoded lies in its files."""
        return {name: a for name, a in super().state().items() if name.rpartition(".")[0] in self._weighed}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from sums given out earlier."""
        super().restore({**super().state(), **state})


def weight_of(planned: PlannedModule) -> OutputArray | None:
    """The packed weight of a module that is quantized here; None for one that is not."""
    return next((out for out in planned.arrays() if out.part == "weight" and out.format is not None), None)


def _count(planned: PlannedModule) -> int:
    shape = planned.module.shape
    return shape[0] if len(shape) == 3 else 1
