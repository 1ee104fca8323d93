"""What is wrong with a build is found, each fault by its own sentence, and the rest is audited all the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mlxquant.builds.read.build import read_build
from mlxquant.check.audit import audit_build
from mlxquant.words.formats import Format
from tests.builds.read.audit_builds import INDEX, copied, edit_json, edit_quantization, edit_tensors, made_by_mlx_lm

HEAD = "language_model.lm_head"
GATE = "language_model.model.layers.0.mlp.gate"
NORM = "language_model.model.norm"


@pytest.fixture(scope="module")
def sound(tiny_qwen, tmp_path_factory):
    """4-bit g64, routers 8-bit g64 as the class asks; config.json lists those."""
    return made_by_mlx_lm(tiny_qwen, tmp_path_factory.mktemp("sound") / "build", quantize=True)


@pytest.fixture
def build(sound, tmp_path):
    return copied(sound, tmp_path / "build")


def disagreements(build: Path) -> list[str]:
    stored_build = list(read_build(build).disagreements)
    assert audit_build(read_build(build))["disagreements"] == stored_build
    return stored_build


def only(build: Path) -> str:
    stored_build = disagreements(build)
    assert len(stored_build) == 1, stored_build
    return stored_build[0]


def test_a_config_that_says_8_bits_over_4_bit_shards_is_caught(build):
    edit_quantization(build, lambda q: q.update(bits=8))
    text = only(build)
    assert "says 8-bit g64 at the top level" in text
    assert "the shards hold 4-bit g64: 45 modules" in text
    assert read_build(build).formats[HEAD] == Format(4, 64)


def test_a_wrong_group_size_is_caught(build):
    edit_quantization(build, lambda q: q.update(group_size=32))
    assert "says 4-bit g32" in only(build)


def test_a_wrong_mode_is_caught(build):
    edit_quantization(build, lambda q: q.update(mode="mxfp4", group_size=32))
    assert "says mxfp4 g32" in only(build)


def test_an_entry_with_wrong_bits_is_caught(build):
    edit_quantization(build, lambda q: q[GATE].update(bits=4))
    assert only(build) == f"config.json: lists as 4-bit g64 what the shards hold as 8-bit g64: 1 module ({GATE})"


def test_an_entry_that_is_false_over_a_quantized_module_is_caught(build):
    edit_quantization(build, lambda q: q.update({HEAD: False}))
    assert only(build) == f"config.json: lists as unquantized what the shards hold as 4-bit g64: 1 module ({HEAD})"


def test_an_entry_for_a_module_that_is_not_quantized_is_caught(build):
    edit_quantization(build, lambda q: q.update({NORM: {"bits": 4, "group_size": 64}}))
    assert only(build) == f"config.json: lists as 4-bit g64 what the shards hold as unquantized: 1 module ({NORM})"


def test_a_module_that_config_does_not_list_though_it_differs_is_caught(build):
    edit_quantization(build, lambda q: q.pop(GATE))
    text = only(build)
    assert "lists no other, the shards hold 8-bit g64: 1 module" in text
    assert GATE in text


def test_an_entry_for_a_module_that_is_not_there_is_caught(build):
    edit_quantization(build, lambda q: q.update({"model.layers.99.mlp.gate": False}))
    assert "entries for modules that are not there: 1 module (model.layers.99.mlp.gate)" in only(build)


def test_a_twin_that_differs_is_caught(build):
    edit_json(build / "config.json", lambda c: c["quantization_config"].update(bits=6))
    assert only(build) == "config.json: quantization and quantization_config differ: bits is 4 and 6"


def test_a_config_without_quantization_over_packed_shards_is_caught(build):
    def forget(config):
        del config["quantization"], config["quantization_config"]

    edit_json(build / "config.json", forget)
    assert "has no quantization, so mlx-lm cannot load what is packed: 53 modules" in only(build)


def test_a_twin_alone_is_caught_since_mlx_lm_does_not_read_it(build):
    edit_json(build / "config.json", lambda c: c.pop("quantization"))
    assert any("quantization_config, but no quantization" in d for d in disagreements(build))


def test_quantization_over_shards_that_have_none_is_caught(tiny_qwen, tmp_path):
    build = made_by_mlx_lm(tiny_qwen, tmp_path / "b")
    edit_json(build / "config.json", lambda c: c.update(quantization={"bits": 4, "group_size": 64}))
    assert "says 4-bit g64, but nothing in the shards is quantized" in only(build)


def test_what_a_source_was_quantized_with_must_not_stay_in_the_config(tiny_qwen, tmp_path):
    build = made_by_mlx_lm(tiny_qwen, tmp_path / "b")
    edit_json(build / "config.json", lambda c: c.update(quantization_config={"quant_method": "fp8"}))
    assert "quantization_config says fp8, but nothing in the shards" in only(build)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ([4, 64], "is a table, not"),
        ({"bits": 4}, "gives no bits and group_size"),
        ({"bits": 7, "group_size": 64}, "mode affine has 2, 3, 4, 5, 6 or 8 bits, not 7"),
        ({"bits": "4", "group_size": 64}, "bits and group_size are numbers"),
        ({"bits": 4, "group_size": 64, "mode": "awq"}, "mode 'awq' is unknown"),
        ({"bits": 4, "group_size": 64, GATE: {"mode": []}}, r"mode \[\] is unknown"),
    ],
)
def test_a_malformed_block_is_said_and_the_shards_are_read_all_the_same(build, block, message):
    edit_json(build / "config.json", lambda c: c.update(quantization=block, quantization_config=block))
    stored_build = read_build(build)
    assert any(re.search(message, d) for d in stored_build.disagreements), stored_build.disagreements
    assert stored_build.formats[HEAD] == Format(4, 64)


def test_wrong_totals_in_the_index_are_caught(build):
    edit_json(build / INDEX, lambda i: i["metadata"].update(total_size=1, total_parameters=2))
    assert [d.split(" says")[0] for d in disagreements(build)] == [f"{INDEX}: total_size", f"{INDEX}: total_parameters"]


def test_an_index_that_names_a_missing_shard_is_caught(build):
    edit_json(build / INDEX, lambda i: i["weight_map"].update({f"{NORM}.weight": "model-00002-of-00002.safetensors"}))
    assert disagreements(build) == [
        "model-00002-of-00002.safetensors: named by the index with 1 tensors, but not in the folder",
        f"{NORM}.weight: the index says it is in model-00002-of-00002.safetensors; it is in model.safetensors",
    ]


def test_a_tensor_missing_from_the_index_is_caught(build):
    edit_json(build / INDEX, lambda i: i["weight_map"].pop(f"{NORM}.weight"))
    assert only(build) == f"{NORM}.weight: in model.safetensors, but not in the index"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ('{"weight_map": []}', "has no weight_map"),
        ('{"weight_map": {"a": "../../etc/passwd"}}', "points outside its folder"),
    ],
)
def test_an_index_that_cannot_be_used_is_said(build, text, message):
    (build / INDEX).write_text(text)
    assert any(message in d for d in disagreements(build))


def test_a_build_without_an_index_is_only_noted(build):
    (build / INDEX).unlink()
    assert disagreements(build) == []
    assert any("mlx-lm loads the build without it" in note for note in read_build(build).notes)


def test_a_shard_that_is_not_in_the_index_is_caught(build):
    (build / "model-extra.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert only(build) == "model-extra.safetensors: not in the index, yet mlx-lm loads it"


def test_tensors_that_stand_in_two_shards_are_caught(build):
    (build / "model-copy.safetensors").write_bytes((build / "model.safetensors").read_bytes())
    assert any("stands in model-copy.safetensors and in model.safetensors" in d for d in disagreements(build))


@pytest.mark.parametrize("index", [True, False])
def test_a_missing_tensor_is_named(build, index):
    edit_tensors(build, lambda t: t.pop(f"{NORM}.weight"), index=index)
    assert any(
        d == f"{NORM}.weight: not in the shards; mlx-lm cannot load the build without it" for d in disagreements(build)
    )


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("weight", f"{HEAD}.weight: not in the shards"),
        ("scales", f"{HEAD}: weight U32 [512, 16] without scales, where a matrix [512, 128] is expected"),
        ("biases", f"{HEAD}: weight U32 [512, 16] and scales BF16 [512, 2] for a matrix [512, 128]: affine biases"
                   " of the scales' shape and dtype expected, none found"),
    ],
)  # fmt: skip
def test_a_quantized_module_that_lacks_a_part_is_named(build, part, message):
    edit_tensors(build, lambda t: t.pop(f"{HEAD}.{part}"))
    assert any(d.startswith(message) for d in disagreements(build)), disagreements(build)
    assert read_build(build).formats[HEAD] is None


def test_an_extra_tensor_is_named(build):
    edit_tensors(build, lambda t: t.update({f"{NORM}.extra": ("BF16", [2], bytes(4))}))
    assert any(
        d.startswith(f"{NORM}.extra: in the shards, but mlx-lm's qwen3_5_moe has no such") for d in disagreements(build)
    )


def test_a_wrong_shape_is_named_with_both_shapes(build):
    edit_tensors(build, lambda t: t.update({f"{NORM}.weight": ("BF16", [64], bytes(128))}))
    assert f"{NORM}.weight: [128] expected from config.json, [64] found in the shards" in disagreements(build)


@pytest.mark.parametrize(
    ("words", "groups", "dtype", "message"),
    [
        (15, 2, "BF16", "3.75 bits and groups of 64"),
        (16, 3, "BF16", "4 bits and groups of 42.67"),
        (16, 8, "BF16", "not 16"),
        (16, 2, "U8", "4 bits, group size 64, scales U8 are no mode of mlx"),
        (16, 2, "I32", "scales I32 are no mode"),
    ],
)
def test_packed_shapes_that_fit_no_format_are_named(build, words, groups, dtype, message):
    size = {"BF16": 2, "U8": 1, "I32": 4}[dtype]

    def repack(tensors):
        tensors[f"{HEAD}.weight"] = ("U32", [512, words], bytes(512 * words * 4))
        for part in ("scales", "biases"):
            tensors[f"{HEAD}.{part}"] = (dtype, [512, groups], bytes(512 * groups * size))

    edit_tensors(build, repack)
    assert any(d.startswith(f"{HEAD}: ") and message in d for d in disagreements(build)), disagreements(build)


def test_biases_of_another_dtype_than_the_scales_are_caught(build):
    edit_tensors(build, lambda t: t.update({f"{HEAD}.biases": ("F32", [512, 2], bytes(4096))}))
    expected = "affine biases of the scales' shape and dtype expected, F32 [512, 2] found"
    assert any(expected in d for d in disagreements(build))


def test_scales_of_another_dtype_than_the_config_names_are_noted(build):
    def widen(tensors):
        for part in ("scales", "biases"):
            tensors[f"{HEAD}.{part}"] = ("F32", [512, 2], bytes(4096))

    edit_tensors(build, widen)
    stored_build = read_build(build)
    assert stored_build.disagreements == ()
    assert f"2 arrays are F32 where config.json says BF16 ({HEAD}.scales, {HEAD}.biases)" in stored_build.notes


def test_a_config_that_contradicts_the_model_is_one_more_disagreement(build):
    def contradict(config):
        text = config.get("text_config", config)
        text["layer_types"] = ["full_attention"] * 4

    edit_json(build / "config.json", contradict)
    stored_build = read_build(build)
    assert any(
        "the config says full_attention, the model has linear_attention" in d for d in stored_build.disagreements
    )
    assert stored_build.formats[HEAD] == Format(4, 64)


def test_a_config_from_which_no_model_can_be_built_is_said_and_names_are_used(build):
    edit_json(build / "config.json", lambda c: c["text_config"].update(num_hidden_layers="four"))
    stored_build = read_build(build)
    assert any("mlx-lm cannot build" in d for d in stored_build.disagreements)
    assert stored_build.formats[HEAD] == Format(4, 64)


def test_all_faults_are_told_together(build):
    edit_quantization(build, lambda q: q.update({"bits": 8, "nowhere": False}))
    edit_json(build / INDEX, lambda i: i["metadata"].update(total_size=1))
    edit_tensors(build, lambda t: t.pop(f"{NORM}.weight"), index=False)
    assert len(disagreements(build)) == 5
    assert json.dumps(audit_build(read_build(build)), allow_nan=False)
