"""What the streamed pass hands out: scores per token and per layer, and the sink that takes them.

The pass (`engine`) computes, the sink (`tally`) counts: between them stand only these arrays, one candidate, one
document or a chunk of it at a time, so that neither keeps logits or hidden states for the other. All are numpy; a
scored position t predicts token t + 1, so a document of n tokens has n input positions and n - 1 scored ones.

`case` is one of
- "accumulated": the candidate on its own hidden state, as a build made by its recipe would run;
- "own": the candidate's whole layer on the reference's hidden state (its error entering is 0);
- "router": the candidate's router alone on the reference's input to that router;
- "teacher-forced": accumulated, but each router's output replaced by the reference's.

Candidates are numbered: recipes, then builds, then the noise floor (the reference, rounded to bf16 between layers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


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
