"""What is fuzzed: functions from bytes that give something sound, or raise MlxquantError, and nothing else."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mlxquant.builds.manifest import MANIFEST, read_manifest
from mlxquant.errors import MlxquantError
from mlxquant.layout.mlx_lm import decode_floats
from mlxquant.layout.roles import config_layer_types
from mlxquant.plan.recipe.recipe import parse_recipe
from mlxquant.plan.recipe.rules import parse_set
from mlxquant.source.checkpoint import read_config
from mlxquant.source.headers import header_length, parse_header
from mlxquant.source.index import read_index
from mlxquant.source.packed import check_config

CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Target:
    """A reader: `read` raises MlxquantError or gives something that it has itself found sound."""

    name: str
    read: Callable[[bytes], Any]

    def seeds(self) -> list[bytes]:
        """The kept corpus: sound inputs, and those that once failed."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).iterdir())]

    def outcome(self, data: bytes) -> str:
        """What a read came to: "read", or the error's message, which is checked too."""
        try:
            found = self.read(data)
        except MlxquantError as error:
            message = str(error)
            message.encode()
            assert len(message) < 20_000, f"a message of {len(message):,} letters"
            assert message.replace("\n", "").isprintable(), "a message that could disturb a terminal"
            return message
        return found if isinstance(found, str) else "read"


@cache
def _scratch() -> Path:
    folder = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _header(data: bytes) -> None:
    length = header_length(data[:8], "model.safetensors", len(data))
    tensors, _ = parse_header(data[8 : 8 + length], "model.safetensors", len(data))
    at = 8 + length
    for t in sorted(tensors, key=lambda t: (t.start, t.nbytes)):
        assert t.start == at and t.nbytes >= 0 and t.name.isprintable(), t
        at += t.nbytes
    assert at == len(data)


def _index(data: bytes) -> None:
    folder = Path("/checkpoint")
    for name, file in read_index(data).files.items():
        assert isinstance(name, str)
        assert os.path.normpath(folder / file) == f"{folder}/{file}", "a path outside the folder"


def _config(data: bytes) -> None:
    path = _scratch() / "config.json"
    path.write_bytes(data)
    config = read_config(path, None)
    check_config(config, "test")
    decoded = decode_floats(config)
    types = config_layer_types(decoded, 4)
    assert types is None or len(types) == 4


def _recipe(data: bytes) -> None:
    recipe = parse_recipe(data.decode("utf-8", "replace"))
    assert recipe.name is not None and recipe.sha256


def _manifest(data: bytes) -> None:
    (_scratch() / MANIFEST).write_bytes(data)
    assert isinstance(read_manifest(_scratch()), dict)


def _set(data: bytes) -> str:
    problems: list[str] = []
    rule = parse_set(data.decode("utf-8", "replace"), index=0, problems=problems)
    assert (rule is None) == bool(problems)
    return problems[0] if problems else "read"


TARGETS = {
    target.name: target
    for target in (
        Target("header", _header),
        Target("index", _index),
        Target("config", _config),
        Target("recipe", _recipe),
        Target("manifest", _manifest),
        Target("set", _set),
    )
}
