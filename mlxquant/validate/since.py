"""What must be measured again after mlx, mlx-lm, the system or the chip changed: `mlxquant validate --since`.

Figures depend on what computes them. Quality depends on mlxquant, mlx, mlx-lm and the chip's arithmetic; speed on the
whole stack and the machine. What a build was made on (its manifest) and what records were measured on is compared with
the machine and the versions of today; the result lists kinds of figures, records and tolerances. A build's bytes and
the errors in its audit depend on none of it: `verify` says whether they still are what they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecordError
from ..records.files import read_record
from ..records.head import describe_machine, describe_versions, head
from ..records.metrics import metric_named
from ..records.schemas import check
from .tolerances import read_tolerances

SCHEMA = "mlxquant.since/1"
_MANIFEST = "mlxquant.json"

# kind of figures -> what they depend on, by the keys of `describe_versions` and `describe_machine`
_QUALITY = ("mlxquant", "mlx", "mlx-lm", "chip", "architecture")
DEPENDS: dict[str, tuple[str, ...]] = {
    "speed": (*_QUALITY, "python", "cores", "memory_bytes", "os"),
    "quality": _QUALITY,
}
# kind of record -> kinds of its figures; a record of another kind is taken to hold both
MEASURES: dict[str, tuple[str, ...]] = {
    "bench": ("speed",),
    "eval": ("quality", "speed"),  # of its requests
    "compare": ("quality",),
    "tau2": ("quality",),
    "results": ("quality",),
}
_COMMANDS = {
    "quality": ("mlxquant compare", "mlxquant eval", "τ²-bench, then mlxquant tau2"),
    "speed": ("mlxquant bench", "mlxquant eval (its serving figures)"),
}
# family of a metric -> kind of its figures
_FAMILIES = {
    "compare": "quality",
    "eval": "quality",
    "tau2": "quality",
    "rollout": "quality",
    "results": "quality",
    "bench": "speed",
    "serving": "speed",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One part of the stack that is another now."""

    what: str
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.what} {_word(self.then)} → {_word(self.now)}"

    def as_dict(self) -> dict[str, Any]:
        """Its entry in the record."""
        return {"what": self.what, "then": self.then, "now": self.now}


def since(manifest: Path, records: Sequence[Path] = (), tolerances: Path | None = None) -> dict[str, Any]:
    """List what no longer holds, by kind, by record and by tolerance; `again` is empty where all holds.

    `manifest` is a build's folder, its mlxquant.json, or any record that says what it was made on. Raises RecordError
    for what cannot be read or names no machine and versions, ToleranceError for a faulty file of tolerances.
    """
    made_on = _stack(manifest / _MANIFEST if manifest.is_dir() else manifest)
    by_kind = {kind: changes(made_on, keys) for kind, keys in DEPENDS.items()}
    checked = [_checked(path) for path in records]
    if records:  # what was measured last counts
        stale = {kind for entry in checked for kind in entry["again"]}
    else:
        stale = {kind for kind, changed in by_kind.items() if changed}
    return {
        **head(SCHEMA),
        "since": manifest.name or str(manifest),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "changes": [change.as_dict() for change in changes(made_on)],
        "again": [
            {
                "figures": kind,
                "because": [str(change) for change in by_kind[kind]] or ["see the records"],
                "commands": list(_COMMANDS[kind]),
            }
            for kind in DEPENDS
            if kind in stale
        ],
        "records": checked,
        "tolerances": [] if tolerances is None else _stale_tolerances(tolerances, stale),
    }


def changes(record: Mapping[str, Any], keys: Sequence[str] | None = None) -> tuple[Change, ...]:
    """Where today's machine and versions differ from a record's, of `keys` alone if given."""
    then = {**record["versions"], **record["machine"]}
    now = {**describe_versions(), **describe_machine()}
    shared = [key for key in now if key in then and (keys is None or key in keys)]
    return tuple(Change(key, then[key], now[key]) for key in shared if then[key] != now[key])


def _stack(path: Path) -> Mapping[str, Any]:
    """A record that names the machine and the versions of its figures."""
    if path.name == _MANIFEST and path.parent.is_dir() and not path.exists():
        raise RecordError(
            f"{path.parent}: no {_MANIFEST}, so what it was made on is not known; give a record of what was measured"
        )
    record = read_record(path)
    if not isinstance(record.get("versions"), dict) or not isinstance(record.get("machine"), dict):
        raise RecordError(f"{path}: does not say what it was made on: no machine or versions in it")
    check(record, str(path), only=("machine", "versions"))
    return record


def _checked(path: Path) -> dict[str, Any]:
    """One record: which of its figures no longer hold, and since what changed."""
    record = _stack(path)
    schema = str(record["schema"])
    kinds = MEASURES.get(schema.partition("/")[0].removeprefix("mlxquant."), tuple(DEPENDS))
    if why := record["machine"].get("unknown"):
        return {"file": path.name, "schema": schema, "again": list(kinds), "because": [f"machine unknown ({why})"]}
    changed = {kind: changes(record, DEPENDS[kind]) for kind in kinds}
    because = dict.fromkeys(str(change) for kind in kinds for change in changed[kind])
    again = [kind for kind in kinds if changed[kind]]
    return {"file": path.name, "schema": schema, "again": again, "because": list(because)}


def _stale_tolerances(path: Path, stale: set[str]) -> list[dict[str, Any]]:
    """Each tolerance that rests on figures which no longer hold."""
    entries = []
    for t in read_tolerances(path, None).tolerances:
        metric = metric_named(t.metric)
        kind = _FAMILIES.get(metric.family) if metric else "quality"
        if kind in stale:
            entries.append(
                {"tolerance": t.number, "metric": t.metric, **dict(t.where), "limit": t.limit, "figures": kind}
            )
    return entries


def _word(value: Any) -> str:
    if value is None:
        return "(not there)"
    return f"{value:,}" if isinstance(value, int) else str(value)
