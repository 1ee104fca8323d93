"""The steps of a pass: the embedding, each layer, the head; what they share is `running.Running`.

    embedding   token ids to hidden states, a stream for each model
    layer       the reference, the noise floor (see `floor`), then every candidate, case by case
    head        hidden states to logits, and those to scores of the tokens

The cases of a layer:

    accumulated     the candidate's layer on the candidate's own state
    own             the candidate's layer on the reference's state: the error that this layer alone makes
    router          the candidate's router on the reference's input to that router
    teacher-forced  its layer on its own state, its router's answers replaced by the reference's

Up to the first step in which a candidate's arrays are not the reference's own, its state is the reference's: nothing is
computed for it, and its scores are those of the reference against itself. Where a candidate's state still equals the
reference's, own and accumulated are one computation. Which step comes when, and what is kept of it, is up to `engine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .candidates import Source, StreamedCandidate, nbytes_of
from .model import Streamed
from .routing import RouterChoice, Seen, choice_of, compare_choices
from .running import REFERENCE, Running, check_finite, on_device
from .scores import LayerScores, Routing, TokenScores, joined, positions_at_once, token_scores
from .weights import Arrays
from .widened import added_up_in_float32


def relative_error(state: mx.array, reference: mx.array) -> NDArray[np.float32]:
    """|state - reference| / |reference| at each position, (n,); states are (1, n, width)."""
    a, b = state.astype(mx.float32), reference.astype(mx.float32)
    size = mx.maximum(mx.linalg.norm(b, axis=-1), 1e-30)
    error: NDArray[np.float32] = np.asarray(mx.linalg.norm(a - b, axis=-1) / size)[0]
    return error


# --- a layer ---


@dataclass(frozen=True)
class _Reference:
    """What the reference did with one document in this layer."""

    choice: RouterChoice | None
    outputs: list[mx.array]
    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]]
    router: list[Any]


def run_layer(run: Running, layer: int) -> None:
    """Take every stream through one layer, and its scores to the sink."""
    arrays = run.source.read(layer)
    reference = run.source.streamed
    reference.put(arrays)
    for beside in run.beside:
        _listened(beside, layer, arrays)
    # every document through the reference first: then its weights can go before a candidate's come
    seen = _listened(run, layer, arrays)
    reference.take_out(list(arrays))
    computed = [(n, candidate) for n, candidate in enumerate(run.candidates) if candidate.first_step <= layer + 1]
    arrays = _shared(arrays, layer, [candidate for _, candidate in computed])
    if run.floor is not None:
        held = run.floor.put(layer)
        for d in range(len(run.documents)):
            _noise(run, run.floor.streamed, layer, d, seen[d])
        run.floor.streamed.take_out(held)
    for number, candidate in enumerate(run.candidates):
        if candidate.first_step > layer + 1:
            for d in range(len(run.documents)):
                _score_alike(run, number, layer, d, seen[d])
    for i, (number, candidate) in enumerate(computed):
        arrays = _shared(arrays, layer, [later for _, later in computed[i:]])
        own = run.fill(candidate, layer, arrays)
        for d in range(len(run.documents)):
            _LayerOfCandidate(run, number, candidate.streamed, layer, d, seen[d]).score()
        candidate.streamed.take_out(list(own))
        del own  # else these arrays live on while the next candidate's are made
    run.forget()


def _listened(run: Running, layer: int, arrays: Arrays) -> list[_Reference]:
    """Every document through the reference, as often as the listener asks; then on through what it puts in place."""
    seen = [_reference(run, layer, d) for d in range(len(run.documents))]
    if run.listener is None:
        return seen
    while run.listener.again(layer, run.source.raws):
        seen = [_reference(run, layer, d) for d in range(len(run.documents))]
    if run.streams.encoded:
        run.pause()
        _through_encoded(run, layer, arrays, run.listener.learn(AtHand(run, layer), run.source.raws))
    if others := run.listener.instead(layer, run.source.raws):
        run.source.streamed.put(_as_computed(others, arrays))
        seen = [_reference(run, layer, d) for d in range(len(run.documents))]
        run.source.streamed.put({name: arrays[name] for name in others})
    run.pause()
    return seen


def _as_computed(others: Mapping[str, mx.array], arrays: Arrays) -> Arrays:
    """What takes the place of the reference's arrays, in their dtypes."""
    return {name: array.astype(arrays[name].dtype) for name, array in others.items()}


def _shared(arrays: Arrays, layer: int, candidates: Sequence[StreamedCandidate]) -> Arrays:
    """The reference's arrays that one of these candidates takes as they are; the rest leaves memory."""
    names = set[str]().union(*(candidate.shares(layer) for candidate in candidates))
    return {name: array for name, array in arrays.items() if name in names}


def _reference(run: Running, layer: int, d: int) -> _Reference:
    streamed = run.source.streamed
    run.begin(d)
    out = run.through(streamed, layer, d, run.hidden.read(run.reference, d))
    check_finite(out, streamed.name, f"layer {layer}'s output on document {run.numbers[d]}")
    run.hidden.write(run.reference, d, out)
    seen = run.taps[streamed.name].seen
    return _Reference(
        choice=choice_of(seen),
        outputs=seen.outputs,
        inputs=seen.inputs if run.own else [],
        router=seen.router if run.streams.forced else [],
    )


@dataclass(frozen=True)
class AtHand:
    """A layer of the reference that all documents went through: what entered it, what left it, and itself.

    What enters is the state that comes out of the layers before as they were encoded; what left is the reference's own,
    which came through none of them.
    """

    run: Running
    number: int

    @property
    def documents(self) -> Sequence[int]:
        """The documents' places among all."""
        return self.run.numbers

    def gradients(self) -> AbstractContextManager[None]:
        """Within it gradients go through what `through` gives."""
        return self.run.source.streamed.with_gradients()

    def length(self, d: int) -> int:
        """Tokens of a document that `through` takes: no more than go through a layer at once."""
        return min(len(self.run.documents[d]), self.run.chunk)

    def target(self, d: int) -> mx.array:
        """What left the reference's layer, (1, n, width) in float32."""
        return self.run.hidden.read_following(self.run.reference, d)[:, : self.length(d)].astype(mx.float32)

    def through(self, d: int, arrays: Mapping[str, mx.array]) -> mx.array:
        """The layer with some arrays put in, on what enters it: (1, n, width) in float32, not evaluated."""
        run, streamed = self.run, self.run.source.streamed
        streamed.put(arrays)
        run.taps[streamed.name].begin()
        state = run.hidden.read(run.streams.of_encoded, d)[:, : self.length(d)].astype(streamed.dtype)
        caches = streamed.caches() if run.source.forward.needs_cache else None
        tokens = run.documents[d][: self.length(d)]
        out = streamed.layer(run.source.forward, self.number, tokens, state, caches)
        return out.astype(mx.float32)


def _through_encoded(run: Running, layer: int, arrays: Arrays, encoded: Mapping[str, mx.array]) -> None:
    """Take the documents that came through encoded layers through this one; then the reference's `arrays` are back."""
    streamed, stream = run.source.streamed, run.streams.of_encoded
    streamed.put(_as_computed(encoded, arrays))
    for d in range(len(run.documents)):
        out = run.through(streamed, layer, d, run.hidden.read(stream, d))
        check_finite(out, streamed.name, f"layer {layer}'s output on document {run.numbers[d]}, as encoded,")
        run.hidden.write(stream, d, out)
    streamed.put({name: arrays[name] for name in encoded})


def _noise(run: Running, streamed: Streamed, layer: int, d: int, reference: _Reference) -> None:
    before = run.hidden.read(run.streams.noise, d)
    out = run.through(streamed, layer, d, before)
    check_finite(out, streamed.name, f"layer {layer}'s output on document {run.numbers[d]}")
    run.hidden.write(run.streams.noise, d, out)
    scores = LayerScores(
        error_in=relative_error(before, run.hidden.read(REFERENCE, d)),
        error_out=relative_error(out, run.hidden.read_following(REFERENCE, d)),
        routing=_routing(run.taps[streamed.name].seen, reference),
    )
    run.sink.layer(run.streams.noise - 1, layer, "accumulated", run.numbers[d], 0, scores)


def _score_alike(run: Running, number: int, layer: int, d: int, reference: _Reference) -> None:
    """Score a candidate that is the reference so far, without computing it."""
    zeros = np.zeros(len(run.documents[d]), np.float32)
    whole = compare_choices(reference.choice, reference.choice, zeros if reference.outputs else None)
    routings = {"accumulated": whole}
    if run.own:
        routings["own"] = whole
        if reference.inputs:  # the router alone: what leaves the block is not computed
            routings["router"] = compare_choices(reference.choice, reference.choice)
    if run.streams.forced:
        routings["teacher-forced"] = whole
    for case, routing in routings.items():
        run.sink.layer(number, layer, case, run.numbers[d], 0, LayerScores(zeros, zeros, routing))


@dataclass
class _LayerOfCandidate:
    """One layer of one candidate, on one document."""

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
        stream = run.streams.of(self.number)
        out, scores = self._case(run.entering(self.number, stream, self.layer, d), before, after)
        run.hidden.write(stream, d, out)
        self._hand_over("accumulated", scores)
        if run.own:
            # no error enters: the candidate's state is the reference's, and the case was just computed
            self._hand_over("own", scores if not scores.error_in.any() else self._case(before, before, after)[1])
            self._router()
        if run.streams.forced:
            stream = run.streams.forced_of(self.number)
            forced = self.reference.router or None
            out, scores = self._case(run.entering(self.number, stream, self.layer, d), before, after, forced)
            run.hidden.write(stream, d, out)
            self._hand_over("teacher-forced", scores)

    def _case(
        self, state: mx.array, before: mx.array, after: mx.array, forced: list[Any] | None = None
    ) -> tuple[mx.array, LayerScores]:
        run = self.run
        out = run.through(self.streamed, self.layer, self.d, state, forced)
        check_finite(out, self.streamed.name, f"layer {self.layer}'s output on document {run.numbers[self.d]}")
        routing = _routing(run.taps[self.streamed.name].seen, self.reference)
        return out, LayerScores(relative_error(state, before), relative_error(out, after), routing)

    def _router(self) -> None:
        """The router alone: no error enters, and what leaves the layer is not computed."""
        if not self.reference.inputs:
            return
        with added_up_in_float32(self.streamed.dtype), self.streamed.forms.on():
            seen = self.run.taps[self.streamed.name].replay(self.layer, self.reference.inputs)
        if seen is None:
            return
        mx.eval(seen.arrays())
        zeros = np.zeros(len(self.run.documents[self.d]), np.float32)
        self._hand_over("router", LayerScores(zeros, zeros, _routing(seen, self.reference)))

    def _hand_over(self, case: str, scores: LayerScores) -> None:
        self.run.sink.layer(self.number, self.layer, case, self.run.numbers[self.d], 0, scores)


def _routing(seen: Seen, reference: _Reference) -> Routing | None:
    return compare_choices(choice_of(seen), reference.choice, _change(seen.outputs, reference.outputs))


def _change(outputs: list[mx.array], reference: list[mx.array]) -> NDArray[np.float32] | None:
    """How much the block's output differs at each position, (n,); None where it was not seen whole.

    Both are the block's outputs, one for each chunk, (1, n, width) or (n, width) as the block gives them.
    """
    if not outputs or [a.shape for a in outputs] != [a.shape for a in reference]:
        return None
    rows = [
        relative_error(a.reshape(1, -1, a.shape[-1]), b.reshape(1, -1, b.shape[-1]))
        for a, b in zip(outputs, reference, strict=True)
    ]
    return np.concatenate(rows)


# --- embedding and head ---


# Heads of candidates that are in memory together, as a multiple of the reference's.
HEADS = 2


def run_embedding(run: Running) -> None:
    """Give every stream its documents' embeddings."""
    arrays = run.source.read("embedding")
    run.source.streamed.put(arrays)
    for each in (*run.beside, run):
        _embed(each, run.source.streamed, [each.reference])
    run.source.streamed.take_out(list(arrays))
    if run.listener is not None and run.streams.encoded:
        _embed_encoded(run, arrays, run.listener.encoded("embedding", run.source.raws))
    if run.floor is not None:
        held = run.floor.put("embedding")
        _embed(run, run.floor.streamed, [run.streams.noise])
        run.floor.streamed.take_out(held)
    for number, candidate in enumerate(run.candidates):
        if candidate.first_step > 0:
            continue
        own = candidate.arrays("embedding", arrays)
        streams = [run.streams.of(number), *([run.streams.forced_of(number)] if run.streams.forced else [])]
        candidate.streamed.put(own)
        _embed(run, candidate.streamed, streams)
        candidate.streamed.take_out(list(own))
    run.forget()


def _embed_encoded(run: Running, arrays: Arrays, encoded: Mapping[str, mx.array]) -> None:
    """Write the embeddings that a listener encoded to the stream of what it encodes."""
    own = {**arrays, **_as_computed(encoded, arrays)}
    run.source.streamed.put(own)
    _embed(run, run.source.streamed, [run.streams.of_encoded])
    run.source.streamed.take_out(list(own))


def width_of(source: Source) -> int:
    """The width of the hidden state, without computing one."""
    model = source.streamed
    return int(model.embed(source.forward, np.zeros(2, np.int32), model.caches()).shape[-1])


def _embed(run: Running, streamed: Streamed, streams: list[int]) -> None:
    """Write a model's embeddings to its streams."""
    for d, tokens in enumerate(run.documents):
        run.begin(d)
        caches = run.caches(streamed, d)
        parts = [streamed.embed(run.source.forward, tokens[part], caches) for part in run.chunks(d)]
        state = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)
        with on_device(streamed.name, "the embedding", state.dtype):
            mx.eval(state)
        check_finite(state, streamed.name, f"the embedding of document {run.numbers[d]}")
        for stream in streams:
            run.hidden.write(stream, d, state)
    run.pause()


def run_head(run: Running) -> None:
    """Score every token of every stream against the reference."""
    arrays = run.source.read("head")
    run.source.streamed.put(arrays)  # stays till the end: its logits are made anew for each group of candidates
    for beside in run.beside:
        _listened_head(beside)
    if run.floor is not None:
        held = run.floor.put("head")
        _score(run, [(run.streams.noise - 1, "accumulated", run.streams.noise, run.floor.streamed)])
        run.floor.streamed.take_out(held)
    # Logits of the reference cost as much as a candidate's, so several candidates are scored beside one computation of
    # them. How many depends on the bytes of their heads; an array that is the reference's own costs nothing.
    group: list[tuple[int, StreamedCandidate, Arrays]] = []
    budget = HEADS * nbytes_of(arrays)
    for number, candidate in enumerate(run.candidates):
        group.append((number, candidate, run.fill(candidate, "head", arrays)))
        used = sum(_bytes_beside(member.streamed, own, arrays) for _, member, own in group)
        if used >= budget or number == len(run.candidates) - 1:
            _score(run, [task for n, member, _ in group for task in _tasks(run, n, member.streamed)])
            for _, member, own in group:
                member.streamed.take_out(list(own))
            group = []
    _listened_head(run)
    run.source.streamed.take_out(list(arrays))
    run.forget()


def _listened_head(run: Running) -> None:
    """Every document through the head, for a listener alone."""
    if run.listener is None or run.candidates:
        return
    _score(run, [])
    while run.listener.again("head", run.source.raws):
        _score(run, [])
    run.pause()


def _bytes_beside(streamed: Streamed, own: Arrays, reference: Arrays) -> int:
    """Bytes that a candidate's arrays of a step take beside the reference's, and what is made of them to compute."""
    stored = sum(a.nbytes for n, a in own.items() if a is not reference.get(n))
    dequantized = streamed.forms.apply and any(name.endswith(".scales") for name in own)
    return stored + dequantized * nbytes_of(reference)


_Task = tuple[int, str, int, Streamed]  # candidate, case, stream, model


def _tasks(run: Running, candidate: int, streamed: Streamed) -> list[_Task]:
    differs = run.candidates[candidate].first_step <= len(run.source.paths)
    tasks: list[_Task] = [(candidate, "accumulated", run.streams.of(candidate) if differs else REFERENCE, streamed)]
    if run.streams.forced:
        forced = run.streams.forced_of(candidate) if differs else REFERENCE
        tasks.append((candidate, "teacher-forced", forced, streamed))
    return tasks


def _score(run: Running, tasks: list[_Task]) -> None:
    """Score every document for these tasks, a few positions at a time, so that logits stay within `LOGIT_BYTES`."""
    forward, source = run.source.forward, run.source.streamed
    for d, tokens in enumerate(run.documents):
        if len(tokens) < 2:
            continue
        run.begin(d)
        reference = run.hidden.read(run.reference, d).astype(source.dtype)
        states = [run.hidden.read(stream, d).astype(streamed.dtype) for _, _, stream, streamed in tasks]
        parts: list[list[TokenScores]] = [[] for _ in tasks]
        at, step = 0, 16  # a small first part shows the vocabulary, by which the others are cut
        while at < len(tokens) - 1:
            part = slice(at, min(at + step, len(tokens) - 1))
            ids, targets = tokens[part], mx.array(tokens[part.start + 1 : part.stop + 1].astype(np.int32))
            with on_device(source.name, "the head", reference.dtype):
                expected = source.head(forward, ids, reference[:, part])
                mx.eval(expected)
            check_finite(expected, source.name, f"logits of document {run.numbers[d]}")
            for (_, _, _, streamed), state, scores in zip(tasks, states, parts, strict=True):
                scores.append(token_scores(expected, streamed.head(forward, ids, state[:, part]), targets))
            at, step = part.stop, positions_at_once(expected.shape[-1])
        for (candidate, case, _, _), scores in zip(tasks, parts, strict=True):
            run.sink.tokens(candidate, case, run.numbers[d], 0, joined(scores))
