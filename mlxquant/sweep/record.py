"""A sweep's record: candidates from the smallest, every verdict on them, frontier, thresholds, recommendation.

It is made of other records alone: one of `compare`, which lists the candidates, and any of eval, tau2, bench, plan or
audit, whose sides are taken to be a candidate by a hash that both have, or by its name. A candidate that such a record
does not have was not measured there, and what is not measured is not inside a tolerance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import RecordError, UsageError
from ..records.candidates import recipe_entry
from ..records.head import head, utc_date
from ..validate.agreement import (
    Chosen,
    MixedRecordsError,
    check_machines,
    check_other_than_baseline,
    common,
    disagreements,
)
from ..validate.evidence import NOISE_FLOOR, Evidence, MeasuredSide
from ..validate.joining import Place, joined_to
from ..validate.judge import MISSING, Check, judge, verdict_of
from ..validate.reading import read_evidence
from ..validate.tolerances import Tolerances, read_tolerances
from ..validate.verdict import baseline_of, caveats, evidence_entry, tolerances_entry
from ..words.text import listed
from .candidates import SweepPoint, candidates_of, noise_floor_of
from .frontier import SIZES, dominated, frontier, thresholds
from .recommend import missed, recommend

SCHEMA = "mlxquant.sweep/1"
_COMPARE = "mlxquant.compare/1"
_CHOSEN_HERE = (
    "The documents that choose also judge, which flatters the choice: judge the recommended one again (`validate`) on"
    " others before it ships."
)


@dataclass(frozen=True, slots=True)
class _Swept:
    """A comparison with what else was measured, held against the tolerances."""

    comparison: Mapping[str, Any]
    evidence: Sequence[Evidence]
    candidates: Sequence[SweepPoint]
    checks: Mapping[str, Sequence[Check]]
    measured_in: Mapping[str, Sequence[str]]
    warnings: Sequence[str]


def sweep(
    records: Sequence[Path], tolerances: Path, *, mixed_machines: bool = False, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Judge every candidate of a comparison, and make the record. `notes` are said of how it was measured.

    Raises ToleranceError, UsageError, RecordError, MixedRecordsError.
    """
    comparison, evidence = _read(records)
    metrics = sorted({f.metric for e in evidence for side in e.candidates for f in side.figures})
    read = read_tolerances(tolerances, metrics)
    warnings = check_machines(evidence, mixed=mixed_machines)
    candidates = candidates_of(comparison)
    if not candidates:
        raise UsageError(f"{evidence[0].file}: no candidate in it but the noise floor; compare recipes or builds")
    sides = {c.name: _sides_of(c, evidence) for c in candidates}
    swept = _Swept(
        comparison=comparison,
        evidence=evidence,
        candidates=candidates,
        checks={
            name: [_explained(check, own_sides, evidence) for check in judge(read.tolerances, own_sides)]
            for name, own_sides in sides.items()
        },
        measured_in={name: [e.file for e, _ in own_sides] for name, own_sides in sides.items()},
        warnings=[
            *warnings,
            *(w for name, f in sides.items() for w in check_other_than_baseline(Chosen(name, tuple(f)), allowed=True)),
            *_strangers(evidence, sides),
        ],
    )
    return _record(swept, tolerances, read, notes)


def _read(records: Sequence[Path]) -> tuple[Mapping[str, Any], list[Evidence]]:
    """The one comparison, and all records as evidence, the comparison first."""
    evidence = [read_evidence(path) for path in records]
    if len({e.sha256 for e in evidence}) < len(evidence):
        raise UsageError("a record is given twice; it counts once")
    compared = [i for i, e in enumerate(evidence) if e.kind == "compare"]
    if len(compared) != 1:
        raise UsageError(f"a sweep is of one comparison: {len(compared)} records of compare given, 1 expected")
    first = compared[0]
    comparison = evidence[first].record
    if comparison["schema"] != _COMPARE:
        raise RecordError(f"{records[first]}: schema {_COMPARE} expected, {comparison['schema']!r} found")
    return comparison, [evidence[first], *(e for i, e in enumerate(evidence) if i != first)]


def _sides_of(candidate: SweepPoint, evidence: Sequence[Evidence]) -> list[tuple[Evidence, MeasuredSide]]:
    """A candidate's side in each record that has it. Raises MixedRecordsError where they are of different builds."""
    own = next(side for side in evidence[0].candidates if side.name == candidate.name)
    sides = [(place.evidence, place.side) for place in joined_to(Place(evidence[0], own), evidence)]
    if problems := disagreements(sides):
        raise MixedRecordsError(listed([f"{candidate.name}: records of different builds or sources:", *problems]))
    return sides


def _explained(check: Check, sides: Sequence[tuple[Evidence, MeasuredSide]], evidence: Sequence[Evidence]) -> Check:
    """Say of a figure that is missing whether it was measured of other candidates only."""
    if check.status != MISSING:
        return check
    t, here = check.tolerance, {e.file for e, _ in sides}
    names = (t.metric, f"{t.metric}_{t.kind}")
    files = [
        e.file
        for e in evidence
        if e.file not in here
        and t.record in (None, e.kind)
        and any(f.metric in names for side in e.candidates for f in side.figures)
    ]
    return replace(check, reason=f"measured in {files[0]}, but not for this candidate") if files else check


def _strangers(evidence: Sequence[Evidence], sides: Mapping[str, Sequence[tuple[Evidence, MeasuredSide]]]) -> list[str]:
    """Sides of other records that are no candidate of the comparison."""
    taken = {(e.file, side.name) for own in sides.values() for e, side in own}
    return [
        f"{e.file}: {side.name!r} is no candidate of {evidence[0].file}, by a hash or by name; left out"
        for e in evidence[1:]
        for side in e.candidates
        if side.kind != NOISE_FLOOR and (e.file, side.name) not in taken
    ]


def _record(swept: _Swept, path: Path, read: Tolerances, notes: Sequence[str]) -> dict[str, Any]:
    evidence, candidates, checks = swept.evidence, swept.candidates, swept.checks
    entry, late = tolerances_entry(path, read, evidence)
    baseline, more = baseline_of(evidence, None)
    measured = [e for e in evidence if e.machine and not e.machine.get("unknown")]
    every = [check for c in candidates for check in checks[c.name]]
    return {
        **head(SCHEMA),
        "date": utc_date(),
        "recommendation": recommend(candidates, checks),
        "tolerances": entry,
        "machine": common([e.machine for e in measured]),
        "versions": common([e.versions for e in measured]),
        "confidence": swept.comparison.get("confidence"),
        "source": common([e.source for e in evidence if e.source]),
        "data": swept.comparison.get("data"),
        "baseline": _with_size(baseline, swept.comparison),
        "noise_floor_kl_nats": noise_floor_of(swept.comparison),
        "frontier": {kind: frontier(candidates, kind) for kind in SIZES},
        "candidates": [_entry(swept, c) for c in candidates],
        "thresholds": thresholds(candidates, checks),
        "checks": [{"candidate": c.name, **check.as_dict()} for c in candidates for check in checks[c.name]],
        "evidence": [evidence_entry(e) for e in evidence],
        "warnings": list(dict.fromkeys([*late, *swept.warnings, *more])),
        "notes": list(dict.fromkeys([*notes, *evidence[0].notes])),
        "caveats": [*caveats(every), _CHOSEN_HERE],
    }


def _with_size(baseline: Mapping[str, Any] | None, comparison: Mapping[str, Any]) -> dict[str, Any] | None:
    """The baseline, with the bytes of the source's tensors that a pass reads."""
    done = comparison.get("pass")
    size = done.get("source_bytes") if isinstance(done, Mapping) else None
    return None if baseline is None else {**baseline, "bytes": size if type(size) is int else None}


def _entry(swept: _Swept, c: SweepPoint) -> dict[str, Any]:
    """One candidate: what it is and weighs, whether it is worth that, its verdict, its figures but those by layer."""
    checks = swept.checks[c.name]
    off = missed(checks)
    dominations = {kind: dominated(swept.candidates, kind) for kind in SIZES}
    measurements = c.entry.get("measurements") or []
    recipe = c.entry.get("recipe")
    return {
        "name": c.name,
        "kind": c.entry.get("kind"),
        "family": c.family,
        "bits": c.bits,
        "bytes": c.nbytes,
        "bpw": c.bpw,
        "active_bytes_per_token": c.active,
        "recipe": recipe_entry(recipe) if isinstance(recipe, Mapping) else None,
        **{key: c.entry[key] for key in ("manifest_sha256", "config_sha256") if c.entry.get(key)},
        "verdict": verdict_of(checks),
        "counts": dict(Counter(check.status for check in checks)),
        "first_missed": {"status": off[0].status, "metric": off[0].tolerance.metric, **dict(off[0].where)}
        if off
        else None,
        "dominated": {kind: by[c.name].as_dict() for kind, by in dominations.items() if c.name in by},
        "measured_in": list(swept.measured_in[c.name]),
        "measurements": [m for m in measurements if "layer" not in m],
    }
