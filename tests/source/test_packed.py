"""Packed checkpoints of compressed-tensors and ModelOpt become the builds of the values that they stand for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.errors import MlxquantError, SourceError
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.source.headers import Tensor
from mlxquant.source.packed import check_config, declared_storage, decoded_tensors
from mlxquant.source.packed.compressed_tensors import matches_pattern
from tests.checkpoints import Size, write_tiny
from tests.source.fp8_checkpoints import edit
from tests.source.packed_checkpoints import PACKINGS, Packing, bf16, compressed, write_packed
from tests.support.builds import Stored, build, config_of, stored

SMALL = Size(layers=2, experts=4)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """Give a bf16 checkpoint of a Qwen3-MoE, whose class in mlx-lm reads no packed weights."""
    folder = tmp_path_factory.mktemp("qwen")
    write_tiny(folder, "qwen3_moe", SMALL)
    return folder


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory):
    """Give a bf16 checkpoint of a DeepSeek-V3, whose class repacks int4."""
    folder = tmp_path_factory.mktemp("deepseek")
    write_tiny(folder, "deepseek_v3", SMALL)
    return folder


# the others, whose numbers `test_any_run_of_values_can_be_read_by_itself` holds too, take a build each in the slow run
QUICK = ("int4 g32", "int4 g32 with zero points", "nvfp4", "fp8 in blocks", "modelopt nvfp4")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in PACKINGS])
def test_a_packed_checkpoint_becomes_the_build_of_the_values_it_stands_for(name, qwen, tmp_path):
    write_packed(qwen, tmp_path / "packed", PACKINGS[name], twin=tmp_path / "twin")
    build(tmp_path / "packed", tmp_path / "ours", "none")
    build(tmp_path / "twin", tmp_path / "theirs", "none")
    assert stored(tmp_path / "ours") == stored(tmp_path / "theirs")
    assert config_of(tmp_path / "ours") == config_of(tmp_path / "theirs")


@pytest.mark.parametrize(
    "name",
    ["int4 g32", "int8 for each row", *(pytest.param(n, marks=pytest.mark.slow) for n in ("int4 g64, f16", "mxfp4"))],
)
def test_where_the_class_repacks_what_mlx_has_it_stays_and_all_else_is_read_as_floats(name, deepseek, tmp_path):
    experts = re.compile(r"mlp\.experts\..*_proj\.weight$")
    write_packed(deepseek, tmp_path / "packed", PACKINGS[name], twin=tmp_path / "twin", chosen=experts)
    layout = read_layout(open_checkpoint(tmp_path / "packed"))
    formats = {str(m.prequantized) for m in layout.modules if m.role == "expert"}
    assert formats == {{"int4 g32": "4-bit g32", "int4 g64, f16": "4-bit g64"}.get(name, "None")}
    if formats == {"None"}:
        build(tmp_path / "packed", tmp_path / "ours", "none")
        build(tmp_path / "twin", tmp_path / "theirs", "none")
        assert stored(tmp_path / "ours") == stored(tmp_path / "theirs")


def test_modelopt_says_in_a_file_of_its_own_what_its_config_leaves_out(qwen, tmp_path):
    packing = PACKINGS["modelopt nvfp4"]
    write_packed(qwen, tmp_path / "packed", packing, twin=tmp_path / "twin", inside="file")
    build(tmp_path / "packed", tmp_path / "ours", "none")
    build(tmp_path / "twin", tmp_path / "theirs", "none")
    assert stored(tmp_path / "ours") == stored(tmp_path / "theirs")


@given(st.sampled_from(sorted(PACKINGS)), st.data())
@settings(max_examples=40, deadline=None)
def test_any_run_of_values_can_be_read_by_itself(name, data):
    packing = PACKINGS[name]
    weight = np.random.default_rng(3).normal(size=(96, 64)).astype(np.float32)
    parts, values = packing.pack(weight)
    raw = {f"m.{suffix}": blob for suffix, (_, _, blob) in parts.items()}
    tensors = {f"m.{s}": Tensor(f"m.{s}", d, shape, f"m.{s}", 0, len(b)) for s, (d, shape, b) in parts.items()}
    config = {"quantization_config": packing.settings, "torch_dtype": "bfloat16"}
    tensor = decoded_tensors(config, tensors)["m.weight"]
    whole = bf16(values).reshape(-1)
    start = data.draw(st.integers(0, whole.size))
    stop = data.draw(st.integers(start, whole.size))

    def read(file: str, at: int, buffer: memoryview) -> None:
        assert at + len(buffer) <= len(raw[file])
        buffer[:] = raw[file][at : at + len(buffer)]

    run = bytearray(2 * (stop - start))
    tensor.read_into(read, 2 * start, memoryview(run))
    assert bytes(run) == whole[start:stop].tobytes()


# --- what is refused, by name and from a config alone ---


def changed(packing: str = "int4 g32", **weights: object) -> dict[str, Any]:
    """The settings of a packing, its `weights` changed."""
    settings: dict[str, Any] = json.loads(json.dumps(PACKINGS[packing].settings))
    settings["config_groups"]["group_0"]["weights"] |= weights
    return settings


LINEAR_LAYERS = {"targets": ["Linear"], "weights": {"num_bits": 4}}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "3 bits": (changed(num_bits=3), r"compressed-tensors \(pack-quantized, 3 bits of type int\)"),
    "a strategy of its own": (changed(strategy="swirl"), r"pack-quantized, 4 bits, strategy swirl"),
    "groups of no size": (changed(group_size=None), r"pack-quantized, 4 bits, strategy group, group_size None"),
    "sparse": (compressed("marlin-24", {}), r"compressed-tensors \(marlin-24\)"),
    "sparse beside": (
        {**PACKINGS["naive fp8"].settings, "sparsity_config": {"format": "sparse-24-bitmask"}},
        r"naive-quantized, sparse: sparse-24-bitmask",
    ),
    "rotated": (
        {**PACKINGS["int4 g32"].settings, "transform_config": {"config_groups": {"u": {"type": "hadamard"}}}},
        "pack-quantized, rotated while it runs: transform_config",
    ),
    "not packed yet": (
        {**PACKINGS["int4 g32"].settings, "quantization_status": "frozen"}, "quantization_status frozen"
    ),
    "mixed with sparse": (
        compressed("mixed-precision", {"num_bits": 4}, config_groups={"a": {**LINEAR_LAYERS, "format": "marlin-24"}}),
        r"mixed-precision with marlin-24",
    ),
    "AWQ of ModelOpt": ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, r"NVIDIA ModelOpt \(W4A16_AWQ\)"),
    "a layer of ModelOpt": (
        {"quant_method": "modelopt", "quantized_layers": {"a": {"quant_algo": "W4A8_AWQ"}}},
        r"NVIDIA ModelOpt \(W4A8_AWQ\)",
    ),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quantized with bitsandbytes"),
    "HQQ": ({"quant_method": "hqq"}, "quantized with HQQ"),
    "AQLM": ({"quant_method": "aqlm"}, "quantized with AQLM"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_read_is_refused_by_name_from_a_config_alone(why, qwen, tmp_path):
    stated, message = REFUSED[why]
    (tmp_path / "config.json").write_text(json.dumps({**config_of(qwen), "quantization_config": stated}))
    with pytest.raises(SourceError, match=message) as caught:
        open_checkpoint(tmp_path / "config.json")
    assert "use the original, unquantized repository" in str(caught.value)


def void(_: object) -> None:
    """Take what a change gives back."""


def spoilt(qwen: Path, folder: Path, packing: str, change: Callable[[dict[str, Stored]], object]) -> str:
    """What a packed checkpoint is refused with after a change to its tensors."""
    write_packed(qwen, folder, PACKINGS[packing])
    edit(folder, lambda tensors: void(change(tensors)))
    with pytest.raises(MlxquantError) as caught:
        read_layout(open_checkpoint(folder))
    return str(caught.value)


Q = "model.layers.0.self_attn.q_proj"


def test_codes_without_their_scale_are_named(qwen, tmp_path):
    message = spoilt(qwen, tmp_path / "p", "int4 g32", lambda t: t.pop(f"{Q}.weight_scale"))
    assert f"tensor {Q}.weight_packed is packed and {Q}.weight_scale is missing; is a shard missing?" in message


def test_a_scale_without_its_codes_is_named(qwen, tmp_path):
    message = spoilt(qwen, tmp_path / "p", "nvfp4", lambda t: t.pop(f"{Q}.weight_packed"))
    assert f"{Q}.weight_scale belongs to {Q}.weight_packed, which is missing" in message


def test_zero_points_that_a_config_promises_are_asked_for(qwen, tmp_path):
    name = f"{Q}.weight_zero_point"
    message = spoilt(qwen, tmp_path / "p", "int4 g32 with zero points", lambda t: t.pop(name))
    assert f"belongs to {name}, which is missing" in message


def test_zero_points_under_a_symmetric_config_are_named_with_their_bytes(qwen, tmp_path):
    write_packed(qwen, tmp_path, PACKINGS["int4 g32 with zero points"])
    config = {**config_of(tmp_path), "quantization_config": PACKINGS["int4 g32"].settings}
    (tmp_path / "config.json").write_text(json.dumps(config))
    opened = open_checkpoint(tmp_path)
    zeros = [t.nbytes for name, t in opened.tensors.items() if name.endswith("weight_zero_point")]
    note = next(n for n in opened.notes if n.startswith("config.json says that weights are symmetric"))
    assert f"{len(zeros):,} have zero points" in note and f"{sum(zeros):,} bytes" in note


def test_modelopt_that_quantizes_the_kv_cache_alone_is_plain(qwen, tmp_path):
    settings_of_cache = {
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"},
        "producer": {"name": "modelopt"},
    }
    write_packed(qwen, tmp_path / "plain", PACKINGS["modelopt nvfp4"], chosen=re.compile("(?!)"), inside="file")
    (tmp_path / "plain" / "hf_quant_config.json").write_text(json.dumps(settings_of_cache))
    edit(tmp_path / "plain", lambda t: t.update({f"{Q.rpartition('.')[0]}.k_proj.k_scale": ("F32", (1,), bytes(4))}))
    for path in (tmp_path / "plain", tmp_path / "plain" / "config.json"):
        opened = open_checkpoint(path)
        assert not opened.decoded and opened.notes == ()
        plan = make_plan(read_layout(opened), load_recipe("none"), opened)
        assert not any("says the source is" in note for note in plan.as_dict()["notes"])


def test_a_config_alone_says_that_the_source_is_quantized_itself(qwen, tmp_path):
    for name, said in (("int4 g32", "compressed-tensors pack-quantized"), ("modelopt nvfp4", "modelopt NVFP4")):
        write_packed(qwen, tmp_path / name, PACKINGS[name])
        notes = open_checkpoint(tmp_path / name / "config.json").notes
        assert [n.split(":")[0] for n in notes] == [f"the source is quantized itself ({said}, as config.json says)"]


def test_scales_that_do_not_fit_the_groups_of_the_config_are_named(qwen, tmp_path):
    write_packed(qwen, tmp_path, PACKINGS["int4 g32"])
    config = {**config_of(tmp_path), "quantization_config": changed(group_size=16)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError, match=r"does not fit .*weight_packed .* with a scale for 1 × 16 values"):
        open_checkpoint(tmp_path)


def test_inputs_scaled_before_a_weight_are_refused(qwen, tmp_path):
    name = f"{Q}.pre_quant_scale"
    message = spoilt(qwen, tmp_path / "p", "modelopt nvfp4", lambda t: t.update({name: ("BF16", (2,), bytes(4))}))
    assert "ModelOpt's AWQ or SVDQuant scales the inputs" in message and name in message


def test_a_group_that_there_is_not_stops_the_conversion(qwen, tmp_path):
    def change(tensors: dict[str, Stored]) -> None:
        dtype, shape, data = tensors[f"{Q}.weight_g_idx"]
        tensors[f"{Q}.weight_g_idx"] = dtype, shape, np.full(shape, 99, np.int32).tobytes()[: len(data)]

    write_packed(qwen, tmp_path / "p", PACKINGS["int4 g32 in act-order"])
    edit(tmp_path / "p", change)
    with pytest.raises(SourceError, match=r"weight_g_idx: groups 0 to . expected, 99 to 99 found"):
        build(tmp_path / "p", tmp_path / "out", "none")


def test_columns_that_were_never_ordered_have_their_groups_side_by_side(qwen, tmp_path):
    def change(tensors: dict[str, Stored]) -> None:
        tensors[f"{Q}.weight_g_idx"] = "I32", (width,), np.full(width, -1, np.int32).tobytes()

    write_packed(qwen, tmp_path / "p", PACKINGS["int4 g32"], twin=tmp_path / "twin")
    width = open_checkpoint(tmp_path / "twin").tensors[f"{Q}.weight"].shape[1]
    edit(tmp_path / "p", change)
    build(tmp_path / "p", tmp_path / "ours", "none")
    build(tmp_path / "twin", tmp_path / "theirs", "none")
    assert stored(tmp_path / "ours") == stored(tmp_path / "theirs")


def test_each_group_of_a_mixed_config_has_the_modules_that_it_names(qwen, tmp_path):
    int4, int8 = PACKINGS["int4 g32"], PACKINGS["int8 for each row"]
    groups = {
        "down": {"targets": ["re:.*down_proj$"], "format": "pack-quantized", **_weights(int8)},
        "rest": {"targets": ["Linear"], "format": "pack-quantized", **_weights(int4)},
    }
    mixed = Packing(lambda w: int4.pack(w), {**compressed("mixed-precision", {}), "config_groups": groups})
    other = Packing(lambda w: int8.pack(w), mixed.settings)
    write_packed(qwen, tmp_path / "a", mixed, twin=tmp_path / "a_twin")
    write_packed(qwen, tmp_path / "b", other, twin=tmp_path / "b_twin")
    for side in ("", "_twin"):
        rows8 = {n: t for n, t in stored(tmp_path / f"b{side}").items() if "down_proj" in n}

        def change(tensors: dict[str, Stored], rows8: dict[str, Stored] = rows8) -> None:
            for name in [n for n in tensors if "down_proj" in n]:
                del tensors[name]
            tensors |= rows8

        edit(tmp_path / f"a{side}", change)
        build(tmp_path / f"a{side}", tmp_path / f"out{side}", "none")
    assert stored(tmp_path / "out") == stored(tmp_path / "out_twin")


def _weights(packing: Packing) -> dict[str, Any]:
    return {"weights": packing.settings["config_groups"]["group_0"]["weights"]}


def test_what_a_class_would_take_apart_and_quantize_again_is_read_as_floats(deepseek, tmp_path):
    attention = re.compile(r"(experts\..*|kv_b)_proj\.weight$")
    write_packed(deepseek, tmp_path / "packed", PACKINGS["int4 g32"], twin=tmp_path / "twin", chosen=attention)
    build(tmp_path / "packed", tmp_path / "ours", "none")
    build(tmp_path / "twin", tmp_path / "theirs", "none")
    ours, theirs = stored(tmp_path / "ours"), stored(tmp_path / "theirs")
    split = [n for n in theirs if "embed_q" in n or "unembed_out" in n]
    assert len(split) == 4
    assert all(ours[n] == theirs[n] for n in split)
    assert "model.layers.1.mlp.switch_mlp.up_proj.scales" in ours


WORDS = st.sampled_from(["group", "int", "float", "re:(a+)+$", "re:[", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "weights", "targets"]), inner),
    max_leaves=6,
)  # fmt: skip
KEYS = ("format", "config_groups", "ignore", "sparsity_config", "quant_algo", "quantized_layers", "exclude_modules")


@given(st.sampled_from(sorted(PACKINGS)), st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1), st.data())
@settings(max_examples=75, deadline=None)
def test_whatever_a_config_says_it_is_read_or_refused(name, damage, data):
    stated = {**PACKINGS[name].settings, **damage}
    groups = stated.get("config_groups")
    if isinstance(groups, dict) and isinstance(group := groups.get("group_0"), dict) and "weights" in group:
        key = data.draw(st.sampled_from(["num_bits", "type", "strategy", "group_size", "symmetric", "block_structure"]))
        weights = {**group["weights"], key: data.draw(JSON)}
        stated["config_groups"] = {**groups, "group_0": {**group, "weights": weights}}
    config = {"quantization_config": stated, "torch_dtype": "bfloat16"}
    parts, _ = PACKINGS[name].pack(np.random.default_rng(3).normal(size=(96, 64)).astype(np.float32))
    tensors = {f"m.{s}": Tensor(f"m.{s}", d, shape, f"m.{s}", 0, len(b)) for s, (d, shape, b) in parts.items()}
    with suppress(SourceError):
        check_config(config, "test")
        declared_storage(config, ("model.layers.0.mlp.experts.0.up_proj",), (4, 96, 64))
        decoded_tensors(config, tensors)


def test_a_pattern_that_takes_for_ever_is_not_tried():
    assert not matches_pattern("(a+)+$", "a" * 60 + "b")
    assert not matches_pattern(".*.*.*.*.*x", "a" * 999)
    assert matches_pattern(".*mlp\\.(gate|up)_proj.*", "model.layers.0.mlp.up_proj")
