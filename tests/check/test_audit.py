"""What an audit says a build is: formats, roles, reasons and sizes, for builds of mlx-lm and our own."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest

from mlxquant.builds.read.build import read_build
from mlxquant.builds.side_files import config_text
from mlxquant.builds.write.shards import index, place
from mlxquant.check.against_source import compare_with_source
from mlxquant.check.audit import audit_build
from mlxquant.check.recipe import recipe_of_build
from mlxquant.errors import BuildError
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.infer import recipe_of
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.records.modules import relative_rms
from mlxquant.report.audit import audit_text
from mlxquant.report.audit_markdown import audit_markdown
from mlxquant.source.hub.open import open_source
from mlxquant.words.formats import Format
from tests.builds.read.audit_builds import (
    copied,
    edit_json,
    edit_tensors,
    made_by_mlx_lm,
    made_by_us,
    older_mla_build,
)
from tests.checkpoints import Size, write_tiny

AFFINE = [(bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]


@pytest.fixture(scope="module")
def qwen_4bit(tiny_qwen, tmp_path_factory):
    return made_by_mlx_lm(tiny_qwen, tmp_path_factory.mktemp("mlx_lm") / "build", quantize=True)


@pytest.fixture(scope="module")
def own(tiny_qwen, tmp_path_factory):
    return made_by_us(tiny_qwen, tmp_path_factory.mktemp("own") / "build", "deepseek-8bit")


@pytest.mark.parametrize(("bits", "group"), AFFINE)
def test_every_affine_format_is_told_from_the_bytes(tiny, tmp_path, bits, group):
    build = made_by_mlx_lm(tiny("llama"), tmp_path / "b", quantize=True, q_bits=bits, q_group_size=group)
    stored_build = read_build(build)
    assert {f for f in stored_build.formats.values() if f} == {Format(bits, group)}
    assert stored_build.disagreements == ()


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_every_other_mode_is_told_from_the_bytes(tiny, tmp_path, mode):
    build = made_by_mlx_lm(tiny("llama"), tmp_path / "b", quantize=True, q_mode=mode)
    stored_build = read_build(build)
    assert {f.mode for f in stored_build.formats.values() if f} == {mode}
    assert stored_build.disagreements == ()


def test_every_architecture_of_mlx_lms_own_builds_agrees_with_its_config(tiny_any, tmp_path):
    build = made_by_mlx_lm(tiny_any, tmp_path / "b", quantize=True, q_bits=8, q_group_size=64)
    stored_build = read_build(build)
    assert stored_build.disagreements == ()
    assert sum(s.nbytes for s in stored_build.stored.values()) == stored_build.checkpoint.nbytes


def test_a_mixed_predicate_is_found_module_by_module(tiny_qwen, tmp_path):
    build = made_by_mlx_lm(tiny_qwen, tmp_path / "b", quantize=True, q_group_size=64, quant_predicate="mixed_4_6")
    stored_build = read_build(build)
    assert set(Counter(stored_build.formats.values())) == {Format(4, 64), Format(6, 64), None}
    assert stored_build.formats["language_model.lm_head"] == Format(6, 64)
    assert {stored_build.formats[m.path] for m in stored_build.modules if m.role == "router"} == {Format(4, 64)}


def test_roles_and_layer_types_come_with_the_formats(qwen_4bit):
    by_path = {m.path: m for m in read_build(qwen_4bit).modules}
    router = by_path["language_model.model.layers.3.mlp.gate"]
    assert (router.role, router.layer, router.layer_type) == ("router", 3, "full_attention")
    assert by_path["language_model.model.layers.0.mlp.switch_mlp.down_proj"].shape == (8, 128, 128)


def test_the_class_rule_is_given_as_the_reason_in_another_tools_build(qwen_4bit):
    modules = {m["path"]: m for m in audit_build(read_build(qwen_4bit))["modules"]}
    assert "mlx-lm's own class" in modules["language_model.model.layers.0.mlp.gate"]["reason"]
    assert modules["language_model.lm_head"]["reason"] == "the build's default, 4-bit g64"


def test_what_another_tool_keeps_is_counted_as_protected(tiny_qwen, tmp_path):
    def keep_head(path, module):
        return hasattr(module, "to_quantized") and "lm_head" not in path

    build = made_by_mlx_lm(tiny_qwen, tmp_path / "b", quantize=True, q_bits=8, quant_predicate=keep_head)
    record = audit_build(read_build(build))
    assert record["protected"] == {"modules": 1, "by_role": {"lm_head": 1}}
    assert record["disagreements"] == []


def test_a_width_that_the_group_does_not_divide_is_no_protection(tmp_path):
    write_tiny(tmp_path / "source", "mixtral", Size(inner=96))
    build = made_by_mlx_lm(tmp_path / "source", tmp_path / "b", quantize=True, q_group_size=64)
    record = audit_build(read_build(build))
    down = [m for m in record["modules"] if m["path"].endswith("switch_mlp.down_proj")]
    assert {m["reason"] for m in down} == {"left unquantized: group size 64 does not divide its input dimension 96"}
    assert {m["unaligned"] for m in down} == {64}
    assert all("unaligned" not in m for m in record["modules"] if m not in down)
    assert record["protected"]["modules"] == 0
    reason = "expert modules left unquantized: the group size does not divide them"
    assert f"unaligned {len(down)} {reason}" in " ".join(audit_text(record, "b").split())
    assert f"| unaligned | {len(down)} {reason} |" in audit_markdown(record)


def test_the_group_size_that_a_recipe_wanted_stands_in_our_own_record_and_is_read_from_there(tmp_path):
    write_tiny(tmp_path / "source", "mixtral", Size(inner=96))
    recipe = load_recipe("uniform-8bit", unaligned="keep", sets=["role=expert:group_size=128,bits=8"])
    build = made_by_us(tmp_path / "source", tmp_path / "b", recipe)
    record = json.loads((build / "audit.json").read_text())
    assert {m["unaligned"] for m in record["modules"] if m["path"].endswith("down_proj")} == {128}
    assert audit_build(read_build(build)) == record


def test_what_changed_the_recipe_stands_in_record_and_texts(tiny_qwen, tmp_path):
    build = made_by_us(tiny_qwen, tmp_path / "b", load_recipe("gates-8bit", group_size=32))
    record = audit_build(read_build(build))
    assert record == json.loads((build / "audit.json").read_text())
    assert record["recipe"]["overrides"] == ["--group-size 32"]
    assert "gates-8bit --group-size 32 (sha256 " in audit_text(record, "b")
    assert "| recipe | gates-8bit --group-size 32 (sha256 " in (build / "AUDIT.md").read_text()


def test_a_record_from_before_overrides_were_kept_is_read(own, tmp_path):
    build = copied(own, tmp_path / "b")
    edit_json(build / "audit.json", lambda record: record["recipe"].pop("overrides"))
    record = audit_build(read_build(build))
    assert (record["recipe"].keys(), record["disagreements"]) == ({"name", "sha256"}, [])


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ("--bits 4", '.overrides: a list expected, "--bits 4" found'),
        ([4], ".overrides[0]: a text expected, 4 found"),
        (None, ".overrides: a list expected, null found"),
    ],
)
def test_a_record_with_strange_overrides_is_left_aside(own, tmp_path, overrides, fault):
    build = copied(own, tmp_path / "b")
    edit_json(build / "audit.json", lambda record: record["recipe"].update(overrides=overrides))
    assert audit_build(read_build(build))["disagreements"] == [f"audit.json: recipe{fault}; it is left aside"]


def test_our_own_build_is_audited_to_the_record_that_convert_wrote(own):
    assert audit_build(read_build(own)) == json.loads((own / "audit.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["none", "mixed-3-6"])
def test_the_record_of_every_architecture_follows_from_its_bytes(tiny_any, tmp_path, recipe):
    build = made_by_us(tiny_any, tmp_path / "b", recipe)
    record = audit_build(read_build(build))
    assert record == json.loads((build / "audit.json").read_text())
    assert record["disagreements"] == []


def test_without_its_own_records_a_build_has_the_same_formats_but_no_reasons(own, tmp_path):
    bare = copied(own, tmp_path / "bare")
    for name in ("audit.json", "AUDIT.md", "mlxquant.json"):
        (bare / name).unlink()
    with_records, without = audit_build(read_build(own)), audit_build(read_build(bare))
    assert [m["format"] for m in without["modules"]] == [m["format"] for m in with_records["modules"]]
    assert without["totals"]["bytes"] == with_records["totals"]["bytes"]
    assert without["protected"] == with_records["protected"]
    assert without["recipe"] is None
    assert {m["errors"] for m in without["modules"]} == {None}


def test_a_record_that_its_bytes_do_not_bear_out_is_not_believed(own, tmp_path):
    build = copied(own, tmp_path / "b")

    def lie(record):
        record["modules"][0]["format"] = {"group_size": 64, "bits": 4, "mode": "affine"}

    edit_json(build / "audit.json", lie)
    record = audit_build(read_build(build))
    assert record["modules"][0]["format"] is None
    assert any("embed_tokens: audit.json says 4-bit g64" in d for d in record["disagreements"])


def test_an_unquantized_build_is_a_build(tiny_qwen, tmp_path):
    record = audit_build(read_build(made_by_mlx_lm(tiny_qwen, tmp_path / "b")))
    assert record["totals"]["quantized"]["modules"] == 0
    assert record["protected"]["modules"] == 0
    assert record["disagreements"] == []
    assert any("full-precision" in note for note in record["notes"])


def test_a_checkpoint_in_the_hubs_layout_is_refused(tiny_any):
    if tiny_any.name == "llama":
        pytest.skip("its names and shapes in the Hub's layout are MLX's own")
    with pytest.raises(BuildError, match="a checkpoint, not an MLX build"):
        read_build(tiny_any)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: shutil.rmtree(b), "no such folder"),
        (lambda b: (b / "config.json").unlink(), "config.json"),
        (lambda b: (b / "config.json").write_text("{"), "not readable as JSON"),
        (lambda b: (b / "model.safetensors").unlink(), "no model"),
        (lambda b: (b / "model.safetensors").rename(b / "weights.safetensors"), "other names"),
        (lambda b: (b / "model.safetensors").write_bytes(b"\xff" * 64), "header"),
        (lambda b: (b / "model.safetensors").write_bytes((b / "model.safetensors").read_bytes()[:-5]), "expected"),
    ],
)
def test_what_cannot_be_read_at_all_is_refused_in_words(qwen_4bit, tmp_path, damage, message):
    build = copied(qwen_4bit, tmp_path / "b")
    damage(build)
    with pytest.raises(BuildError, match=message):
        read_build(build)


def test_a_vision_tower_in_the_build_is_listed_with_its_role(qwen_4bit, tmp_path):
    build = copied(qwen_4bit, tmp_path / "b")
    tower = {"vision_tower.blocks.0.attn.qkv.weight": ("BF16", [6, 4], bytes(48)),
             "vision_tower.blocks.0.attn.qkv.bias": ("BF16", [6], bytes(12))}  # fmt: skip
    edit_tensors(build, lambda tensors: tensors.update(tower))
    record = audit_build(read_build(build))
    last = record["modules"][-1]
    assert (last["path"], last["role"], last["bytes"]) == ("vision_tower.blocks.0.attn.qkv", "vision", 60)
    assert record["disagreements"] == []


def test_a_build_that_carries_the_tower_along_is_audited_to_its_record(tiny, tmp_path):
    build = made_by_us(tiny("qwen3_5_moe_vision"), tmp_path / "b", "gates-8bit", keep=("vision", "mtp"))
    record = audit_build(read_build(build))
    assert record == json.loads((build / "audit.json").read_text())
    assert record["disagreements"] == []
    assert {m["role"] for m in record["modules"]} >= {"vision", "expert"}


def test_next_token_tensors_in_the_shards_are_noted_for_what_they_break(qwen_4bit, tmp_path):
    build = copied(qwen_4bit, tmp_path / "b")
    edit_tensors(build, lambda tensors: tensors.update({"mtp.fc.weight": ("BF16", [2, 2], bytes(8))}))
    assert any("1 mtp tensors (8 B)" in n and "mlx-lm up to 0.31.3" in n for n in read_build(build).notes)


def test_where_shapes_leave_a_format_open_the_config_decides(qwen_4bit, tmp_path):
    build = copied(qwen_4bit, tmp_path / "b")
    # 32 * 32 words / 2 scales = 512: 8-bit g64 as well as 4-bit g128
    packed = {"vision_tower.fc.weight": ("U32", [4, 32], bytes(512)),
              "vision_tower.fc.scales": ("BF16", [4, 2], bytes(16)),
              "vision_tower.fc.biases": ("BF16", [4, 2], bytes(16))}  # fmt: skip
    edit_tensors(build, lambda tensors: tensors.update(packed))
    unclear = read_build(build)
    assert unclear.formats["vision_tower.fc"] is None
    assert any("8-bit g64 or 4-bit g128" in note for note in unclear.notes)
    entry = {"group_size": 64, "bits": 8, "mode": "affine"}
    edit_json(build / "config.json", lambda c: [c[k].update({"vision_tower.fc": entry}) for k in _BLOCKS])
    clear = read_build(build)
    assert clear.formats["vision_tower.fc"] == Format(8, 64)
    assert clear.stored["vision_tower.fc"].module.shape == (4, 128)
    assert clear.disagreements == ()


_BLOCKS = ("quantization", "quantization_config")


def test_a_model_that_mlx_lm_lacks_is_read_by_names(qwen_4bit, tmp_path):
    build = copied(qwen_4bit, tmp_path / "b")
    edit_json(build / "config.json", lambda c: c.update(model_type="not_yet_known"))
    stored_build = read_build(build)
    assert not stored_build.known
    assert stored_build.formats["language_model.model.layers.0.mlp.switch_mlp.up_proj"] == Format(4, 64)
    assert stored_build.formats["language_model.model.layers.0.mlp.gate"] == Format(8, 64)
    roles = {m.path: m.role for m in stored_build.modules}
    assert roles["language_model.model.layers.3.self_attn.q_proj"] == "attention"
    assert any("no model_type 'not_yet_known'" in note for note in stored_build.notes)


def test_a_builds_formats_make_a_recipe(qwen_4bit):
    stored_build = read_build(qwen_4bit)
    text = recipe_of(stored_build.modules, stored_build.formats, n_layers=stored_build.n_layers)
    assert "bits = 4" in text
    assert 'role = ["router", "shared_expert_gate"]' in text


def test_experts_that_an_older_mlx_lm_stored_one_by_one_are_one_module(tiny, tmp_path):
    build = made_by_mlx_lm(tiny("mixtral"), tmp_path / "b", quantize=True, q_bits=8)
    stacked = "model.layers.0.block_sparse_moe.switch_mlp.gate_proj"

    def unstack(tensors):
        for part in ("weight", "scales", "biases"):
            dtype, shape, data = tensors.pop(f"{stacked}.{part}")
            size = len(data) // shape[0]
            for i in range(shape[0]):
                name = f"model.layers.0.block_sparse_moe.experts.{i}.w1.{part}"
                tensors[name] = (dtype, shape[1:], data[i * size : (i + 1) * size])

    edit_tensors(build, unstack)
    stored_build = read_build(build)
    assert stored_build.disagreements == ()
    assert stored_build.formats[stacked] == Format(8, 64)


def test_a_full_size_build_is_audited_from_its_headers(shared, tmp_path):
    """The paper's agentic build: 122 B parameters in 25 sparse shards."""
    source = open_source(str(shared / "reference" / "configs" / "Qwen3.5-122B-A10B.json"))
    plan = make_plan(read_layout(source), load_recipe("deepseek-8bit"), source)
    shards = place(list(plan.arrays()))
    for shard in shards:
        with (tmp_path / shard.name).open("wb") as file:
            file.write(shard.header)
            file.truncate(shard.nbytes)
    (tmp_path / "config.json").write_bytes(config_text(source.config, plan))
    (tmp_path / "model.safetensors.index.json").write_bytes(index(shards, plan.totals["parameters"]))
    record = audit_build(read_build(tmp_path))
    assert record["disagreements"] == []
    assert record["totals"]["bytes"] == 128_358_474_240
    assert round(record["totals"]["bpw"], 4) == 8.4093
    roles = {"embedding": 1, "lm_head": 1, "router": 48, "shared_expert_gate": 48, "attention": 48}
    assert record["protected"] == {"modules": 146, "by_role": roles}
    assert audit_markdown(record).count("\n") < 120


def test_a_quantized_kv_b_proj_of_an_older_mlx_lm_is_audited_as_what_it_is_loaded_as(tiny, tmp_path):
    """Today's classes take it apart and quantize the parts again at each load, in the format that it had."""
    source = tiny("deepseek_v3")
    build = older_mla_build(source, made_by_mlx_lm(source, tmp_path / "b", quantize=True, q_bits=4, q_group_size=32))
    read = read_build(build)
    assert read.disagreements == ()
    stored = read.stored["model.layers.0.self_attn.embed_q"]
    assert (stored.format, stored.placed, stored.module.role) == (Format(6, 32), True, "attention")
    assert not any("kv_b_proj" in path for path in read.stored)
    assert any("8 modules are computed by mlx-lm" in note for note in read.notes)
    held = sum(t.nbytes for t in read.checkpoint.tensors.values())
    assert audit_build(read)["totals"]["bytes"] == held
    against = compare_with_source(read, open_source(str(source)), threads=2)
    assert against.disagreements == ()
    errors = against.errors["model.layers.3.self_attn.unembed_out"]
    assert 0.01 < relative_rms(errors.sum_sq_error, errors.sum_sq_weight) < 0.04
    text, left_out = recipe_of_build(build, "again", "")
    assert left_out == ""
    assert 'path = ["*.self_attn.embed_q", "*.self_attn.unembed_out"]' in text
    assert "bits = 6" in text
