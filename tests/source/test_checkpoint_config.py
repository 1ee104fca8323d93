"""Configs that make no source: unreadable, of another kind, or of a checkpoint that is quantized already."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlxquant.errors import SourceError
from mlxquant.source.checkpoint import open_checkpoint, read_config
from tests.source.two_shards import change_config, refused, two_shards, write_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a checkpoint of two shards with an index."""
    return two_shards(tmp_path)


def test_a_path_that_is_nothing_says_what_would_be_something(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert "a file found; give its folder" in refused(tmp_path / "model.safetensors")
    assert refused(tmp_path / "nope").endswith("nope: no such folder, config.json or Hub id (org/name)")


def test_a_folder_without_a_config_is_refused(folder):
    (folder / "config.json").unlink()
    assert "config.json: cannot be read (No such file or directory); a checkpoint needs a config.json" in refused(
        folder
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"llama"', "\x00", "[" * 10_000, "9" * 5000])
def test_an_unreadable_config_is_named(folder, text):
    (folder / "config.json").write_text(text)
    assert refused(folder).startswith("config.json: ") and refused(folder).endswith("download it again")


@pytest.mark.parametrize("config", [{}, {"model_type": None}, {"model_type": 3}, {"model_type": ["llama"]}])
def test_a_config_without_a_model_type_is_refused(folder, config):
    write_json(folder / "config.json", config)
    assert "config.json: has no model_type; is it a model's config.json?" in refused(folder)


@pytest.mark.parametrize("value", ["x", [1], 3, True])
@pytest.mark.parametrize("key", ["text_config", "vision_config", "ffn_config"])
def test_a_config_whose_tables_are_none_is_refused(folder, key, value):
    change_config(folder, **{key: value})
    assert f"config.json: {key} is a table, not " in refused(folder)


def test_a_broken_generation_config_is_named(folder):
    (folder / "generation_config.json").write_text("{")
    assert refused(folder).startswith("generation_config.json: not readable as JSON")


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("aqlm", "AQLM"),
        ("hqq", "HQQ"),
        ("modelopt", "NVIDIA ModelOpt (no quant_algo)"),
        ("bitsandbytes", "bitsandbytes"),
        ("somethingnew", "somethingnew"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_quantized_source_is_refused_by_name(folder, method, name, inside):
    settings = {"quantization_config": {"quant_method": method, "bits": 4}}
    change_config(folder, **({"text_config": settings} if inside else settings))
    message = refused(folder)
    assert f"quantized with {name}; " in message and message.endswith("use the original, unquantized repository")


def test_a_lone_config_of_a_quantized_source_is_refused_too(folder):
    change_config(folder, quantization_config={"quant_method": "hqq"})
    assert "quantized with HQQ" in refused(folder / "config.json")


def test_modelopt_is_known_by_the_file_that_it_writes_beside_a_silent_config(folder):
    write_json(folder / "hf_quant_config.json", {"quantization": {"quant_algo": "W4A16_AWQ"}})
    for path in (folder, folder / "config.json"):
        assert "quantized with NVIDIA ModelOpt (W4A16_AWQ)" in refused(path)


@pytest.mark.parametrize("packing", ["sparse-bitmask", None])
def test_formats_of_compressed_tensors_that_cannot_be_read_are_refused(folder, packing):
    change_config(folder, quantization_config={"quant_method": "compressed-tensors", "format": packing})
    assert f"quantized with compressed-tensors ({packing})" in refused(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {"quant_method": "mxfp4"},
        {"bits": 4, "group_size": 64},
        {},
        None,
    ],
)
def test_what_mlx_lm_reads_of_quantized_sources_is_a_source(folder, settings):
    change_config(folder, quantization_config=settings)
    assert open_checkpoint(folder).tensors


@pytest.mark.parametrize("settings", ["awq", ["gptq"], 4])
def test_quantization_settings_that_are_no_table_are_refused(folder, settings):
    change_config(folder, quantization_config=settings)
    assert "quantized with " in refused(folder)


def test_a_model_that_brings_its_own_code_is_refused(folder):
    change_config(folder, model_file="modeling.py")
    assert "needs its own code (modeling.py), which is not run here" in refused(folder)


def test_a_config_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(SourceError, match=r"a checkpoint needs a config\.json"):
        read_config(tmp_path / "config.json", None)


def test_what_a_stranger_wrote_cannot_disturb_the_terminal(folder):
    change_config(folder, quantization_config={"quant_method": "\x1b[2Jawq\n" + "x" * 5000})
    assert refused(folder).isprintable() and len(refused(folder)) < 400
