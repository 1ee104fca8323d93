"""The pass holds one layer at a time: two and a half in the computing dtype at most, activations aside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import Size, write_tiny

ROOT = Path(__file__).resolve().parents[2]
# What is there anyway (interpreter, mlx, compiled kernels) is in memory before the measurement begins.
CHILD = """
import json, sys
from pathlib import Path
import mlx.core as mx
mx.set_default_device(mx.cpu)
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.stream.candidates import Candidate
from mlxquant.layout.layout import read_layout
from mlxquant.records.head import peak_memory
from tests.stream.compare_pass import narrow, run_pass, texts

large, small, work = map(Path, sys.argv[1:])
candidates = [Candidate(name, recipe=narrow(name)) for name in ("gates-8bit", "deepseek-8bit", "uniform-8bit", "none")]
run_pass(small, candidates, texts((20,)), work=work)
mx.clear_cache()
Path("/proc/self/clear_refs").write_text("5")
before = peak_memory()
run_pass(large, candidates, texts((20,)), work=work)
layout = read_layout(open_checkpoint(large))
layer = max(4 * sum(m.parameters for m in layout.modules if m.layer == i) for i in range(layout.n_layers))
print(json.dumps({"layer": layer, "grown": peak_memory() - before}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be reset on Linux only")
def test_no_more_than_two_and_a_half_layers_are_in_memory(tmp_path):
    write_tiny(tmp_path / "large", "qwen3_moe", Size(layers=4, hidden=512, experts=20, inner=512, vocab=512))
    write_tiny(tmp_path / "small", "qwen3_moe")
    run = subprocess.run(
        [sys.executable, "-c", CHILD, *(str(tmp_path / name) for name in ("large", "small", "work"))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=900,
    )
    told = json.loads(run.stdout)
    assert told["layer"] > 60e6
    assert told["grown"] < 2.5 * told["layer"], f"{told['grown'] / told['layer']:.2f} layers"
