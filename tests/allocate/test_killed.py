"""An allocation that is killed goes on where it was, and writes the same recipe as one left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlxquant.allocate.folder import AllocateFolder
from mlxquant.cli import main
from tests.checkpoints import Size, write_tiny

ROOT = Path(__file__).resolve().parents[2]
# Runs the command with few probes a pass, and dies in the second pass, when a layer of it is done.
CHILD = """
import os, sys
import mlxquant.allocate.measure as measure
from mlxquant.cli import main

measure.MOST_PROBES = 8
passes, compare = [], measure.compare

def dying(source, candidates, documents, sums, options, progress, **others):
    passes.append(1)

    def watch(event):
        progress(event)
        if len(passes) == 2 and event.done == 2 and event.seconds is not None:
            os._exit(9)

    return compare(source, candidates, documents, sums, options, watch, **others)

measure.compare = dying
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_allocation_goes_on_and_writes_the_same_recipe(tmp_path, monkeypatch):
    write_tiny(tmp_path / "source", "qwen3_moe", Size(layers=1, experts=2), shards=1)
    texts = "".join(json.dumps({"text": f"A few words {i * 37} of text {i}."}) + "\n" for i in range(12))
    (tmp_path / "data.jsonl").write_text(texts)

    def words(name: str, *others: object) -> list[str]:
        given = ("allocate", tmp_path / "source", "--bpw", "6", "--bits", "4,8", "--group-size", "32,64",
                 "--data", tmp_path / "data.jsonl", "--method", "imatrix", *others, "-o", tmp_path / name)  # fmt: skip
        return [str(word) for word in given]

    assert CliRunner().invoke(main, words("whole.toml")).exit_code == 0
    resumed = words("killed.toml", "--work", tmp_path / "work")
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *resumed], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == 9, child.stderr
    folder = AllocateFolder(tmp_path / "work")
    assert len(json.loads((folder.path / "damage.json").read_text())["kl_nats"]) == 8
    monkeypatch.setattr("mlxquant.allocate.measure.MOST_PROBES", 8)
    with monkeypatch.context() as patch:  # stopped once more, before the check is kept
        patch.setattr(AllocateFolder, "keep_sums", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        stopped = CliRunner().invoke(main, resumed)
    assert stopped.exit_code == 130 and f"goes on from {folder.path}" in stopped.stderr
    assert "going on at" in stopped.stderr
    assert CliRunner().invoke(main, resumed).exit_code == 0
    assert (tmp_path / "killed.toml").read_bytes() == (tmp_path / "whole.toml").read_bytes()
    assert not list(folder.path.glob("pass-*"))
    calibration = folder.columns.read_bytes()  # other documents are refused before they calibrate in its place
    refused = CliRunner().invoke(main, [*resumed[:-1], str(tmp_path / "other.toml"), "--max-tokens", "8"])
    assert refused.exit_code == 3 and "calibrate.cal: was made from other documents" in refused.stderr, refused.output
    assert folder.columns.read_bytes() == calibration
