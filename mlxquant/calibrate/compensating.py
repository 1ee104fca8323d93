"""The encoder of plans that need documents: a pass encodes layer by layer, then rows are given out as it left them.

    for each layer:  its weights are read, documents go through it, what enters its modules is kept
                     its modules are encoded (see `encoded`) and written to a file
                     those of the method distill are learned (see `learning`) and written again
                     with `propagate` the documents go through it once more, as encoded, and on from there
                     weights and inputs are dropped

`Compensating.prepare` is that pass. It rides the streamed pass of `compare`, so it resumes after a kill at a layer, and
layers that are encoded are not encoded again. `encode` then copies rows from the files, so a build is written as every
other one is: whatever the workers, however often interrupted. Modules of other methods go to the encoder of theirs;
`imatrix` takes the columns that the same pass gives.

Memory is one layer as the source and as float32 has it, its inputs, and what one matrix takes for each worker.
`room` says how much before anything is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..builds.methods import methods_of
from ..errors import OutputError, UsageError
from ..kernels import CalibratedEncoder, Encoder, ErrorSums, Quantized, Rows, gptq, measure_rows
from ..layout.layout import Layout
from ..plan.plan import Plan
from ..source.checkpoint import Checkpoint
from ..stream.engine import compare
from ..stream.options import CompareOptions, HasTokens
from ..stream.ranks import Ranks
from ..words import blas
from ..words.formats import BY_LAYER, DISTILL, GPTQ, IMATRIX
from ..words.progress import Watch
from ..words.text import counted
from . import learning
from .encoded import NEW, ModuleReport, places_of, read_reports, read_rows, write_named
from .inputs import HOLD_OUT_EVERY
from .layers import Layers
from .learned import LearnedLayers
from .learning import Outcome
from .plans import Files, PlanLayers, encoder_of_others, file_of
from .record import calibration_bytes, fingerprint, read_calibration
from .room import rooms
from .run import FEWEST
from .weights import TRUST

# Whether documents go on through the encoded layers
PROPAGATE = False
ENCODED, PASSED, CALIBRATION = "encoded", "pass", "calibration.safetensors"


@dataclass(frozen=True)
class Documents:
    """What is calibrated on: documents as tokens, and what a record says of where they come from.

    `option` is what gave them on the command line, for errors.
    """

    documents: Sequence[HasTokens]
    described: Mapping[str, Any]
    option: str = "--data"

    def record(self) -> dict[str, Any]:
        """For a manifest: what is said of the data, and which documents were held out."""
        return {**self.described, "held_out_every": HOLD_OUT_EVERY}


def check_count(data: Documents) -> None:
    """Raise UsageError for too few documents, of which some are held out."""
    if len(data.documents) < FEWEST:
        raise UsageError(
            f"{data.option}: at least {FEWEST} documents expected, since some are held out; {len(data.documents)} given"
        )


def made_with(data: Documents, *, propagate: bool) -> dict[str, Any]:
    """All that bytes of the method depend on: documents, settings, and the BLAS that the products are."""
    return {
        "method": GPTQ,
        "documents": data.record(),
        "propagate": propagate,
        "damping": gptq.DAMPING,
        "trust": TRUST,
        "sweeps": gptq.SWEEPS,
        "blas": describe_blas(),
    }


class Compensating:
    """Encodes a plan with modules of the methods gptq, distill or imatrix, on documents; see the module.

    `watching` gives what watches the pass, in steps; by default that is whoever watches the conversion. What is
    finished is kept at the end of a layer, at most once in `keep_every_s` seconds. `tell` hears once how many seconds a
    step of learning takes, and how many layers are left to learn.

    `source` is read by the pass alone. Raises UsageError for too few documents, or too little `max_memory`.
    """

    def __init__(
        self,
        source: Checkpoint,
        layout: Layout,
        plan: Plan,
        data: Documents,
        *,
        propagate: bool = PROPAGATE,
        threads: int,
        dtype: str | None = None,
        allow_nonfinite: bool = False,
        max_memory: int | None = None,
        fresh: bool = False,
        watching: Callable[[], AbstractContextManager[Watch]] | None = None,
        keep_every_s: float = 30.0,
        tell: Callable[[float, int], None] = lambda *_: None,
    ) -> None:
        check_count(data)
        self._source, self._layout, self._plan, self._data = source, layout, plan, data
        self._propagate, self._threads, self._fresh, self._tell = propagate, threads, fresh, tell
        self._dtype, self._allow, self._watching, self._keep_every_s = dtype, allow_nonfinite, watching, keep_every_s
        methods = methods_of(plan.modules)
        self._paths = [path for path, method in methods.items() if method in BY_LAYER]
        self._learned = [path for path, method in methods.items() if method == DISTILL]
        self._weighed = [path for path, method in methods.items() if method == IMATRIX]
        tokens = sum(len(d.tokens) for d in data.documents)
        longest = min(max(len(d.tokens) for d in data.documents), CompareOptions().chunk)
        self.room, self._rounds = rooms(
            [plan], self._paths, tokens, threads, max_memory, propagate=propagate, learned=(self._learned, longest)
        )
        self._reports: dict[Path, list[ModuleReport]] = {}
        self._places: dict[str, Path] = {}
        self._others: Encoder | None = None

    @property
    def signature(self) -> Mapping[str, Any]:
        """All that bytes depend on: documents, settings, and the BLAS that the products are."""
        if not self._paths:
            return {"method": IMATRIX, "documents": self._data.record()}
        signature = made_with(self._data, propagate=self._propagate)
        if not self._learned:
            return signature
        return {**signature, "method": DISTILL, "learning": learning.settings()}

    # --- the pass ---

    def prepare(self, folder: Path, watch: Watch) -> None:
        """Encode all modules of the method into `folder`, going on from what an earlier run left there."""
        encoded = folder / ENCODED
        calibration = encoded / CALIBRATION
        reports = None if self._fresh or not calibration.is_file() else self._finished(encoded)
        if reports is None:
            with nullcontext(watch) if self._watching is None else self._watching() as own:
                reports = self._pass(folder, calibration, own)
        self._reports, self._places = reports, places_of(reports)
        columns = read_calibration(calibration, self._source, self._layout.modules) if self._weighed else None
        self._others = encoder_of_others(self._plan, columns, allow_nonfinite=self._allow)

    def _finished(self, encoded: Path) -> dict[Path, list[ModuleReport]] | None:
        """What a finished pass left; None where something is missing or of other settings."""
        paths = [path for step in self._rounds if (path := encoded / file_of(step)).is_file()]
        reports = {path: found for path in paths if (found := read_reports(path, self._made_by())) is not None}
        layers = {encoded / file_of(step) for step in self._rounds if step != "head"}  # a head may get no inputs
        return reports if len(reports) == len(paths) and layers <= set(reports) else None

    def _pass(self, folder: Path, calibration: Path, watch: Watch) -> dict[Path, list[ModuleReport]]:
        """Stream the documents and encode every layer."""
        documents = self._data.documents
        store = Files(calibration.parent, self._made_by(), fresh=self._fresh)
        plan = PlanLayers(self._plan, store, allow_nonfinite=self._allow)
        tokens, pool = sum(len(d.tokens) for d in documents), ThreadPoolExecutor(self._threads, "encode")
        modules, rounds = self._layout.modules, self._rounds
        layers = (
            LearnedLayers(modules, plan, store, rounds, learned=self._learned, tokens=tokens, pool=pool,
                          allow_nonfinite=self._allow, tell=self._tell)
            if self._learned else
            Layers(modules, [plan], rounds, tokens=tokens, pool=pool, propagate=self._propagate,
                   allow_nonfinite=self._allow)
        )  # fmt: skip
        options = CompareOptions(
            dtype=self._dtype, noise_floor=False, own=False, work=folder / PASSED, fresh=self._fresh,
            keep_every_s=self._keep_every_s, allow_nonfinite=self._allow,
        )  # fmt: skip
        provider = self._layout.provider.name
        with layers.pool:
            done = compare(
                self._source, [], documents, layers, options, watch, Ranks(None), listener=layers, provider=provider
            )
        record = {
            "source": {**done.source, "fingerprint": fingerprint(self._source)},
            "documents": self._data.record(),
            "pass": done.figures(),
        }
        layers.sums = {path: layers.sums[path] for path in self._weighed}
        write_named(calibration, calibration_bytes(layers, record))
        reports = self._finished(calibration.parent)  # those of an earlier run, too, which went through its layers
        if reports is None:
            raise OutputError(
                f"{calibration.parent}: layers that an earlier run encoded are gone; start over with --fresh"
            )
        return reports

    def files(self) -> list[str]:
        """Names of the files that `prepare` leaves in its folder, below it."""
        names = (*map(file_of, self._rounds), CALIBRATION)
        return [f"{ENCODED}/{name}{ending}" for name in names for ending in ("", NEW)]

    @property
    def nbytes(self) -> int:
        """Bytes of the disk that `prepare` takes: encoded modules, and the states that the pass goes on from."""
        wanted = set(self._paths)
        encoded = sum(p.nbytes for p in self._plan.modules if p.module.path in wanted)
        widest = max((p.module.shape[-1] for p in self._plan.modules if p.module.path in wanted), default=0)
        streams = 2 if self._learned else 1
        return encoded + 3 * 4 * widest * streams * sum(len(d.tokens) for d in self._data.documents)

    def _made_by(self) -> dict[str, Any]:
        recipe = self._plan.recipe
        return {"signature": dict(self.signature), "recipe": recipe.sha256, "source": fingerprint(self._source)}

    # --- an encoder ---

    def encode(self, rows: Rows, out: Quantized, *, errors: bool) -> ErrorSums | None:
        """Give rows as the pass encoded them."""
        assert self._others is not None, "prepare comes first"
        path = self._places.get(rows.module)
        if path is None:
            return self._others.encode(rows, out, errors=errors)
        read_rows(path, rows.module, slice(rows.first_row, rows.first_row + len(rows.values)), out)
        return measure_rows(rows.values, rows.dtype, out, rows.format) if errors else None

    def inputs(self, module: str) -> Mapping[str, Any] | None:
        """What the audit says of a module's inputs, once prepared."""
        for reports in self._reports.values():
            for report in reports:
                if report.path == module:
                    return report.inputs()
        return self._others.inputs(module) if isinstance(self._others, CalibratedEncoder) else None

    @property
    def notes(self) -> list[str]:
        """What the audit says: modules that nothing entered, experts that no token reached, where rounding was kept."""
        reports = {report.path: report for modules in self._reports.values() for report in modules}
        notes = [
            f"{path}: nothing multiplies by it as it is stored, so its scales were searched without documents (mse)"
            for path in self._paths
            if path not in reports
        ]
        for path in self._paths:
            if path in reports:
                notes += notes_of(reports[path])
        shares = [r.error_share for r in reports.values() if r.error_share is not None]
        if shares:
            notes.append(
                f"method {GPTQ}: on documents held out, the squared error of {len(shares):,} modules' outputs is"
                f" {np.median(shares):.2f} of rounding's in the median, {max(shares):.2f} at most"
            )
        return notes + notes_of_learning({r.path: r.learned for r in reports.values() if r.learned is not None})


def notes_of(report: ModuleReport) -> list[str]:
    """What the audit says of a module: experts that no token reached, and where rounding was kept."""
    notes = []
    if unreached := report.counts.unreached:
        notes.append(
            f"{report.path}: no token reached {len(unreached)} of {report.sets} experts"
            f" ({_listed(unreached)}), which were encoded by their layer's inputs"
        )
    if report.rounded and not (report.learned is not None and report.learned.is_better):
        unit = "experts {}" if report.sets > 1 else "the rows from {} on"
        what = unit.format(_listed(report.rounded))
        notes.append(f"{report.path}: rounding was kept for {what}, no worse on the documents held out")
    return notes


def notes_of_learning(outcomes: Mapping[str, Outcome]) -> list[str]:
    """What the audit says of layers that were learned, given how each module's came out."""
    better = [o.error / o.start_error for o in set(outcomes.values()) if o.is_better and o.error and o.start_error]
    notes = []
    if better:
        notes.append(
            f"method {DISTILL}: on documents held out, the squared error of the outputs of"
            f" {counted(len(better), 'layer')} is"
            f" {np.median(better):.2f} of what it was when learning began in the median, {max(better):.2f} at most"
        )
    starts = dict.fromkeys(_layer_of(path) for path, outcome in outcomes.items() if not outcome.is_better)
    if starts:
        notes.append(
            f"method {DISTILL}: kept as {GPTQ} encoded them, since they were no better on documents held out:"
            f" {', '.join(starts)}"
        )
    return notes


def _layer_of(path: str) -> str:
    """The layer of a module by its path, ``model.layers.3``; the path itself where it has no number."""
    parts = path.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[: numbers[0] + 1]) if numbers else path


def _listed(numbers: Sequence[int], most: int = 12) -> str:
    shown = ", ".join(str(n) for n in numbers[:most])
    return shown if len(numbers) <= most else f"{shown} and {len(numbers) - most:,} more"


def describe_blas() -> dict[str, Any]:
    """Name numpy's BLAS and how many threads compute a product, on which the last bit of it may depend."""
    config: Any = np.show_config(mode="dicts")
    library = config.get("Build Dependencies", {}).get("blas", {})
    names = ("MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS")
    threads = next((int(v) for n in names if (v := os.environ.get(n, "")).isdecimal()), os.cpu_count() or 1)
    return {
        "name": str(library.get("name")),
        "version": str(library.get("version")),
        "threads": 1 if blas.can_limit() else threads,
    }
