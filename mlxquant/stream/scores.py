"""What the streamed pass hands out: scores per token and per layer, and the sink that takes them.

The pass (`engine`) computes, the sink (`tally`) counts: between them stand only these arrays, one candidate, one
document or a chunk of it at a time, so that neither keeps logits or hidden states for the other. All are numpy; a
scored position t predicts token t + 1, so a document of n tokens has n input positions and n - 1 scored ones.

`case` is one of
- "accumulated": the candidate on its own hidden state, as a build made by its recipe would run;
- "own": the candidate's whole layer on the reference's hidden state (its error entering is 0);
- "router": the candidate's router alone on the reference's input to that router;
- "teacher-forced": accumulated, but each router's output replaced by the reference's.

Candidates are numbered: recipes, then builds, then the noise floor (the reference, computed in bf16).

Two rows of logits → what a candidate does to a token: its surprise, its divergence, its first choice.

With reference logits r, candidate logits c, p = softmax(r), all in float32 on mlx's device:

    nll   = log(Σ exp(c - max c)) - (c[token] - max c)
    u     = (c - r) - Σ p (c - r)                         the mean difference taken off, sums by blocks
    KL    = log(Σ p exp(u)) = log1p(Σ p (exp(u) - 1))     D(reference || candidate), nats

The second form of KL keeps what the first, and the textbook's Σ p (log p - log q), lose: for near equal logits both
subtract numbers of size 10 to get one of size 1e-6. Worked: r = (0, 0), c = (0, 0.002): u = ∓0.001, KL = log1p(Σ ½
(exp(u) - 1)) = 5e-7; the textbook's form in float32 may be 1.2e-7 off. Held against float64 by the tests: KL to 1e-6
nats or 1e-5 of itself, surprises to 5e-6. Where exp(u) grows too large for log1p, its logarithm is taken as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..kernels import Encoder
from ..layout.layout import Layout
from ..plan.plan import Plan
from .options import HasTokens

# --- scores ---


@dataclass(frozen=True)
class TokenScores:
    """One candidate on one document, or a chunk of it: scored positions start … start + m, in nats."""

    nll_reference: NDArray[np.float64]  # (m,) -log p of the correct token
    nll: NDArray[np.float64]  # (m,)
    kl: NDArray[np.float64]  # (m,) D(reference || candidate)
    p_reference: NDArray[np.float32]  # (m,) probability of the correct token
    p: NDArray[np.float32]  # (m,)
    same_top: NDArray[np.bool_]  # (m,) both hold the same token most likely


@dataclass(frozen=True)
class Routing:
    """How one layer's router chose on n input positions, beside the reference's."""

    set_changed: NDArray[np.bool_]  # (n,) other experts chosen, whatever their order
    first_changed: NDArray[np.bool_] | None  # (n,) another expert first; None where no scores are visible
    block_change: NDArray[np.float32] | None  # (n,) |block output - reference's| / |reference's|
    margin: NDArray[np.float32] | None  # (n,) reference's logit of the k-th expert minus that of the best not chosen


@dataclass(frozen=True)
class LayerScores:
    """One candidate, one layer, one case, one document or a chunk of it: n input positions."""

    error_in: NDArray[np.float32]  # (n,) relative L2 error of the hidden state entering the layer
    error_out: NDArray[np.float32]  # (n,) and leaving it
    routing: Routing | None  # None where the layer routes nothing


class Sink(Protocol):
    """Takes scores as they come; its state is plain arrays, so that a pass resumes and ranks merge."""

    def layer(self, candidate: int, layer: int, case: str, document: int, start: int, scores: LayerScores) -> None:
        """Take one layer's scores; `document` indexes the documents given, `start` its first position."""

    def tokens(self, candidate: int, case: str, document: int, start: int, scores: TokenScores) -> None:
        """Take scored positions start … start + m of one document."""

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything taken so far, as arrays by name."""

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Start from a state given out earlier, by this process or a dead one."""

    def merge(self, states: Sequence[Mapping[str, NDArray[np.generic]]]) -> None:
        """Become the sum of these states, one from each rank, one's own among them."""


class Listener(Protocol):
    """Takes down what enters the reference's modules while it runs."""

    def attach(self, model: Any) -> None:
        """Hook into the reference's model, which holds no weights yet."""

    def begin(self, document: int | None) -> None:
        """Hear which of the documents given comes next; None where what comes next is none of them."""

    def again(self, step: int | str, raws: Mapping[str, Any]) -> bool:
        """Take in a step that all documents went through, whose arrays are `raws` as the source has them (`Raw`).

        Says whether the documents shall go through it once more, for what was not taken down yet.
        """

    def instead(self, step: int | str, raws: Mapping[str, Any]) -> Mapping[str, mx.array]:
        """Arrays of a layer that take the place of the reference's, for documents to go on as they come out of these.

        Empty where they go on as they came out of the reference. What this run calls is not to be taken down.
        """

    @property
    def learns(self) -> bool:
        """Whether documents also go through the layers as encoded, on which `learn` is then called."""

    def learn(self, layer: LayerAtHand, raws: Mapping[str, Any]) -> Mapping[str, mx.array]:
        """Encode a layer better by what it makes of what enters it; gives the arrays that it has as encoded.

        Called once `again` has taken it in. What this runs is not to be taken down.
        """

    def encoded(self, step: int | str, raws: Mapping[str, Any]) -> Mapping[str, mx.array]:
        """The arrays of a step as they are encoded, that take the place of the reference's."""


class LayerAtHand(Protocol):
    """A layer of the reference that all documents went through, its arrays in place.

    What enters it comes out of the layers before as encoded; its target came through none of them.
    """

    @property
    def number(self) -> int:
        """The layer's."""

    @property
    def documents(self) -> Sequence[int]:
        """The documents' places among all."""

    def gradients(self) -> AbstractContextManager[None]:
        """Within it gradients go through what `through` gives."""

    def length(self, d: int) -> int:
        """Tokens of document `d` that `through` takes: no more than go through a layer at once."""

    def target(self, d: int) -> mx.array:
        """What left the reference's layer, (1, n, width) in float32."""

    def through(self, d: int, arrays: Mapping[str, mx.array]) -> mx.array:
        """The layer with some arrays put in, on what enters it: (1, n, width) in float32, not evaluated."""


class OnDocuments(Protocol):
    """Encodes recipes on documents of its own, which ride the pass beside those that judge.

    Each layer is encoded once these documents went through the reference's, before a candidate's is made. `streams`
    are the sets of hidden states in which they travel, each with a listener.
    """

    @property
    def documents(self) -> Sequence[HasTokens]:
        """The documents, of which every rank takes all."""

    @property
    def signature(self) -> Mapping[str, Any]:
        """All that encoded layers depend on, beside source and recipe, as JSON."""

    def wants(self, plan: Plan) -> bool:
        """Whether a plan has modules that are encoded here."""

    def start(
        self, layout: Layout, plans: Mapping[str, Plan], early: Mapping[str, Collection[str]]
    ) -> Sequence[Listener]:
        """Prepare for the plans of candidates, by name; a listener for each stream.

        `early` are modules that are used before this pass can know what enters them. Raises UsageError.
        """

    def encoder(self, name: str) -> Encoder:
        """The encoder of a candidate's modules that need documents, for the step at hand."""

    def origin(self, name: str) -> str:
        """What is equal for candidates whose modules of one format are encoded alike."""

    def forget(self) -> None:
        """Let go of what was encoded for the step at hand."""

    def close(self) -> None:
        """Let the threads go."""


# --- token scores ---


# Bytes of one stream's logits at once: vocabularies differ by a factor of 500, memory should not.
LOGIT_BYTES = 64 << 20
# From here on log1p(expm1) has nothing over logsumexp.
_LARGE = 1.0
_BLOCK = 128


def positions_at_once(vocabulary: int) -> int:
    """How many positions' logits are computed at once. ``positions_at_once(248320) == 67``."""
    return max(16, min(256, LOGIT_BYTES // (4 * vocabulary)))


def token_scores(reference: mx.array, logits: mx.array, targets: mx.array) -> TokenScores:
    """Score a candidate's logits (m, vocabulary) against the reference's and the tokens that came, (m,)."""
    arrays = (reference.astype(mx.float32), logits.astype(mx.float32), targets)
    if mx.default_device().type == mx.DeviceType.cpu:  # numpy's exponentials are vectorised there, mlx's are not
        scores = _scores(np, *(np.asarray(a) for a in arrays))
    else:
        scores = _scores(mx, *arrays)
        mx.eval(*scores)
    nll_reference, nll, kl, same = (np.asarray(a) for a in scores)
    surprises = [a.astype(np.float64) for a in (nll_reference, nll)]
    return TokenScores(
        nll_reference=surprises[0],
        nll=surprises[1],
        kl=kl.astype(np.float64),
        p_reference=np.exp(-surprises[0]).astype(np.float32),
        p=np.exp(-surprises[1]).astype(np.float32),
        same_top=same,
    )


def joined(parts: list[TokenScores]) -> TokenScores:
    """One document's scores from those of its chunks."""
    return TokenScores(
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in TokenScores.__dataclass_fields__}
    )


def _scores(xp: Any, r: Any, c: Any, targets: Any) -> tuple[Any, Any, Any, Any]:
    """Surprises of both, divergence and whether both have one first choice, (m,) each; `xp` is mlx.core or numpy."""
    same = xp.argmax(r, axis=-1) == xp.argmax(c, axis=-1)
    return _nll(xp, r, targets), _nll(xp, c, targets), _divergence(xp, r, c), same


def _nll(xp: Any, logits: Any, targets: Any) -> Any:
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    chosen = xp.take_along_axis(shifted, targets[:, None], axis=-1)[:, 0]
    return xp.log(_sum(xp, xp.exp(shifted))[:, 0]) - chosen


def _divergence(xp: Any, r: Any, c: Any) -> Any:
    top = xp.argmax(r, axis=-1)[:, None]
    r, c = (a - xp.take_along_axis(a, top, axis=-1) for a in (r, c))
    p = xp.exp(r)
    p = p / _sum(xp, p)
    u = c - r
    # p sums to 1 but for its rounding, which a shift common to all logits would make visible
    u = u - _sum(xp, p * u) / _sum(xp, p)
    near = xp.log1p(_sum(xp, p * xp.expm1(xp.minimum(u, _LARGE)))[:, 0])
    large = xp.max(u, axis=-1) >= _LARGE
    if not large.any():
        return xp.maximum(near, 0.0)
    joint = r - xp.log(_sum(xp, xp.exp(r))) + u
    most = xp.max(joint, axis=-1, keepdims=True)
    far = (most + xp.log(_sum(xp, xp.exp(joint - most))))[:, 0]
    return xp.maximum(xp.where(large, far, near), 0.0)


def _sum(xp: Any, a: Any) -> Any:
    """Sum over the last axis, kept, by blocks: mlx adds one value after another, which at 30,000 costs 8e-6 of it."""
    if xp is np:
        return a.sum(axis=-1, keepdims=True)  # by halves
    rows, n = a.shape
    whole = n - n % _BLOCK
    blocks = mx.sum(a[:, :whole].reshape(rows, -1, _BLOCK), axis=-1)
    if blocks.shape[1] > _BLOCK:
        blocks = _sum(mx, blocks)
    return mx.sum(blocks, axis=-1, keepdims=True) + mx.sum(a[:, whole:], axis=-1, keepdims=True)
