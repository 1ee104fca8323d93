"""Records of measurements, plans and audits read as evidence, checked as far as judging counts on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

from ..bench.record import with_measurements
from ..errors import RecordError
from ..records.candidates import names_of, recipe_name
from ..records.files import read_hashed
from ..records.measurements import depth_range
from ..records.metrics import PLACES
from ..records.schemas import check
from ..records.schemas.sense import COUNTS, sizes_of
from ..stats import Interval
from ..stats.interval import EXACT_METHOD, T_METHOD, clopper_pearson
from .evidence import NOISE_FLOOR, UNITS, Evidence, Figure, MeasuredSide, counted, identity_of, pointer_of, table_of

_AUDIT, _MANIFEST = "audit.json", "mlxquant.json"


def read_evidence(path: Path) -> Evidence:
    """Read a record of one of `UNITS`. Raises RecordError with all that is wrong."""
    if path.is_dir():
        path = path / _AUDIT
    record, sha256 = read_hashed(path)
    kind = check(record, str(path), kinds=tuple(UNITS))
    if nothing := list(sizes_of(record.get("totals", {}), "totals")):  # a plan of nothing is a plan, but no build
        raise RecordError(f"{path}: {nothing[0]}")
    name = f"{path.resolve().parent.name}/{path.name}" if path.name == _AUDIT else path.name
    baseline, candidates = _sides(record, kind)
    if kind == "audit" and (manifest := _manifest_beside(path, sha256)):
        candidates = tuple(replace(c, identity={"manifest_sha256": manifest, **c.identity}) for c in candidates)
    return Evidence(
        file=name,
        schema=str(record["schema"]),
        sha256=sha256,
        date=record.get("date"),
        machine=table_of(record.get("machine")),
        versions=table_of(record.get("versions")),
        source=table_of(record.get("source")),
        baseline=baseline,
        candidates=candidates,
        notes=tuple(record.get("notes", ())),
        record=record,
    )


def _manifest_beside(path: Path, audit_sha256: str) -> str | None:
    """The SHA-256 of the manifest beside an audit.json, where that manifest has this audit's own hash."""
    manifest = path.with_name(_MANIFEST)
    if path.name != _AUDIT or not manifest.is_file():
        return None
    build, sha256 = read_hashed(manifest)
    entry = table_of(table_of(build.get("files")).get(_AUDIT))
    return sha256 if entry.get("sha256") == audit_sha256 else None


def _sides(record: Mapping[str, Any], kind: str) -> tuple[MeasuredSide | None, tuple[MeasuredSide, ...]]:
    if kind in ("plan", "audit"):
        return None, (_sized(record),)
    if kind == "bench":
        builds = tuple(_side(build, kind) for build in with_measurements(record)["builds"])
        return (builds[0], builds[1:]) if len(builds) > 1 else (None, builds)
    sides = tuple(_side(entry, kind) for entry in record["candidates"])
    source = table_of(record.get("source"))
    baseline = record.get("baseline")
    if baseline is None:
        return None, sides
    side = _side(baseline, kind)
    at = {k: source[k] for k in ("name", "revision") if source.get(k)}
    return replace(side, pointer={**({"source": at} if at else {}), **side.pointer}), sides


def _sized(record: Mapping[str, Any]) -> MeasuredSide:
    """The one build or recipe of a plan or an audit."""
    recipe, totals, source = table_of(record.get("recipe")), record["totals"], table_of(record.get("source"))
    name = str(recipe.get("name") or source.get("name") or "build")
    entry = {**record, "name": recipe_name(recipe) or name, "model_type": source.get("model_type")}
    pointer = {"recipe": {k: recipe.get(k) for k in ("name", "sha256")}} if recipe.get("name") else {}
    return MeasuredSide(entry["name"], identity_of(entry), pointer, tuple(counted(totals)))


def _side(entry: Mapping[str, Any], kind: str) -> MeasuredSide:
    """A side with its figures; one without an estimate (a perplexity beyond floats) counts as not measured."""
    figures = tuple(_figure(m, kind) for m in entry["measurements"] if m["estimate"] is not None)
    role = NOISE_FLOOR if entry.get("kind") == NOISE_FLOOR else "candidate"
    name, *aliases = names_of(entry)
    all_figures = (*figures, *counted(entry))
    source = table_of(entry.get("source"))
    return MeasuredSide(name, identity_of(entry), pointer_of(entry), all_figures, role, tuple(aliases), source)


def _figure(entry: Mapping[str, Any], kind: str) -> Figure:
    where = tuple((key, str(entry[key])) for key in PLACES if entry.get(key) is not None)
    interval = Interval.from_dict(entry)
    if kind == "eval" and entry["metric"] in COUNTS:
        interval = _share_of_trials(interval)
    if kind == "bench" and entry["metric"].endswith("_ratio"):
        return Figure(entry["metric"], where, _logarithm(interval), log=True)
    return Figure(entry["metric"], where, interval, depth=depth_range(entry))


def _share_of_trials(count: Interval) -> Interval:
    """What an evaluation counts (3 of 40 trials) as a share, its interval by tasks."""
    share = count.estimate / count.n
    low, high = clopper_pearson(share * count.clusters, count.clusters, count.confidence)
    return Interval(share, low, high, None, count.n, count.clusters, count.confidence, EXACT_METHOD)


def _logarithm(ratio: Interval) -> Interval:
    """The interval of a ratio's logarithm, where it is symmetric, from that of the ratio."""
    low, high = (None if end is None else log(end) for end in (ratio.low, ratio.high))
    se = None if ratio.se is None else ratio.se / ratio.estimate
    return replace(ratio, estimate=log(ratio.estimate), low=low, high=high, se=se, method=T_METHOD)
