"""Checkpoints as people have them: FP8 in all its layouts, MXFP4, f16 and f32; and those that are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.cli import main
from mlxquant.errors import LayoutError, MlxquantError, SourceError
from mlxquant.layout.layout import read_layout
from mlxquant.layout.views.strided import Strided
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.source.headers import Tensor
from mlxquant.source.packed import Decoded, decoded_tensors
from mlxquant.source.packed.fp8 import decode
from tests.checkpoints import Size, write_tiny
from tests.source.fp8_checkpoints import edit, quantized, write_fp8
from tests.support.builds import Stored, build, config_of, stored

SMALL = Size(layers=4, experts=4)
STORES: dict[str, dict[str, Any]] = {
    "a scale for 128 × 128 values": {},
    "scales in float32": {"scales": "F32"},
    "blocks that do not divide": {"block": (96, 80)},
    "a scale for each tensor or expert": {"block": None},
    "experts one by one": {"apart": True},
    "said in text_config": {"inside": True},
}


def opened_error(folder: Path) -> str:
    """What opening a checkpoint and laying it out is refused with."""
    with pytest.raises(MlxquantError) as caught:
        read_layout(open_checkpoint(folder))
    return str(caught.value)


def reference(source: Path, out: Path, **options: object) -> dict[str, Stored]:
    """What mlx_lm.convert makes of a checkpoint."""
    from mlx_lm.convert import convert

    convert(str(source), str(out), **options)
    return stored(out)


@pytest.fixture(scope="module")
def fp8(tmp_path_factory):
    """Give an FP8 checkpoint of a Qwen3.5-MoE to be spoilt: of one shard, experts one by one."""
    folder = tmp_path_factory.mktemp("fp8")
    write_tiny(folder / "bf16", "qwen3_5_moe", SMALL)
    write_fp8(folder / "bf16", folder / "fp8", apart=True)
    return folder / "fp8"


@pytest.fixture
def spoilt(fp8, tmp_path):
    """Give a function that changes a copy of it: its tensors, or its config."""

    def change(tensors=None, **config: object) -> Path:
        folder: Path = tmp_path / "spoilt"
        shutil.copytree(fp8, folder)
        if tensors is not None:
            edit(folder, tensors)
        merged = {k: v for k, v in (config_of(fp8) | config).items() if v is not None}
        (folder / "config.json").write_text(json.dumps(merged))
        return folder

    return change


# --- FP8 ---


@pytest.mark.parametrize("way", STORES)
def test_an_fp8_checkpoint_becomes_the_build_of_the_values_it_stands_for(way, tmp_path):
    write_tiny(tmp_path / "bf16", "qwen3_5_moe_vision", SMALL)
    write_fp8(tmp_path / "bf16", tmp_path / "fp8", twin=tmp_path / "twin", **STORES[way])
    build(tmp_path / "fp8", tmp_path / "of_fp8", keep=["vision"])
    build(tmp_path / "twin", tmp_path / "of_twin", keep=["vision"])
    assert stored(tmp_path / "of_fp8") == stored(tmp_path / "of_twin")
    assert config_of(tmp_path / "of_fp8") == config_of(tmp_path / "of_twin")


@pytest.mark.parametrize("architecture", ["llama", "mixtral", "qwen3_moe", "granitemoehybrid", "nemotron_h"])
def test_every_class_reads_fp8_whether_or_not_mlx_lm_dequantizes_it(architecture, tmp_path):
    write_tiny(tmp_path / "bf16", architecture, SMALL)
    write_fp8(tmp_path / "bf16", tmp_path / "fp8", twin=tmp_path / "twin")
    build(tmp_path / "fp8", tmp_path / "of_fp8", "none")
    assert stored(tmp_path / "of_fp8") == reference(tmp_path / "twin", tmp_path / "of_twin")


def test_where_mlx_lm_dequantizes_itself_the_bytes_are_its_own(tmp_path):
    write_tiny(tmp_path / "fp8", "deepseek_v3_fp8", SMALL)
    build(tmp_path / "fp8", tmp_path / "ours", "none")
    assert stored(tmp_path / "ours") == reference(tmp_path / "fp8", tmp_path / "theirs")


def test_a_plan_counts_fp8_at_the_bytes_it_is_stored_in(fp8):
    layout = read_layout(open_checkpoint(fp8))
    experts = [m for m in layout.modules if m.role == "expert"]
    assert {m.weight.source_dtype for m in experts} == {"F8_E4M3"}
    assert {m.weight.dtype for m in experts} == {"BF16"}
    assert all(name.startswith("mtp.") for name in layout.dropped)


def test_a_next_token_head_in_fp8_is_kept_as_bf16(fp8, tmp_path):
    build(fp8, tmp_path / "out", keep=["mtp"])
    (tmp_path / "out/mtp.safetensors").rename(tmp_path / "out/model-mtp.safetensors")
    head = {n: t for n, t in stored(tmp_path / "out").items() if n.startswith("mtp.")}
    assert {dtype for dtype, _, _ in head.values()} == {"BF16"}
    assert "mtp.layers.0.mlp.experts.0.down_proj.weight" in head


def test_scales_of_activations_are_of_no_use_and_left_out(tmp_path):
    write_tiny(tmp_path / "bf16", "llama", SMALL)
    write_fp8(tmp_path / "bf16", tmp_path / "fp8", block=None, settings={"quant_method": "fp8"})
    read = read_layout(open_checkpoint(tmp_path / "fp8"))

    def static(tensors: dict[str, Stored]) -> None:  # as Mistral stores it
        scales = [n for n in tensors if n.endswith("weight_scale_inv")]
        tensors |= {n.replace("weight_scale_inv", "activation_scale"): ("BF16", (), b"\x80\x3f") for n in scales}

    edit(tmp_path / "fp8", static)
    again = read_layout(open_checkpoint(tmp_path / "fp8"))
    assert again.modules == read.modules
    assert {name.rpartition(".")[2] for name in again.dropped} == {"activation_scale"}


@pytest.mark.parametrize("scales", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("size", [-30, -9, 0, 9, 30])
def test_every_code_under_every_scale_is_what_mlx_makes_of_it(scales, size):
    drawn = np.random.default_rng(0).normal(size=256)
    scale = mx.array(np.exp2(size + 2 * drawn).astype(np.float32)).astype(scales)
    codes = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 256, axis=1)
    values = np.empty(codes.shape, np.uint16)
    decode(codes, np.array(scale.astype(mx.float32)), values)
    wanted = (mx.from_fp8(mx.array(codes), dtype=mx.bfloat16) * scale).astype(mx.bfloat16)
    assert np.array_equal(values, np.array(wanted.view(mx.uint16)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.nan, np.uint32(0xFFFFFFFF).view(np.float32)])
def test_a_scale_that_is_not_finite_never_turns_into_a_number(bad):
    codes, values = np.full((2, 4), 0x3C, np.uint8), np.empty((2, 4), np.uint16)
    decode(codes, np.array([1, bad, 1, bad], np.float32), values)
    assert values[0, 0] == 0x3FC0  # 1.5
    assert (values[:, 1::2] & 0x7F80 == 0x7F80).all()


@given(
    st.sampled_from([(300, 70), (3, 130, 96), (2, 64, 33)]),
    st.sampled_from([(128, 128), (32, 48), None]),
    st.data(),
)
def test_any_run_of_values_can_be_read_by_itself(shape, block, data):
    values = mx.random.normal(shape, key=mx.random.key(1))
    codes, scale, wanted = quantized(values, block, "F32")
    raw = {"codes": np.array(codes).tobytes(), "scales": np.array(scale).tobytes()}
    settings = {"quant_method": "fp8", "weight_block_size": list(block) if block else None}
    tensors = {
        "x": Tensor("x", "F8_E4M3", shape, "codes", 0, len(raw["codes"])),
        "x_scale_inv": Tensor("x_scale_inv", "F32", tuple(scale.shape), "scales", 0, len(raw["scales"])),
    }
    tensor: Decoded = decoded_tensors({"quantization_config": settings}, tensors)["x"]
    whole = np.array(wanted.view(mx.uint16)).reshape(-1)
    start = data.draw(st.integers(0, whole.size))
    stop = data.draw(st.integers(start, whole.size))

    def read(file: str, at: int, buffer: memoryview) -> None:
        buffer[:] = raw[file][at : at + len(buffer)]

    run = bytearray(2 * (stop - start))
    tensor.read_into(read, 2 * start, memoryview(run))
    assert bytes(run) == whole[start:stop].tobytes()


def test_a_view_reads_an_fp8_tensor_by_the_files_of_its_codes_and_scales_alone():
    codes, scale, wanted = quantized(mx.random.normal((2, 64), key=mx.random.key(2)), (128, 128), "F32")
    raw = {"codes": np.array(codes).tobytes(), "scales": np.array(scale).tobytes()}
    tensors = {
        "x": Tensor("x", "F8_E4M3", (2, 64), "codes", 0, len(raw["codes"])),
        "x_scale_inv": Tensor("x_scale_inv", "F32", tuple(scale.shape), "scales", 0, len(raw["scales"])),
    }
    tensor = decoded_tensors({"quantization_config": {"quant_method": "fp8"}}, tensors)["x"]

    def read(file: str, at: int, buffer: memoryview) -> None:
        buffer[:] = raw[file][at : at + len(buffer)]

    values = np.empty((1, 128), np.uint8)
    Strided.whole(tensor, 2).read_rows(read, 1, values)
    assert values.tobytes() == np.array(wanted.view(mx.uint16))[1].tobytes()


# --- FP8 that cannot be right ---

GATE = "model.language_model.layers.0.mlp.experts.2.gate_proj.weight"


def test_fp8_without_its_scale_is_an_error_that_names_the_tensor(spoilt):
    message = opened_error(spoilt(lambda tensors: tensors.pop(f"{GATE}_scale_inv")))
    assert f"tensor {GATE} is FP8 (F8_E4M3) and {GATE}_scale_inv is missing" in message


def test_a_scale_without_its_tensor_is_an_error_that_names_it(spoilt):
    message = opened_error(spoilt(lambda tensors: tensors.pop(GATE)))
    assert f"{GATE}_scale_inv is the scale of {GATE}, which is missing" in message


def test_a_scale_of_what_is_not_fp8_is_an_error(spoilt):
    def change(tensors: dict[str, Stored]) -> None:
        _, shape, data = tensors[GATE]
        tensors[GATE] = "U8", shape, data

    assert f"{GATE}_scale_inv is the scale of {GATE}: FP8 expected, U8 found" in opened_error(spoilt(change))


def test_fp8_under_a_config_that_says_nothing_is_an_error(spoilt):
    message = opened_error(spoilt(quantization_config=None))
    assert "is FP8 (F8_E4M3), but config.json has no quantization_config to say how it is scaled" in message


def test_a_grid_of_scales_that_no_block_size_explains_is_an_error(spoilt):
    message = opened_error(spoilt(quantization_config={"quant_method": "fp8", "weight_block_size": [64, 64]}))
    assert "in_proj_qkv.weight is FP8 [512, 128] and its scale [4, 1]: neither mlx-lm's qwen3_5_moe nor" in message


@pytest.mark.parametrize("size", [[0, 128], ["a", "b"], [128], 128, [128, 128.5], [True, True]])
def test_a_block_size_that_is_none_is_an_error(spoilt, size):
    message = opened_error(spoilt(quantization_config={"quant_method": "fp8", "weight_block_size": size}))
    assert "weight_block_size: two lengths expected" in message


def test_other_fp8_formats_are_refused(spoilt):
    def change(tensors: dict[str, Stored]) -> None:
        _, shape, data = tensors[GATE]
        tensors[GATE] = "F8_E5M2", shape, data

    assert f"tensor {GATE}: FP8 as F8_E4M3 expected, F8_E5M2 found" in opened_error(spoilt(change))


def test_a_code_that_is_nan_stops_the_conversion(spoilt, tmp_path):
    def change(tensors: dict[str, Stored]) -> None:
        dtype, shape, data = tensors[GATE]
        tensors[GATE] = dtype, shape, data[:1000] + b"\x7f" + data[1001:]

    with pytest.raises(MlxquantError, match="row 263, column 104: finite values expected, NaN"):
        build(spoilt(change), tmp_path / "out")


def test_experts_one_by_one_with_one_missing_are_named(spoilt):
    def change(tensors: dict[str, Stored]) -> None:
        del tensors[GATE], tensors[f"{GATE}_scale_inv"]

    message = opened_error(spoilt(change))
    assert "layers.0.mlp.switch_mlp.gate_proj.weight: not in the checkpoint" in message


# --- other quantized sources ---


@pytest.mark.parametrize(
    ("ending", "format_name"),
    [
        ("qweight", "AWQ or GPTQ"),
        ("g_idx", "GPTQ"),
        ("weight_packed", "compressed-tensors"),
        ("weight_scale_2", "NVIDIA ModelOpt (NVFP4)"),
        ("absmax", "bitsandbytes"),
    ],
)
def test_a_quantized_source_with_a_silent_config_is_known_by_its_names(tmp_path, ending, format_name):
    write_tiny(tmp_path, "llama", SMALL, shards=1)
    name = f"model.layers.0.mlp.up_proj.{ending}"
    edit(tmp_path, lambda tensors: tensors.update({name: ("I32", (2,), bytes(8))}))
    message = opened_error(tmp_path)
    assert f"{name} shows that it is quantized ({format_name}), config.json does not" in message
    assert message.endswith("use the original, unquantized repository")


def test_integers_in_the_place_of_weights_are_refused(tmp_path):
    write_tiny(tmp_path, "llama", SMALL, shards=1)
    name = "model.layers.0.mlp.up_proj.weight"

    def change(tensors: dict[str, Stored]) -> None:
        _, shape, data = tensors[name]
        tensors[name] = "I8", shape, data[: len(data) // 2]

    edit(tmp_path, change)
    with pytest.raises(LayoutError, match=f"{name}: floats expected, I8 found"):
        read_layout(open_checkpoint(tmp_path))


@pytest.mark.parametrize("algorithm", ["W4A16_AWQ", "NVFP4_SVD"])
def test_modelopt_is_refused_with_the_algorithm_that_it_states(tmp_path, algorithm):
    write_tiny(tmp_path, "llama", SMALL)
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": algorithm}}))
    with pytest.raises(SourceError, match=rf"quantized with NVIDIA ModelOpt \({algorithm}\)"):
        open_checkpoint(tmp_path)


# --- MXFP4, f16, f32 ---


def test_a_rule_that_would_quantize_mxfp4_experts_again_is_an_error(tiny, tmp_path):
    arguments = [
        "convert",
        str(tiny("gpt_oss")),
        "-r",
        "uniform-8bit",
        "--group-size",
        "32",
        "-o",
        str(tmp_path / "out"),
    ]
    run = CliRunner().invoke(main, [*arguments, "--set", "role=expert:bits=4"])
    assert run.exit_code == 3 and not (tmp_path / "out").exists()
    assert "the source already stores model.layers.0.mlp.experts.gate_proj" in run.output
    assert "as mxfp4 g32" in run.output


def test_mxfp4_experts_stay_byte_for_byte_what_they_were(tiny, tmp_path):
    build(tiny("gpt_oss"), tmp_path / "ours", "none")
    assert stored(tmp_path / "ours") == reference(tiny("gpt_oss"), tmp_path / "theirs")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3_5_moe", "qwen3_moe"])
def test_sources_in_f16_and_f32_are_read_as_mlx_lm_reads_them(architecture, dtype, tmp_path):
    write_tiny(tmp_path / "source", architecture, Size(layers=4, experts=4, dtype=dtype))
    build(tmp_path / "source", tmp_path / "ours", "none")
    assert stored(tmp_path / "ours") == reference(tmp_path / "source", tmp_path / "theirs")


@pytest.mark.parametrize("source", ["deepseek_v3_fp8", "gpt_oss"])
@pytest.mark.parametrize("recipe", ["none", "gates-8bit"])
def test_what_the_source_was_quantized_with_does_not_survive_in_the_config(tiny, source, recipe, tmp_path):
    build(tiny(source), tmp_path / "out", recipe)
    config = config_of(tmp_path / "out")
    assert config.get("quantization_config") == config.get("quantization")
    assert "quant_method" not in config.get("quantization_config", {})
