"""Whether a candidate is judged on documents that calibrated it, where it looks better than on any others.

A document is known by the hash of what it says (`Documents.described`), which calibration files and the manifests of
calibrated builds hold. So the same text is found again under another name or id, or cut to another length; a part of
it, or the same words written otherwise, is not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..builds.manifest import read_manifest
from ..calibrate.candidates import EncodedCandidates
from ..errors import UsageError
from ..stream.candidates import Candidate
from ..words.formats import MSE, RTN
from .texts.documents import Documents

HASHES = "xxh3_128"
# What a record says of the documents beside their number, where their description has it
_FACTS = ("methods", "name", "sha256", "tokens", "held_out_every", "propagate")


def check_overlap(
    candidates: Sequence[Candidate],
    documents: Documents,
    calibration: Mapping[str, Any] | None,
    encoding: EncodedCandidates | None = None,
) -> dict[str, dict[str, Any]]:
    """What a record says of each calibrated candidate's documents, by name: how many, which, and how many judge it too.

    `calibration` describes the documents of the calibration file that recipes here use, `encoding` has those that
    recipes are encoded on. `judged` is None where an old calibration does not list its documents. Raises UsageError
    where no document is left that did not calibrate.
    """
    judging = {d.content_hash for d in documents.documents}
    overlaps: dict[str, dict[str, Any]] = {}
    for candidate in candidates:
        parts = list(_calibrations(candidate, calibration, encoding))
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
        largest = max(parts, key=lambda part: int(part["count"]))
        facts = {key: largest[key] for key in _FACTS if key in largest}
        overlaps[candidate.name] = {"documents": int(largest["count"]), "judged": judged, **facts}
    return overlaps


def overlap_warning(overlap: Mapping[str, Any], judging: int) -> str | None:
    """What is wrong with a candidate's documents, in a sentence; None where nothing is."""
    if (judged := overlap["judged"]) is None:
        return (
            f"was calibrated on {overlap['documents']:,} documents that its calibration does not list: make sure that"
            " none of them is judged on, or calibrate again"
        )
    if judged == 0:
        return None
    return f"was calibrated on {judged:,} of the {judging:,} documents judged on, so its figures are too good"


def _calibrations(
    candidate: Candidate, calibration: Mapping[str, Any] | None, encoding: EncodedCandidates | None
) -> Iterator[Mapping[str, Any]]:
    """The descriptions of all documents that a candidate was, or will be, calibrated on."""
    if candidate.build is not None:
        manifest = read_manifest(candidate.build)
        yield from _descriptions((manifest or {}).get("options"))
    elif candidate.recipe is not None:
        methods = sorted(set(candidate.recipe.methods) - {RTN, MSE})
        if encoding is not None and encoding.wants_recipe(candidate.recipe):
            yield {**encoding.data.record(), "methods": methods, "propagate": encoding.propagate}
        elif calibration is not None and methods:
            yield {**calibration, "methods": methods}


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
