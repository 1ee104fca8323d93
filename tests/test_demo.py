"""The demo is what a newcomer runs first: it has to go through, and leave nothing behind unless asked to."""

from __future__ import annotations

import subprocess
import sys

import pytest


def demo(folder, *words):
    command = [sys.executable, "-m", "mlxquant", "demo", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_demo_plans_converts_audits_compares_and_serves_a_request(tmp_path):
    done = demo(tmp_path, "-o", "kept")
    assert done.returncode == 0, done.stderr
    for word in ("$ mlxquant plan", "$ mlxquant convert", "$ mlxquant audit", "$ mlxquant diff", "\n  user   "):
        assert word in done.stdout
    assert "mlxquant convert Qwen/Qwen3.5-122B-A10B" in done.stdout.splitlines()[-4]
    served = done.stdout.partition("\n  user   ")[2]
    assert "  call   find_user {" in served
    assert "  result {" in served
    assert "  model  " in served
    assert "no valid call" not in served
    kept = sorted(p.name for p in (tmp_path / "kept").iterdir())
    assert kept == ["build-deepseek-8bit", "build-gates-8bit", "store-moe"]


def test_a_folder_that_exists_is_not_touched(tmp_path):
    (tmp_path / "mine").mkdir()
    done = demo(tmp_path, "-o", "mine")
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert not list((tmp_path / "mine").iterdir())
