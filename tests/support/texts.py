"""Small data files of texts and conversations, for commands that read `--data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_data(path: Path, documents: int = 6) -> Path:
    """Texts of a few tokens and one conversation a document."""
    lines = []
    for i in range(documents):
        if i % 2:
            line: dict[str, Any] = {"id": f"t{i}", "text": f"order {i} has {i * 7} items", "slices": ["numeric"]}
        else:
            messages = [("user", f"item {i}?"), ("assistant", f'{{"id": {i}}}'), ("user", "and?"), ("assistant", "no")]
            line = {"id": f"c{i}", "messages": [{"role": r, "content": c} for r, c in messages], "slices": ["json"]}
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines) + "\n")
    return path
