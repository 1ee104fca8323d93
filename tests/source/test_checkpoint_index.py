"""Indexes of strangers: none leads out of its folder, none is believed against the shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxquant.source.checkpoint import INDEX, plain_name
from tests.source.two_shards import change_index, refused, two_shards, write_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a checkpoint of two shards with an index."""
    return two_shards(tmp_path)


@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "a\\b.safetensors", "C:x.safetensors", "..", ".", ""]
)
def test_an_index_that_points_outside_the_folder_is_refused(folder, file):
    change_index(folder, **{"embed.weight": file})
    assert refused(folder).startswith(f"{INDEX}: points outside its folder: {file}")


@pytest.mark.parametrize("file", ["a\0.safetensors", "\ud800.safetensors", "a\n.safetensors", 3, None, ["x"], {}, True])
def test_what_is_no_file_name_is_refused(folder, file):
    change_index(folder, **{"embed.weight": file})
    message = refused(folder)
    assert message.startswith(f"{INDEX}: points outside its folder: ") and message.isprintable()


@pytest.mark.parametrize("file", ["config.json", "pytorch_model.bin", ".env", "model.safetensors.index.json"])
def test_an_index_that_names_other_files_is_refused(folder, file):
    change_index(folder, **{"embed.weight": file})
    assert refused(folder) == f"{INDEX}: files of type safetensors expected, {file} found"


@pytest.mark.parametrize(
    "index", [{}, {"weight_map": {}}, {"weight_map": []}, {"weight_map": None}, {"weight_map": "x"}]
)
def test_an_index_without_names_is_refused(folder, index):
    write_json(folder / INDEX, index)
    assert refused(folder) == f"{INDEX}: has no weight_map; download it again"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": {"a": "x", "a": "y"}}', "\ud800", "[" * 10_000])
def test_an_index_that_is_no_json_is_refused(folder, text):
    (folder / INDEX).write_bytes(text.encode("utf-8", "surrogatepass"))
    assert refused(folder).startswith(f"{INDEX}: ")


def test_a_file_name_too_long_for_the_system_is_a_missing_file(folder):
    long = "x" * 300 + ".safetensors"
    change_index(folder, **{"embed.weight": long})
    assert "cannot be read (File name too long)" in refused(folder)


def test_names_that_stay_inside_are_plain():
    assert plain_name("model-00001-of-00002.safetensors") and plain_name("..hidden.safetensors")
    assert not plain_name("~/x/y") and not plain_name(7)
