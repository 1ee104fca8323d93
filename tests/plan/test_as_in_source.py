"""`use = "source"`: what a packed source stores in a format that mlx has is kept, bit for bit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner

from mlxquant.builds.read.build import read_build
from mlxquant.check.against_source import compare_with_source
from mlxquant.check.audit import audit_build
from mlxquant.cli import main
from mlxquant.errors import PlanError
from mlxquant.layout.layout import read_layout
from mlxquant.layout.views.bytes import MLX_DTYPES, to_mlx
from mlxquant.plan.plan import Plan, make_plan
from mlxquant.plan.predicate import quant_predicate
from mlxquant.plan.recipe.recipe import Recipe, load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from tests.checkpoints import Size, write_tiny
from tests.source.packed_checkpoints import PACKINGS, write_packed
from tests.support.builds import build, config_of, patch, stored

EXACT = ["int4 g32", "int2 g32", "mxfp4", "mxfp8"]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """Give a bf16 checkpoint of a Qwen3-MoE."""
    folder = tmp_path_factory.mktemp("qwen")
    write_tiny(folder, "qwen3_moe", Size(layers=2, experts=4))
    return folder


def kept(*overrides: str) -> Recipe:
    """A recipe that keeps what the source has."""
    return load_recipe("none", sets=overrides or ("role=expert,attention:use=source",))


def planned(source: Path, recipe: Recipe | None = None) -> Plan:
    opened = open_checkpoint(source)
    return make_plan(read_layout(opened), recipe or kept(), opened)


def dequantized(folder: Path, path: str, dtype: mx.Dtype) -> mx.array:
    """What mlx makes of a module's bits, scales widened first: the exact number, rounded once."""
    arrays = {}
    tensors = stored(folder)
    for part in ("weight", "scales", "biases"):
        if f"{path}.{part}" in tensors:
            name, shape, data = tensors[f"{path}.{part}"]
            array = to_mlx(np.frombuffer(data, np.uint8), shape, MLX_DTYPES[name])
            arrays[part] = array.astype(mx.float32) if name in ("BF16", "F16") else array
    form = config_of(folder)["quantization"]
    own = form.get(path, form)
    values = mx.dequantize(
        arrays["weight"], arrays["scales"], arrays.get("biases"), own["group_size"], own["bits"],
        own.get("mode", "affine"), dtype=mx.float32,
    )  # fmt: skip
    return values.astype(dtype)


@pytest.mark.parametrize("name", EXACT[:1] + [pytest.param(n, marks=pytest.mark.slow) for n in EXACT[1:]])
def test_a_build_that_keeps_the_bits_dequantizes_to_the_source_bit_for_bit(name, qwen, tmp_path):
    write_packed(qwen, tmp_path / "packed", PACKINGS[name], twin=tmp_path / "twin")
    build(tmp_path / "packed", tmp_path / "kept", kept())
    build(tmp_path / "packed", tmp_path / "floats", "none")
    floats = stored(tmp_path / "floats")
    paths = [m.module.path for m in planned(tmp_path / "packed").modules if m.decision.kept]
    assert len(paths) == 14
    for path in paths:
        _, shape, data = floats[f"{path}.weight"]
        ours = np.array(dequantized(tmp_path / "kept", path, mx.bfloat16).view(mx.uint16))
        assert ours.shape == shape
        assert ours.tobytes() == data


def test_the_words_of_the_source_are_the_words_of_the_build(qwen, tmp_path):
    write_packed(qwen, tmp_path / "packed", PACKINGS["int4 g32"])
    build(tmp_path / "packed", tmp_path / "kept", kept())
    source, ours = stored(tmp_path / "packed"), stored(tmp_path / "kept")
    experts = [source[f"model.layers.0.mlp.experts.{e}.up_proj.weight_packed"][2] for e in range(4)]
    assert ours["model.layers.0.mlp.switch_mlp.up_proj.weight"][2] == b"".join(experts)
    assert ours["model.layers.0.self_attn.q_proj.scales"] == source["model.layers.0.self_attn.q_proj.weight_scale"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("int4 g32 with zero points", "it has zero points, and biases made of them are not exact"),
        ("int4 g32 in act-order", "its groups are not side by side"),
        ("int4 g64, f16", "its scales are F16, and the build casts floats to BF16"),
        ("nvfp4", "it has a global scale"),
        ("fp8 for each row", "no mode of mlx has e4m3 with a scale for 1 × "),
        ("fp8 of vLLM", "FP8 with scales for blocks"),
    ],
)
def test_what_mlx_has_no_format_for_is_refused_with_the_reason(name, reason, qwen, tmp_path):
    write_packed(qwen, tmp_path, PACKINGS[name])
    with pytest.raises(PlanError, match=re.escape("use = source cannot keep the bits of model.layers.0")) as caught:
        planned(tmp_path)
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["modelopt int8", "modelopt fp8 in blocks"])
def test_a_config_alone_of_what_mlx_has_no_format_for_is_refused_as_the_shards_are(name, qwen, tmp_path):
    write_packed(qwen, tmp_path, PACKINGS[name])
    for path in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(PlanError, match=re.escape("use = source cannot keep the bits of model.layers.0")):
            planned(path)
    lone, whole = (planned(p, load_recipe("none")).modules for p in (tmp_path / "config.json", tmp_path))
    counts = [
        [a.stored_nbytes for m in modules for a in m.module.arrays if m.module.role == "expert"]
        for modules in (lone, whole)
    ]
    assert counts[0] == counts[1]


def test_scales_of_the_builds_own_dtype_can_be_kept(qwen, tmp_path):
    write_packed(qwen, tmp_path, PACKINGS["int4 g64, f16"])
    opened = open_checkpoint(tmp_path)
    plan = make_plan(read_layout(opened, dtype="float16"), kept(), opened)
    assert {str(m.format) for m in plan.modules if m.decision.kept} == {"4-bit g64"}


def test_what_the_source_has_as_floats_stays_floats(qwen, tmp_path):
    write_packed(qwen, tmp_path, PACKINGS["int4 g32"])
    plan = planned(tmp_path, kept(":use=source"))
    formats = {m.module.role: str(m.format) for m in plan.modules}
    assert formats["embedding"] == formats["router"] == "None"
    assert formats["expert"] == formats["attention"] == "4-bit g32"


def test_the_plan_says_what_is_as_in_the_source(qwen, tmp_path):
    write_packed(qwen, tmp_path, PACKINGS["int4 g32"])
    record = planned(tmp_path).as_dict()
    assert "6 expert modules are as in the source: its own bits, as 4-bit g32" in record["notes"]
    expert = next(m for m in record["modules"] if m["role"] == "expert")
    assert expert["as_in_source"] is True
    assert expert["reason"].endswith("(as in the source)")
    assert expert["source_dtype"] == "INT4"


def test_an_audit_against_the_source_finds_its_own_bits(qwen, tmp_path):
    write_packed(qwen, tmp_path / "packed", PACKINGS["int4 g32"])
    build(tmp_path / "packed", tmp_path / "kept", kept())
    opened = read_build(tmp_path / "kept")
    against = compare_with_source(opened, open_checkpoint(tmp_path / "packed"))
    assert not against.disagreements
    assert "14 modules that hold the source's own bits: no error was measured" in against.notes
    record = audit_build(opened, against)
    assert "6 expert modules are as in the source: its own bits, as 4-bit g32" in record["notes"]


def test_a_bit_that_differs_from_the_source_is_found(qwen, tmp_path):
    write_packed(qwen, tmp_path / "packed", PACKINGS["int4 g32"])
    build(tmp_path / "packed", tmp_path / "kept", kept())
    patch(tmp_path / "kept", "model.layers.0.self_attn.q_proj.weight", b"\xff\x00\xff\x00", at=200)
    against = compare_with_source(read_build(tmp_path / "kept"), open_checkpoint(tmp_path / "packed"))
    assert [d for d in against.disagreements if d.startswith("model.layers.0.self_attn.q_proj.weight: not the source")]


def test_a_build_that_was_quantized_anew_is_measured(qwen, tmp_path):
    write_packed(qwen, tmp_path / "packed", PACKINGS["int4 g32"])
    build(tmp_path / "packed", tmp_path / "anew", load_recipe("none", sets=("role=expert:bits=4,group_size=32",)))
    against = compare_with_source(read_build(tmp_path / "anew"), open_checkpoint(tmp_path / "packed"))
    assert not against.disagreements
    assert len(against.errors) == 6


def test_mlx_lm_cannot_convert_it(qwen, tmp_path):
    write_packed(qwen, tmp_path, PACKINGS["int4 g32"])
    layout = read_layout(open_checkpoint(tmp_path))
    with pytest.raises(PlanError, match=r"keeps the bits that the source has, and mlx_lm.convert would round anew"):
        quant_predicate(kept(), layout.modules, n_layers=layout.n_layers)


@pytest.mark.slow
def test_a_comparison_streams_the_bits_that_a_recipe_keeps(qwen, tmp_path):
    write_packed(qwen, tmp_path / "packed", PACKINGS["int4 g32"])
    lines = [json.dumps({"text": "one two three four five six seven eight nine ten"})] * 2
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    arguments = ["compare", str(tmp_path / "packed"), "-r", "none", "--set", "role=expert,attention:use=source"]
    run = CliRunner().invoke(main, [*arguments, "--data", str(tmp_path / "data.jsonl"), "-o", str(tmp_path / "c.json")])
    assert run.exit_code in (0, 4), run.output
    assert json.loads((tmp_path / "c.json").read_text())["schema"].startswith("mlxquant.compare/")


def test_a_plan_says_that_the_sources_own_error_stays(qwen, tmp_path):
    write_packed(qwen, tmp_path, PACKINGS["nvfp4"])
    notes = planned(tmp_path, load_recipe("none")).as_dict()["notes"]
    assert any(note.startswith("the source is quantized itself (32 weights in FP4): its error") for note in notes)


# --- bytes of the source ---


@pytest.mark.parametrize("name", ["int4 g32", "int4 g32 with zero points", "nvfp4", "fp8 in blocks", "modelopt nvfp4"])
def test_the_bytes_of_the_source_are_what_its_shards_hold(name, qwen, tmp_path):
    write_packed(qwen, tmp_path, PACKINGS[name])
    totals = planned(tmp_path, load_recipe("none")).totals
    held = sum(len(data) for n, (_, _, data) in stored(tmp_path).items() if not n.endswith("input_scale"))
    assert totals["source_bytes"] == held


QUICK = ["int4 g32 with zero points", "nvfp4", "fp8 in blocks", "modelopt nvfp4"]
OTHERS = ["int4 g32", "int8 for each row", "w8a8 int8", "mxfp4", "mxfp8", "fp8 for each row"]


@pytest.mark.parametrize("name", QUICK + [pytest.param(n, marks=pytest.mark.slow) for n in OTHERS])
def test_a_config_alone_tells_the_same_bytes(name, qwen, tmp_path):
    settings = dict(PACKINGS[name].settings)
    settings["ignore"] = [*settings["ignore"], "*mlp.gate"]
    write_packed(qwen, tmp_path, PACKINGS[name])
    config = {**config_of(tmp_path), "quantization_config": settings}
    (tmp_path / "config.json").write_text(json.dumps(config))
    whole = planned(tmp_path, load_recipe("none")).totals
    alone = planned(tmp_path / "config.json", load_recipe("none")).totals
    assert alone == whole


def test_a_config_alone_keeps_no_bits_of_groups_that_are_not_side_by_side(qwen, tmp_path):
    write_packed(qwen, tmp_path, PACKINGS["int4 g32 in act-order"])
    for path in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(PlanError, match="cannot keep the bits of"):
            planned(path, kept("role=expert:use=source"))


def test_an_mlx_build_as_a_source_can_keep_its_bits_too(qwen, tmp_path):
    build(qwen, tmp_path / "first", load_recipe("none", sets=("role=expert:bits=4,group_size=32",)))
    build(tmp_path / "first", tmp_path / "again", kept("role=expert:use=source"))
    assert stored(tmp_path / "again") == stored(tmp_path / "first")
