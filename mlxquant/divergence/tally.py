"""The sink of a compare pass: scores of single tokens and layers, reduced to sums a document, by group of tokens.

Every figure has an interval clustered by document, so a sum for each document, group and candidate is all that most
of them need; percentiles need the values themselves, which are kept for KL and for the change in the correct token's
probability (float32, 8 bytes a token and candidate). What is kept does not grow with the vocabulary or the hidden size.

State is plain arrays. Sums are of float64 in the order in which scores came, and a document is scored by one rank, so
that a resumed pass, and one split over ranks, give the same numbers to the last bit as one that ran through.

A figure is over all tokens, or those of a depth, of a turn of the conversation, of a slice. Slices that a document
names hold all of its tokens; slices found in the text (`in:json`, …) hold some of them, as do buckets of depth and
turn. Sums are kept a document and bucket; a named slice is then a choice of documents.

Depth is how many tokens the model has read: at input position t that is t + 1, the same t + 1 for the token scored
there. A scored position belongs to the turn and spans of the token that it predicts, a layer's to those of the token
that it reads.

Intervals take documents as independent, so copies of a document are one cluster: ten of them say no more than one. Of
documents that only begin alike (one system prompt, one list of tools) each stays its own; `shared_tokens` counts the
tokens that this concerns. Figures with intervals are made of these sums in `statistics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OutputError
from ..stream.scores import LayerScores, TokenScores
from ..words.text import common_prefix
from .texts.documents import Document

# --- groups of tokens ---

DEPTHS = (256, 1024, 4096, 16384, 65536)  # last position of each bucket; what is beyond has one more
TURNS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class SliceGroup:
    """What a figure is over: nothing said is everything. `kind` is "", "depth", "turn" or "slice"."""

    kind: str = ""
    name: str = ""

    def keys(self) -> dict[str, Any]:
        """The group as keys of a measurement."""
        return {self.kind: self.name} if self.kind else {}


ALL = SliceGroup()


def bucket_names(ends: Sequence[int]) -> tuple[str, ...]:
    """``bucket_names((256, 1024)) == ("1-256", "257-1024", "1025+")``; a bucket of one number has that number."""
    starts = (1, *(end + 1 for end in ends))
    names = [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=False)]
    return (*names, f"{starts[-1]}+")


class Grouping:
    """The groups of a set of documents, and which tokens of each document are in them.

    `groups` are all of them, everything first; `stored` those whose sums are kept a document (`ALL`, depths, turns,
    spans), in the order of the sums' first axis; `documents_of` says which documents a named slice holds.
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        """Find the groups that hold any token."""
        self._documents = documents
        deepest = max(len(d.tokens) for d in documents)
        turns = np.unique(np.concatenate([np.unique(d.turns) for d in documents]))
        places = {int(np.searchsorted(TURNS, turn)) for turn in turns if turn > 0}
        depths = bucket_names(DEPTHS)[: int(np.searchsorted(DEPTHS, deepest - 1)) + 1]
        spans = sorted({name for d in documents for name in d.spans})
        self.stored: tuple[SliceGroup, ...] = (
            ALL,
            *(SliceGroup("depth", name) for name in depths),
            *(SliceGroup("turn", name) for place, name in enumerate(bucket_names(TURNS)) if place in places),
            *(SliceGroup("slice", name) for name in spans),
        )
        self._place = {group: i for i, group in enumerate(self.stored)}
        named = sorted({name for d in documents for name in d.slices} - set(spans))
        self.documents_of: dict[SliceGroup, NDArray[np.bool_]] = {
            SliceGroup("slice", name): np.array([name in d.slices for d in documents]) for name in named
        }
        self.groups: tuple[SliceGroup, ...] = (*self.stored, *self.documents_of)
        contents = [d.tokens.tobytes() for d in documents]
        numbers = {content: i for i, content in enumerate(dict.fromkeys(contents))}
        self.cluster_of = np.array([numbers[content] for content in contents])
        self.clusters = len(numbers)

    def members(self, document: int, start: int, length: int, *, shift: int) -> tuple[list[int], NDArray[np.float64]]:
        """The stored groups that tokens of a document are in, and a row of 0 and 1 for each `(groups, length)`.

        Positions start … start + length; turn and spans are those of the token `shift` further on (1 where it is the
        token predicted).
        """
        d = self._documents[document]
        at = np.arange(start, start + length)
        tokens = slice(start + shift, start + shift + length)
        rows: list[tuple[int, NDArray[np.bool_] | None]] = [(0, None)]
        for kind, names, bucket in (
            ("depth", bucket_names(DEPTHS), np.searchsorted(DEPTHS, at + 1)),
            ("turn", bucket_names(TURNS), np.where(d.turns[tokens] > 0, np.searchsorted(TURNS, d.turns[tokens]), -1)),
        ):
            for place in np.unique(bucket[bucket >= 0]):
                group = SliceGroup(kind, names[place])
                if group in self._place:  # the last token is read, but never predicts
                    rows.append((self._place[group], bucket == place))
        for name, mask in d.spans.items():
            if mask[tokens].any():
                rows.append((self._place[SliceGroup("slice", name)], mask[tokens]))
        matrix = np.ones((len(rows), length))
        for i, (_, member) in enumerate(rows):
            if member is not None:
                matrix[i] = member
        return [place for place, _ in rows], matrix

    def sums(self, stored: NDArray[np.float64], group: SliceGroup) -> NDArray[np.float64]:
        """One group's sums a cluster `(clusters, fields)`, from those stored `(stored, documents, fields)`."""
        if group in self._place:
            place = self._place[group]
            return self.clustered(stored[place : place + 1].reshape(stored.shape[1:]))
        return self.clustered(np.where(self.documents_of[group][:, None], stored[0], 0.0))

    def clustered(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums a document `(documents, fields)` as sums a cluster: copies of a document are added up."""
        if self.clusters == len(self.cluster_of):
            return sums
        clusters = np.zeros((self.clusters, sums.shape[1]))
        np.add.at(clusters, self.cluster_of, sums)
        return clusters

    def tokens_of(self, group: SliceGroup, document: int) -> NDArray[np.bool_]:
        """Which scored positions of a document are in a group `(n - 1,)`."""
        length = len(self._documents[document].tokens) - 1
        if group in self.documents_of:
            return np.full(length, bool(self.documents_of[group][document]))
        places, matrix = self.members(document, 0, length, shift=1)
        place = self._place[group]
        return matrix[places.index(place)] > 0 if place in places else np.zeros(length, bool)


def shared_tokens(documents: Sequence[Document]) -> int:
    """Tokens in beginnings that an earlier document of the set has too, copies of whole documents left out.

    Neighbours in the order of the alphabet share the longest beginnings, so each is compared with the one before it.
    """
    ordered = sorted({tuple(d.tokens.tolist()) for d in documents})
    return sum(common_prefix(a, b) for a, b in pairwise(ordered))


# --- sums and values ---

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
        self._members: dict[SliceGroup, NDArray[np.bool_]] = {}

    # --- what comes in ---

    def tokens(self, candidate: int, case: str, document: int, start: int, scores: TokenScores) -> None:
        """Take scored positions start … start + m of one document."""
        skipped = max(0, self.lengths[document] // 2 - start) if self.second_half else 0
        if skipped >= len(scores.kl):
            return
        scored = slice(skipped, None)
        r, q = scores.nll_reference[scored], scores.nll[scored]
        kl = scores.kl[scored]
        dp = scores.p[scored].astype(np.float64) - scores.p_reference[scored]
        fields = np.stack(
            [np.ones_like(r), r, q, r * r, q * q, r * q, kl, kl * kl, dp, dp**2, dp**4, scores.same_top[scored]]
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
        by_layer = {int(name.removeprefix(prefix)): a for name, a in self._arrays.items() if name.startswith(prefix)}
        return {layer: self.grouping.clustered(by_layer[layer]) for layer in sorted(by_layer)}  # type: ignore[arg-type]

    def routing_sums(self, candidate: int, case: str) -> Sums:
        """Sums of LAYER_FIELDS over all layers `(groups, documents, fields)`."""
        return self._arrays[f"routing/{candidate}/{case}"]  # type: ignore[return-value]

    def values(
        self, candidate: int, case: str, name: str, group: SliceGroup = ALL
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Values of a group's scored tokens, `name` being "kl" or "dp", and the cluster of each; both `(scored,)`."""
        return self._taken(f"values/{candidate}/{case}/{name}", None if group == ALL else self._inside(group))

    def _inside(self, group: SliceGroup) -> NDArray[np.bool_]:
        """Which tokens' scored positions are in a group `(tokens,)`."""
        inside = self._members.get(group)
        if inside is None:
            inside = self._members[group] = np.zeros(int(self.starts[-1]), bool)
            for document, (start, length) in enumerate(zip(self.starts, self.lengths, strict=False)):
                inside[start : start + length - 1] = self.grouping.tokens_of(group, document)
        return inside

    def margins(self) -> dict[int, tuple[NDArray[np.float64], NDArray[np.intp]]]:
        """The reference router's margins and the cluster of each, for each layer where they were visible."""
        layers = sorted(int(name.removeprefix("margins/")) for name in self._arrays if name.startswith("margins/"))
        return {layer: self._taken(f"margins/{layer}") for layer in layers}

    def _taken(
        self, name: str, inside: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """The values that were taken, NaN left out, and the cluster of each; both (taken,). `inside` chooses tokens."""
        values = self._arrays[name].astype(np.float64)
        seen = ~np.isnan(values) if inside is None else ~np.isnan(values) & inside
        return values[seen], np.repeat(self.grouping.cluster_of, self.lengths)[seen]

    def _sums(self, name: str) -> Sums:
        sums = self._arrays.get(name)
        if sums is None:
            sums = self._arrays[name] = np.zeros(self._shape(name))
        return sums  # type: ignore[return-value]

    def _values(self, name: str, dtype: type[np.floating]) -> NDArray[np.generic]:
        values = self._arrays.get(name)
        if values is None:
            values = self._arrays[name] = np.full(int(self.starts[-1]), np.nan, dtype)
        return values

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
