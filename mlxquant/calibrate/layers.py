"""What listens to a pass for the method gptq: keeps a layer's inputs and encodes its modules, for one plan or several.

`Layers` is a sink and a listener of the streamed pass (see `stream`). While documents go through a step it keeps what
enters the modules of the method; when all went through, it encodes them (see `encoded`), hands them to the stores of
their plans (see `plans`) and lets the inputs go. Several plans share what enters; a module is encoded once in each
format that they have it in. Where inputs are kept in rounds (see `room`), it asks for the documents once more. Of
modules of the method imatrix it sums squares, as a calibration does, and these sums travel with the pass's state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..kernels import Quantized
from ..words.formats import Format
from ..words.modules import Module
from .encoded import Encoding, ModuleReport, Verdict, encode_modules, report_of
from .inputs import InputSums
from .plans import PlanLayers, sets_of, weight_of
from .room import Round, Step, step_of
from .rows import SAMPLED_TOKENS, Call, InputRows, call_of


class Layers(InputSums):
    """Encodes the modules of `plans`, of which `rounds` says in which round whose inputs are kept.

    With `propagate` documents go on through the encoded layers of the plan, which then is one.
    """

    def __init__(
        self,
        modules: Sequence[Module],
        plans: Sequence[PlanLayers],
        rounds: Mapping[Step, Sequence[Round]],
        *,
        tokens: int,
        pool: ThreadPoolExecutor,
        propagate: bool,
        allow_nonfinite: bool = False,
    ) -> None:
        super().__init__(modules)
        assert not propagate or len(plans) == 1, "each plan's documents go on through its own layers"
        self.pool, self._plans, self._rounds = pool, plans, rounds
        self._planned = plans[0].planned  # shapes and places, which all plans have alike
        self._weighed = {path for plan in plans for path in plan.weighed}
        self._stride = max(1, tokens // SAMPLED_TOKENS)
        self._propagate, self._allow = propagate, allow_nonfinite
        self._wanted = {path for parts in rounds.values() for part in parts for path in part}
        self._calls: dict[str, list[Call]] = {}
        self._recent: list[tuple[mx.array, Any, str, Call]] = []
        self._round = 0
        self._finished: set[str] = set()
        self._missing: list[PlanLayers] = []  # plans whose step is to be encoded
        self._outs: dict[tuple[str, Format], Quantized] = {}
        self._verdicts: list[Verdict] = []

    # --- what enters ---

    def begin(self, document: int | None) -> None:
        """Say which document comes next; None that what comes next is not to be taken down."""
        super().begin(document)
        self._recent.clear()

    def _take(self, part: int, path: str, x: mx.array, indices: Any = None, *rest: Any) -> None:
        if path in self._finished:
            return
        if self._round == 0:
            super()._take(part, path, x, indices, *rest)
        sets = self._sets_now(path)
        if sets is not None:
            self._calls.setdefault(path, []).append(self._call(part, path, x, indices, sets))

    def _sets_now(self, path: str) -> range | None:
        """The experts of a module that this round takes; None where it takes none."""
        if path not in self._wanted:
            return None
        rounds = self._rounds[step_of(self._planned[path])]
        return rounds[self._round].get(path) if self._round < len(rounds) else None

    def _call(self, part: int, path: str, x: mx.array, indices: Any, sets: range) -> Call:
        """The call of a module; one and the same where another was just called with the same arrays."""
        count = sets_of(self._planned[path])
        kind = f"{count} {sets}"
        for array, chosen, other, call in self._recent:
            if array is x and chosen is indices and other == kind:
                return call
        numbers = np.asarray(indices.astype(mx.int32)) if isinstance(indices, mx.array) else None
        call = call_of(part, np.asarray(x.astype(mx.float32)), numbers, count, self._stride)
        if len(sets) < count:
            call = call.only(sets)
        self._recent = [*self._recent[-3:], (x, indices, kind, call)]
        return call

    # --- a step is through ---

    def again(self, step: Step, raws: Mapping[str, Any]) -> bool:
        """Encode what this round kept; says whether there is another."""
        if self._round == 0:
            self._missing = [plan for plan in self._plans if not plan.store.has(step)]
        rounds = self._rounds.get(step, ()) if self._missing else ()
        heard = [path for path in self.modules if f"{path}.weight" in raws]
        if self._round < len(rounds):
            encodings = list(self._encodings(heard, rounds[self._round], raws))
            self._verdicts += encode_modules(encodings, self.pool, allow_nonfinite=self._allow)
        self._calls.clear()
        self._recent.clear()
        self._round += 1
        if self._round < len(rounds):
            return True
        for plan in self._missing:
            if layer := self._layer_of(plan):
                plan.store.put(step, layer)
        self._round, self._verdicts, self._outs = 0, [], {}
        self._finished.update(heard)
        return False

    def _encodings(self, heard: Sequence[str], part: Round, raws: Mapping[str, Any]) -> Iterator[Encoding]:
        """What is to be encoded in a round: each module once in every format that a plan has it in."""
        values: dict[str, NDArray[Any]] = {}
        begun = set[tuple[str, Format]]()
        for plan in self._missing:
            for path in (p for p in heard if p in plan.wanted and self._calls.get(p)):
                out = weight_of(plan.planned[path])
                assert out is not None and out.format is not None, "only quantized modules are heard"
                key = path, out.format
                if key in begun:
                    continue
                begun.add(key)
                if path not in values:
                    values[path] = raws[out.source].rows(out.values)
                rows, columns = values[path].shape
                if key not in self._outs:
                    self._outs[key] = Quantized.empty(rows, columns, out.values, out.format)
                shared = not path.rpartition(".")[2].startswith("down")
                inputs = InputRows(columns, sets_of(plan.planned[path]), shared, self._calls[path])
                yield Encoding(path, values[path], out.values, out.format, inputs, part[path], self._outs[key])

    def _layer_of(self, plan: PlanLayers) -> dict[str, tuple[Quantized, ModuleReport]]:
        """A plan's modules of this step, with what became of them."""
        layer = {}
        for path in plan.wanted:
            planned = plan.planned[path]
            out = self._outs.get((path, planned.format)) if planned.format else None
            if out is not None and planned.format is not None:
                rows_each = len(out.packed) // sets_of(planned)
                rows = self.sums[path].rows
                layer[path] = out, report_of(path, planned.format, rows_each, rows, self._verdicts)
        return layer

    # --- where documents go on through what is encoded ---

    def instead(self, step: Step, raws: Mapping[str, Any]) -> Mapping[str, mx.array]:
        """The values of a layer's quantized modules, as the build will have them."""
        return self._plans[0].values(step, raws, self) if self._propagate else {}

    # --- the sink ---

    def state(self) -> dict[str, NDArray[np.generic]]:
        """The sums of modules that are weighed by column; what was encoded lies in its files."""
        return {name: a for name, a in super().state().items() if name.rpartition(".")[0] in self._weighed}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from sums given out earlier."""
        super().restore({**super().state(), **state})
