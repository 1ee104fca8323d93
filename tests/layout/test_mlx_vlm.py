"""Models of mlx-vlm: the bytes of mlx_vlm.convert, towers, records that say so, and builds that load and run there.

They run where mlx-vlm is installed. Elsewhere one slow test makes such an environment and runs them in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlxquant.cli import main
from mlxquant.layout import mlx_vlm
from mlxquant.layout.layout import read_layout
from mlxquant.layout.provider import MLX_VLM
from mlxquant.plan.plan import make_plan
from mlxquant.plan.predicate import quant_predicate, quantize_arguments
from mlxquant.plan.recipe.recipe import Recipe, load_recipe
from mlxquant.report.card import card
from mlxquant.source.checkpoint import Checkpoint, open_checkpoint
from tests.builds.cases import RECIPES
from tests.support.builds import build, config_of, stored
from tests.support.environments import environment

if mlx_vlm.is_installed():
    from tests.checkpoints.of_mlx_vlm import MODEL_TYPES, write_of_mlx_vlm
else:
    MODEL_TYPES = ()

ROOT = Path(__file__).resolve().parents[2]
THERE = pytest.mark.skipif(not mlx_vlm.is_installed(), reason="mlx-vlm is not installed")
SEEING = "qwen3_5_moe_vision"  # which mlx-lm has too


@pytest.mark.slow
@pytest.mark.skipif(mlx_vlm.is_installed(), reason="mlx-vlm is installed: the tests run here by themselves")
def test_the_tests_of_mlx_vlm_pass_where_it_is_installed(tmp_path_factory):
    python = environment(tmp_path_factory, "mlx-vlm==0.7.10")
    # behind its own packages come those that run here, for what it lacks: pytest, click, numba
    here = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    script = "import sys; sys.path += sys.argv[2:]; import pytest; sys.exit(pytest.main(['-n0', '-q', sys.argv[1]]))"
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    run = subprocess.run(
        [str(python), "-c", script, __file__, *here], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    """Give a function from one of MODEL_TYPES, or SEEING, to a tiny checkpoint of it."""
    written: dict[str, Path] = {}

    def source(model_type: str) -> Path:
        if model_type == SEEING:
            return Path(tiny(SEEING))
        if model_type not in written:
            written[model_type] = tmp_path_factory.mktemp("of_mlx_vlm") / model_type
            write_of_mlx_vlm(written[model_type], model_type)
        return written[model_type]

    return source


@pytest.fixture(scope="module")
def flint(checkpoint, tmp_path_factory) -> Path:
    out: Path = tmp_path_factory.mktemp("flint") / "out"
    build(checkpoint("flint"), out)
    return out


def made_with_mlx_vlm(source: Path, out: Path, recipe: Recipe) -> Path:
    """What mlx_vlm.convert writes when it is given a recipe's decisions, or decides by itself."""
    from mlx_vlm.convert import convert

    options: dict[str, Any] = {"quantize": True, **quantize_arguments(recipe)}
    if recipe.name != "mlx-lm-default":
        layout = read_layout(open_checkpoint(source), provider="mlx-vlm")
        options["quant_predicate"] = quant_predicate(recipe, layout.modules, n_layers=layout.n_layers)
    convert(str(source), str(out), trust_remote_code=False, **options)
    return out


def formats(folder: Path) -> dict[str, Any]:
    """The format of every quantized module as config.json has it: its own entry, or the top of the block."""
    block = config_of(folder)["quantization"]
    top = {key: block[key] for key in ("bits", "group_size", "mode")}
    paths = [name.removesuffix(".scales") for name in stored(folder) if name.endswith(".scales")]
    return {path: {**top, **(block.get(path) or {})} for path in paths}


# --- bytes ---


@THERE
@pytest.mark.parametrize("recipe", ["default", "deepseek"])
@pytest.mark.parametrize("model_type", [*MODEL_TYPES, SEEING])
def test_a_build_has_mlx_vlms_bytes_formats_and_index(checkpoint, model_type, recipe, tmp_path):
    source = checkpoint(model_type)
    build(source, tmp_path / "ours", RECIPES[recipe](), provider="mlx-vlm")
    theirs = made_with_mlx_vlm(source, tmp_path / "theirs", RECIPES[recipe]())
    assert stored(tmp_path / "ours") == stored(theirs)
    assert formats(tmp_path / "ours") == formats(theirs)
    index = "model.safetensors.index.json"
    maps = [json.loads((folder / index).read_text())["weight_map"] for folder in (tmp_path / "ours", theirs)]
    assert maps[0] == maps[1]


# --- modules ---


@THERE
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_experts_and_routers_are_found(checkpoint, model_type):
    layout = read_layout(open_checkpoint(checkpoint(model_type)))
    assert layout.provider is MLX_VLM
    roles = Counter(module.role for module in layout.modules)
    assert roles["router"] and roles["expert"] and roles["embedding"] == 1
    assert set(layout.expert_shares.values()) == {(2, 8)}
    assert layout.dropped == ()


@THERE
@pytest.mark.parametrize(
    ("model_type", "routers"),
    [
        ("minimax_m3", {"gate", "e_score_correction_bias"}),  # its stack of experts has one more, which is shared
        ("moondream3", {"router"}),  # it lies beside the stacks themselves
        ("zaya1_vl", {"down_proj", "0", "2", "4", "router_states_scale", "balancing_biases"}),  # it is an MLP
    ],
)
def test_a_router_is_one_however_it_is_built(model_type, routers):
    config = {"model_type": model_type, "torch_dtype": "bfloat16"}
    modules = read_layout(Checkpoint("test", None, config, {}, {}), provider="mlx-vlm").modules
    assert {m.path.rpartition(".")[2] for m in modules if m.role == "router"} == routers


@THERE
def test_a_tower_is_part_of_the_build_and_stays_as_it_is(checkpoint, tmp_path):
    source = checkpoint(SEEING)
    build(source, tmp_path / "out", "uniform-8bit", provider="mlx-vlm")
    tower = {n for n in stored(tmp_path / "out") if n.startswith("vision_tower.")}
    assert len(tower) == 21 and not any(n.endswith(".scales") for n in tower)
    assert config_of(tmp_path / "out")["vision_config"] == config_of(source)["vision_config"]
    assert (tmp_path / "out/preprocessor_config.json").is_file()


@THERE
def test_a_tower_is_quantized_where_a_rule_names_it(checkpoint):
    opened = open_checkpoint(checkpoint(SEEING))
    layout = read_layout(opened, provider="mlx-vlm")
    recipe = load_recipe("none", sets=["role=vision:bits=8,group_size=32"], unaligned="keep")
    quantized = make_plan(layout, recipe, opened).quantized
    assert quantized and {planned.module.role for planned in quantized} == {"vision"}


@THERE
def test_keep_vision_asks_for_nothing_more_of_a_class_with_a_tower(checkpoint):
    opened = open_checkpoint(checkpoint(SEEING))
    plain, kept = (read_layout(opened, provider="mlx-vlm", keep=keep) for keep in ((), ("vision",)))
    assert kept.modules == plain.modules


@THERE
@pytest.mark.parametrize("more", [["-r", "none"], ["--fits", "96GB"]])
def test_a_tower_that_is_part_of_the_class_cannot_be_left_out(checkpoint, more):
    run = CliRunner().invoke(main, ["plan", str(checkpoint(SEEING)), "--provider", "mlx-vlm", "--no-vision", *more])
    assert run.exit_code == 2 and "the tower is part of mlx-vlm's class" in run.output


# --- records and checks ---


@THERE
def test_plan_audit_and_manifest_name_the_provider(checkpoint, flint):
    run = CliRunner().invoke(main, ["plan", str(checkpoint("flint")), "-r", "none", "--json"])
    plan = json.loads(run.stdout)
    stated = {"name": "mlx-vlm", "version": MLX_VLM.version()}
    assert plan["source"]["provider"] == stated and plan["mlx_lm"] is None
    for record in ("audit.json", "mlxquant.json"):
        assert json.loads((flint / record).read_text())["source"]["provider"] == stated
    assert f"as mlx-vlm {MLX_VLM.version()} has it" in CliRunner().invoke(main, ["audit", str(flint)]).output


@THERE
def test_a_model_card_says_how_it_loads_in_mlx_vlm(flint):
    manifest, audit = (json.loads((flint / name).read_text()) for name in ("mlxquant.json", "audit.json"))
    text = card("me/flint", manifest, audit)
    assert "mlx_vlm.generate --model me/flint" in text and "mlx_lm.generate" not in text


@THERE
def test_a_build_is_verified_against_its_source(checkpoint, flint):
    run = CliRunner().invoke(main, ["verify", str(flint), "--source", str(checkpoint("flint"))])
    assert run.exit_code == 0 and "whole" in run.output


@THERE
def test_check_load_passes_where_mlx_vlm_loads_what_mlx_lm_lacks(flint):
    run = CliRunner().invoke(main, ["check-load", str(flint), "--json"])
    assert run.exit_code == 0, run.output
    answers = {answer["library"]: answer for answer in json.loads(run.stdout)["libraries"]}
    assert answers["mlx-vlm"]["loaded"] and not answers["mlx-lm"]["loaded"]


@THERE
def test_compare_streams_a_model_of_mlx_vlm(checkpoint, flint, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "One text of a few words."}\n')
    arguments = ["--build", str(flint), "--data", str(tmp_path / "texts.jsonl"), "--dtype", "float32"]
    run = CliRunner().invoke(main, ["compare", str(checkpoint("flint")), *arguments, "-o", str(tmp_path / "record")])
    assert run.exit_code in (0, 4), run.output


@THERE
def test_compare_lays_a_source_out_as_a_build_of_mlx_vlm_was(checkpoint, tmp_path):
    build(checkpoint(SEEING), tmp_path / "out", provider="mlx-vlm")
    (tmp_path / "texts.jsonl").write_text('{"text": "One text of a few words."}\n')
    arguments = ["--build", str(tmp_path / "out"), "--data", str(tmp_path / "texts.jsonl"), "--dtype", "float32"]
    run = CliRunner().invoke(main, ["compare", str(checkpoint(SEEING)), *arguments, "--json"])
    assert run.exit_code in (0, 4), run.output
    assert json.loads(run.stdout)["source"]["provider"]["name"] == "mlx-vlm"


@THERE
def test_a_loaded_build_generates_through_mlx_lm(flint):
    from mlxquant.builds.read.loading import load_build

    model, tokenizer = load_build(flint)
    import mlx_lm

    assert isinstance(mlx_lm.generate(model, tokenizer, prompt="Hello", max_tokens=3), str)


# --- the next-token head ---


@THERE
def test_mlx_vlm_makes_the_same_head_of_a_build_as_of_its_source(tiny, tmp_path):
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_vlm.speculative.drafters import load_drafter

    build(tiny(SEEING), tmp_path / "out", keep=["mtp"])
    ours, theirs = (dict(tree_flatten(load_drafter(str(f))[0].parameters())) for f in (tmp_path / "out", tiny(SEEING)))
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(ours[name], theirs[name]) for name in ours)


# --- the list ---


@THERE
@pytest.mark.skipif(not mlx_vlm.is_installed() or MLX_VLM.version() != "0.7.10", reason="the list is of mlx-vlm 0.7.10")
def test_the_names_that_are_listed_are_those_that_the_installed_versions_tell():
    from benchmarks.mlx_vlm_models import entries, table

    page = (ROOT / "docs/models.md").read_text()
    assert table().partition("\n")[2].strip() in page
    assert {name for entry in entries() for name in entry.names} == mlx_vlm.LISTED
