"""Where a source comes from: a folder, a config.json, or a repository on the Hub."""

from __future__ import annotations

from .checkpoint import Checkpoint, open_checkpoint


def open_source(text: str) -> Checkpoint:
    """Open what a person typed as SOURCE. Raises SourceError."""
    return open_checkpoint(text)
