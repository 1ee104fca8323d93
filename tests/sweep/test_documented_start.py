"""The documented start, as it is typed: a tolerance file, a sweep, a recommendation, and the build's own verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.divergence.texts.documents import BUILTIN_FILE
from mlxquant.evals.store.model import write_store_moe


def run(*words: object) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


@pytest.mark.slow
def test_init_and_sweep_end_in_a_recommendation_on_the_demo_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_store_moe(tmp_path / "store-moe")
    lines = BUILTIN_FILE.read_text(encoding="utf-8").splitlines()
    texts = [line for line in lines if any(f"language:{code}" in line for code in ("en", "de", "fr"))]
    Path("texts.jsonl").write_text("\n".join(texts), encoding="utf-8")
    assert run("validate", "--init", "tolerances.toml").exit_code == 0
    pass_options = ("--data", "texts.jsonl", "--max-tokens", 48)
    swept = run("sweep", "store-moe", "--recipes", "gates-8bit", "--bits", "8,3", *pass_options, "--work", "work",
                "-t", "tolerances.toml", "-o", "sweep.json")  # fmt: skip
    assert swept.exit_code == 0, swept.output
    assert json.loads(Path("sweep.json").read_text())["recommendation"]["name"] == "gates-8bit:bits=8"
    assert run("validate", "--init", "places.toml", "--from", "work/compare.json").exit_code == 0
    judged = run("validate", "work/compare.json", "-t", "places.toml", "--candidate", "gates-8bit:bits=8", "--json")
    statuses = {check["status"] for check in json.loads(judged.stdout)["checks"]}
    assert "MISSING" not in statuses and "TOO FEW" not in statuses
