"""The verdict on candidates, and its record: what was judged, by what, on what evidence, and what to roll back to.

The record has caveats, which say what such evidence cannot show, and a warning where the tolerances are newer than the
measurements that they judge. They are as old as their commit, where git keeps the file and it is as committed (see
`commits`), else as the file's time, which says when its bytes last changed here. Where a repository keeps the file but
does not tell (a shallow clone, no git here), nothing is said of its age: a checkout sets a file's time anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..records.head import head, utc_date
from ..records.metrics import metric_named
from ..stats import covered
from .agreement import Chosen, check_machines, check_other_than_baseline, choose, common
from .commits import CannotTellError, committed
from .evidence import Evidence, MeasuredSide
from .judge import FAIL, INCONCLUSIVE, MISSING, PASS, Check, judge, verdict_of
from .tolerances import Tolerances, read_tolerances

# --- caveats ---


_KL, _KL_MEAN = "kl_", "kl_nats"
_AS_STATED = 0.94  # below it an interval's coverage is told
_SURER = 0.99  # what is asked for then
_FLIPS = ("same_top", "expert_set_changed", "first_expert_changed", "flips_weighted")
_LONG = 151


def caveats(checks: Sequence[Check]) -> list[str]:
    """Sentences for the reader of a verdict."""
    return list(_sentences([c for c in checks if c.status != MISSING], checks))


def _sentences(used: Sequence[Check], checks: Sequence[Check]) -> Iterator[str]:
    if any(c.tolerance.metric.startswith(_KL) for c in used):
        yield (
            "KL rejects bad quantizations; it does not rank near-lossless ones. Among quantizations close to the"
            " reference its rank correlation with benchmark scores was 0.00 and -0.24 (arXiv:2606.19558)."
        )
    documents = [
        c.interval.clusters
        for c in used
        if c.tolerance.metric == _KL_MEAN and c.interval is not None and c.tolerance.confidence < _SURER
    ]
    if documents and covered(min(documents)) < _AS_STATED:
        yield (
            f"KL is skewed: over {min(documents):,} documents an interval of its mean at 95 % holds the truth in about"
            f" {covered(min(documents)):.0%} of cases (simulated). Ask for confidence = 0.99, or gate on"
            " kl_above_0_1_nats."
        )
    families = {metric.family for c in used if (metric := metric_named(c.tolerance.metric))}
    if any(c.tolerance.metric in _FLIPS for c in used):
        flips = [c for c in used if c.tolerance.metric in _FLIPS and c.interval is not None]
        few = min(
            (c.interval.n * min(c.interval.estimate, 1 - c.interval.estimate) for c in flips if c.interval), default=0
        )
        yield (
            f"Flips are counted token by token (about {max(few, 0):,.0f} in the smallest of these samples), and a few"
            " hundred of them say little about a 200-call loop, in which one may spoil all that follows."
        )
    if "compare" in families and not families & {"eval", "tau2", "results"}:
        yield "Nothing here was generated: a comparison scores given text, so what a build writes itself is not judged."
    if families & {"eval", "tau2"} and not any(_deep(c) for c in used):
        yield (
            f"No loop of {_LONG} calls or more was judged. Errors compound: at 1 % of calls wrong, 82 % of loops of 20"
            " calls are right throughout and 13 % of those of 200."
        )
    if len(checks) > 20 and any(c.status == INCONCLUSIVE for c in checks):
        yield f"Of {len(checks)} checks some stay open by chance, even where the build is the baseline itself."


def _deep(check: Check) -> bool:
    """Whether a check is of calls deep in long loops; a comparison's depth counts tokens."""
    metric = metric_named(check.tolerance.metric)
    loops = metric is not None and metric.family in ("eval", "tau2")
    return loops and check.depth is not None and check.depth[0] >= _LONG


# --- dates ---


COMMIT, FILE, UNKNOWN = "git commit", "file's time", "at a time that cannot be told"


def written(path: Path) -> tuple[datetime | None, str]:
    """When a file was last changed, and how that is known; None and why where it cannot be told."""
    try:
        commit = committed(path)
    except CannotTellError as error:
        return None, f"{UNKNOWN} ({error})"
    if commit is not None:
        return commit, COMMIT
    return datetime.fromtimestamp(path.stat().st_mtime, UTC), FILE


def measured(evidence: Evidence) -> datetime | None:
    """When a record's run began, as it says; a time without a zone is taken as UTC."""
    if evidence.date is None:
        return None
    try:
        moment = datetime.fromisoformat(evidence.date)
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def too_new(changed: datetime | None, evidence: Sequence[Evidence]) -> list[str]:
    """Files of measurements that are older than the tolerances; none where it cannot be told."""
    if changed is None:
        return []
    return [e.file for e in evidence if (at := measured(e)) is not None and at < changed]


# --- verdict ---


SCHEMA = "mlxquant.validate/1"
_POINTERS = ("manifest_sha256", "endpoint", "build", "source", "revision", "config_sha256", "file", "agent_llm")


@dataclass(frozen=True, slots=True)
class Judged:
    """One candidate's checks."""

    chosen: Chosen
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> str:
        """PASS, FAIL or INCONCLUSIVE."""
        return verdict_of(self.checks)


def validate(
    evidence: Sequence[Evidence],
    tolerances: Path,
    *,
    candidates: Sequence[str] = (),
    baseline_at: str | None = None,
    mixed_machines: bool = False,
    allow_same: bool = False,
) -> dict[str, Any]:
    """Judge candidates by a tolerance file, and make the record.

    `baseline_at` says in words where the build to roll back to is found. `allow_same` lets a candidate be its own
    baseline, as it is in a run that measures noise. Raises ToleranceError, UsageError, MixedRecordsError.
    """
    if not evidence:
        raise UsageError("nothing to judge: give records of compare, eval, results, rollout, bench, plan or audit")
    if len({e.sha256 for e in evidence}) < len(evidence):
        raise UsageError("a record is given twice; it counts once")
    metrics = sorted({f.metric for e in evidence for side in e.candidates for f in side.figures})
    read = read_tolerances(tolerances, metrics)
    warnings = check_machines(evidence, mixed=mixed_machines)
    chosen = choose(evidence, candidates)
    warnings += [w for c in chosen for w in [*c.warnings, *check_other_than_baseline(c, allowed=allow_same)]]
    judged = [Judged(c, tuple(judge(read.tolerances, c.sides))) for c in chosen]
    return _record(evidence, tolerances, read, judged, warnings, baseline_at)


def _record(
    evidence: Sequence[Evidence],
    path: Path,
    tolerances: Tolerances,
    judged: Sequence[Judged],
    warnings: list[str],
    baseline_at: str | None,
) -> dict[str, Any]:
    entry, late = tolerances_entry(path, tolerances, evidence)
    warnings = [*late, *warnings]
    baseline, more = baseline_of(evidence, baseline_at)
    checks = [check for j in judged for check in j.checks]
    words = {j.verdict for j in judged}
    measured = [e for e in evidence if e.machine and not e.machine.get("unknown")]
    return {
        **head(SCHEMA),
        "date": utc_date(),
        "verdict": FAIL if FAIL in words else PASS if words == {PASS} else INCONCLUSIVE,
        "tolerances": entry,
        "machine": common([e.machine for e in measured]),
        "versions": common([e.versions for e in measured]),
        "source": common([e.source for e in evidence if e.source]),
        "baseline": baseline,
        "candidates": [
            {
                "name": j.chosen.name,
                "verdict": j.verdict,
                "counts": dict(Counter(c.status for c in j.checks)),
                "identity": _merged([side.identity for _, side in j.chosen.sides]),
                "measured_as": {e.file: side.name for e, side in j.chosen.sides},
            }
            for j in judged
        ],
        "checks": [{"candidate": j.chosen.name, **check.as_dict()} for j in judged for check in j.checks],
        "evidence": [evidence_entry(e) for e in evidence],
        "warnings": list(dict.fromkeys([*warnings, *more])),
        "caveats": caveats(checks),
    }


def tolerances_entry(
    path: Path, tolerances: Tolerances, evidence: Sequence[Evidence]
) -> tuple[dict[str, Any], list[str]]:
    """What a record says of a tolerance file, and a warning where it is newer than the measurements."""
    changed, known_by = written(path)
    newer = too_new(changed, evidence)
    entry = {
        "name": tolerances.name,
        "file": tolerances.file,
        "sha256": tolerances.sha256,
        "written": None if changed is None else utc_date(changed),
        "written_by": known_by,
        "newer_than": newer,
    }
    if changed is None or not newer:
        return entry, []
    return entry, [
        f"{tolerances.file} was changed {utc_date(changed)} ({known_by}), after the measurements in"
        f" {', '.join(newer)}: tolerances set after the fact prove little"
    ]


def baseline_of(evidence: Sequence[Evidence], baseline_at: str | None) -> tuple[dict[str, Any] | None, list[str]]:
    """What the candidate was held against, and where it is; warnings where that is unclear."""
    named = [(e.file, e.baseline) for e in evidence if e.baseline is not None]
    if not named:
        at = {"at": baseline_at} if baseline_at else None
        missing = (
            [] if at else ["no record has a baseline, so no build to roll back to is named (--baseline-at names one)"]
        )
        return at, missing
    _, best = min(named, key=lambda pair: _rank(pair[1]))
    entry: dict[str, Any] = {"name": best.name, "pointer": dict(best.pointer)}
    entry |= {"at": baseline_at} if baseline_at else {}
    entry["records"] = [{"file": file, "name": side.name, **side.identity} for file, side in named]
    warnings = list[str]()
    if names := _different([(e.file, e.baseline) for e in evidence if e.baseline is not None and e.kind != "compare"]):
        warnings.append(f"the records have different baselines: {', '.join(names)}; each difference is to its own")
    if not baseline_at and not any(key in best.pointer for key in _POINTERS):
        warnings.append(f"no record says where the baseline {best.name!r} is to be found; say it with --baseline-at")
    return entry, warnings


def _different(named: Sequence[tuple[str, MeasuredSide]]) -> list[str]:
    """The baselines' names with their files, where one is not the other: by what identifies them, else by name.

    A comparison's baseline is the source itself, which others stand in for, so it is not asked.
    """
    for i, (_, a) in enumerate(named):
        for _, b in named[i + 1 :]:
            known = a.identity.keys() & b.identity.keys()
            same = all(a.identity[key] == b.identity[key] for key in known) if known else a.name == b.name
            if not same:
                return [f"{side.name} in {file}" for file, side in named]
    return []


def _rank(side: MeasuredSide) -> int:
    """A build with its manifest's hash is the best pointer, then a server, a folder, a source's revision."""
    return next((i for i, key in enumerate(_POINTERS) if side.pointer.get(key)), len(_POINTERS))


def evidence_entry(e: Evidence) -> dict[str, Any]:
    """One record that a verdict rests on."""
    return {
        "file": e.file,
        "schema": e.schema,
        "sha256": e.sha256,
        "date": e.date,
        "chip": e.machine.get("chip"),
        "mlx": e.versions.get("mlx"),
        "mlx-lm": e.versions.get("mlx-lm"),
    }


def _merged(tables: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {key: value for table in tables for key, value in table.items()}
