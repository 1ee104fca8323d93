"""A small checkpoint and its build, which the tests of `verify` hold against each other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.checkpoints import Size, write_tiny
from tests.support.builds import build


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("verify") / "source"
    write_tiny(folder, "qwen3_5_moe", Size(layers=2, experts=2))
    return folder


@pytest.fixture(scope="session")
def own_build(source: Path) -> Path:
    """Give a whole build; it is read-only by agreement."""
    out = source.parent / "made"
    build(source, out, "gates-8bit")
    return out


@pytest.fixture
def copy(own_build: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(own_build, tmp_path / "build"))
