"""Which dtype an array has in the source and which in the build: casts as mlx_lm.convert does them, stored formats."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlx.utils import tree_flatten

from mlxquant.layout.layout import Layout, read_layout
from mlxquant.source.checkpoint import Checkpoint, open_checkpoint
from mlxquant.words.formats import Format
from tests.support.architectures import TABLE, config_of
from tests.support.safetensor_files import encoded, header


@pytest.fixture
def qwen(tiny_qwen: Path, tmp_path: Path) -> Path:
    """Give a copy of the tiny Qwen3.5-MoE checkpoint, to be changed."""
    return Path(shutil.copytree(tiny_qwen, tmp_path / "qwen"))


def change_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def read(folder: Path, **options: Any) -> Layout:
    return read_layout(open_checkpoint(folder), **options)


def alone(config: dict[str, Any], **options: Any) -> Layout:
    return read_layout(Checkpoint("test", None, config, {}, {}), **options)


def dtypes(layout: Layout) -> set[str]:
    return {a.dtype for m in layout.modules for a in m.arrays}


@pytest.fixture
def llama(tiny: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny("llama"), tmp_path / "llama"))


def test_floats_are_cast_to_torch_dtype(llama):
    change_config(llama, lambda config: config.update(torch_dtype="float16"))
    layout = read(llama)
    assert layout.dtype == "F16" and dtypes(layout) == {"F16"}
    assert {a.source_dtype for m in layout.modules for a in m.arrays} == {"BF16"}


def test_a_top_level_dtype_counts_for_nothing(llama):
    def change(config: dict[str, Any]) -> None:
        config.pop("torch_dtype", None)
        config["dtype"] = "float16"

    change_config(llama, change)
    layout = read(llama)
    assert layout.dtype is None and dtypes(layout) == {"BF16"}


def test_the_dtype_of_text_config_counts_after_torch_dtype(qwen):
    def change(config: dict[str, Any]) -> None:
        config.pop("torch_dtype", None)
        config["text_config"]["dtype"] = "float16"

    change_config(qwen, change)
    assert read(qwen).dtype == "F16"
    change_config(qwen, lambda config: config.update(torch_dtype="bfloat16"))
    assert read(qwen).dtype == "BF16"


def test_an_asked_dtype_wins(qwen):
    layout = read(qwen, dtype="float32")
    assert layout.dtype == "F32" and dtypes(layout) == {"F32"}


def test_what_the_class_will_not_have_cast_stays_as_it_is(qwen):
    layout = read(qwen, dtype="float16")
    uncast = {m.path.rpartition(".")[2] for m in layout.modules for a in m.arrays if a.dtype == "F32"}
    assert uncast == {"A_log"} and dtypes(layout) == {"F16", "F32"}


def test_what_is_no_float_is_not_cast(tiny):
    layout = read(tiny("gpt_oss"), dtype="float32")
    experts = {a.dtype for m in layout.modules if m.prequantized for a in m.arrays if a.name == "weight"}
    assert experts == {"U32"}


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"torch_dtype": "float16"}, "F16"),
        ({"dtype": "float32"}, "F32"),
        ({"torch_dtype": "float32", "dtype": "float16"}, "F32"),
        ({}, "BF16"),
    ],
)
def test_a_config_alone_is_taken_at_its_word_for_what_is_stored(changes, dtype):
    layout = alone(config_of(TABLE["mixtral"]["config"]) | changes)
    assert dtypes(layout) == {dtype}
    assert bool(layout.notes) == (not changes)


def test_a_config_alone_counts_what_is_never_cast_as_float32():
    layout = alone(config_of(TABLE["qwen3_5_moe"]["config"]))
    assert {m.path.rpartition(".")[2] for m in layout.modules for a in m.arrays if a.dtype == "F32"} == {"A_log"}


def test_routers_of_mistral4_are_not_counted_as_packed_where_a_config_alone_says_linear():
    weights = {"num_bits": 4, "group_size": 32, "symmetric": True, "strategy": "group", "type": "int"}
    packed = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }
    layout = alone(config_of(TABLE["mistral4"]["config"]) | {"quantization_config": packed})
    stored = {m.role: a.source_dtype for m in layout.modules for a in m.arrays if a.name == "weight"}
    assert (stored["router"], stored["expert"]) == ("BF16", "INT4")


def test_a_config_that_names_no_dtype_is_noted():
    layout = alone(config_of(TABLE["gpt_oss"]["config"]))
    assert layout.notes == ("config.json names no dtype; bfloat16 is assumed",)


# --- sources that are quantized already ---


def test_mxfp4_experts_are_known_by_their_scales(tiny):
    modules = [m for m in read(tiny("gpt_oss")).modules if m.prequantized]
    assert {m.role for m in modules} == {"expert"} and {m.prequantized for m in modules} == {Format(4, 32, "mxfp4")}
    config = read(tiny("gpt_oss")).model.args
    assert modules[0].shape == (config.num_local_experts, config.intermediate_size, config.hidden_size)


def packed_settings(packing: str, group: int, **more: object) -> dict[str, Any]:
    """What Kimi K2's config says: the experts alone are packed."""
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": group, "symmetric": True, **more}
    return {
        "quant_method": "compressed-tensors",
        "format": packing,
        "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


@pytest.mark.parametrize(
    ("settings", "stored"),
    [
        ({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}, Format(4, 32, "mxfp4")),
        (packed_settings("mxfp4-pack-quantized", 32, type="float"), None),  # this class keeps int4 alone
        (packed_settings("pack-quantized", 32), Format(4, 32)),
        (packed_settings("pack-quantized", 64), Format(4, 64)),
        (packed_settings("pack-quantized", 32, symmetric=False), None),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, None),
        ({}, None),
    ],
)
def test_a_config_alone_says_which_experts_are_packed(settings, stored):
    layout = alone(config_of(TABLE["deepseek_v3"]["config"]) | {"quantization_config": settings})
    assert {m.prequantized for m in layout.modules if m.role == "expert"} == {stored}
    assert {m.prequantized for m in layout.modules if m.role != "expert"} == {None}


@pytest.mark.parametrize("inside", [True, False])
def test_a_class_that_calls_the_sanitize_of_another_keeps_what_that_keeps(inside):
    config, settings = config_of(TABLE["kimi_k25"]["config"]), packed_settings("pack-quantized", 32)
    table = config["text_config"] if inside else config
    table["quantization_config"] = settings
    assert {m.prequantized for m in alone(config).modules if m.role == "expert"} == {Format(4, 32)}


def test_experts_of_kimi_k2_in_int4_stay_as_affine_4_bit(tmp_path):
    config = config_of(TABLE["deepseek_v3"]["config"]) | {"model_type": "kimi_k2", "torch_dtype": "bfloat16"}
    config |= {"num_hidden_layers": 2, "moe_intermediate_size": 64}
    settings = packed_settings("pack-quantized", 32)
    layout = packed_experts(tmp_path, config | {"quantization_config": settings})
    experts = [m for m in layout.modules if m.role == "expert"]
    assert {m.prequantized for m in experts} == {Format(4, 32)}
    assert {(a.name, a.source_dtype, a.dtype) for m in experts for a in m.arrays} == {("weight", "BF16", "BF16")}
    assert experts[0].shape == (8, 64, 128)


def packed_experts(folder: Path, config: dict[str, Any]) -> Layout:
    """A checkpoint of headers alone whose experts are packed as compressed-tensors packs int4."""
    entries: dict[str, tuple[str, list[int]]] = {}
    for name, array in dict(tree_flatten(alone(config).model.parameters())).items():
        path, shape = name.rpartition(".")[0], list(array.shape)
        if ".switch_mlp." not in name and ".embed_q" not in name and ".unembed_out" not in name:
            entries[name] = ("BF16", shape)
        elif ".switch_mlp." in name:
            for i in range(shape[0]):
                expert = path.replace("switch_mlp", f"experts.{i}")
                entries[f"{expert}.weight_packed"] = ("I32", [shape[1], shape[2] // 8])
                entries[f"{expert}.weight_scale"] = ("BF16", [shape[1], shape[2] // 32])
                entries[f"{expert}.weight_shape"] = ("I64", [2])
    args = alone(config).model.args
    heads, width = args.num_attention_heads, args.qk_nope_head_dim + args.v_head_dim
    for i in range(config["num_hidden_layers"]):
        entries[f"model.layers.{i}.self_attn.kv_b_proj.weight"] = ("BF16", [heads * width, args.kv_lora_rank])
    text = encoded(header(entries))
    (folder / "model.safetensors").write_bytes(text)
    os.truncate(folder / "model.safetensors", len(text) + max(v["data_offsets"][1] for v in header(entries).values()))
    (folder / "config.json").write_text(json.dumps(config))
    return read(folder)


def test_fp8_weights_become_bfloat16_by_mlx_lms_own_arithmetic(tiny):
    layout = read(tiny("deepseek_v3_fp8"))
    assert not any(m.prequantized for m in layout.modules)
    assert "F8_E4M3" in {a.source_dtype for m in layout.modules for a in m.arrays}
    assert dtypes(layout) <= {"BF16", "F32"}
