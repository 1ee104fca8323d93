"""The store model: a Qwen3.5-MoE of two million parameters, trained on the tool loops of `mlxquant.evals.store`.

The other tiny checkpoints are random, which shows nothing about quality; this one does a task that quantization can
damage. It lies here as it was published by benchmarks/tiny_moe, in the Hub's layout, and is copied, never computed.
"""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path

FILES = (
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def write_store_moe(folder: Path) -> None:
    """Write the trained checkpoint, 4 MB, into a folder.

    >>> write_store_moe(Path("/tmp/store-moe"))  # doctest: +SKIP
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        with as_file(files(__package__).joinpath(name)) as path:
            shutil.copyfile(path, folder / name)
