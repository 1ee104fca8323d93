"""MLX builds as sources: read as the floats that mlx makes of them, requantized, and named as quantized."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.builds.read.build import read_build
from mlxquant.check.against_source import compare_with_source
from mlxquant.check.audit import audit_build
from mlxquant.errors import SourceError
from mlxquant.layout.layout import read_layout
from mlxquant.layout.views.bytes import to_numpy
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.source.headers import Tensor
from mlxquant.source.packed import decoded_tensors
from mlxquant.words.formats import Format
from tests.builds.read.audit_builds import copied, edit_json, edit_quantization, edit_tensors, made_by_mlx_lm
from tests.checkpoints import Size, write_tiny
from tests.support.builds import build, stored

FORMATS = [("affine", bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
FORMATS += [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen") / "source"
    write_tiny(folder, "qwen3_moe", Size(layers=2, experts=4))
    return folder


@pytest.fixture(scope="module")
def eight(qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an 8-bit build by mlx-lm; its routers are in a format of their own, as the class asks."""
    return made_by_mlx_lm(qwen, tmp_path_factory.mktemp("eight") / "eight", quantize=True, q_bits=8, q_group_size=32)


def parts_of(mode: str, bits: int, group: int, dtype: mx.Dtype) -> tuple[dict[str, Tensor], bytes, Any]:
    """A quantized stack of matrices as tensors of one file, the file's bytes, and mlx's floats."""
    weight = mx.random.normal((2, 12, 256), key=mx.random.key(1)).astype(dtype)
    arrays = mx.quantize(weight, group, bits, mode)
    names = {mx.bfloat16: "BF16", mx.float16: "F16", mx.float32: "F32", mx.uint32: "U32", mx.uint8: "U8"}
    tensors, raw = {}, b""
    for part, array in zip(("weight", "scales", "biases"), arrays, strict=False):
        data = to_numpy(array).tobytes()
        tensors[f"x.{part}"] = Tensor(f"x.{part}", names[array.dtype], array.shape, "f", len(raw), len(data))
        raw += data
    return tensors, raw, mx.dequantize(*arrays, group_size=group, bits=bits, mode=mode, dtype=dtype)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FORMATS), st.sampled_from(["BF16", "F16", "F32"]), st.data())
def test_any_run_of_values_is_what_mlx_makes_of_it(form: tuple[str, int, int], dtype: str, data: st.DataObject) -> None:
    mode, bits, group = form
    dtypes = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}
    tensors, raw, values = parts_of(mode, bits, group, dtypes[dtype])
    words = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    config = {"quantization": {"mode": mode, "bits": bits, "group_size": group}, "torch_dtype": words[dtype]}

    def read(_: str, start: int, buffer: memoryview) -> None:
        buffer[:] = raw[start : start + len(buffer)]

    floats = decoded_tensors(config, tensors)["x.weight"]
    assert (floats.dtype, floats.shape) == (dtype, (2, 12, 256))
    whole = to_numpy(values)
    size = len(whole) // values.size
    first = data.draw(st.integers(0, values.size - 1))
    out = np.empty(data.draw(st.integers(1, values.size - first)) * size, np.uint8)
    floats.read_into(read, first * size, out.data)
    assert np.array_equal(out, whole[first * size : first * size + len(out)])


def test_without_quantization_a_build_becomes_what_mlx_lm_dequantizes_it_to(eight: Path, tmp_path: Path) -> None:
    theirs = made_by_mlx_lm(eight, tmp_path / "theirs", dequantize=True)
    build(eight, tmp_path / "ours", "none")
    assert stored(tmp_path / "ours") == stored(theirs)
    assert "quantization" not in json.loads((tmp_path / "ours" / "config.json").read_text())


def test_a_build_is_quantized_anew_and_the_added_error_is_measured(eight: Path, tmp_path: Path) -> None:
    out = tmp_path / "four"
    build(eight, out, "gates-4bit")
    read = read_build(out)
    assert read.disagreements == ()
    record = audit_build(read, compare_with_source(read, open_checkpoint(eight), threads=2))
    assert 0.05 < record["totals"]["errors"]["relative_rms_error"] < 0.1
    assert record["disagreements"] == []
    notes = [note for note in record["notes"] if "the source is an MLX build, quantized itself" in note]
    assert len(notes) == 1
    assert "in 8-bit g32" in notes[0]


def test_a_plan_says_that_its_source_is_quantized_from_a_config_alone_too(eight: Path) -> None:
    for place in (eight, eight / "config.json"):
        source = open_checkpoint(place)
        plan = make_plan(read_layout(source), load_recipe("gates-4bit", group_size=32), source)
        assert any("its error against the model that it was made of stays" in note for note in plan.notes)
        assert plan.totals["source_bytes"] == sum(t.nbytes for t in open_checkpoint(eight).tensors.values())


def test_modules_whose_format_the_config_leaves_open_are_named(eight: Path, tmp_path: Path) -> None:
    folder = copied(eight, tmp_path / "open")
    edit_quantization(folder, lambda q: q.update(bits=5, group_size=128))
    with pytest.raises(SourceError, match=r"may be 8-bit g32 or 4-bit g64 or 2-bit g128, and config.json says 5-bit"):
        open_checkpoint(folder)


def test_a_module_without_its_scales_is_named(eight: Path, tmp_path: Path) -> None:
    folder = copied(eight, tmp_path / "lacking")
    edit_tensors(folder, lambda t: t.pop("lm_head.scales"))
    with pytest.raises(SourceError, match=r"lm_head.weight is packed and lm_head.scales is missing"):
        open_checkpoint(folder)


def test_a_block_that_mlx_cannot_have_written_is_refused_by_name(eight: Path, tmp_path: Path) -> None:
    folder = copied(eight, tmp_path / "strange")
    edit_quantization(folder, lambda q: q.update(mode="codebook"))
    for place in (folder, folder / "config.json"):
        with pytest.raises(SourceError, match=r"quantized with MLX \(codebook\)"):
            open_checkpoint(place)


def test_quantization_config_alone_says_it_too(eight: Path, tmp_path: Path) -> None:
    folder = copied(eight, tmp_path / "twin")
    edit_json(folder / "config.json", lambda c: c.pop("quantization"))
    assert open_checkpoint(folder).decoded


def test_an_nvfp4_global_scale_takes_part() -> None:
    tensors, raw, _ = parts_of("nvfp4", 4, 16, mx.bfloat16)
    scales = np.array([3, 0.5], np.float32)
    tensors["x.global_scale"] = Tensor("x.global_scale", "F32", (2,), "f", len(raw), 8)
    data = raw + scales.tobytes()

    def read(_: str, start: int, buffer: memoryview) -> None:
        buffer[:] = data[start : start + len(buffer)]

    floats = decoded_tensors({"quantization": {"mode": "nvfp4", "bits": 4, "group_size": 16}}, tensors)["x.weight"]
    out = np.empty(floats.nbytes, np.uint8)
    floats.read_into(read, 0, out.data)
    parts = []
    for i, scale in enumerate(scales):
        codes = np.frombuffer(raw, np.uint32, 12 * 32, 12 * 32 * 4 * i).reshape(12, 32)
        groups = np.frombuffer(raw, np.uint8, 12 * 16, tensors["x.scales"].start + 12 * 16 * i).reshape(12, 16)
        one = (mx.array(codes), mx.array(groups), None, 16, 4, "nvfp4")
        parts.append(mx.dequantize(*one, global_scale=mx.array(scale)).astype(mx.bfloat16))
    assert np.array_equal(out, to_numpy(mx.stack(parts)))


def test_use_source_keeps_the_bits_of_a_module(eight: Path, tmp_path: Path) -> None:
    recipe = load_recipe("gates-4bit", group_size=32, sets=["role=attention:use=source", "role=router:use=source"])
    build(eight, tmp_path / "mixed", recipe)
    ours, source = stored(tmp_path / "mixed"), stored(eight)
    kept = [n for n in source if ".self_attn." in n or ".mlp.gate." in n]
    assert kept
    assert {n: ours[n] for n in kept} == {n: source[n] for n in kept}
    read = read_build(tmp_path / "mixed")
    assert read.disagreements == ()
    assert read.formats["model.layers.0.mlp.switch_mlp.up_proj"] == Format(4, 32)
    against = compare_with_source(read, open_checkpoint(eight), threads=2)
    assert against.disagreements == ()
