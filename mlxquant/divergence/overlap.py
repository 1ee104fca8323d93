"""Whether a candidate is judged on documents that calibrated it, where it looks better than on any others.

A document is known by the hash of what it says (`Documents.described`), which calibration files and the manifests of
calibrated builds hold. So the same text is found again under another name or id, or cut to another length; a part of
it, or the same words written otherwise, is not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..builds.manifest import read_manifest
from ..errors import UsageError
from ..stream.candidates import Candidate
from ..words.formats import MSE, RTN
from .texts.documents import Documents

HASHES = "xxh3_128"


def check_overlap(
    candidates: Sequence[Candidate], documents: Documents, calibration: Mapping[str, Any] | None
) -> dict[str, dict[str, int | None]]:
    """Count, for each calibrated candidate by name, the documents of its calibration and those that judge it too.

    `calibration` describes the documents of the calibration that recipes here use. `judged` is None where an old
    calibration does not list its documents. Raises UsageError where no document is left that did not calibrate.
    """
    judging = {d.content_hash for d in documents.documents}
    overlaps: dict[str, dict[str, int | None]] = {}
    for candidate in candidates:
        parts = list(_calibrations(candidate, calibration))
        if not parts:
            continue
        hashes: set[str] = set().union(*(part.get(HASHES) or () for part in parts))
        listed = all(part.get(HASHES) for part in parts)
        judged = len(judging & hashes) if listed else None
        if judged == len(judging):
            raise UsageError(
                f"{candidate.name}: was calibrated on every document that it would be judged on"
                f" ({judged:,}); give --data with others"
            )
        overlaps[candidate.name] = {"documents": max(int(part["count"]) for part in parts), "judged": judged}
    return overlaps


def overlap_warning(overlap: Mapping[str, int | None], judging: int) -> str | None:
    """What is wrong with a candidate's documents, in a sentence; None where nothing is."""
    if (judged := overlap["judged"]) is None:
        return (
            f"was calibrated on {overlap['documents']:,} documents that its calibration does not list: make sure that"
            " none of them is judged on, or calibrate again"
        )
    if judged == 0:
        return None
    return f"was calibrated on {judged:,} of the {judging:,} documents judged on, so its figures are too good"


def _calibrations(candidate: Candidate, calibration: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The descriptions of all documents that a candidate was, or will be, calibrated on."""
    if candidate.build is not None:
        manifest = read_manifest(candidate.build)
        yield from _descriptions((manifest or {}).get("options"))
    elif candidate.recipe is not None and calibration is not None and set(candidate.recipe.methods) - {RTN, MSE}:
        yield calibration


def _descriptions(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every `documents` of a calibration within a manifest's options, wherever an encoder has put it."""
    if isinstance(value, Mapping):
        documents = value.get("documents")
        if isinstance(documents, Mapping) and isinstance(documents.get("count"), int):
            yield documents
        for inner in value.values():
            yield from _descriptions(inner)
    elif isinstance(value, Collection) and not isinstance(value, str):
        for inner in value:
            yield from _descriptions(inner)
