"""The two ends of the pass: token ids to hidden states, and hidden states to scores of the tokens."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from .candidates import BuildLane, RecipeLane, nbytes_of
from .model import Streamed
from .scores import TokenScores
from .steps import REFERENCE, Running, check_finite, on_device, rounded
from .token_scores import joined, positions_at_once, token_scores
from .weights import Arrays

# Heads of candidates that are in memory together, as a multiple of the reference's.
HEADS = 2


def run_embedding(run: Running) -> None:
    """Give every stream its documents' embeddings."""
    arrays = run.source.read("embedding")
    _embed(run, run.source.streamed, arrays, [REFERENCE])
    for candidate, lane in enumerate(run.lanes):
        own = lane.arrays("embedding", arrays)
        streams = [run.stream_of(candidate), *([run.forced_stream_of(candidate)] if run.forced else [])]
        _embed(run, lane.streamed, own, streams)
    run.source.forget()


def width_of(run_source: Streamed, run: Running) -> int:
    """The width of the hidden state, without computing one."""
    return int(run_source.embed(run.source.shape, np.zeros(2, np.int32), run_source.caches()).shape[-1])


def _embed(run: Running, streamed: Streamed, arrays: Arrays, streams: list[int]) -> None:
    streamed.put(arrays)
    for d, tokens in enumerate(run.documents):
        caches = run.caches(streamed, d)
        parts = [streamed.embed(run.source.shape, tokens[part], caches) for part in run.chunks(d)]
        state = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)
        with on_device(streamed.name, "the embedding", state.dtype):
            mx.eval(state)
        check_finite(state, streamed.name, f"the embedding of document {run.numbers[d]}")
        for stream in streams:
            run.hidden.write(stream, d, state)
        if streams == [REFERENCE] and run.noise_floor:
            run.hidden.write(run.noise, d, rounded(state))
    streamed.take_out(list(arrays))


def run_head(run: Running) -> None:
    """Score every token of every stream against the reference."""
    arrays = run.source.read("head")
    run.source.streamed.put(arrays)
    if run.noise_floor:
        _score(run, [(run.noise - 1, "accumulated", run.noise, run.source.streamed)])
    group: list[tuple[int, RecipeLane | BuildLane, Arrays]] = []
    budget = HEADS * nbytes_of(arrays)
    for candidate, lane in enumerate(run.lanes):
        own = run.fill(lane, "head", arrays)
        group.append((candidate, lane, own))
        used = sum(a.nbytes for _, _, made in group for n, a in made.items() if a is not arrays.get(n))
        if used >= budget or candidate == len(run.lanes) - 1:
            _score(run, [task for c, member, _ in group for task in _tasks(run, c, member.streamed)])
            for _, member, made in group:
                member.streamed.take_out(list(made))
            group = []
    run.source.streamed.take_out(list(arrays))
    run.source.forget()


_Task = tuple[int, str, int, Streamed]  # candidate, case, stream, model


def _tasks(run: Running, candidate: int, streamed: Streamed) -> list[_Task]:
    tasks: list[_Task] = [(candidate, "accumulated", run.stream_of(candidate), streamed)]
    if run.forced:
        tasks.append((candidate, "teacher-forced", run.forced_stream_of(candidate), streamed))
    return tasks


def _score(run: Running, tasks: list[_Task]) -> None:
    shape, source = run.source.shape, run.source.streamed
    for d, tokens in enumerate(run.documents):
        if len(tokens) < 2:
            continue
        reference = run.hidden.read(REFERENCE, d)
        states = [run.hidden.read(stream, d) for _, _, stream, _ in tasks]
        parts: list[list[TokenScores]] = [[] for _ in tasks]
        at, step = 0, 16
        while at < len(tokens) - 1:
            part = slice(at, min(at + step, len(tokens) - 1))
            ids, targets = tokens[part], mx.array(tokens[part.start + 1 : part.stop + 1].astype(np.int32))
            with on_device(source.name, "the head", reference.dtype):
                expected = source.head(shape, ids, reference[:, part])
                mx.eval(expected)
            check_finite(expected, source.name, f"logits of document {run.numbers[d]}")
            for (_, _, _, streamed), state, found in zip(tasks, states, parts, strict=True):
                found.append(token_scores(expected, streamed.head(shape, ids, state[:, part]), targets))
            at, step = part.stop, positions_at_once(expected.shape[-1])
        for (candidate, case, _, _), found in zip(tasks, parts, strict=True):
            run.sink.tokens(candidate, case, run.numbers[d], 0, joined(found))
