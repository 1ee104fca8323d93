"""When tolerances were written, and when measurements were made: the former should come first.

A file's time says when its bytes last changed here; a checkout sets it anew. So where git keeps the file and it is as
committed, the commit's time counts.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from .evidence import Evidence

COMMIT, FILE = "git commit", "file's time"


def written(path: Path) -> tuple[datetime, str]:
    """When a file was last changed, and how that is known."""
    folder, name = path.resolve().parent, path.name
    if _git(folder, "status", "--porcelain", "--", name) == "":
        seconds = _git(folder, "log", "-1", "--format=%ct", "--", name)
        if seconds and seconds.isdigit():
            return datetime.fromtimestamp(int(seconds), UTC), COMMIT
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


def too_new(changed: datetime, evidence: Sequence[Evidence]) -> list[str]:
    """Files of measurements that are older than the tolerances."""
    return [e.file for e in evidence if (at := measured(e)) is not None and at < changed]


def shown(moment: datetime) -> str:
    """A moment in a record."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _git(folder: Path, *words: str) -> str | None:
    """What git says; None where there is no git, no repository, or it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
