"""The tokenizer of a source, loaded as mlx-lm loads it; of a Hub id, from the few files that it needs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ..build_files import side_files
from ..checkpoint import Checkpoint
from ..errors import SourceError


def open_tokenizer(source: Checkpoint) -> Any:
    """Load a source's tokenizer, chat template included. Raises SourceError. Code of the source is not run."""
    if source.reader is None:
        raise SourceError(f"{source.name}: a config alone has no tokenizer; give the checkpoint's folder")
    if source.folder is not None:
        return _loaded(source.folder, source.name)
    with tempfile.TemporaryDirectory(prefix="mlxquant-") as folder:
        for name in ("config.json", *side_files(source.reader.beside(), trust_remote_code=False)):
            (Path(folder) / name).write_bytes(source.reader.read_whole(name))
        return _loaded(Path(folder), source.name)


def _loaded(folder: Path, name: str) -> Any:
    from mlx_lm.tokenizer_utils import load

    try:
        return load(folder)
    except Exception as error:  # third parties' code; tokenizers raises Exception itself
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        raise SourceError(f"{name}: its tokenizer cannot be loaded ({why}); compare reads texts with it") from error
