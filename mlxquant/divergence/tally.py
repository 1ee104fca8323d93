"""The sink of a compare pass: scores of single tokens and layers, reduced to sums a document.

Every figure has an interval clustered by document, so a sum for each document, group and candidate is all that most
of them need; percentiles need the values themselves, which are kept for KL and for the change in the correct token's
probability (float32, 8 bytes a token and candidate). What is kept does not grow with the vocabulary or the hidden size.

State is plain arrays. Sums are of float64 in the order in which scores came, and a document is scored by one rank, so
that a resumed pass, and one split over ranks, give the same numbers to the last bit as one that ran through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import OutputError
from ..stream.scores import LayerScores, TokenScores
from .grouping import ALL, Group, Grouping
from .texts.documents import Document

Sums = NDArray[np.float64]

# What is summed over scored tokens; r is the reference's -log p of the correct token, q the candidate's
TOKEN_FIELDS = ("n", "r", "q", "rr", "qq", "rq", "kl", "kl2", "dp", "dp2", "dp4", "same_top")
# What is summed over input positions of a layer
LAYER_FIELDS = (
    "n", "error_in", "error_out", "routed", "set_changed", "first_seen", "first_changed", "block_n", "block_change",
    "flipped_change", "margin_n", "margin",
)  # fmt: skip
_HALF = "rule/second_half"  # which tokens are scored, in a state
ACCUMULATED, OWN, ROUTER, TEACHER_FORCED = "accumulated", "own", "router", "teacher-forced"


class Tally:
    """Takes scores (`scores.Sink`) and keeps sums and values.

    State, by name: `tokens/CANDIDATE/CASE` are sums of TOKEN_FIELDS `(groups, documents, fields)`, `routing/…` sums of
    LAYER_FIELDS over all layers `(groups, documents, fields)`, `layers/CANDIDATE/CASE/LAYER` those of a layer
    `(documents, fields)`; `values/CANDIDATE/CASE/kl` and `dp` hold a value a token and `margins/LAYER` the reference's
    margins `(tokens,)`, NaN where none was taken.
    """

    def __init__(self, documents: Sequence[Document], *, second_half: bool = False) -> None:
        """Make room for these documents; candidates, cases and layers are known as they come.

        `second_half` scores only the tokens of each document's second half, as llama.cpp does in each of its chunks:
        positions from n // 2. Layers are scored at every position all the same.
        """
        self.grouping = Grouping(documents)
        self.second_half = second_half
        self.lengths = np.array([len(d.tokens) for d in documents])
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._arrays: dict[str, NDArray[np.generic]] = {_HALF: np.array([second_half])}
        self._members: dict[Group, NDArray[np.bool_]] = {}

    # --- what comes in ---

    def tokens(self, candidate: int, case: str, document: int, start: int, scores: TokenScores) -> None:
        """Take scored positions start … start + m of one document."""
        skipped = max(0, self.lengths[document] // 2 - start) if self.second_half else 0
        if skipped >= len(scores.kl):
            return
        kept = slice(skipped, None)
        r, q = scores.nll_reference[kept], scores.nll[kept]
        kl = scores.kl[kept]
        dp = scores.p[kept].astype(np.float64) - scores.p_reference[kept]
        fields = np.stack(
            [np.ones_like(r), r, q, r * r, q * q, r * q, kl, kl * kl, dp, dp**2, dp**4, scores.same_top[kept]]
        )
        places, members = self.grouping.members(document, start + skipped, len(r), shift=1)
        self._sums(f"tokens/{candidate}/{case}")[places, document] += members @ fields.T
        first = self.starts[document] + start + skipped
        for name, values in (("kl", kl), ("dp", dp)):
            self._values(f"values/{candidate}/{case}/{name}", np.float32)[first : first + len(r)] = values

    def layer(self, candidate: int, layer: int, case: str, document: int, start: int, scores: LayerScores) -> None:
        """Take one layer's scores of input positions start … start + n of one document."""
        fields = _layer_fields(scores)
        places, members = self.grouping.members(document, start, len(scores.error_in), shift=0)
        sums = members @ fields.T
        self._sums(f"layers/{candidate}/{case}/{layer}")[document] += sums[0]
        self._sums(f"routing/{candidate}/{case}")[places, document] += sums
        if scores.routing is not None and scores.routing.margin is not None:
            first = self.starts[document] + start
            values = self._values(f"margins/{layer}", np.float32)
            values[first : first + len(scores.error_in)] = scores.routing.margin

    # --- state: as arrays, by name ---

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything taken so far. The arrays are the tally's own: write or copy them before it goes on."""
        return dict(self._arrays)

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Start from a state given out earlier.

        Raises OutputError where other tokens were scored, ValueError where it is of other documents.
        """
        if bool(state.get(_HALF, self._arrays[_HALF])[0]) != self.second_half:
            begun = "with all tokens scored" if self.second_half else "with --second-half"
            raise OutputError(f"an unfinished comparison was begun {begun}; go on in the same way, or give --fresh")
        for name, array in state.items():
            expected = self._shape(name)
            if array.shape != expected:
                raise ValueError(f"state of another comparison: {name} has shape {array.shape}, {expected} expected")
        self._arrays = {name: array.copy() for name, array in state.items()}

    def merge(self, states: Sequence[Mapping[str, NDArray[np.generic]]]) -> None:
        """Become the sum of these states, one a rank, one's own among them; a document is one rank's alone."""
        merged: dict[str, NDArray[np.generic]] = {}
        for state in states:
            for name, array in state.items():
                if name not in merged:
                    merged[name] = array.copy()
                elif name == _HALF:
                    continue
                elif name.startswith(("values/", "margins/")):
                    merged[name] = np.where(np.isnan(merged[name].astype(array.dtype)), array, merged[name])
                else:
                    merged[name] = merged[name] + array  # type: ignore[operator]
        self.restore(merged)

    # --- what goes out ---

    def cases(self, kind: str, candidate: int) -> list[str]:
        """The cases that were taken of a candidate, `kind` being "tokens" or "routing"."""
        prefix = f"{kind}/{candidate}/"
        return [name.removeprefix(prefix) for name in self._arrays if name.startswith(prefix)]

    def token_sums(self, candidate: int, case: str) -> Sums:
        """Sums of TOKEN_FIELDS `(groups, documents, fields)`. Raises KeyError where none was taken."""
        return self._arrays[f"tokens/{candidate}/{case}"]  # type: ignore[return-value]

    def layer_sums(self, candidate: int, case: str) -> dict[int, Sums]:
        """Sums of LAYER_FIELDS `(clusters, fields)` of each layer, in order."""
        prefix = f"layers/{candidate}/{case}/"
        found = {int(name.removeprefix(prefix)): a for name, a in self._arrays.items() if name.startswith(prefix)}
        return {layer: self.grouping.clustered(found[layer]) for layer in sorted(found)}  # type: ignore[arg-type]

    def routing_sums(self, candidate: int, case: str) -> Sums:
        """Sums of LAYER_FIELDS over all layers `(groups, documents, fields)`."""
        return self._arrays[f"routing/{candidate}/{case}"]  # type: ignore[return-value]

    def values(
        self, candidate: int, case: str, name: str, group: Group = ALL
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Values of a group's scored tokens, `name` being "kl" or "dp", and the cluster of each; both `(scored,)`."""
        return self._taken(f"values/{candidate}/{case}/{name}", None if group == ALL else self._inside(group))

    def _inside(self, group: Group) -> NDArray[np.bool_]:
        """Which tokens' scored positions are in a group `(tokens,)`."""
        found = self._members.get(group)
        if found is None:
            found = self._members[group] = np.zeros(int(self.starts[-1]), bool)
            for document, (start, length) in enumerate(zip(self.starts, self.lengths, strict=False)):
                found[start : start + length - 1] = self.grouping.tokens_of(group, document)
        return found

    def margins(self) -> dict[int, tuple[NDArray[np.float64], NDArray[np.intp]]]:
        """The reference router's margins and the cluster of each, for each layer where they were visible."""
        layers = sorted(int(name.removeprefix("margins/")) for name in self._arrays if name.startswith("margins/"))
        return {layer: self._taken(f"margins/{layer}") for layer in layers}

    def _taken(
        self, name: str, inside: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """A value a token, and its cluster; which were taken is told by the counts where a score is not a number."""
        values = self._arrays[name].astype(np.float64)
        seen = ~np.isnan(values) if inside is None else ~np.isnan(values) & inside
        return values[seen], np.repeat(self.grouping.cluster_of, self.lengths)[seen]

    def _sums(self, name: str) -> Sums:
        found = self._arrays.get(name)
        if found is None:
            found = self._arrays[name] = np.zeros(self._shape(name))
        return found  # type: ignore[return-value]

    def _values(self, name: str, dtype: type[np.floating]) -> NDArray[np.generic]:
        found = self._arrays.get(name)
        if found is None:
            found = self._arrays[name] = np.full(int(self.starts[-1]), np.nan, dtype)
        return found

    def _shape(self, name: str) -> tuple[int, ...]:
        kind = name.partition("/")[0]
        if name == _HALF:
            return (1,)
        if kind in ("values", "margins"):
            return (int(self.starts[-1]),)
        sums = (len(self.lengths), len(TOKEN_FIELDS if kind == "tokens" else LAYER_FIELDS))
        return sums if kind == "layers" else (len(self.grouping.stored), *sums)


def _layer_fields(scores: LayerScores) -> NDArray[np.float64]:
    """LAYER_FIELDS of single positions `(fields, n)`; 0, counts too, where a router does not show something."""
    n = len(scores.error_in)
    fields = np.zeros((len(LAYER_FIELDS), n))
    fields[0], fields[1], fields[2] = 1, scores.error_in, scores.error_out
    routing = scores.routing
    if routing is None:
        return fields
    fields[3], fields[4] = 1, routing.set_changed
    if routing.first_changed is not None:
        fields[5], fields[6] = 1, routing.first_changed
    if routing.block_change is not None:
        change = routing.block_change.astype(np.float64)
        fields[7], fields[8], fields[9] = 1, change, np.where(routing.set_changed, change, 0.0)
    if routing.margin is not None:
        fields[10], fields[11] = 1, routing.margin
    return fields
