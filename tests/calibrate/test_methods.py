"""Methods from the recipe to the build: searched and weighed builds, what refuses them, what says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.errors import PlanError, RecipeError
from mlxquant.layout.layout import read_layout
from mlxquant.plan.predicate import quant_predicate
from mlxquant.plan.recipe.recipe import Recipe, load_recipe, parse_recipe
from mlxquant.plan.recipe.variation import load_variation, name_of
from mlxquant.source.checkpoint import open_checkpoint
from tests.checkpoints import Size, write_tiny
from tests.support.builds import build, contents, stored
from tests.support.texts import write_data


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def ended(result: Result, code: int) -> str:
    assert result.exit_code == code, result.output + result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    write_tiny(folder, "qwen3_moe", Size(layers=2, hidden=64))
    return folder


@pytest.fixture(scope="module")
def calibration(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    out = folder / "texts.cal"
    result = run("calibrate", source, "--data", write_data(folder / "texts.jsonl"), "--max-tokens", 24, "-o", out)
    ended(result, 0)
    assert "modules" in result.output
    return out


# --- recipes ---


def test_a_recipe_a_rule_and_a_variation_name_a_method():
    text = (
        '[quantize]\nbits = 4\nmethod = "mse"\n[[rules]]\nmatch = {role = "expert"}\nmethod = "imatrix"\nreason = "why"'
    )
    recipe = parse_recipe(text)
    assert recipe.default is not None
    assert (recipe.default.method, recipe.rules[0].format(recipe.default).method) == ("mse", "imatrix")
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    assert recipe.as_dict()["schema"] == "mlxquant.recipe/2"
    varied = load_variation("gates-8bit:bits=4,method=mse")
    assert varied.default == load_recipe("gates-8bit", bits=4, method="mse").default
    assert name_of("gates-8bit:bits=4,method=mse", varied) == "gates-8bit:bits=4,method=mse"


def test_a_method_changes_the_hash_and_rtn_does_not():
    plain = load_recipe("gates-8bit")
    assert load_recipe("gates-8bit", method="rtn").sha256 == plain.sha256
    assert load_recipe("gates-8bit", method="mse").sha256 != plain.sha256
    assert plain.as_dict() == load_recipe("gates-8bit").as_dict()


def test_an_unknown_method_is_refused_by_name():
    with pytest.raises(RecipeError, match=r"unknown method 'mes'.*mse.*valid: rtn, mse, imatrix"):
        load_recipe("gates-8bit", method="mes")


def test_modes_without_biases_keep_rounding(source):
    record = json.loads(run("plan", source, "-r", "gates-8bit", "--mode", "mxfp4", "--method", "mse", "--json").stdout)
    assert not [m for m in record["modules"] if "method" in m]


def test_mlx_lm_s_predicate_refuses_what_mlx_lm_would_round(source):
    layout = read_layout(open_checkpoint(source))
    with pytest.raises(PlanError, match=r"method mse, and mlx_lm.convert rounds every value"):
        quant_predicate(load_recipe("gates-8bit", method="mse"), layout.modules, n_layers=layout.n_layers)


# --- builds ---


def test_a_searched_build_is_the_same_with_any_number_of_workers_and_smaller_errors(source, tmp_path):
    recipe = load_recipe("gates-8bit", bits=3, group_size=32, method="mse")
    build(source, tmp_path / "one", recipe, threads=1)
    build(source, tmp_path / "two", recipe, threads=3)
    build(source, tmp_path / "rounded", load_recipe("gates-8bit", bits=3, group_size=32))
    assert {k: v for k, v in contents(tmp_path / "one").items() if k != "mlxquant.json"} == {
        k: v for k, v in contents(tmp_path / "two").items() if k != "mlxquant.json"
    }
    errors = [
        json.loads((tmp_path / name / "audit.json").read_text())["totals"]["errors"]["relative_rms_error"]
        for name in ("one", "rounded")
    ]
    assert errors[0] < 0.9 * errors[1]
    shapes = [{n: t[:2] for n, t in stored(tmp_path / name).items()} for name in ("one", "rounded")]
    assert shapes[0] == shapes[1]


def test_audit_and_plan_say_which_method(source, tmp_path):
    words = ("-r", "gates-8bit:bits=4,method=mse", "--group-size", 32)
    plan = run("plan", source, "-r", "gates-8bit", "--bits", 4, "--method", "mse", "--group-size", 32).output
    ended(run("convert", source, *words, "-o", tmp_path / "build"), 0)
    audit = run("audit", tmp_path / "build").output
    assert ["method      mse in 16 modules" in text for text in (plan, audit)] == [True, True]
    assert "4-bit g32, mse" in (tmp_path / "build" / "AUDIT.md").read_text()
    ended(run("verify", tmp_path / "build", "--source", source, "--all"), 0)


def test_an_imatrix_build_is_made_again_with_its_calibration_only(source, calibration, tmp_path):
    words = ("-r", "gates-8bit:bits=3,method=imatrix", "--group-size", 32)
    ended(run("convert", source, *words, "--calibration", calibration, "-o", tmp_path / "b"), 0)
    manifest = json.loads((tmp_path / "b" / "mlxquant.json").read_text())
    assert "imatrix" in json.dumps(manifest)
    assert "needs a calibration" in ended(run("verify", tmp_path / "b", "--source", source), 2)
    ended(run("verify", tmp_path / "b", "--source", source, "--all", "--calibration", calibration), 0)


@pytest.mark.parametrize("command", ["convert", "compare"])
def test_a_calibration_that_no_recipe_uses_is_a_usage_error(command, source, calibration, tmp_path):
    words = ("-r", "gates-8bit", "--group-size", 32, "--method", "mse", "--calibration", calibration)
    more = ("-o", tmp_path / "b") if command == "convert" else ()
    assert "no recipe here uses it; add --method imatrix" in ended(run(command, source, *words, *more), 2)
    assert not (tmp_path / "b").exists()


def test_a_build_weighed_otherwise_is_another_build(source, calibration, tmp_path):
    words = ("-r", "gates-8bit:bits=3", "--group-size", 32)
    ended(run("convert", source, *words, "--method", "mse", "-o", tmp_path / "mse"), 0)
    ended(run("convert", source, *words, "--method", "imatrix", "--calibration", calibration, "-o", tmp_path / "im"), 0)
    down = "model.layers.0.mlp.switch_mlp.down_proj.scales"
    assert stored(tmp_path / "mse")[down] != stored(tmp_path / "im")[down]
    looked_up = "model.embed_tokens.scales"
    assert stored(tmp_path / "mse")[looked_up] == stored(tmp_path / "im")[looked_up]


def test_compare_judges_a_method_as_the_build_that_convert_makes(source, calibration, tmp_path):
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": f"word {i} of another text"}) + "\n" for i in range(3)))
    words = ("--group-size", 32, "--calibration", calibration)
    name = "gates-8bit:bits=3,method=imatrix"
    ended(run("convert", source, "-r", name, *words, "-o", tmp_path / "build"), 0)
    result = run(
        "compare", source, "-r", name, "-r", "gates-8bit:bits=3,method=mse", *words, "--build", tmp_path / "build",
        "--data", data, "--max-tokens", 16, "--no-noise-floor", "--no-own", "--json",
    )  # fmt: skip
    ended(result, 0)
    kl = {c["name"]: _kl(c["measurements"]) for c in json.loads(result.stdout)["candidates"]}
    assert kl[name] == kl["build"] != kl["gates-8bit:bits=3,method=mse"]


def _kl(measurements: list[dict[str, Any]]) -> float:
    keys = ("case", "slice", "depth", "turn", "layer", "against")
    return next(
        float(m["estimate"]) for m in measurements if m["metric"] == "kl_nats" and not any(k in m for k in keys)
    )


# --- judged on what calibrated ---


@pytest.mark.slow
def test_compare_refuses_the_documents_that_calibrated_and_records_those_that_did(source, calibration, tmp_path):
    words = ("-r", "gates-8bit:bits=3,method=imatrix", "--group-size", 32, "--calibration", calibration)
    ended(run("convert", source, *words, "-o", tmp_path / "build"), 0)
    how = ("--max-tokens", 16, "--no-noise-floor", "--no-own", "--json")
    same = write_data(tmp_path / "same.jsonl", 4)
    for candidate in (words, ("--build", tmp_path / "build")):
        message = ended(run("compare", source, *candidate, "--data", same, *how), 2)
        assert "was calibrated on every document that it would be judged on" in message
    some = tmp_path / "some.jsonl"
    some.write_text(same.read_text() + json.dumps({"text": "something else"}) + "\n")
    result = run("compare", source, "--build", tmp_path / "build", "--data", some, *how)
    assert "warning: build: was calibrated on 4 of the 5 documents" in ended(result, 0)
    (entry,) = json.loads(result.stdout)["candidates"]
    assert (entry["calibration"]["documents"], entry["calibration"]["judged"]) == (6, 4)
    assert "4 of the 5" in entry["warnings"][-1]


@pytest.mark.slow
def test_sweep_takes_method_and_calibration(source, calibration, tmp_path):
    data, gate = tmp_path / "texts.jsonl", tmp_path / "gate.toml"
    data.write_text("".join(json.dumps({"text": f"word {i} of another text"}) + "\n" for i in range(3)))
    gate.write_text('min_clusters = 3\n[[tolerance]]\nmetric = "kl_nats"\nmax = 99.0\n')
    words = ("sweep", source, "--recipes", "gates-8bit,uniform-8bit:method=mse", "--bits", "3", "--group-size", 32,
             "--method", "imatrix", "-t", gate, "--data", data, "--json")  # fmt: skip
    result = run(*words, "--calibration", calibration, "--work", tmp_path / "work")
    assert result.exit_code in (0, 4), result.stderr  # judged, whatever three documents settle
    names = {c["name"] for c in json.loads(result.stdout)["candidates"]}
    assert names == {"gates-8bit:bits=3", "uniform-8bit:bits=3,method=mse"}
    compared = json.loads((tmp_path / "work" / "compare.json").read_text())
    methods = {c["name"]: c["recipe"]["quantize"]["method"] for c in compared["candidates"] if "recipe" in c}
    assert methods == {"gates-8bit:bits=3": "imatrix", "uniform-8bit:bits=3,method=mse": "mse"}
    assert "no recipe here uses it" in ended(run(*words, "--method", "mse", "--calibration", calibration), 2)


# --- the file ---


def test_a_calibration_of_another_checkpoint_is_refused(calibration, tmp_path):
    write_tiny(tmp_path / "other", "qwen3_moe", Size(layers=2, hidden=64), seed=1)
    words = ("-r", "gates-8bit", "--group-size", 32, "--method", "imatrix", "--calibration", calibration)
    message = ended(run("convert", tmp_path / "other", *words, "-o", tmp_path / "b"), 3)
    assert "run `mlxquant calibrate` on this checkpoint" in message
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 64, (5).to_bytes(8, "little") + b"{}   "])
def test_what_is_no_calibration_is_refused_in_one_line(source, content, tmp_path):
    (tmp_path / "x.cal").write_bytes(content)
    words = ("-r", "gates-8bit", "--group-size", 32, "--method", "imatrix", "--calibration", tmp_path / "x.cal")
    message = ended(run("convert", source, *words, "-o", tmp_path / "b"), 3)
    assert "a file written by `mlxquant calibrate` expected" in message
    assert message.count("\n") == 1


def test_one_document_is_too_few(source, tmp_path):
    data = write_data(tmp_path / "texts.jsonl", 1)
    message = ended(run("calibrate", source, "--data", data, "-o", tmp_path / "x.cal"), 2)
    assert "at least 2 documents" in message
    assert not (tmp_path / "x.cal").exists()


def test_a_file_that_is_there_stays(source, calibration, tmp_path):
    before = calibration.read_bytes()
    data = write_data(tmp_path / "texts.jsonl", 2)
    ended(run("calibrate", source, "--data", data, "-o", calibration), 3)
    assert calibration.read_bytes() == before


def test_the_same_documents_give_the_same_figures(source, calibration, tmp_path):
    import safetensors.numpy as st

    data = write_data(tmp_path / "texts.jsonl")
    ended(run("calibrate", source, "--data", data, "--max-tokens", 24, "-o", tmp_path / "again.cal"), 0)
    one, two = (st.load_file(path) for path in (calibration, tmp_path / "again.cal"))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)
