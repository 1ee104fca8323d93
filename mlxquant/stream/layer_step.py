"""One layer of the pass: the reference, the noise floor, then every candidate, case by case.

    accumulated     the candidate's layer on the candidate's own state
    own             the candidate's layer on the reference's state: the error that this layer alone makes
    router          the candidate's router on the reference's input to that router
    teacher-forced  its layer on its own state, its router's answers replaced by the reference's

Where a candidate's state still equals the reference's, as at the first layer after an embedding that is kept, own and
accumulated are one computation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .model import Streamed
from .routing import Choice, Seen, choice_of, compare_choices
from .scores import LayerScores, Routing
from .steps import REFERENCE, Running, check_finite, relative_error, rounded


@dataclass(frozen=True)
class _Reference:
    """What the reference did with one document in this layer."""

    choice: Choice | None
    outputs: list[mx.array]
    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]]
    router: list[Any]


def run_layer(run: Running, layer: int) -> None:
    """Take every stream through one layer, and its scores to the sink."""
    arrays = run.source.read(layer)
    reference = run.source.streamed
    reference.put(arrays)
    seen = [_reference(run, layer, d) for d in range(len(run.documents))]
    if run.noise_floor:
        for d in range(len(run.documents)):
            _noise(run, layer, d, seen[d])
    reference.take_out(list(arrays))
    shared = set[str]().union(*(lane.shares(layer) for lane in run.lanes))
    arrays = {name: array for name, array in arrays.items() if name in shared}
    for candidate, lane in enumerate(run.lanes):
        own = run.fill(lane, layer, arrays)
        for d in range(len(run.documents)):
            _Candidate(run, candidate, lane.streamed, layer, d, seen[d]).score()
        lane.streamed.take_out(list(own))
        del own
    run.source.forget()


def _reference(run: Running, layer: int, d: int) -> _Reference:
    streamed = run.source.streamed
    out = run.through(streamed, layer, d, run.hidden.read(REFERENCE, d))
    check_finite(out, streamed.name, f"layer {layer}'s output on document {run.numbers[d]}")
    run.hidden.write(REFERENCE, d, out)
    seen = run.taps[streamed.name].seen
    return _Reference(
        choice=choice_of(seen),
        outputs=seen.outputs,
        inputs=seen.inputs if run.own else [],
        router=seen.router if run.forced else [],
    )


def _noise(run: Running, layer: int, d: int, reference: _Reference) -> None:
    streamed = run.source.streamed
    before = run.hidden.read(run.noise, d)
    out = rounded(run.through(streamed, layer, d, before))
    run.hidden.write(run.noise, d, out)
    scores = LayerScores(
        error_in=relative_error(before, run.hidden.read(REFERENCE, d)),
        error_out=relative_error(out, run.hidden.read_following(REFERENCE, d)),
        routing=_routing(run.taps[streamed.name].seen, reference),
    )
    run.sink.layer(run.noise - 1, layer, "accumulated", run.numbers[d], 0, scores)


@dataclass
class _Candidate:
    """One candidate, one layer, one document."""

    run: Running
    number: int
    streamed: Streamed
    layer: int
    d: int
    reference: _Reference

    def score(self) -> None:
        """Run all cases."""
        run, d = self.run, self.d
        before, after = run.hidden.read(REFERENCE, d), run.hidden.read_following(REFERENCE, d)
        stream = run.stream_of(self.number)
        mine = run.hidden.read(stream, d)
        out, scores = self._case(mine, before, after)
        run.hidden.write(stream, d, out)
        self._tell("accumulated", scores)
        if run.own:
            self._tell("own", scores if not scores.error_in.any() else self._case(before, before, after)[1])
            self._router()
        if run.forced:
            stream = run.forced_stream_of(self.number)
            forced = self.reference.router or None
            out, scores = self._case(run.hidden.read(stream, d), before, after, forced)
            run.hidden.write(stream, d, out)
            self._tell("teacher-forced", scores)

    def _case(
        self, state: mx.array, before: mx.array, after: mx.array, forced: list[Any] | None = None
    ) -> tuple[mx.array, LayerScores]:
        run = self.run
        out = run.through(self.streamed, self.layer, self.d, state, forced)
        check_finite(out, self.streamed.name, f"layer {self.layer}'s output on document {run.numbers[self.d]}")
        routing = _routing(run.taps[self.streamed.name].seen, self.reference)
        return out, LayerScores(relative_error(state, before), relative_error(out, after), routing)

    def _router(self) -> None:
        """The router alone: no error enters, and none is asked for."""
        if not self.reference.inputs:
            return
        seen = self.run.taps[self.streamed.name].replay(self.layer, self.reference.inputs)
        if seen is None:
            return
        mx.eval(seen.arrays())
        nothing = np.zeros(len(self.run.documents[self.d]), np.float32)
        self._tell("router", LayerScores(nothing, nothing, _routing(seen, self.reference)))

    def _tell(self, case: str, scores: LayerScores) -> None:
        self.run.sink.layer(self.number, self.layer, case, self.run.numbers[self.d], 0, scores)


def _routing(seen: Seen, reference: _Reference) -> Routing | None:
    return compare_choices(choice_of(seen), reference.choice, _change(seen.outputs, reference.outputs))


def _change(mine: list[mx.array], reference: list[mx.array]) -> NDArray[np.float32] | None:
    """How much the block's output differs at each position; None where it was not seen whole."""
    if not mine or [a.shape for a in mine] != [a.shape for a in reference]:
        return None
    rows = [
        relative_error(a.reshape(1, -1, a.shape[-1]), b.reshape(1, -1, b.shape[-1]))
        for a, b in zip(mine, reference, strict=True)
    ]
    return np.concatenate(rows)
