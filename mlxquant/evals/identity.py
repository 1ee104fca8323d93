"""Who really answers: sides that are one and the same, servers that answer as another model, and their own ways.

A difference between a build and itself says nothing of the build, and an answer of another model nothing of the one
that was asked. None of that is an error, for a baseline beside itself shows the noise; but it is never left unsaid. The
facts stand in the record as fields (`same_as_baseline`, `answers_as`, `ways`); the sentences here are made of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..endpoint.client import is_other_model
from .figures import Trial
from .sides import EvalSide, Variant


def same_as(baseline: Variant, candidate: Variant) -> str | None:
    """What two sides have in common that makes them one: "build", by its manifest, or "place"; None where nothing."""
    manifests = [side.facts.get("manifest_sha256") for side in (baseline, candidate)]
    if manifests[0] is not None and manifests[0] == manifests[1]:
        return "build"
    return "place" if baseline.place and baseline.place == candidate.place else None


def same_sides(sides: Sequence[EvalSide]) -> Iterator[str]:
    """Say which candidates are the baseline, before anything is asked."""
    baseline = sides[0].variant
    for side in sides[1:]:
        if what := same_as(baseline, side.variant):
            yield _same(side.variant.name, baseline.name, what, side.variant.kind)


def observed(requested_model: str, trials: Sequence[Trial]) -> dict[str, Any]:
    """What a side's requests show of who answered: `answers_as` and `ways`, each only where there is something."""
    requests = [request for trial in trials for request in trial["requests"]]
    names = sorted({request["model"] for request in requests if is_other_model(requested_model, request.get("model"))})
    ways = Counter(way for request in requests for way in request.get("ways", ()))
    return {**({"answers_as": names} if names else {}), **({"ways": dict(ways.most_common())} if ways else {})}


def identity_notes(record: Mapping[str, Any]) -> Iterator[str]:
    """Say of a record's sides which are the baseline itself, which answer as another model, and what servers do."""
    baseline = record["baseline"]
    for side in (baseline, *record["candidates"]):
        name = side["name"]
        if what := side.get("same_as_baseline"):
            yield _same(name, baseline["name"], what, side["kind"])
        yield from _answers_as(side)
        for way, answers in side.get("ways", {}).items():
            yield f"{name}: in {answers} of {side['serving']['requests']} answers the server {way}"


def answers_as(record: Mapping[str, Any]) -> Iterator[str]:
    """Say which of a record's servers answer as another model than was asked for."""
    for side in (record["baseline"], *record["candidates"]):
        yield from _answers_as(side)


def _answers_as(side: Mapping[str, Any]) -> Iterator[str]:
    if others := side.get("answers_as"):
        yield (
            f"{side['name']}: asked for {side['model']}, the server answers as {', '.join(others[:3])}; the figures are"
            " those of the model that answered, which may be another"
        )


def _same(candidate: str, baseline: str, what: str, kind: str) -> str:
    """The sentence for a candidate that is the baseline."""
    place = "the same server and model" if kind == "endpoint" else "the same folder"
    common = "the same build, by its manifest" if what == "build" else place
    return f"{candidate}: {common}, as the baseline {baseline}: all that differs is noise"
