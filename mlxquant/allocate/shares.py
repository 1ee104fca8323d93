"""Documents for each purpose, told apart by the hash of their content: to calibrate, to allocate, to check.

The same document always lands in the same share, whatever file it comes in, so nothing that chose a format also judges
it. Shares are given in hundredths of the hash's range. What a calibration file was made from is in no share.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ..divergence.texts.documents import Document
from ..errors import DataError

CALIBRATE, ALLOCATE, CHECK = "calibrate", "allocate", "check"
# with and without calibration
SHARES = {True: {CALIBRATE: 30, ALLOCATE: 30, CHECK: 40}, False: {CALIBRATE: 0, ALLOCATE: 50, CHECK: 50}}
FEWEST = 2


class HasContent(Protocol):
    """What is told apart by its content: a document, or the line of a file that it comes from."""

    @property
    def content_hash(self) -> str:
        """The hash of its content."""


_Hashed = TypeVar("_Hashed", bound=HasContent)


@dataclass(frozen=True)
class Shares:
    """Documents by purpose. `left_out` of those given calibrated before, were given to check, too, or are copies."""

    calibrate: list[Document]
    allocate: list[Document]
    check: list[Document]
    left_out: int = 0

    def by_purpose(self) -> dict[str, list[Document]]:
        """The documents by the name of what they are for."""
        return {CALIBRATE: self.calibrate, ALLOCATE: self.allocate, CHECK: self.check}

    def counts(self) -> dict[str, int]:
        """How many documents each has."""
        return {purpose: len(documents) for purpose, documents in self.by_purpose().items()}


def shared_out(
    documents: Sequence[Document],
    *,
    calibrates: bool,
    judge: Sequence[Document] | None = None,
    calibrated: Collection[str] = (),
) -> Shares:
    """Share documents out; with `judge` those check, and none of the others does. Raises DataError for too few.

    `calibrated` are the content hashes of documents that calibrated before: they neither allocate nor check. A document
    of `documents` that is in `judge` too is left out of the former, and a copy of one before it counts nowhere: an
    interval by document would take it for evidence of its own.
    """
    shares = dict(SHARES[calibrates])
    if judge is not None:
        shares[CHECK] = 0
    parts = parted(documents, shares, apart={*calibrated, *(document.content_hash for document in judge or ())})
    parts[CHECK] += [document for document in once(judge or ()) if document.content_hash not in calibrated]
    needed = [name for name in parts if name != CALIBRATE or calibrates]
    if any(len(parts[name]) < FEWEST for name in needed):
        counts = ", ".join(f"{len(parts[each])} to {each}" for each in needed)
        raise DataError(
            f"--data: {len(documents)} documents leave {counts}; at least {FEWEST} for each expected: give more"
            " documents, or others to check with --judge"
        )
    left_out = len(documents) + len(judge or ()) - sum(map(len, parts.values()))
    return Shares(parts[CALIBRATE], parts[ALLOCATE], parts[CHECK], left_out)


def once(documents: Iterable[_Hashed]) -> list[_Hashed]:
    """The documents without copies of one before, told by their content."""
    first: dict[str, _Hashed] = {}
    for document in documents:
        first.setdefault(document.content_hash, document)
    return list(first.values())


def parted(
    documents: Iterable[_Hashed], shares: Mapping[str, int], *, apart: Collection[str] = ()
) -> dict[str, list[_Hashed]]:
    """Documents by purpose, without copies and those whose content hash is in `apart`; `shares` as in `purpose_of`."""
    parts: dict[str, list[_Hashed]] = {purpose: [] for purpose in shares}
    for document in once(documents):
        if document.content_hash not in apart:
            parts[purpose_of(document.content_hash, shares)].append(document)
    return parts


def purpose_of(content_hash: str, shares: Mapping[str, int]) -> str:
    """What a document is for, by the hash of its content: `shares` are parts of the hash's range by purpose.

    >>> purpose_of("0" * 32, {"allocate": 50, "check": 50})
    'allocate'
    """
    place = int(content_hash[:12], 16) % sum(shares.values())
    for purpose, share in shares.items():
        if place < share:
            return purpose
        place -= share
    raise ValueError("a share is negative")
