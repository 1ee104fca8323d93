"""One plan in a pass that encodes layer by layer: which modules, where they wait, and what encodes all others.

`PlanLayers` is that plan. Modules that were encoded under their inputs wait in a store: in files of a folder until a
build is written (`Files`), or in memory until the candidate of a comparison has its layer (`Memory`). Modules of other
methods, and those that nothing entered, have an encoder that is known once their layer's documents went through.
`layers` encodes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
from numpy.typing import NDArray

from ..builds.methods import encoder_of, methods_of
from ..kernels import ColumnWeights, Encoder, Quantized, Rounding, Rows, Searching, dequantize_rows
from ..plan.plan import OutputArray, Plan, PlannedModule
from ..words.formats import BY_LAYER, IMATRIX
from .encoded import ModuleReport, read_reports, read_rows, write_encoded
from .inputs import InputSums, Sums
from .record import as_stored
from .room import Step
from .weights import CalibratedColumns

Layer = Mapping[str, tuple[Quantized, ModuleReport]]


def file_of(step: Step) -> str:
    """The name of the file that a step's modules are written to."""
    return f"layer-{step:04d}.safetensors" if isinstance(step, int) else f"{step}.safetensors"


class Store(Protocol):
    """Where the modules of a step wait once they are encoded."""

    def has(self, step: Step) -> bool:
        """Whether an earlier run left a step here, which is not to be encoded again."""

    def put(self, step: Step, layer: Layer) -> None:
        """Take a step's modules."""

    def names(self, step: Step) -> set[str]:
        """Paths of a step's modules."""

    def read(self, step: Step, module: str, rows: slice, out: Quantized) -> None:
        """Give rows of a module."""


class Files:
    """A store in a folder, a file a step; those that are there and have `made_by` are taken as they are."""

    def __init__(self, folder: Path, made_by: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.folder, self.reports = folder, dict[Path, list[ModuleReport]]()
        self._made_by, self._fresh = made_by, fresh

    def has(self, step: Step) -> bool:
        """Whether the file is there, of these settings."""
        path = self.folder / file_of(step)
        reports = None if self._fresh else read_reports(path, self._made_by)
        if reports is not None:
            self.reports[path] = reports
        return bool(reports)

    def put(self, step: Step, layer: Layer) -> None:
        """Write the file, whole."""
        path = self.folder / file_of(step)
        write_encoded(path, self._made_by, layer)
        self.reports[path] = [report for _, report in layer.values()]

    def names(self, step: Step) -> set[str]:
        """Paths of a step's modules."""
        return {report.path for report in self.reports_of(step)}

    def reports_of(self, step: Step) -> Sequence[ModuleReport]:
        """What became of a step's modules."""
        return self.reports.get(self.folder / file_of(step), ())

    def read(self, step: Step, module: str, rows: slice, out: Quantized) -> None:
        """Read rows of a module. Raises OutputError where the file was taken away or damaged."""
        read_rows(self.folder / file_of(step), module, rows, out)


class Memory:
    """A store that holds one step, until it is told to forget it, and what is pinned."""

    def __init__(self) -> None:
        self._layer: Layer = {}
        self._pinned: Layer = {}

    def has(self, step: Step) -> bool:
        """No."""
        return False

    def put(self, step: Step, layer: Layer) -> None:
        """Hold a step's modules, instead of another's."""
        self._layer = layer

    def names(self, step: Step) -> set[str]:
        """Paths of the modules that are held."""
        return set(self._layer)

    def read(self, step: Step, module: str, rows: slice, out: Quantized) -> None:
        """Copy rows of a module."""
        self.copy(module, rows, out)

    def has_module(self, module: str) -> bool:
        """Whether a module is held."""
        return module in self._layer or module in self._pinned

    def copy(self, module: str, rows: slice, out: Quantized) -> None:
        """Copy rows of a module."""
        own = (self._layer if module in self._layer else self._pinned)[module][0].rows(rows)
        out.packed[:], out.scales[:] = own.packed, own.scales
        if out.biases is not None and own.biases is not None:
            out.biases[:] = own.biases

    def pin(self, layer: Layer) -> None:
        """Hold modules until the end."""
        self._pinned = layer

    def taken(self, modules: Collection[str]) -> Layer:
        """Those of the step's modules that are named, to be pinned elsewhere."""
        return {path: each for path, each in self._layer.items() if path in modules}

    def forget(self) -> None:
        """Let the step go."""
        self._layer = {}


class PlanLayers:
    """One plan in a pass; `wanted` are its modules that are encoded under what enters them, `weighed` those by column.

    `allow_nonfinite` is as of the encoders.
    """

    def __init__(self, plan: Plan, store: Store, *, allow_nonfinite: bool = False) -> None:
        self.plan, self.store, self._allow = plan, store, allow_nonfinite
        self.planned = {p.module.path: p for p in plan.modules}
        self.wanted = compensated(plan)
        self.weighed = [path for path, method in methods_of(plan.modules).items() if method == IMATRIX]

    def others(self, sums: InputSums, known: Mapping[str, Sums] | None = None) -> Encoder:
        """The encoder of all other modules of a step whose documents went through, by what was summed of them.

        `known` are sums that an earlier pass took, of modules used before this one has them.
        """
        rows_each = {p.module.path: p.module.shape[-2] for p in self.plan.modules if len(p.module.shape) > 1}
        own = {path: as_stored(sums.sums[path]) for path in self.weighed} | dict(known or {})
        return encoder_of_others(self.plan, CalibratedColumns(own, rows_each, {}), allow_nonfinite=self._allow)

    def values(self, step: Step, raws: Mapping[str, Any], sums: InputSums) -> dict[str, mx.array]:
        """The values of a layer's quantized modules as the build will have them, by array."""
        others, there = self.others(sums), self.store.names(step)
        arrays: dict[str, mx.array] = {}
        for name, planned in self.planned.items():
            out = weight_of(planned)
            if out is None or out.source not in raws or out.format is None:
                continue
            values: NDArray[Any] = raws[out.source].rows(out.values)
            quantized = Quantized.empty(len(values), values.shape[1], out.values, out.format)
            if name in there:
                self.store.read(step, name, slice(0, len(values)), quantized)
            else:
                others.encode(Rows(name, 0, values, out.values, out.format), quantized, errors=False)
            restored = dequantize_rows(quantized, out.values, out.format)
            arrays[out.name] = mx.array(restored.reshape(planned.module.shape))
        return arrays


def compensated(plan: Plan) -> list[str]:
    """Paths of a plan's modules that are encoded under the moments of what enters them."""
    return [path for path, method in methods_of(plan.modules).items() if method in BY_LAYER]


def encoder_of_others(plan: Plan, columns: ColumnWeights | None, *, allow_nonfinite: bool) -> Encoder:
    """The encoder of a plan's modules that have another method, or that nothing entered."""
    searched = Searching(None, allow_nonfinite)
    rounding = Rounding(allow_nonfinite)
    return encoder_of(plan, rounding, columns, allow_nonfinite=allow_nonfinite, compensated=searched)


def weight_of(planned: PlannedModule) -> OutputArray | None:
    """The packed weight of a module that is quantized here; None for one that is not."""
    return next((out for out in planned.arrays() if out.part == "weight" and out.format is not None), None)


def sets_of(planned: PlannedModule) -> int:
    """How many matrices a module has: experts, or 1."""
    shape: Sequence[int] = planned.module.shape
    return shape[0] if len(shape) == 3 else 1
