"""Arrays that mlx-lm's class does not have, in part or at all: counted as they are, named, left out of recipes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from mlxquant.builds.read.build import read_build
from mlxquant.check.audit import audit_build
from mlxquant.check.recipe import recipe_of_build
from mlxquant.errors import BuildError
from mlxquant.layout.mlx_lm import build_model
from mlxquant.words.formats import Format
from tests.builds.read.audit_builds import Tensors, copied, edit_json, edit_tensors, made_by_mlx_lm
from tests.support import architectures

EXPERTS = "model.layers.0.mlp.switch_mlp"
Tiny = Callable[..., Path]


@pytest.fixture(scope="module")
def whole(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_by_mlx_lm(tiny("qwen3_moe"), tmp_path_factory.mktemp("whole") / "build", quantize=True)


@pytest.fixture
def build(whole: Path, tmp_path: Path) -> Path:
    return copied(whole, tmp_path / "build")


def totals(build: Path) -> dict[str, Any]:
    record: dict[str, Any] = audit_build(read_build(build))["totals"]
    return record


def fuse(tensors: Tensors) -> None:
    """Gate and up projections of the experts in one matrix, as some tools store them."""
    for name in [n for n in tensors if ".switch_mlp.gate_proj." in n]:
        dtype, shape, gate = tensors.pop(name)
        up = tensors.pop(name.replace("gate_proj", "up_proj"))[2]
        size = len(gate) // shape[0]
        rows = [part[i * size : (i + 1) * size] for i in range(shape[0]) for part in (gate, up)]
        tensors[name.replace("gate_proj", "gate_up_proj")] = (dtype, [shape[0], 2 * shape[1], shape[2]], b"".join(rows))


def test_fused_projections_are_counted_once_and_named(build: Path, whole: Path) -> None:
    edit_tensors(build, fuse)
    read = read_build(build)
    assert totals(build)["parameters"] == totals(whole)["parameters"]
    assert totals(build)["bpw"] == totals(whole)["bpw"]
    fused = read.stored[f"{EXPERTS}.gate_up_proj"]
    assert (fused.format, fused.module.role, fused.fused) == (Format(4, 64), "expert", True)
    assert f"{EXPERTS}.gate_proj" not in read.stored
    assert any("hold several of mlx-lm's tensors in one" in note for note in read.notes)
    text, left_out = recipe_of_build(build, "again", "")
    assert "model.layers.*.mlp.switch_mlp.gate_up_proj (4)" in left_out
    assert text.startswith("# left out")
    assert "expert not quantized" not in text


def test_what_the_shards_do_not_hold_is_not_counted(build: Path, whole: Path) -> None:
    edit_tensors(build, lambda t: [t.pop(n) for n in list(t) if ".layers.3." in n])
    assert totals(build)["parameters"] < totals(whole)["parameters"]
    assert totals(build)["bpw"] == pytest.approx(totals(whole)["bpw"], abs=0.01)
    text, left_out = recipe_of_build(build, "again", "")
    assert "model.layers.3.self_attn.q_proj" in left_out
    assert "keep = true" not in text


def test_a_codebook_in_place_of_a_weight_counts_the_values_that_the_class_has_there(build: Path, whole: Path) -> None:
    def pack(tensors: Tensors) -> None:
        for part in ("weight", "scales", "biases"):
            del tensors[f"{EXPERTS}.down_proj.{part}"]
        tensors[f"{EXPERTS}.down_proj.codes"] = ("U8", [8, 128, 16], bytes(8 * 128 * 16))
        tensors[f"{EXPERTS}.down_proj.codebook"] = ("F16", [256, 8], bytes(4096))

    edit_tensors(build, pack)
    stored = read_build(build).stored[f"{EXPERTS}.down_proj"]
    assert stored.trouble is not None
    assert "codes U8 [8, 128, 16], codebook F16 [256, 8]" in stored.trouble
    assert stored.nbytes == 8 * 128 * 16 + 4096
    assert totals(build)["parameters"] == totals(whole)["parameters"]
    assert f"{EXPERTS}.down_proj" in recipe_of_build(build, "again", "")[1]


def test_codes_under_the_name_of_the_weight_are_no_bf16_weight(build: Path) -> None:
    def pack(tensors: Tensors) -> None:
        for part in ("scales", "biases"):
            del tensors[f"{EXPERTS}.down_proj.{part}"]
        tensors[f"{EXPERTS}.down_proj.weight"] = ("U8", [8, 128, 16], bytes(8 * 128 * 16))
        tensors[f"{EXPERTS}.down_proj.codebook"] = ("F16", [256, 8], bytes(4096))

    edit_tensors(build, pack)
    read = read_build(build)
    stored = read.stored[f"{EXPERTS}.down_proj"]
    assert stored.trouble is not None
    assert stored.nbytes == 8 * 128 * 16 + 4096
    assert any(f"{EXPERTS}.down_proj: weight U8" in text for text in read.disagreements)


def test_scales_without_a_weight_hold_no_parameters(build: Path, whole: Path) -> None:
    size = read_build(build).stored[f"{EXPERTS}.down_proj"].module.parameters
    edit_tensors(build, lambda t: t.pop(f"{EXPERTS}.down_proj.weight"))
    assert totals(build)["parameters"] == totals(whole)["parameters"] - size
    assert any("their parameters are not known" in note for note in read_build(build).notes)


def test_an_unknown_integer_array_counts_in_bytes_alone(build: Path, whole: Path) -> None:
    edit_tensors(build, lambda t: t.update({"model.extra.table": ("I32", [64, 64], bytes(64 * 64 * 4))}))
    assert totals(build)["parameters"] == totals(whole)["parameters"]
    assert totals(build)["bytes"] == totals(whole)["bytes"] + 64 * 64 * 4
    assert totals(build)["bpw"] == totals(whole)["bpw"]


def test_a_model_that_mlx_lm_lacks_has_no_recipe_and_the_reason_is_one_line(build: Path) -> None:
    edit_json(build / "config.json", lambda c: c.update(model_type="not_yet_known"))
    with pytest.raises(
        BuildError, match=r"no recipe: config.json: mlx-lm .* has no model_type 'not_yet_known'"
    ) as error:
        recipe_of_build(build, "again", "")
    assert "\n" not in str(error.value)


def test_a_build_of_which_nothing_is_understood_has_no_recipe(build: Path) -> None:
    edit_tensors(build, lambda t: [t.pop(n) for n in list(t) if n.endswith((".scales", ".biases"))])
    edit_tensors(build, lambda t: [t.pop(n) for n in list(t) if n.endswith("mlp.gate.weight")])
    with pytest.raises(BuildError, match="nothing that mlx quantizes is stored as mlx-lm's class has it"):
        recipe_of_build(build, "again", "")


def test_formats_that_only_quantization_config_names_are_read_and_that_is_one_disagreement(build: Path) -> None:
    edit_json(build / "config.json", lambda c: c.pop("quantization"))
    read = read_build(build)
    assert len(read.disagreements) == 1, read.disagreements
    assert "has quantization_config, but no quantization" in read.disagreements[0]
    assert read.claims.top == Format(4, 64)


MLA = ("deepseek_v32", "glm4_moe_lite", "kimi_k3", "kimi_linear", "longcat_flash", "mistral4")


@pytest.mark.slow
@pytest.mark.parametrize("name", MLA)
def test_every_class_that_takes_a_quantized_kv_b_proj_apart_is_read_as_it_loads(name: str, tmp_path: Path) -> None:
    config = architectures.config_of(architectures.TABLE[name]["config"])
    model = build_model(config)
    nn.quantize(model, 32, 4, class_predicate=lambda _, m: hasattr(m, "to_quantized") and m.weight.shape[-1] % 32 == 0)
    arrays: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    paths = [n.removesuffix("embed_q.weight") for n in arrays if n.endswith("embed_q.weight")]
    block: dict[str, Any] = {"group_size": 32, "bits": 4, "mode": "affine"}
    for path in paths:
        keys, values = (_taken(arrays, path + part) for part in ("embed_q", "unembed_out"))
        whole = mx.concatenate([keys.swapaxes(-1, -2), values], 1).reshape(-1, values.shape[-1])
        for part, array in zip(("weight", "scales", "biases"), mx.quantize(whole, 32, 6), strict=True):
            arrays[f"{path}kv_b_proj.{part}"] = array
        block[f"{path}kv_b_proj"] = {**block, "bits": 6}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), arrays, {"format": "mlx"})
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization": block, "quantization_config": block}))
    read = read_build(tmp_path)
    assert read.disagreements == ()
    assert {read.formats[f"{path}embed_q"] for path in paths} == {Format(6, 32)}
    assert sum(s.nbytes for s in read.stored.values()) == read.checkpoint.nbytes
    assert "bits = 6" in recipe_of_build(tmp_path, "again", "")[0]


def _taken(arrays: dict[str, mx.array], path: str) -> mx.array:
    """The floats of a module, quantized or not, which is taken out of the arrays."""
    parts = [arrays.pop(f"{path}.{part}", None) for part in ("weight", "scales", "biases")]
    weight, scales, biases = parts
    assert weight is not None
    return weight if scales is None else mx.dequantize(weight, scales, biases, 32, 4)
