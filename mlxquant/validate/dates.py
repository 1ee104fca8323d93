"""When tolerances were written, and when measurements were made: the former should come first.

A file's time says when its bytes last changed here; a checkout sets it anew. So where git keeps the file and it is as
committed, the commit's time counts (see `commits`). Where a repository keeps it but does not tell (a shallow clone, no
git here), neither counts: a checkout's time accuses nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from .commits import CannotTellError, committed
from .evidence import Evidence

COMMIT, FILE, UNKNOWN = "git commit", "file's time", "cannot be told"


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
        found = datetime.fromisoformat(evidence.date)
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def too_new(changed: datetime | None, evidence: Sequence[Evidence]) -> list[str]:
    """Files of measurements that are older than the tolerances; none where it cannot be told."""
    if changed is None:
        return []
    return [e.file for e in evidence if (at := measured(e)) is not None and at < changed]


def shown(moment: datetime) -> str:
    """A moment in a record."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
