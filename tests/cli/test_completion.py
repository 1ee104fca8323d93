"""The shell completes commands and options, as docs/install.md says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("words", "at", "expected"),
    [
        ("mlxquant co", 1, "convert"),
        ("mlxquant convert --keep", 2, "--keep-source"),
    ],
)
def test_a_word_is_completed(root: Path, words: str, at: int, expected: str):
    env = {**os.environ, "PYTHONPATH": str(root), "_MLXQUANT_COMPLETE": "zsh_complete", "COMP_WORDS": words,
           "COMP_CWORD": str(at)}  # fmt: skip
    program = Path(sys.executable).with_name("mlxquant")
    done = subprocess.run([str(program)], env=env, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert expected in done.stdout.splitlines()
