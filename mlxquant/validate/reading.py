"""Records read as evidence: of plan, audit, compare, eval, tau2 and bench, checked as far as judging counts on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import RecordError
from ..records.files import check_modules, read_hashed
from ..records.schemas import kind_of
from ..records.schemas.sense import COUNTS, PLACES, senseless, sizes_of
from ..stats import Interval
from ..stats.interval import EXACT_METHOD, clopper_pearson
from ..words.text import listed
from .evidence import NOISE_FLOOR, UNITS, Evidence, Figure, Side, counted, identity_of, pointer_of, table_of

_NUMBERS = ("estimate", "low", "high", "se")


def read_evidence(path: Path) -> Evidence:
    """Read a record of plan, audit, compare, eval, tau2 or bench. Raises RecordError with all that is wrong."""
    if path.is_dir():
        path = path / "audit.json"
    record, sha256 = read_hashed(path)
    schema = str(record["schema"])
    kind_of(schema, str(path), [start.removeprefix("mlxquant.").rstrip("/") for start in UNITS], "to judge")
    name = f"{path.resolve().parent.name}/{path.name}" if path.name == "audit.json" else path.name
    baseline, candidates = _sides(record, schema, str(path))
    return Evidence(
        file=name,
        schema=schema,
        sha256=sha256,
        date=record.get("date") if isinstance(record.get("date"), str) else None,
        machine=table_of(record.get("machine")),
        versions=table_of(record.get("versions")),
        source=table_of(record.get("source")),
        baseline=baseline,
        candidates=candidates,
        notes=_notes(record.get("notes"), str(path)),
        record=record,
    )


def _notes(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | None) or not all(isinstance(note, str) for note in value or []):
        raise RecordError(f"{where}: notes: a list of texts expected, {str(value)[:40]!r} found")
    return tuple(value or [])


def _sides(record: Mapping[str, Any], schema: str, where: str) -> tuple[Side | None, tuple[Side, ...]]:
    if schema.startswith(("mlxquant.plan/", "mlxquant.audit/")):
        check_modules(record, where)
        if problems := list(sizes_of(record["totals"], "totals")):
            raise RecordError(listed([f"{where}: {schema}: {problem}" for problem in problems]))
        return None, (_sized(record),)
    if schema.startswith("mlxquant.bench/"):
        from ..bench.speeds import bench_sides

        return bench_sides(record, where)
    if problems := list(_problems(record)) or list(senseless(record)):
        raise RecordError(listed([f"{where}: {schema}: {problem}" for problem in problems], limit=5))
    sides = tuple(_side(entry, schema) for entry in record["candidates"])
    source = table_of(record.get("source"))
    baseline = record.get("baseline")
    if baseline is None:
        return None, sides
    found = _side(baseline, schema)
    at = {k: source[k] for k in ("name", "revision") if source.get(k)}
    return replace(found, pointer={**({"source": at} if at else {}), **found.pointer}), sides


def _sized(record: Mapping[str, Any]) -> Side:
    """The one build or recipe of a plan or an audit."""
    recipe, totals, source = table_of(record.get("recipe")), record["totals"], table_of(record.get("source"))
    name = str(recipe.get("name") or source.get("name") or "build")
    identity = identity_of({**record, "model_type": source.get("model_type")})
    return Side(name, identity, {}, tuple(counted(totals)))


def _side(entry: Mapping[str, Any], schema: str) -> Side:
    figures = tuple(_figure(m, schema) for m in entry["measurements"])
    kind = NOISE_FLOOR if entry.get("kind") == NOISE_FLOOR else "candidate"
    return Side(str(entry["name"]), identity_of(entry), pointer_of(entry), (*figures, *counted(entry)), kind)


def _figure(entry: Mapping[str, Any], schema: str) -> Figure:
    where = tuple((key, str(entry[key])) for key in PLACES if entry.get(key) is not None)
    interval = Interval.from_dict(entry)
    if schema.startswith("mlxquant.eval/") and entry["metric"] in COUNTS:
        interval = _share_of_trials(interval)
    return Figure(entry["metric"], where, interval)


def _share_of_trials(found: Interval) -> Interval:
    """What an evaluation counts (3 of 40 trials) as a share, its interval by tasks."""
    share = found.estimate / found.n
    low, high = clopper_pearson(share * found.clusters, found.clusters, found.confidence)
    return Interval(share, low, high, None, found.n, found.clusters, found.confidence, EXACT_METHOD)


def _problems(record: Mapping[str, Any]) -> Iterator[str]:
    candidates = record.get("candidates")
    if not isinstance(candidates, list) or not candidates:
        yield "candidates: a list of at least one table expected"
        return
    baseline = record.get("baseline")
    sides = [*(() if baseline is None else (("baseline", baseline),)), *enumerate(candidates)]
    for place, side in sides:
        where = place if isinstance(place, str) else f"candidates[{place}]"
        if not isinstance(side, Mapping) or not isinstance(side.get("name"), str):
            yield f"{where}: a table with a name expected"
        elif not isinstance(side.get("measurements"), list):
            yield f"{where}: measurements: a list expected"
        else:
            for number, entry in enumerate(side["measurements"]):
                if not _is_measurement(entry):
                    yield f"{where}: measurements[{number}]: metric, estimate, low, high, se, n and clusters expected"


def _is_measurement(entry: Any) -> bool:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("metric"), str):
        return False
    numbers: Sequence[Any] = [entry.get(key, "") for key in _NUMBERS]
    if not all(value is None or type(value) in (int, float) for value in numbers) or numbers[0] is None:
        return False
    more = [entry.get(key) for key in ("confidence", "df") if key in entry]
    if not all(type(value) in (int, float) for value in more) or not isinstance(entry.get("method", ""), str):
        return False
    return type(entry.get("n")) is int and type(entry.get("clusters")) is int
