"""Files that a command writes beside what it prints: whole, or not at all."""

from __future__ import annotations

from pathlib import Path

from ..errors import OutputError


def write_whole(path: Path, text: str) -> None:
    """Write a text, replacing what was there only once all of it is on the disk. Raises OutputError."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="replace")
        partial.replace(path)
    except OSError as error:
        if path.parent.is_dir():
            partial.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
