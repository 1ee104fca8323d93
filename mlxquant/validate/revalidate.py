"""What changed under a build since it was made or measured, and so which figures no longer hold.

A build's bytes and the errors in its audit do not depend on what it runs on; `verify` says whether they still hold.
Speed hangs on the whole stack and the machine, quality on what computes: mlx, mlx-lm and the chip's arithmetic. So a
record of a measurement is held against the machine and the versions of today, each by what its figures depend on.
Without records the build's own manifest is the reference: what anybody measured when it was made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BuildError, RecordError
from ..records.files import read_record
from ..records.head import describe_machine, describe_versions, head

SCHEMA = "mlxquant.revalidate/1"

# What figures of a kind depend on, by the keys of `describe_versions` and `describe_machine`
_QUALITY = ("mlxquant", "mlx", "mlx-lm", "chip", "architecture")
_SPEED = (*_QUALITY, "python", "cores", "memory_bytes", "os")
DEPENDS: dict[str, tuple[str, ...]] = {"speed": _SPEED, "quality": _QUALITY}
# beginnings of schemas -> what such a record measures
_KINDS = {
    "mlxquant.bench": "speed", "mlxquant.eval": "quality", "mlxquant.compare": "quality", "mlxquant.tau2": "quality",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """One part of the stack that is another now."""

    what: str
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.what} {_word(self.then)} → {_word(self.now)}"


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was measured: what changed since that its figures depend on. No change means that it holds."""

    name: str
    kinds: tuple[str, ...]
    changes: tuple[Change, ...]

    def as_dict(self) -> dict[str, Any]:
        """Its entry in the record."""
        return {
            "name": self.name,
            "measures": list(self.kinds),
            "holds": not self.changes,
            "changes": [{"what": c.what, "then": c.then, "now": c.now} for c in self.changes],
        }


@dataclass(frozen=True, slots=True)
class Revalidation:
    """What became of a build's figures. `since_made` is every change of the stack since then, None if not known."""

    name: str
    since_made: tuple[Change, ...] | None
    checked: tuple[Checked, ...]

    @property
    def holds(self) -> bool:
        """Whether all that was measured still holds."""
        return not any(c.changes for c in self.checked)

    def as_dict(self) -> dict[str, Any]:
        """The record."""
        made = None if self.since_made is None else Checked(self.name, (), self.since_made).as_dict()["changes"]
        return {
            **head(SCHEMA),
            "build": self.name,
            "machine": describe_machine(),
            "versions": describe_versions(),
            "since_made": made,
            "measurements": [c.as_dict() for c in self.checked],
            "holds": self.holds,
        }


def revalidate(build: Path, records: Sequence[Path] = ()) -> Revalidation:
    """Hold a build, or records of measurements of it, against the machine and the versions of today.

    Raises BuildError where there is neither a manifest nor a record, RecordError for a record that cannot be used.
    """
    from ..builds.manifest import (  # which reads builds; `changes` and `DEPENDS` need none of that
        MANIFEST,
        read_manifest,
    )

    if not build.is_dir():
        raise BuildError(f"{build}: no such folder; give a build's")
    manifest = read_manifest(build)
    if manifest is None and not records:
        raise BuildError(
            f"{build}: no {MANIFEST}, so what it was made on is not known; give records of measurements beside it"
        )
    checked = [_check(path.name, read_record(path)) for path in records]
    if not checked:
        assert manifest is not None
        checked = [
            Checked(f"{kind} measured when it was made", (kind,), changes(manifest, keys))
            for kind, keys in DEPENDS.items()
        ]
    return Revalidation(build.resolve().name, changes(manifest) if manifest else None, tuple(checked))


def _check(name: str, record: Mapping[str, Any]) -> Checked:
    if not isinstance(record.get("versions"), dict) or not isinstance(record.get("machine"), dict):
        raise RecordError(f"{name}: {record['schema']}: does not say on what it was measured: no machine or versions")
    kind = next((kind for start, kind in _KINDS.items() if record["schema"].startswith(start)), None)
    kinds = tuple(DEPENDS) if kind is None else (kind,)
    if why := record["machine"].get("unknown"):
        return Checked(name, kinds, (Change("machine", f"unknown ({why})", "this one"),))
    return Checked(name, kinds, changes(record, DEPENDS[kind] if kind else None))


def changes(record: Mapping[str, Any], keys: Sequence[str] | None = None) -> tuple[Change, ...]:
    """Where today's machine and versions differ from a record's, of `keys` alone if given."""
    then = {**record["versions"], **record["machine"]}
    now = {**describe_versions(), **describe_machine()}
    told = [key for key in now if key in then and (keys is None or key in keys)]
    return tuple(Change(key, then[key], now[key]) for key in told if then[key] != now[key])


def _word(value: Any) -> str:
    if value is None:
        return "(not there)"
    return f"{value:,}" if isinstance(value, int) else str(value)
