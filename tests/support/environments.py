"""Other Python environments, made from PyPI, for tests of versions that are not installed here."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

TIMEOUT_S = 900


def environment(places: pytest.TempPathFactory, *requirements: str) -> Path:
    """Make a virtual environment with these installed, and give its interpreter; skip where PyPI does not answer.

    All tests of a run, in whatever process, share it. With MLXQUANT_TEST_VENVS set to a folder, environments are kept
    there and used again.
    """
    base = places.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = Path(os.environ.get("MLXQUANT_TEST_VENVS") or shared / "environments")
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / re.sub(r"[^\w.=]+", "-", "_".join(requirements))
    with (folder / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making it
        return _made(home, requirements)


def _made(home: Path, requirements: tuple[str, ...]) -> Path:
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
