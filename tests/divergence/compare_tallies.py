"""Tallies fed by a real computation in numpy: distributions, their KL, routers and hidden states of a small model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxquant.divergence.record import Question, make_record
from mlxquant.divergence.tally import Tally
from mlxquant.divergence.texts.documents import Document, Documents
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import source_record
from mlxquant.plan.recipe.variation import load_variation
from mlxquant.source.checkpoint import Checkpoint
from mlxquant.stream.candidates import Candidate
from mlxquant.stream.options import NOISE_FLOOR, CompareOptions, Pass
from mlxquant.stream.scores import LayerScores, Routing, TokenScores

VOCAB, WIDTH, EXPERTS, TOP_K, LAYERS = 23, 12, 8, 2, 3


@cache
def documents(count: int = 12, seed: int = 0) -> tuple[Document, ...]:
    """Conversations of 5 to 400 tokens; slices "json" and "code", and a span within."""
    draw = np.random.default_rng(seed)
    made = []
    for i in range(count):
        n = int(draw.integers(5, 400))
        tokens = draw.integers(0, VOCAB, n).astype(np.int32)
        turns = (1 + np.arange(n) // 60).astype(np.int16) if i % 4 else np.zeros(n, np.int16)
        slices = ("json",) if i % 2 else ("code",)
        spans = {"in:json": np.arange(n) % 5 == 0} if i % 3 else {}
        made.append(Document(f"d{i}", tokens, turns, slices, spans))
    return tuple(made)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def logits_of(document: int, tokens: NDArray[np.int32], noise: float, seed: int = 0) -> NDArray[np.float64]:
    """The reference's logits (n, vocabulary), or a candidate's, which has noise of this size, more in odd documents."""
    table = np.random.default_rng(99).normal(size=(VOCAB, VOCAB)) * 1.5
    draw = np.random.default_rng((seed, document, 7))
    moved = draw.normal(size=(len(tokens), VOCAB)) * noise * (2 if document % 2 else 1)
    return np.asarray(table[tokens] + moved)


def token_scores(document: int, tokens: NDArray[np.int32], noise: float, seed: int = 0) -> TokenScores:
    """Scores of all scored positions."""
    p = softmax(logits_of(document, tokens, 0.0))[:-1]
    q = softmax(logits_of(document, tokens, noise, seed))[:-1]
    at = np.arange(len(tokens) - 1)
    right = tokens[1:]
    return TokenScores(
        nll_reference=-np.log(p[at, right]),
        nll=-np.log(q[at, right]),
        kl=(p * np.log(p / q)).sum(-1),
        p_reference=p[at, right].astype(np.float32),
        p=q[at, right].astype(np.float32),
        same_top=p.argmax(-1) == q.argmax(-1),
    )


def layer_scores(document: int, tokens: NDArray[np.int32], layer: int, noise: float, seed: int = 0) -> LayerScores:
    """Hidden states, router and block of one layer; the last layer routes nothing."""
    draw = np.random.default_rng((1, layer))
    embedding = np.random.default_rng(5).normal(size=(VOCAB, WIDTH))
    hidden = embedding[tokens]
    moved = hidden + np.random.default_rng((seed, document, layer)).normal(size=hidden.shape) * noise
    matrix = draw.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH)
    error_in = np.linalg.norm(moved - hidden, axis=-1) / np.linalg.norm(hidden, axis=-1)
    error_out = np.linalg.norm((moved - hidden) @ matrix, axis=-1) / np.linalg.norm(hidden @ matrix, axis=-1)
    routing = None
    if layer < LAYERS - 1:
        router = draw.normal(size=(WIDTH, EXPERTS))
        a, b = hidden @ router, moved @ router
        first, second = (np.argsort(-x, axis=-1)[:, :TOP_K] for x in (a, b))
        ordered = -np.sort(-a, axis=-1)
        routing = Routing(
            set_changed=(np.sort(first, -1) != np.sort(second, -1)).any(-1),
            first_changed=first[:, 0] != second[:, 0],
            block_change=error_out.astype(np.float32),
            margin=(ordered[:, TOP_K - 1] - ordered[:, TOP_K]).astype(np.float32),
        )
    return LayerScores(error_in.astype(np.float32), error_out.astype(np.float32), routing)


def part(scores: TokenScores, start: int, stop: int) -> TokenScores:
    """Some scored positions of a document's."""
    cut = slice(start, stop)
    return TokenScores(
        scores.nll_reference[cut], scores.nll[cut], scores.kl[cut],
        scores.p_reference[cut], scores.p[cut], scores.same_top[cut],
    )  # fmt: skip


def fill(
    tally: Tally,
    among: Sequence[Document],
    noises: Sequence[float],
    only: Sequence[int] | None = None,
    forced: bool = True,
) -> None:
    """Feed a tally, layer by layer as the pass does; candidates differ by their noise."""
    places = range(len(among)) if only is None else only
    for layer in range(LAYERS):
        for c, noise in enumerate(noises):
            for d in places:
                tokens = among[d].tokens
                tally.layer(c, layer, "accumulated", d, 0, layer_scores(d, tokens, layer, noise, c))
                tally.layer(c, layer, "own", d, 0, layer_scores(d, tokens, layer, noise / 4, c))
    for c, noise in enumerate(noises):
        for d in places:
            tally.tokens(c, "accumulated", d, 0, token_scores(d, among[d].tokens, noise, c))
            if forced and c < len(noises) - 1:
                tally.tokens(c, "teacher-forced", d, 0, token_scores(d, among[d].tokens, noise / 2, c))


@cache
def filled(noises: tuple[float, ...] = (0.1, 0.5, 0.02)) -> Tally:
    """A tally of three candidates, the last of which stands for the noise floor."""
    tally = Tally(documents())
    fill(tally, documents(), noises)
    return tally


QUESTION = Question()
NOISES = {"gates-8bit": 0.05, "gates-8bit:bits=4": 0.4, "deepseek-8bit:bits=3,group_size=32": 0.8}


def record_of(source: Checkpoint, noises: dict[str, float] = NOISES, question: Question = QUESTION) -> dict[str, Any]:
    """A record of candidates by these names, whose scores are those of this noise; what the pass took is made up."""
    tally = Tally(documents())
    fill(tally, documents(), (*noises.values(), 0.04))
    candidates = [Candidate(name, recipe=load_variation(name)) for name in noises]
    told = [{"name": name, "bytes": 1 << 30, "bpw": 8.5, "active_bytes_per_token": 1 << 20} for name in noises]
    done = Pass(
        source=source_record(read_layout(source), source),
        candidates=[*told, {"name": NOISE_FLOOR}], layers=LAYERS, compute="float32", compute_reason="in numpy",
        source_bytes=1000, bytes_read=1000, seconds=1.5, step_seconds={"embedding": 0.1}, peak_memory_bytes=1 << 20,
        mlx_peak_bytes=1 << 19, resumed_at=None, ranks=1, rank=0, tokens=sum(len(d.tokens) for d in documents()),
    )  # fmt: skip
    texts = Documents(documents(), "0" * 64, ("1 document: cut to 400 tokens",))
    options = CompareOptions(teacher_forced_routing=True)
    record = make_record(source, candidates, texts, tally, done, question, options, {})
    return record | {"date": "2026-01-02T03:04:05Z", "machine": MACHINE, "versions": {"mlx": "0.0"}}


MACHINE = {"chip": "M0", "architecture": "arm64", "cores": 8, "memory_bytes": 1 << 36, "os": "macOS 1"}
