"""Plans: the paper's figures, published byte totals, what a record holds, what a reader sees."""

from __future__ import annotations

import json
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from mlxquant.errors import LayoutError, SourceError
from mlxquant.layout.layout import Layout, read_layout
from mlxquant.plan.plan import Plan, make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.report.common import short_layer
from mlxquant.report.plan import part_table, plan_text
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.words.modules import ROLES
from mlxquant.words.text import filled
from tests.checkpoints import ARCHITECTURES, write_tiny

MODEL = "Qwen3.5-122B-A10B"
CONFIGS = (
    "DeepSeek-V3", "GLM-5", "Kimi-K2-Instruct", "Llama-4-Scout-17B-16E-Instruct", "MiniMax-M2.5", "Mixtral-8x7B-v0.1",
    "Qwen3-235B-A22B", "Qwen3-30B-A3B", "Qwen3-Next-80B-A3B", MODEL, "gpt-oss-20b", "granite-3.1-1b-a400m",
)  # fmt: skip

# PAPER.md: recipe -> bytes, bits per weight, protected modules by role
PAPER = {
    "uniform-8bit": (125_929_534_464, 8.2501, {}),
    "gates-8bit": (125_966_246_400, 8.2525, {"router": 48, "shared_expert_gate": 48}),
    "deepseek-8bit": (
        128_358_474_240,
        8.4093,
        {"embedding": 1, "lm_head": 1, "router": 48, "shared_expert_gate": 48, "attention": 48},
    ),
    "naive-linear-8bit": (238_269_772_800, 15.6100, {"expert": 144}),
}
# ../shared/reference/README.md: bits -> bytes of mlx-community's build at group 64, its vision tower in bf16
PUBLISHED = {4: 69_593_314_272, 6: 100_120_675_296, 8: 130_648_036_320}
PUBLISHED_BF16 = 245_125_640_160
VISION = 902_581_728

TOP = {"schema", "source", "recipe", "totals", "protected", "modules"}
TOTALS = {"parameters", "bytes", "bpw", "source_bytes", "active_parameters", "active_bytes_per_token"}
MODULE = {
    "path", "role", "layer", "layer_type", "shape", "parameters", "source_dtype", "format", "dtype", "bytes", "bpw",
    "protected", "reason",
}  # fmt: skip


def plan_of(path: Path, recipe: str, **overrides: Any) -> Plan:
    source = open_checkpoint(path)
    return make_plan(read_layout(source), load_recipe(recipe, **overrides), source)


@pytest.fixture(params=["config", "headers"])
def paper_source(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(f"paper_{request.param}")
    return path


# --- the paper ---


@pytest.mark.parametrize("recipe", PAPER)
def test_the_papers_builds_come_out_to_the_byte(paper_source, recipe):
    plan = plan_of(paper_source, recipe)
    size, bpw, protected = PAPER[recipe]
    assert plan.totals["bytes"] == size
    assert plan.totals["bpw"] == pytest.approx(bpw, abs=5e-5)
    assert plan.as_dict()["protected"] == {"modules": sum(protected.values()), "by_role": protected}


def test_the_papers_full_attention_layers_are_every_fourth(paper_source):
    plan = plan_of(paper_source, "deepseek-8bit")
    protected = {m.module.layer for m in plan.protected if m.module.role == "attention"}
    assert protected == set(range(3, 48, 4))


def test_config_and_headers_decide_alike(paper_config, paper_headers):
    alone, full = (plan_of(p, "deepseek-8bit").as_dict() for p in (paper_config, paper_headers))
    assert alone["modules"] == full["modules"]
    assert alone["totals"] == full["totals"]


def test_headers_tell_what_a_text_model_drops(paper_headers):
    plan = plan_of(paper_headers, "none")
    assert plan.dropped == {
        "tensors": 333,
        "bytes": VISION,
        "by_kind": {"vision": {"tensors": 333, "bytes": VISION}},
    }
    assert plan.totals["source_bytes"] + VISION == plan.source["tensor_bytes"] == PUBLISHED_BF16


@pytest.mark.parametrize("bits", PUBLISHED)
def test_published_builds_come_out_to_the_byte(paper_source, bits):
    plan = plan_of(paper_source, "uniform-8bit", bits=bits, group_size=64)
    assert plan.totals["bytes"] == PUBLISHED[bits] - VISION


def test_the_class_of_the_model_puts_its_gates_at_8_bits_in_mlx_lm_default(paper_source):
    plan = plan_of(paper_source, "mlx-lm-default")
    gates = {str(m.format) for m in plan.modules if m.module.role in ("router", "shared_expert_gate")}
    assert gates == {"8-bit g64"}
    assert {str(m.format) for m in plan.modules if m.module.role == "expert"} == {"4-bit g64"}


def test_a_token_uses_eight_of_256_experts_and_one_row_of_the_embedding(paper_source):
    plan = plan_of(paper_source, "none")
    # per layer 8 experts of 3 x 1024 x 3072; the rest but the embedding's other 248,319 rows is always read
    experts = 48 * 3 * 1024 * 3072
    assert plan.totals["active_parameters"] == plan.totals["parameters"] - experts * 248 - 248_319 * 3072
    assert plan.totals["active_parameters"] == 9_008_452_608


# --- the record ---


def test_a_record_has_every_key_that_others_count_on(tiny_qwen):
    record = plan_of(tiny_qwen, "deepseek-8bit").as_dict()
    assert record["schema"] == "mlxquant.plan/1"
    assert record.keys() >= TOP
    assert record["totals"].keys() >= TOTALS
    assert record["recipe"].keys() >= {"name", "sha256"}
    assert record["protected"].keys() >= {"modules", "by_role"}
    for module in record["modules"]:
        assert module.keys() >= MODULE
        assert module["role"] in ROLES
        assert module["reason"]
        assert module["format"] is None or module["format"].keys() == {"bits", "group_size", "mode"}


def test_a_records_totals_are_the_sums_of_its_modules(tiny_qwen):
    record = plan_of(tiny_qwen, "deepseek-8bit", group_size=64).as_dict()
    for key in ("parameters", "bytes"):
        assert record["totals"][key] == sum(m[key] for m in record["modules"])
    assert record["protected"]["modules"] == sum(m["protected"] for m in record["modules"])
    assert record["totals"]["bpw"] == 8 * record["totals"]["bytes"] / record["totals"]["parameters"]


def test_a_record_survives_json(tiny_qwen):
    record = plan_of(tiny_qwen, "gates-8bit").as_dict()
    assert json.loads(json.dumps(record)) == record


def test_a_record_names_its_source_without_a_path_of_this_machine(tiny_qwen):
    for path in (tiny_qwen, tiny_qwen / "config.json"):
        record = plan_of(path, "gates-8bit").as_dict()
        assert str(tiny_qwen.parent) not in json.dumps(record)
        assert record["source"]["name"].startswith(tiny_qwen.name)


def test_what_mlx_cannot_quantize_says_so_and_is_not_protected(tiny_qwen):
    modules = plan_of(tiny_qwen, "deepseek-8bit").as_dict()["modules"]
    norms = [m for m in modules if m["role"] == "norm"]
    assert norms
    assert all("no quantized form" in m["reason"] and not m["protected"] for m in norms)


def test_modules_stand_in_the_order_in_which_mlx_lm_writes_them(tiny_qwen):
    plan = plan_of(tiny_qwen, "uniform-8bit", group_size=64)
    names = [array.name for array in plan.arrays()]
    assert len(names) == len(set(names))
    assert names[:3] == [f"language_model.model.embed_tokens.{part}" for part in ("weight", "scales", "biases")]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_quantization_the_bytes_are_those_of_the_source(architecture, tmp_path):
    write_tiny(tmp_path / architecture, architecture)
    plan = plan_of(tmp_path / architecture, "none")
    assert plan.totals["bytes"] == sum(array.nbytes for array in plan.arrays())
    if plan.source["tensor_bytes"] is not None and not architecture.endswith("fp8"):
        assert plan.totals["source_bytes"] + plan.dropped["bytes"] == plan.source["tensor_bytes"]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_reference_config_can_be_planned(shared, name):
    path = shared / f"reference/configs/{name}.json"
    plan = plan_of(path, "uniform-8bit", group_size=64, unaligned="keep")
    assert plan.totals["parameters"] > plan.totals["active_parameters"] > 0
    assert {"embedding", "router", "expert", "attention", "norm"} <= {m.module.role for m in plan.modules}


@pytest.mark.parametrize("name", ["MiniMax-M2.5", "gpt-oss-20b"])
def test_a_dtype_that_no_config_fixes_is_assumed_and_said_so(shared, name):
    plan = plan_of(shared / f"reference/configs/{name}.json", "none")
    assert "config.json names no dtype; bfloat16 is assumed" in plan.notes


def test_experts_that_are_stored_packed_stay_so(shared):
    plan = plan_of(shared / "reference/configs/gpt-oss-20b.json", "gates-4bit")
    assert {str(m.format) for m in plan.modules if m.module.role == "expert"} == {"mxfp4 g32"}
    assert any("already stores 72 expert modules as mxfp4 g32" in note for note in plan.notes)


# --- what cannot be planned ---


def changed(config: Path, folder: Path, **changes: Any) -> Path:
    table = json.loads(config.read_text())
    for key, value in changes.items():
        place = table
        *above, last = key.split("__")
        for part in above:
            place = place[part]
        place[last] = value
    (folder / "changed.json").write_text(json.dumps(table))
    return folder / "changed.json"


def test_an_architecture_that_mlx_lm_lacks_is_named(tiny_qwen, tmp_path):
    config = changed(tiny_qwen / "config.json", tmp_path, model_type="nosuchmodel")
    with pytest.raises(LayoutError, match=r"mlx-lm .* has no model_type 'nosuchmodel'"):
        plan_of(config, "none")


def test_layer_types_that_contradict_the_model_are_an_error(tiny_qwen, tmp_path):
    types = ["full_attention"] * 4
    config = changed(tiny_qwen / "config.json", tmp_path, text_config__layer_types=types)
    with pytest.raises(LayoutError, match=r"layer 0: the config says full_attention, the model has linear_attention"):
        plan_of(config, "none")


@pytest.mark.parametrize(
    ("key", "value"),
    [("quantization", {"bits": 4, "mode": "jang"}), ("quantization_config", {"quant_method": "hqq"})],
)
def test_a_lone_config_of_a_quantized_model_is_refused_as_its_folder_is(tiny_qwen, tmp_path, key, value):
    config = changed(tiny_qwen / "config.json", tmp_path, **{key: value})
    with pytest.raises(SourceError):
        plan_of(config, "none")


# --- for a reader ---


@pytest.mark.parametrize(
    ("name", "recipe"),
    list(zip(CONFIGS, cycle(["deepseek-8bit", "mixed-4-6", "naive-linear-8bit"]), strict=False)),
)
def test_the_text_fits_80_columns(shared, name, recipe):
    text = plan_text(
        plan_of(shared / f"reference/configs/{name}.json", recipe, unaligned="keep", group_size=64).as_dict()
    )
    # a path that cannot be broken may stand out; nothing else does
    assert [line for line in text.splitlines() if len(line) > 80 and " " in line.strip()] == []


def test_the_text_says_what_the_record_holds(tiny_qwen):
    plan = plan_of(tiny_qwen, "deepseek-8bit")
    text = plan_text(plan.as_dict())
    for key in TOTALS - {"bpw"}:
        assert f"{plan.totals[key]:,}" in text
    assert f"{plan.totals['bpw']:.4f} bits per weight" in text
    assert f"{len(plan.protected)} modules that mlx can quantize and a rule keeps" in text
    assert "vision" not in text
    for note in plan.notes:
        assert filled("note", note) in text


def test_the_text_gives_counts_and_reasons_of_what_is_protected(paper_config):
    text = plan_text(plan_of(paper_config, "deepseek-8bit").as_dict())
    flat = " ".join(text.split())
    assert "146 modules that mlx can quantize and a rule keeps" in flat
    for part in ("1 embedding, 1 lm_head: ", "48 router, 48 shared_expert_gate: ", "48 attention: "):
        assert part in flat
    assert "K and V are written to the cache" in flat


def test_routers_that_mlx_cannot_quantize_are_said_to_stay(shared):
    text = plan_text(plan_of(shared / "reference/configs/DeepSeek-V3.json", "gates-8bit").as_dict())
    flat = " ".join(text.split())
    assert "protected 0 modules: the 58 routers stay at source precision anyway" in flat
    assert flat.count("(role router or shared_expert_gate)") == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quant_method": "fbgemm_fp8"}, "is FP8; its bytes"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "is quantized (modelopt); its bytes"),
    ],
)
def test_a_config_that_does_not_tell_the_bytes_of_its_source_says_so(shared, tmp_path, settings, words):
    config = json.loads((shared / "reference/configs/Qwen3-30B-A3B.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    notes = plan_of(tmp_path / "config.json", "gates-8bit").as_dict()["notes"]
    assert any(words in note for note in notes)


def test_what_the_group_size_does_not_divide_stands_beside_what_is_protected(shared):
    text = plan_text(
        plan_of(shared / "reference/configs/gpt-oss-20b.json", "gates-8bit", group_size=128, unaligned="keep").as_dict()
    )
    flat = " ".join(text.split("\n\n")[-2].split())
    assert flat.startswith("protected 24 modules")
    assert "unaligned 1 embedding, 72 attention, 1 lm_head modules left unquantized: the group size does not" in flat


def test_the_text_says_what_is_dropped(paper_headers):
    assert "333 vision tensors (860.77 MiB)" in plan_text(plan_of(paper_headers, "none").as_dict())


def test_warnings_stand_at_the_end(tiny_qwen):
    plan = plan_of(tiny_qwen, "mlx-lm-default")
    assert plan.warnings
    assert plan_text(plan.as_dict()).endswith(filled("warning", plan.warnings[-1]))


def test_the_table_has_a_row_for_each_role_layer_type_and_format(paper_config):
    lines = part_table(plan_of(paper_config, "deepseek-8bit").as_dict()["modules"]).splitlines()
    cells = [line.split() for line in lines[2:]]
    assert ["expert", "full", "36", "29.0", "B", "8-bit", "g128", "27.8", "GiB", "23.3", "%"] in cells
    assert ["attention", "full", "48", "943.7", "M", "bf16", "1.8", "GiB", "1.5", "%"] in cells
    assert sum(float(row[-2]) for row in cells) == pytest.approx(100, abs=0.05 * len(cells))


@pytest.mark.parametrize(
    ("layer_type", "short"), [("full_attention", "full"), ("linear_attention", "linear"), ("mlp", "mlp"), (None, "-")]
)
def test_a_layer_type_is_shortened_to_a_column(layer_type, short):
    assert short_layer(layer_type) == short


def test_a_layout_serves_many_recipes(paper_config):
    source = open_checkpoint(paper_config)
    layout: Layout = read_layout(source)
    sizes = [make_plan(layout, load_recipe(r), source).totals["bytes"] for r in ("gates-8bit", "none", "gates-8bit")]
    assert sizes[0] == sizes[2] < sizes[1]


def test_a_plan_record_says_by_a_field_which_modules_the_group_size_does_not_divide(shared):
    plan = plan_of(shared / "reference/configs/gpt-oss-20b.json", "gates-8bit", group_size=128, unaligned="keep")
    entries = plan.as_dict()["modules"]
    without_format = [e for e in entries if e["reason"].startswith("left unquantized: group size 128 does not")]
    assert without_format
    assert [e for e in entries if "unaligned" in e] == without_format
    assert {e["unaligned"] for e in without_format} == {128}
