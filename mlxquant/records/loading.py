"""Records as a report takes them: read, checked as far as the page counts on them, and known by a name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecordError
from ..evals.reading import problems_of
from ..report.page.judged_checks import agent_problems, verdict_problems
from ..report.page.swept_checks import sweep_problems
from ..words.text import listed
from .files import check_modules, read_hashed
from .measurements import comparison_problems

SIDES = ("mlxquant.plan/1", "mlxquant.audit/1")
DIFF = "mlxquant.diff/1"
BENCH = "mlxquant.bench/1"
PREDICT = "mlxquant.predict/1"
COMPARE = "mlxquant.compare/1"
EVAL = "mlxquant.eval/1"
TAU2 = "mlxquant.tau2/1"
VALIDATE = "mlxquant.validate/1"
SWEEP = "mlxquant.sweep/1"

_RECORD = "audit.json"
_GROUP = ("role", "layers", "modules", "a", "b", "delta_bytes", "a_reasons", "b_reasons")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A record, the name that a reader knows it by, its file, and the SHA-256 of that."""

    name: str
    file: str
    sha256: str
    record: dict[str, Any]

    @property
    def schema(self) -> str:
        """What kind of record it is."""
        return str(self.record["schema"])


def load(path: Path) -> Loaded:
    """Read a record's file, or the audit.json of a build's folder.

    Raises RecordError for what cannot be read, and for a known schema that is not kept.
    """
    if path.is_dir():
        if not (path / _RECORD).is_file():
            raise RecordError(
                f"{path}: a folder without {_RECORD}; write one: mlxquant audit {path} --json > {path.name}.audit.json"
            )
        path = path / _RECORD
    record, sha256 = read_hashed(path)
    problems = list(_problems(record, str(path)))
    if problems:
        raise RecordError(listed([f"{path}: {record['schema']}: {problem}" for problem in problems], limit=5))
    return Loaded(_name(path), _file(path), sha256, record)


def _name(path: Path) -> str:
    """``base`` for base.plan.json, the folder's name for build/audit.json."""
    if path.name == _RECORD:
        return path.resolve().parent.name
    name = path.name.removesuffix(".json")
    for kind in ("plan", "audit", "diff", "bench", "predict", "compare", "eval", "tau2", "validate", "sweep"):
        name = name.removesuffix(f".{kind}")
    return name


def _file(path: Path) -> str:
    """The file's own name, with its folder's where every build has one of that name."""
    return f"{path.resolve().parent.name}/{path.name}" if path.name == _RECORD else path.name


def _problems(record: Mapping[str, Any], where: str) -> Iterator[str]:
    schema = record["schema"]
    if schema in SIDES:
        check_modules(record, where)
    elif schema == DIFF:
        yield from _diff_problems(record)
    elif schema == BENCH:
        yield from _bench_problems(record)
    elif schema == PREDICT:
        yield from _build_problems(record)
        if not isinstance(record.get("chips"), list) or not all(isinstance(c, dict) for c in record["chips"]):
            yield "chips: a list of tables expected"
    elif schema == COMPARE:
        yield from comparison_problems(record)
    elif schema == EVAL:
        yield from problems_of(record)
    elif schema == VALIDATE:
        yield from verdict_problems(record)
    elif schema == SWEEP:
        yield from sweep_problems(record)
    elif schema == TAU2:
        yield from agent_problems(record)


def _diff_problems(record: Mapping[str, Any]) -> Iterator[str]:
    for side in ("a", "b"):
        found = record.get(side)
        if not isinstance(found, dict) or not isinstance(found.get("totals"), dict) or "name" not in found:
            yield f"{side}: a table with name and totals expected"
    if not isinstance(record.get("delta"), dict):
        yield "delta: a table expected"
    groups = record.get("groups")
    if not isinstance(groups, list) or not all(isinstance(g, dict) and g.keys() >= set(_GROUP) for g in groups):
        yield f"groups: a list of tables with {', '.join(_GROUP)} expected"


def _bench_problems(record: Mapping[str, Any]) -> Iterator[str]:
    wrong = list(_build_problems(record))
    yield from wrong
    if wrong:
        return
    builds, results = record["builds"], record.get("results")
    if not isinstance(results, list):
        yield "results: a list expected"
        return
    for number, result in enumerate(results):
        if not isinstance(result, dict) or not isinstance(result.get("test"), str):
            yield f"results[{number}]: a table with a test expected"
        elif type(result.get("build")) is not int or not 0 <= result["build"] < len(builds):
            yield f"results[{number}]: build {result.get('build')!r} is none of the record's {len(builds)}"
        elif result.get("tok_s") is not None and not _is_summary(result["tok_s"]):
            yield f"results[{number}]: tok_s is null or has mean, min and max"


def _build_problems(record: Mapping[str, Any]) -> Iterator[str]:
    builds = record.get("builds")
    if not isinstance(builds, list) or not all(isinstance(b, dict) and isinstance(b.get("name"), str) for b in builds):
        yield "builds: a list of tables with a name expected"


def _is_summary(value: Any) -> bool:
    return isinstance(value, dict) and all(type(value.get(key)) in (int, float) for key in ("mean", "min", "max"))
