"""benchmarks/methods.py: copies of a model compute the same function, and a row says what was measured."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model

from benchmarks.method_study.building import Build
from benchmarks.method_study.models import turn
from benchmarks.method_study.table import row, table
from mlxquant.evals.store.model import write_store_moe


def logits(folder: Path) -> np.ndarray:
    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    return np.array(model(mx.arange(40, 60)[None]))


def test_a_copy_in_other_order_and_signs_computes_the_same_function(tmp_path: Path) -> None:
    write_store_moe(tmp_path / "source")
    turn(tmp_path / "source", tmp_path / "copy", 1)
    source, copy = logits(tmp_path / "source"), logits(tmp_path / "copy")
    assert np.abs(source - copy).max() < 1e-4 * np.abs(source).max()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("source", "copy")]
    assert weights[0] != weights[1]


def judged(kl: float) -> dict[str, Any]:
    alike = {"estimate": 0.99, "low": 0.98, "high": 1.0}
    return {"kl": [kl + 0.01 * (i % 3) for i in range(24)], "tokens": [10.0] * 24, "alike": alike}


def test_a_row_has_the_share_of_rounding_s_kl_its_luck_and_whether_the_limit_is_met() -> None:
    searched, rounded = Build(4, 64, "mse"), Build(4, 64, "rtn")
    tables = [{searched.name: judged(kl), rounded.name: judged(1.0)} for kl in (0.8, 0.5)]
    measured = row(searched, {"bytes": 1000, "cpu_s": 1.0}, tables[0], {}, tables[1:])
    assert 0.79 < measured["share"]["low"] <= measured["share"]["estimate"] <= measured["share"]["high"] < 0.82
    assert measured["luck"]["forms"] == 2
    assert 0.6 < measured["luck"]["share"] < 0.7
    assert measured["limit"] == {"share": 0.92, "met": True}
    assert "0.92, met" in table([measured])


def test_a_tool_that_does_not_run_has_a_row_with_its_error() -> None:
    refused = row(Build(3, 64, "peer", peer="gptq"), {"cpu_s": 1.0, "error": "Unsupported bits 3"}, {}, {}, [])
    assert "mlx-lm gptq | does not run: Unsupported bits 3 |" in table([refused])
