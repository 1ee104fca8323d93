"""The tokenizer of a source, loaded as mlx-lm loads it; of a Hub id, from the few files that it needs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ...builds.read.loading import load_tokenizer
from ...builds.side_files import side_files
from ...errors import SourceError
from ...source.checkpoint import Checkpoint


def open_tokenizer(source: Checkpoint) -> Any:
    """Load a source's tokenizer, chat template included. Raises SourceError. Code of the source is not run."""
    if source.reader is None:
        raise SourceError(f"{source.name}: a config alone has no tokenizer; give the checkpoint's folder")
    if source.folder is not None:
        return load_tokenizer(source.folder, source.name, source.config)
    with tempfile.TemporaryDirectory(prefix="mlxquant-") as folder:
        for name in ("config.json", *side_files(source.reader.beside(), trust_remote_code=False)):
            (Path(folder) / name).write_bytes(source.reader.read_whole(name))
        return load_tokenizer(Path(folder), source.name, source.config)
