"""The trained model behind two real mlx_lm.servers: 2 bits show as damage, the baseline against itself does not."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from mlxquant.builds.read.build import read_build
from mlxquant.cli import main
from mlxquant.evals.loaded import LoadedModel
from mlxquant.evals.run import EvalSettings, evaluate
from mlxquant.evals.store.model import write_store_moe
from mlxquant.evals.suites.tool_loop import ToolLoop
from mlxquant.evals.trace import read_lines
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.records.measurements import measurement
from tests.endpoint.servers import mlx_lm_server
from tests.support.builds import build

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The trained model unquantized, in float32, which a CPU can run, and at 8 and 2 bits."""
    made = tmp_path_factory.mktemp("trained")
    write_store_moe(made / "source")
    build(made / "source", made / "full", "none", dtype="float32", audit=False)
    for bits in (8, 2):
        recipe = load_recipe("uniform-8bit", bits=bits, group_size=64)
        build(made / "source", made / f"{bits}-bit", recipe, dtype="float32", audit=False)
    return made


def of(side, metric, **where):
    figure = measurement(side, metric, **where)
    assert figure is not None and figure["low"] is not None, (metric, where, figure)
    return figure


def test_damage_shows_through_two_servers_and_the_baseline_beside_itself_shows_none(folders, tmp_path):
    with mlx_lm_server(folders / "full") as full, mlx_lm_server(folders / "2-bit") as two:
        words = [
            "eval", "--baseline", full, "--candidate", full, "--candidate", two, "--baseline-model", "default_model",
            "--baseline-build", folders / "full", "--calls", "5,10,20", "--tasks", "3", "--max-tokens", "96", "--json",
            "--trace", tmp_path / "t.jsonl", "-o", tmp_path / "e.json",
        ]  # fmt: skip
        for folder in (folders / "full", folders / "2-bit"):
            words += ["--candidate-model", "default_model", "--candidate-build", folder]
        result = CliRunner().invoke(main, [str(w) for w in words])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    baseline, (same, damaged) = record["baseline"], record["candidates"]
    assert of(baseline, "right_arguments")["estimate"] > 0.7, "the model can do what it was trained for"
    assert of(damaged, "right_call_difference", depth="1-20")["high"] < -0.2
    assert of(damaged, "right_call_difference")["high"] < -0.2
    nothing = of(same, "right_call_difference")
    assert nothing["estimate"] == 0 and nothing["low"] < 0 < nothing["high"]
    assert [r["mcnemar_p"] for r in same["paired"]] == [1.0] * len(same["paired"])
    calls = next(r for r in damaged["paired"] if r["metric"] == "right_call" and "slice" not in r)
    assert calls["only_baseline"] > 10 * max(1, calls["only_candidate"]) and calls["mcnemar_p"] < 0.01
    curves = {c["name"]: c for c in record["survival"]}
    assert curves["2-bit"]["median"] < (curves["full"]["median"] or 21)
    lines = [line["attributes"] for line in read_lines(tmp_path / "t.jsonl")]
    assert len(lines) == sum(t["attempts"] for t in record["trials"])
    assert {(a["model_variant"], a["recipe"]) for a in lines} == {
        ("full", "none"), ("full#2", "none"), ("2-bit", "uniform-8bit")
    }  # fmt: skip
    assert sum(a.get("gen_ai.usage.cache_read.input_tokens", 0) for a in lines) > 0, "the servers reuse their caches"


def test_long_loops_of_a_loaded_build_reuse_what_was_read(folders):
    sides = [LoadedModel(read_build(folders / name), name) for name in ("full", "8-bit")]
    suite = ToolLoop((60,), 1, max_tokens=96)
    record = evaluate(sides, [suite], EvalSettings())
    assert not any(t["failure"] for t in record["trials"])
    for side in (record["baseline"], *record["candidates"]):
        serving = side["serving"]
        assert serving["cached_tokens"] > 0.9 * serving["input_tokens"]
        depths = {m["depth"]: m["n"] for m in side["measurements"] if m["metric"] == "valid_call" and "depth" in m}
        assert depths == {"1-20": 20, "21-50": 30, "51-150": 10}
        assert side["serving"]["first_token_seen"] == serving["requests"]
