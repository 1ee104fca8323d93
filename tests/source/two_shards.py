"""A small checkpoint of two shards, to be damaged, and what opening it says then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxquant.errors import SourceError
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.source.index import INDEX
from tests.support.safetensor_files import write_shard

# What git leaves of a file where LFS is not installed
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1000\n"
A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def two_shards(folder: Path) -> Path:
    """Write a checkpoint of two shards with an index."""
    write_shard(folder / A, {"embed.weight": np.arange(12, dtype=np.float32).reshape(3, 4)})
    write_shard(folder / B, {"head.weight": np.ones((2, 2), np.float16), "norm.weight": np.ones(4, np.float32)})
    write_json(folder / "config.json", {"model_type": "llama", "hidden_size": 4})
    names = {"embed.weight": A, "head.weight": B, "norm.weight": B}
    write_json(folder / INDEX, {"metadata": {"total_size": 72}, "weight_map": names})
    return folder


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def change_index(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= changes
    write_json(folder / INDEX, index)


def change_config(folder: Path, **changes: Any) -> None:
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | changes)


def refused(folder: Path) -> str:
    with pytest.raises(SourceError) as caught:
        open_checkpoint(folder)
    return str(caught.value)
