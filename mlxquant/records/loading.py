"""Records as a report takes them: read, checked by their schemas, and known by a name.

A record of a kind that has no schema here, such as a later version's, is taken as it is and shown as far as that goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecordError
from .files import read_hashed
from .schemas import check, is_known

SIDES = ("mlxquant.plan/1", "mlxquant.audit/1")
DIFF = "mlxquant.diff/1"
BENCH = "mlxquant.bench/1"
PREDICTIONS = ("mlxquant.predict/1", "mlxquant.predict/2")
COMPARE = "mlxquant.compare/1"
EVAL = "mlxquant.eval/1"
TAU2 = "mlxquant.tau2/1"
RESULTS = "mlxquant.results/1"
ROLLOUT = "mlxquant.rollout/1"
VALIDATE = "mlxquant.validate/1"
SWEEP = "mlxquant.sweep/1"
ALLOCATE = "mlxquant.allocate/1"

_RECORD = "audit.json"


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

    Raises RecordError for what cannot be read, and for what is not as its schema says.
    """
    if path.is_dir():
        if not (path / _RECORD).is_file():
            raise RecordError(
                f"{path}: a folder without {_RECORD}; write one: mlxquant audit {path} --json > {path.name}.audit.json"
            )
        path = path / _RECORD
    record, sha256 = read_hashed(path)
    if is_known(str(record["schema"])):
        check(record, str(path), whole=True)
    return Loaded(known_as(path), _file(path), sha256, record)


def known_as(path: Path) -> str:
    """What a reader knows a record by: ``base`` for base.plan.json, the folder's name for build/audit.json."""
    if path.name == _RECORD:
        return path.resolve().parent.name
    name = path.name.removesuffix(".json")
    for kind in (
        "plan",
        "audit",
        "diff",
        "bench",
        "predict",
        "compare",
        "eval",
        "tau2",
        "rollout",
        "results",
        "validate",
        "allocate",
        "sweep",
    ):
        name = name.removesuffix(f".{kind}")
    return name


def _file(path: Path) -> str:
    """The file's own name, with its folder's where every build has one of that name."""
    return f"{path.resolve().parent.name}/{path.name}" if path.name == _RECORD else path.name
