"""Indexes of strangers: none leads out of its folder, none is believed against the shards.

Where the headers settle what an index has wrong, they are taken and a note says so; where they do not, it is refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.source.index import INDEX, plain_name
from tests.source.two_shards import A, B, change_index, refused, two_shards, write_json
from tests.support.safetensor_files import write_shard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a checkpoint of two shards with an index."""
    return two_shards(tmp_path)


def settled(folder: Path) -> str:
    """Open a checkpoint whose shards hold what two_shards writes; gives the one note."""
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tensors.keys() == {"embed.weight", "head.weight", "norm.weight"}
    (note,) = checkpoint.notes
    return note


@pytest.mark.parametrize(
    "file",
    ["../x.safetensors", "/etc/passwd", "a/../../b.safetensors", "a\\b.safetensors", "C:x.safetensors", "..", ".", ""],
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
def test_an_index_without_names_counts_for_nothing_and_is_noted(folder, index):
    write_json(folder / INDEX, index)
    assert f"{INDEX} is wrong: it has no weight_map" in settled(folder)


def test_without_names_in_the_index_a_gap_in_the_numbers_of_shards_is_refused(folder):
    write_json(folder / INDEX, {})
    (folder / B).unlink()
    assert refused(folder) == f"{B}: is missing; download it"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": {"a": "x", "a": "y"}}', "\ud800", "[" * 10_000])
def test_an_index_that_is_no_json_is_refused(folder, text):
    (folder / INDEX).write_bytes(text.encode("utf-8", "surrogatepass"))
    assert refused(folder).startswith(f"{INDEX}: ")


def test_a_file_name_too_long_for_the_system_is_a_missing_file(folder):
    long = "x" * 300 + ".safetensors"
    change_index(folder, **{"lost.weight": long})
    assert "cannot be read (File name too long)" in refused(folder)


def test_names_that_stay_inside_are_plain():
    assert plain_name("model-00001-of-00002.safetensors") and plain_name("..hidden.safetensors")
    assert not plain_name("~/x/y") and not plain_name(7)


# --- wrong, and the headers settle it ---


def one_file(folder: Path) -> None:
    """Put all tensors into model.safetensors, and leave the index as it is."""
    for name in (A, B):
        (folder / name).unlink()
    write_shard(
        folder / "model.safetensors",
        {name: np.ones(4, np.float32) for name in ("embed.weight", "head.weight", "norm.weight")},
    )


def test_an_index_of_shards_that_never_were_is_noted_where_one_file_holds_all(folder):
    one_file(folder)
    note = settled(folder)
    assert note.startswith(f"{INDEX} is wrong: it names {A}, {B}, not there.")
    assert "from the headers of model.safetensors" in note


def test_tensors_listed_for_another_shard_are_taken_from_the_one_that_holds_them(folder):
    change_index(folder, **{"embed.weight": B, "norm.weight": A})
    assert f"it says embed.weight and 1 more is in {B}, it is in {A}" in settled(folder)
    assert open_checkpoint(folder).tensors["embed.weight"].file == A


def test_a_tensor_that_the_index_forgot_is_taken_and_named(folder):
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"]["head.weight"]
    write_json(folder / INDEX, index)
    assert "it leaves out head.weight" in settled(folder)


def test_a_name_that_the_index_lists_twice_is_settled_by_the_headers(folder):
    text = (folder / INDEX).read_text().replace('{"embed.weight"', f'{{"embed.weight": "{B}", "embed.weight"')
    (folder / INDEX).write_text(text)
    assert "it lists a name twice" in settled(folder)


def test_a_right_index_gives_no_note(folder):
    assert open_checkpoint(folder).notes == ()


# --- wrong, and the headers do not settle it ---


def test_a_stale_file_of_all_tensors_beside_the_shards_is_refused_by_name(folder):
    write_shard(folder / "model.safetensors", {"embed.weight": np.zeros(12, np.float32).reshape(3, 4)})
    message = refused(folder)
    assert f"tensor embed.weight is in {A} too; model.safetensors is not in the index, yet mlx-lm would" in message
    assert "move it away" in message


def test_a_copy_of_a_shard_is_one_line(folder):
    (folder / "model-copy.safetensors").write_bytes((folder / B).read_bytes())
    message = refused(folder)
    assert message.count("\n") == 0 and "tensor head.weight and 1 more are in " in message
    assert "model-copy.safetensors is not in the index" in message


def test_shards_beside_an_index_of_other_shards_that_hold_only_some_tensors_are_refused_with_the_count(folder):
    one_file(folder)
    change_index(folder, **{"lost.weight": B})
    message = refused(folder)
    assert message.splitlines()[0].startswith(f"{A}: cannot be read")
    assert "model.safetensors is there and not named in it; 3 of the 4 tensors that it lists are there" in message


def test_where_the_headers_have_to_settle_it_a_gap_in_the_numbers_is_refused(folder):
    (folder / B).rename(folder / "model-00003-of-00003.safetensors")
    assert "model-00002-of-00003.safetensors: is missing; download it" in refused(folder)


def test_an_unfinished_download_of_a_shard_is_named(folder):
    (folder / B).rename(folder / f"{B}.incomplete")
    assert refused(folder) == f"{B}: its download is not finished ({B}.incomplete is there); finish it"


def test_shards_in_a_subfolder_are_named_with_the_way_on(folder):
    change_index(folder, **{"embed.weight": "sub/model.safetensors"})
    message = refused(folder)
    assert message.startswith(f"{INDEX}: names shards in a subfolder (sub/model.safetensors)")
    assert "move the files of sub/ there" in message and "do not trust" not in message


def test_an_index_beside_no_shards_at_all_says_which_to_download(folder):
    for name in (A, B):
        (folder / name).unlink()
    assert refused(folder) == f"{folder}: {INDEX} names {A}, {B}, none is there; download them"
