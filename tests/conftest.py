"""What every test may ask for: tiny checkpoints written once a session, and the reference data if it is there.

Checkpoints are shared between tests, so they are read-only by agreement: copy one before changing it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from mlxquant.words import secrets
from tests.checkpoints import ARCHITECTURES, write_tiny

ROOT = Path(__file__).resolve().parent.parent

# Kernels compile on first use, so a deadline would fail the first example; CI must not depend on luck.
# half of hypothesis' own number of examples: `make test` is to fit three minutes on two cores
settings.register_profile(
    "mlxquant", max_examples=50, deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True
)
settings.load_profile("mlxquant")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("metal"):
        import mlx.core as mx

        if not mx.metal.is_available():
            pytest.skip("needs Apple's GPU")
    if item.get_closest_marker("environments") and "MLXQUANT_ENVIRONMENTS" not in os.environ:
        pytest.skip("installs an environment of its own: run with MLXQUANT_ENVIRONMENTS=1 (`make environments`)")


@pytest.fixture(autouse=True)
def no_secrets() -> Iterator[None]:
    """Let no test's keys be redacted in another."""
    yield
    secrets.forget()


@pytest.fixture(scope="session", autouse=True)
def cpu() -> None:
    """Compute on the CPU everywhere: parity with mlx-lm is defined there."""
    import mlx.core as mx

    mx.set_default_device(mx.Device(mx.cpu))


@pytest.fixture(scope="session")
def root() -> Path:
    """Top of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data beside the checkout (../shared); a test that needs it is skipped without."""
    folder = ROOT.parent / "shared"
    if not (folder / "reference").is_dir():
        pytest.skip("reference data ../shared is not on this machine")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give a function from a name in `tests.checkpoints.ARCHITECTURES` to such a checkpoint, written once."""
    written: dict[str, Path] = {}

    def checkpoint(architecture: str) -> Path:
        if architecture not in written:
            folder = tmp_path_factory.mktemp("tiny") / architecture
            write_tiny(folder, architecture)
            written[architecture] = folder
        return written[architecture]

    return checkpoint


@pytest.fixture(scope="session")
def paper_config(shared: Path) -> Path:
    """Give the config.json of the paper's model."""
    return shared / "reference/configs/Qwen3.5-122B-A10B.json"


@pytest.fixture(scope="session")
def paper_headers(shared: Path, paper_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold the paper's model at full size: real headers, holes for data."""
    folder = tmp_path_factory.mktemp("sparse") / paper_config.stem
    tensors = shared / f"reference/tensors/{paper_config.stem}.tensors.json.gz"
    tool = shared / "tools/make_sparse_checkpoint.py"
    subprocess.run([sys.executable, tool, tensors, paper_config, folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def tiny_qwen(tiny: Callable[[str], Path]) -> Path:
    """Give a 6 MB Qwen3.5-MoE checkpoint: fused experts, both kinds of attention, mtp, three shards."""
    return tiny("qwen3_5_moe")


@pytest.fixture(scope="session", params=sorted(ARCHITECTURES))
def tiny_any(request: pytest.FixtureRequest, tiny: Callable[[str], Path]) -> Path:
    """Give each of the tiny checkpoints in turn; the folder's name is the architecture's."""
    return tiny(request.param)
