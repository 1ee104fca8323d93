"""Other Python environments, made from PyPI, for tests of versions that are not installed here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

TIMEOUT_S = 900


def environment(folder: Path, *requirements: str) -> Path:
    """Make a virtual environment with these installed, and give its interpreter; skip where PyPI does not answer.

    With MLXQUANT_TEST_VENVS set to a folder, environments are kept there and used again.
    """
    kept = os.environ.get("MLXQUANT_TEST_VENVS")
    home = Path(kept or folder) / re.sub(r"[^\w.=]+", "-", "_".join(requirements))
    python = home / "bin/python"
    if (home / "installed").exists():
        return python
    venv.create(home, with_pip=True, clear=True)
    wanted = ["mlx[cpu]" if sys.platform == "linux" else "mlx", *requirements]
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"PyPI did not deliver {', '.join(requirements)} within {TIMEOUT_S} s")
    if run.returncode:
        pytest.skip(f"{', '.join(requirements)} could not be installed: {run.stderr.strip().splitlines()[-1]}")
    (home / "installed").touch()
    return python
