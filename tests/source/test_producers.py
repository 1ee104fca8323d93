"""Checkpoints packed by compressed-tensors itself, beside what its own code dequantizes; where it is installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.checkpoints import Size, write_tiny
from tests.support.builds import Stored, build, stored

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "benchmarks/source_formats/produce.py"


@pytest.fixture(scope="module")
def produce() -> ModuleType:
    """Give the script that packs with the producers' libraries."""
    pytest.importorskip("torch", reason="torch is not installed, which compressed-tensors needs")
    pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")
    spec = importlib.util.spec_from_file_location("produce", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["produce"] = module
    spec.loader.exec_module(module)
    return module


def test_what_the_library_packs_is_read_as_it_dequantizes_it(produce, tmp_path):
    write_tiny(tmp_path / "source", "qwen3_moe", Size(layers=2, experts=4))
    (tmp_path / "packed").mkdir()
    produce.main(tmp_path / "source", tmp_path / "packed")
    names = json.loads((tmp_path / "packed/producers.json").read_text())["formats"]
    for name in names:
        if name == "modelopt-fp8":  # the library rounds the scale to bfloat16 first
            continue
        folder = tmp_path / "packed" / name
        build(folder / "packed", folder / "ours", "none")
        build(folder / "meant", folder / "theirs", "none")
        ours, theirs = ({n: unsigned(t) for n, t in stored(folder / side).items()} for side in ("ours", "theirs"))
        assert ours == theirs, name


def unsigned(tensor: Stored) -> Stored:
    """A tensor with -0 as 0: ModelOpt reads the code of one as the other."""
    dtype, shape, data = tensor
    if dtype != "BF16":
        return tensor
    bits = np.frombuffer(data, np.uint16)
    return dtype, shape, np.where(bits == 0x8000, np.uint16(0), bits).tobytes()
