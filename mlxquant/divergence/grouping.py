"""Which tokens a figure is over: all, by depth, by turn of the conversation, by slice.

Slices that a document names hold all of its tokens; slices found in the text (`in:json`, …) hold some of them, as do
buckets of depth and turn. Sums are kept a document and bucket; a named slice is then a choice of documents.

Depth is how many tokens the model has read: at input position t that is t + 1, the same t + 1 for the token scored
there. A scored position belongs to the turn and spans of the token that it predicts, a layer's to those of the token
that it reads.

Intervals take documents as independent, so copies of a document are one cluster: ten of them say no more than one. Of
documents that only begin alike (one system prompt, one list of tools) each stays its own; `shared_tokens` says how many
tokens that concerns, for a record to tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .texts.documents import Document

DEPTHS = (256, 1024, 4096, 16384, 65536)  # last position of each bucket; what is beyond has one more
TURNS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Group:
    """What a figure is over: nothing said is everything. `kind` is "", "depth", "turn" or "slice"."""

    kind: str = ""
    name: str = ""

    def keys(self) -> dict[str, str]:
        """The group as keys of a measurement."""
        return {self.kind: self.name} if self.kind else {}


ALL = Group()


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
        self.stored: tuple[Group, ...] = (
            ALL,
            *(Group("depth", name) for name in depths),
            *(Group("turn", name) for place, name in enumerate(bucket_names(TURNS)) if place in places),
            *(Group("slice", name) for name in spans),
        )
        self._place = {group: i for i, group in enumerate(self.stored)}
        named = sorted({name for d in documents for name in d.slices} - set(spans))
        self.documents_of: dict[Group, NDArray[np.bool_]] = {
            Group("slice", name): np.array([name in d.slices for d in documents]) for name in named
        }
        self.groups: tuple[Group, ...] = (*self.stored, *self.documents_of)
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
        for kind, names, found in (
            ("depth", bucket_names(DEPTHS), np.searchsorted(DEPTHS, at + 1)),
            ("turn", bucket_names(TURNS), np.where(d.turns[tokens] > 0, np.searchsorted(TURNS, d.turns[tokens]), -1)),
        ):
            for place in np.unique(found[found >= 0]):
                group = Group(kind, names[place])
                if group in self._place:  # the last token is read, but never predicts
                    rows.append((self._place[group], found == place))
        for name, mask in d.spans.items():
            if mask[tokens].any():
                rows.append((self._place[Group("slice", name)], mask[tokens]))
        matrix = np.ones((len(rows), length))
        for i, (_, member) in enumerate(rows):
            if member is not None:
                matrix[i] = member
        return [place for place, _ in rows], matrix

    def sums(self, stored: NDArray[np.float64], group: Group) -> NDArray[np.float64]:
        """One group's sums a cluster `(clusters, fields)`, from those stored `(stored, documents, fields)`."""
        if group in self._place:
            place = self._place[group]
            return self.clustered(stored[place : place + 1].reshape(stored.shape[1:]))
        return self.clustered(np.where(self.documents_of[group][:, None], stored[0], 0.0))

    def clustered(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums a document `(documents, fields)` as sums a cluster: copies of a document are added up."""
        if self.clusters == len(self.cluster_of):
            return sums
        found = np.zeros((self.clusters, sums.shape[1]))
        np.add.at(found, self.cluster_of, sums)
        return found

    def tokens_of(self, group: Group, document: int) -> NDArray[np.bool_]:
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
    return sum(_alike(a, b) for a, b in pairwise(ordered))


def _alike(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
