"""A calibration that is killed goes on where it was, and writes the same bytes as one left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlxquant.stream.state import STATE
from tests.support.texts import write_data

ROOT = Path(__file__).resolve().parents[2]
# Runs the command, and stands still in the middle of layer 1 until it is killed.
CHILD = """
import sys, time
from mlxquant.calibrate.inputs import InputSums
from mlxquant.cli import main

taken = []
take = InputSums._take

def standing(self, part, path, *args):
    taken.append(path)
    if "layers.1." in path and sum("layers.1." in p for p in taken) > 20:
        print("in the middle", flush=True)
        time.sleep(600)
    take(self, part, path, *args)

InputSums._take = standing
main(sys.argv[1:])
"""


def command(source: Path, data: Path, *words: object) -> list[str]:
    return ["calibrate", str(source), "--data", str(data), "--max-tokens", "24", *map(str, words)]


@pytest.mark.slow
def test_a_killed_calibration_goes_on_and_writes_the_same_bytes(tiny, tmp_path):
    source, data = tiny("qwen3_moe"), write_data(tmp_path / "texts.jsonl")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*words: object) -> None:
        arguments = [sys.executable, "-m", "mlxquant", *command(source, data, *words)]
        done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    run("-o", tmp_path / "whole.cal")
    words = ("--work", tmp_path / "work", "-o", tmp_path / "killed.cal")
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *command(source, data, *words)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "in the middle\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert (tmp_path / "work" / STATE).is_file()
    assert not (tmp_path / "killed.cal").exists()
    run(*words)
    assert (tmp_path / "killed.cal").read_bytes() == (tmp_path / "whole.cal").read_bytes()
