"""Layers of a build that are learned once they are encoded: what listens to the pass for the method distill.

As `layers`, for one plan whose modules wait in files. The pass also has the documents go through the layers as they
were encoded, and hands each layer over with what enters it so: it is learned then (see `learning`), and its file is
written again. A file whose modules an earlier run learned is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import mlx.core as mx

from ..kernels import Quantized
from ..stream.scores import LayerAtHand
from ..words.modules import Module
from .inputs import FITTED
from .layers import Layers
from .learning import Learning, Start
from .plans import Files, PlanLayers, weight_of
from .room import Round, Step


class LearnedLayers(Layers):
    """Encodes the modules of a plan into its `files`, and learns those of `learned`.

    `tell` is called once, with the seconds of a step and how many layers are learned in such steps.
    """

    def __init__(
        self,
        modules: Sequence[Module],
        plan: PlanLayers,
        files: Files,
        rounds: Mapping[Step, Sequence[Round]],
        *,
        learned: Collection[str],
        tokens: int,
        pool: ThreadPoolExecutor,
        allow_nonfinite: bool = False,
        tell: Callable[[float, int], None] = lambda *_: None,
    ) -> None:
        super().__init__(
            modules, [plan], rounds, tokens=tokens, pool=pool, propagate=False, allow_nonfinite=allow_nonfinite
        )
        self._plan, self._files, self._learned, self._tell = plan, files, set(learned), tell

    @property
    def learns(self) -> bool:
        """Yes."""
        return True

    def encoded(self, step: Step, raws: Mapping[str, Any]) -> Mapping[str, mx.array]:
        """The values of a step's quantized modules, as the build will have them."""
        return self._plan.values(step, raws, self)

    def learn(self, layer: LayerAtHand, raws: Mapping[str, Any]) -> Mapping[str, mx.array]:
        """Learn the layer's modules and write them again, unless an earlier run did."""
        reports = {report.path: report for report in self._files.reports_of(layer.number)}
        wanted = [path for path, report in reports.items() if path in self._learned and report.learned is None]
        if wanted:
            starts = {path: self._start(layer.number, path, raws) for path in reports}
            learning = Learning(layer, [starts[path] for path in wanted], self.encoded(layer.number, raws))
            outcome = learning.run(lambda seconds: self._tell_once(seconds, layer.number))
            outs = {path: start.encoded for path, start in starts.items()}
            if outcome.is_better:
                outs |= learning.encoded()
            reports |= {path: replace(reports[path], learned=outcome) for path in wanted}
            self._files.put(layer.number, {path: (outs[path], reports[path]) for path in reports})
        return self.encoded(layer.number, raws)

    def _start(self, step: Step, path: str, raws: Mapping[str, Any]) -> Start:
        """A module as it waits in its file."""
        planned = self._plan.planned[path]
        out = weight_of(planned)
        assert out is not None and out.format is not None, "only quantized modules are written"
        values = raws[out.source].rows(out.values)
        encoded = Quantized.empty(len(values), values.shape[1], out.values, out.format)
        self._files.read(step, path, slice(0, len(values)), encoded)
        counts = self.sums[path].rows[FITTED]
        return Start(path, planned.module.shape, values, out.values, out.format, encoded, counts)

    def _tell_once(self, seconds: float, number: int) -> None:
        layers = {self._plan.planned[path].module.layer for path in self._learned}
        self._tell(seconds, sum(layer is not None and layer >= number for layer in layers))
        self._tell = lambda *_: None
