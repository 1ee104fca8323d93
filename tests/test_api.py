"""`import mlxquant`: a study in five calls, on the trained store model, as the docs show it."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxquant
from mlxquant.errors import OutputError, PlanError, RecipeError, SourceError
from mlxquant.evals.store.model import write_store_moe
from tests.checkpoints import write_tiny
from tests.source.hub.hub_server import HubServer, use_hub

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api") / "store-moe"
    write_store_moe(folder)
    return folder


@pytest.fixture(scope="module")
def recipe() -> Any:
    return mlxquant.load_recipe("gates-8bit", group_size=64)


@pytest.fixture(scope="module")
def build(store: Path, recipe: Any) -> Any:
    return mlxquant.convert(store, recipe, store.parent / "build")


def test_a_plan_says_what_the_build_then_is(store: Path, recipe: Any, build: Any) -> None:
    plan = mlxquant.make_plan(mlxquant.open_source(store), recipe)
    assert {m.module.path: m.format for m in plan.modules} == build.formats
    assert build.disagreements == ()
    assert mlxquant.read_build(build.folder).formats == build.formats


def test_one_opened_source_serves_every_call(store: Path, recipe: Any, tmp_path: Path) -> None:
    source = mlxquant.open_source(store)
    events: list[tuple[int, int]] = []
    mlxquant.convert(source, recipe, tmp_path / "a", progress=lambda done, total: events.append((done, total)))
    mlxquant.convert(source, recipe, str(tmp_path / "b"), jobs=1)
    assert events and events[-1][0] == events[-1][1]
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_a_source_opened_on_the_hub_serves_every_call(
    store: Path, recipe: Any, build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer() as server:
        server.add("org/store", store)
        use_hub(server, monkeypatch, tmp_path / "hub")
        source = mlxquant.open_source("org/store")
        assert mlxquant.make_plan(source, recipe).totals["bytes"] > 0
        for name in ("a", "b"):
            mlxquant.convert(source, recipe, tmp_path / name)
            weights = (tmp_path / name / "model.safetensors").read_bytes()
            assert weights == (build.folder / "model.safetensors").read_bytes()
        assert mlxquant.verify(tmp_path / "a", source=source, everything=True)["whole"] is True


def test_a_config_alone_is_refused_where_weights_are_needed(store: Path, recipe: Any, tmp_path: Path) -> None:
    source = mlxquant.open_source(store / "config.json")
    assert mlxquant.make_plan(source, recipe).totals["bytes"] > 0
    with pytest.raises(SourceError, match="a config alone has no weights"):
        mlxquant.convert(source, recipe, tmp_path / "build")


def test_an_audit_is_the_record_of_the_command(store: Path, build: Any) -> None:
    record = mlxquant.audit(build)
    assert record == mlxquant.audit(str(build.folder))
    measured = mlxquant.audit(build, source=store)
    assert record["totals"] == measured["totals"]
    quantized = [row for row in mlxquant.rows(measured) if row["format.bits"] == 8]
    errors = [float(row["errors.relative_rms_error"] or 0) for row in quantized]
    assert errors and 0 < min(errors) <= max(errors) < 0.01


def test_a_build_verifies_against_itself_and_its_source(store: Path, build: Any) -> None:
    assert mlxquant.verify(build.folder)["whole"] is True
    record = mlxquant.verify(build.folder, source=store, everything=True)
    assert (record["whole"], record["sample"]["share"]) == (True, 1.0)


def test_recipes_variations_and_builds_are_compared_and_give_rows(store: Path, build: Any, tmp_path: Path) -> None:
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": f"Order {i} of a table, please."}) + "\n" for i in range(6)))
    recipes = ["gates-8bit:group_size=64", "gates-8bit:bits=2,group_size=64"]
    record = mlxquant.compare(store, [*recipes, build.folder], data=data)
    overall = [row for row in mlxquant.rows(record) if row["metric"] == "kl_nats" and row.get("slice") is None]
    kl = {row["candidate"]: row["estimate"] for row in overall}
    assert [name for name in kl if name in (*recipes, "build")] == [*recipes, "build"]
    assert kl[recipes[0]] == kl["build"]
    assert float(kl[recipes[1]] or 0) > 100 * float(kl["build"] or 0)


def test_the_predicate_makes_mlx_lm_write_the_same_weights(tmp_path: Path) -> None:
    import mlx.core as mx
    from mlx_lm import convert

    write_tiny(tmp_path / "source", "qwen3_moe")
    recipe = mlxquant.load_recipe("gates-8bit", group_size=64)
    ours = mlxquant.convert(tmp_path / "source", recipe, tmp_path / "ours")
    predicate = mlxquant.quant_predicate(tmp_path / "source", recipe)
    convert(str(tmp_path / "source"), str(tmp_path / "theirs"), quantize=True, quant_predicate=predicate)
    theirs = mlxquant.read_build(tmp_path / "theirs")
    assert theirs.formats == ours.formats
    arrays: list[dict[str, Any]] = [
        {k: np.array(v.view(mx.uint8)) for k, v in mx.load(str(tmp_path / name / "model.safetensors")).items()}  # type: ignore[union-attr]
        for name in ("ours", "theirs")
    ]
    assert set(arrays[0]) == set(arrays[1])
    assert all(np.array_equal(arrays[0][k], arrays[1][k]) for k in arrays[0])


def test_the_predicate_refuses_what_mlx_lm_would_leave_out(tmp_path: Path) -> None:
    write_tiny(tmp_path / "source", "qwen3_moe")
    recipe = mlxquant.load_recipe("gates-8bit", group_size=64)
    with pytest.raises(PlanError, match=r"q_group_size=256 does not divide its 128 inputs.*give both q_group_size=64"):
        mlxquant.quant_predicate(tmp_path / "source", recipe, q_group_size=256)


def test_what_is_wrong_is_an_error_with_one_message(store: Path, build: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        mlxquant.open_source(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="no-such"):
        mlxquant.load_recipe("no-such")
    with pytest.raises(OutputError, match="exists already"):
        mlxquant.convert(store, "gates-8bit:group_size=64", build.folder)


def test_importing_it_imports_nothing_heavy() -> None:
    script = (
        "import __future__, sys; before = set(sys.modules); import mlxquant\n"
        "print(sorted(m for m in set(sys.modules) - before if m.partition('.')[0] != 'mlxquant'))"
    )
    run = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True, cwd=ROOT,
                         env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert run.stdout.strip() == "[]"


def test_functions_keep_their_names_when_every_module_is_imported() -> None:
    for module in pkgutil.walk_packages(mlxquant.__path__, "mlxquant."):
        if not module.name.endswith(("__main__", "load_probe")):
            importlib.import_module(module.name)
    assert all(inspect.isfunction(getattr(mlxquant, name)) for name in mlxquant.__all__)


@pytest.mark.parametrize("name", mlxquant.__all__)
def test_each_is_documented_with_types_errors_and_an_example(name: str) -> None:
    function = getattr(mlxquant, name)
    text = inspect.getdoc(function) or ""
    assert "Raises " in text and ">>> " in text
    assert all(p.annotation is not inspect.Parameter.empty for p in inspect.signature(function).parameters.values())
