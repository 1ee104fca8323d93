"""One layer's modules encoded under the moments of their inputs, and the file that they wait in for the build.

Each expert's matrix is encoded by itself (see `kernels.gptq`) and judged on rows of documents that were held out: where
the error of its output there is larger than rounding's, rounding is kept for it. A dense matrix is encoded and judged
in runs of `_RUN` bytes of rows, whose cut depends on its shape alone, so neither workers nor interruptions change a
byte.

    PATH.packed, PATH.scales, PATH.biases     as `kernels.Quantized` has them, rows through all experts
    metadata `mlxquant.encoded`               what they were made by, and a `ModuleReport` a module

A file is written whole, under its name only when complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy as st
from numpy.typing import NDArray
from safetensors import safe_open

from ..builds.write.making import nonfinite_error
from ..disk import files as disk
from ..errors import OutputError
from ..kernels import BlockFault, InputCounts, Quantized, dequantize_rows, gptq, quantize_rows
from ..words.blas import one_blas_thread
from ..words.formats import Format, widen
from .inputs import FITTED, HELD_OUT
from .learning import Outcome
from .rows import InputRows

KEY = "mlxquant.encoded"
# What is added to a file's name until it is whole
NEW = ".new"
# Bytes, as float32, of the rows of a dense matrix that are encoded in one go
_RUN = 16 << 20


@dataclass(frozen=True)
class ModuleReport:
    """What became of a module of so many `sets`: the inputs that it was fitted to and judged on.

    `rounded` are the experts, or first rows of a dense matrix, that rounding was kept for. `error_share` is the squared
    error of the output on the judging rows, to rounding's. Both are of the start where the module was learned then:
    `learned` says how its layer came out.
    """

    path: str
    sets: int
    counts: InputCounts
    rounded: tuple[int, ...]
    error_share: float | None
    learned: Outcome | None = None

    def inputs(self) -> dict[str, Any]:
        """As the audit has it."""
        own: dict[str, Any] = {"rounded": list(self.rounded), "output_error_share": self.error_share}
        if self.learned is not None:
            own["learned"] = self.learned.as_dict()
        return {**self.counts.as_dict(), **own}


@dataclass(frozen=True)
class Encoding:
    """A module to be encoded into `out`: its weight's `values` (rows, columns) of all sets, as the kernels take them.

    `sets` are the experts that are encoded now, of which `inputs` has the rows.
    """

    path: str
    values: NDArray[Any]
    dtype: str
    format: Format
    inputs: InputRows
    sets: range
    out: Quantized

    @property
    def rows_each(self) -> int:
        """Rows of one set."""
        return len(self.values) // self.inputs.sets


def encode_modules(modules: Sequence[Encoding], pool: ThreadPoolExecutor, *, allow_nonfinite: bool) -> list[Verdict]:
    """Encode modules, those that were given the same arrays together. Raises NonFiniteError.

    Each worker of the pool computes its products alone, so bytes do not depend on how many threads a BLAS has.
    """
    with one_blas_thread():
        return _encode_together(modules, pool, allow_nonfinite)


def _encode_together(modules: Sequence[Encoding], pool: ThreadPoolExecutor, allow_nonfinite: bool) -> list[Verdict]:
    together: dict[tuple[int, ...], list[Encoding]] = {}
    for module in modules:
        together.setdefault((*module.inputs.key, module.sets.start, module.sets.stop), []).append(module)
    verdicts: list[Verdict] = []
    for group in together.values():
        inputs, jobs = group[0].inputs, _Jobs(group, allow_nonfinite)
        inputs.prepare(pool)
        if inputs.sets > 1:
            verdicts += [verdict for each in pool.map(jobs.encode_set, group[0].sets) for verdict in each]
        else:
            curvature, judges = gptq.Curvature.of(inputs.moments(0)), inputs.judges(0)
            runs = [(m, part) for m in group for part in _runs(*m.values.shape)]
            verdicts += pool.map(partial(jobs.encode_run, curvature, judges), runs)
    return verdicts


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run of rows came out on the judging rows, beside rounding."""

    path: str
    format: Format
    first_row: int
    error: float
    rounded_error: float
    is_rounded: bool


@dataclass(frozen=True)
class _Jobs:
    """Encodes runs of rows of a group of modules into their place."""

    modules: Sequence[Encoding]
    allow_nonfinite: bool

    def encode_run(
        self, curvature: gptq.Curvature, judges: NDArray[np.float32], run: tuple[Encoding, slice]
    ) -> Verdict:
        """Some rows of a dense matrix."""
        return self._encode(*run, curvature, judges)

    def encode_set(self, number: int) -> list[Verdict]:
        """One expert's matrix of every module."""
        inputs = self.modules[0].inputs
        curvature, judges = gptq.Curvature.of(inputs.moments(number)), inputs.judges(number)
        return [
            self._encode(m, slice(number * m.rows_each, (number + 1) * m.rows_each), curvature, judges)
            for m in self.modules
        ]

    def _encode(self, module: Encoding, part: slice, curvature: gptq.Curvature, judges: NDArray[np.float32]) -> Verdict:
        values, dtype, fmt, out = module.values[part], module.dtype, module.format, module.out.rows(part)
        try:
            quantize_rows(values, dtype, fmt, out=out, allow_nonfinite=self.allow_nonfinite)
        except BlockFault as fault:
            raise nonfinite_error(f"{module.path}.weight", part.start + fault.row, fault.column, fault.kind) from None
        ours = gptq.compensate_rows(values, dtype, fmt, curvature, out)
        if ours is None:
            return Verdict(module.path, fmt, part.start, 0.0, 0.0, True)
        weights = widen(values, dtype)
        error, rounded_error = (
            float(gptq.output_errors(weights, dequantize_rows(q, dtype, fmt), judges).sum()) for q in (ours, out)
        )
        is_rounded = not error <= rounded_error
        if not is_rounded and out.biases is not None and ours.biases is not None:
            out.packed[:], out.scales[:], out.biases[:] = ours.packed, ours.scales, ours.biases
        return Verdict(module.path, fmt, part.start, rounded_error if is_rounded else error, rounded_error, is_rounded)


def _runs(rows: int, columns: int) -> list[slice]:
    step = max(64, _RUN // (4 * columns))
    return [slice(at, min(at + step, rows)) for at in range(0, rows, step)]


def report_of(
    path: str, fmt: Format, rows_each: int, counts: NDArray[np.int64], judged: Sequence[Verdict]
) -> ModuleReport:
    """What became of a module in a format, whose `counts` are rows of its inputs, (2, sets): to fit, and held out."""
    many = counts.shape[1] > 1
    verdicts = sorted((v for v in judged if v.path == path and v.format == fmt), key=lambda v: v.first_row)
    error, plain = (sum(getattr(v, name) for v in verdicts) for name in ("error", "rounded_error"))
    return ModuleReport(
        path=path,
        sets=counts.shape[1],
        counts=InputCounts.of(counts[FITTED], counts[HELD_OUT]),
        rounded=tuple(v.first_row // (rows_each if many else 1) for v in verdicts if v.is_rounded),
        error_share=round(error / plain, 4) if plain > 0 else None,
    )


# --- the file ---


def write_encoded(path: Path, made_by: Mapping[str, Any], layer: Mapping[str, tuple[Quantized, ModuleReport]]) -> None:
    """Write a layer's modules, whole. Raises OutputError."""
    arrays: dict[str, Any] = {}
    for name, (q, _) in layer.items():
        assert q.biases is not None, "only modules with biases are encoded here"
        arrays |= {f"{name}.packed": q.packed, f"{name}.scales": q.scales, f"{name}.biases": q.biases}
    record = {"made_by": dict(made_by), "modules": [asdict(report) for _, report in layer.values()]}
    write_named(path, st.save(arrays, {KEY: json.dumps(record)}))


def write_named(path: Path, content: bytes) -> None:
    """Write a file whole, by way of PATH.new, the other name that the folder's marker knows."""
    disk.make_folder(path.parent)
    new = path.with_name(f"{path.name}{NEW}")
    disk.write_file(new, content)
    disk.rename_over(new, path)


def read_reports(path: Path, made_by: Mapping[str, Any]) -> list[ModuleReport] | None:
    """What a file says of its modules; None where there is none that these settings made."""
    if not disk.is_file(path):
        return None
    try:
        with safe_open(path, "np") as file:
            record = json.loads(file.metadata()[KEY])
        same = record["made_by"] == json.loads(json.dumps(made_by))
        return [_parse(entry) for entry in record["modules"]] if same else None
    except Exception:  # noqa: BLE001 - whatever safetensors and json raise for a file that is something else
        return None


def _parse(entry: Mapping[str, Any]) -> ModuleReport:
    counts = InputCounts(**{**entry["counts"], "unreached": tuple(entry["counts"]["unreached"])})
    learned = Outcome(**entry["learned"]) if entry.get("learned") else None
    return ModuleReport(**{**entry, "counts": counts, "rounded": tuple(entry["rounded"]), "learned": learned})


def read_rows(path: Path, module: str, rows: slice, out: Quantized) -> None:
    """Read rows of a module into `out`. Raises OutputError where the file was taken away or damaged."""
    assert out.biases is not None, "only modules with biases are encoded here"
    try:
        with safe_open(path, "np") as file:
            for name, array in (("packed", out.packed), ("scales", out.scales), ("biases", out.biases)):
                array[:] = file.get_slice(f"{module}.{name}")[rows.start : rows.stop]
    except Exception as error:  # noqa: BLE001 - whatever safetensors raises
        raise OutputError(f"{path}: {module} cannot be read ({error}); start over with --fresh") from None


def places_of(reports: Mapping[Path, Iterable[ModuleReport]]) -> dict[str, Path]:
    """The file that each module lies in."""
    return {report.path: path for path, modules in reports.items() for report in modules}
