"""Opening a checkpoint: headers only, and one clear message for each way in which its shards can be bad."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxquant.errors import SourceError
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.source.index import INDEX
from tests.source.two_shards import A, B, change_config, change_index, refused, two_shards, write_json
from tests.support.safetensor_files import encoded, header, rewrite_header, write_shard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a checkpoint of two shards with an index."""
    return two_shards(tmp_path)


# --- sound checkpoints ---


def test_tensors_files_and_config_are_read_from_headers_alone(folder):
    checkpoint = open_checkpoint(folder)
    assert {n: (t.dtype, t.shape, t.file) for n, t in checkpoint.tensors.items()} == {
        "embed.weight": ("F32", (3, 4), A),
        "head.weight": ("F16", (2, 2), B),
        "norm.weight": ("F32", (4,), B),
    }
    assert checkpoint.files == {name: (folder / name).stat().st_size for name in (A, B)}
    assert checkpoint.config["hidden_size"] == 4 and checkpoint.nbytes == 48 + 8 + 16


def test_a_checkpoint_is_known_by_its_folder_name_and_by_no_path(folder):
    assert open_checkpoint(folder).name == folder.name
    assert open_checkpoint(folder / "config.json").name == f"{folder.name}/config.json"


def test_bytes_are_read_by_position_from_any_thread(folder):
    checkpoint = open_checkpoint(folder)
    tensor, results = checkpoint.tensors["embed.weight"], dict[int, bytes]()

    def read(row: int) -> None:
        buffer = bytearray(16)
        checkpoint.read_into(tensor.file, tensor.start + 16 * row, memoryview(buffer))
        results[row] = bytes(buffer)

    threads = [threading.Thread(target=read, args=(i % 3,)) for i in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    checkpoint.close()
    assert results == {i: np.arange(4 * i, 4 * i + 4, dtype=np.float32).tobytes() for i in range(3)}


def test_a_folder_without_an_index_takes_the_shards_that_mlx_lm_takes(folder):
    (folder / INDEX).unlink()
    write_shard(folder / "adapter.safetensors", {"other": np.ones(1, np.float32)})
    assert set(open_checkpoint(folder).tensors) == {"embed.weight", "head.weight", "norm.weight"}


def test_a_single_file_needs_no_index(folder):
    for name in (A, B, INDEX):
        (folder / name).unlink()
    write_shard(folder / "model.safetensors", {"a": np.ones(3, np.float32)})
    assert list(open_checkpoint(folder).tensors) == ["a"]


def test_a_lone_config_is_a_checkpoint_without_tensors(folder):
    checkpoint = open_checkpoint(folder / "config.json")
    assert not checkpoint.tensors and checkpoint.folder is None and checkpoint.config["model_type"] == "llama"


def test_a_snapshot_of_links_as_the_hub_cache_has_it_is_read(folder, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for i, file in enumerate((A, B, INDEX, "config.json")):
        shutil.move(folder / file, blobs / str(i))
        (snapshot / file).symlink_to(os.path.relpath(blobs / str(i), snapshot))
    checkpoint = open_checkpoint(snapshot)
    buffer = bytearray(16)
    checkpoint.read_into(A, checkpoint.tensors["embed.weight"].start, memoryview(buffer))
    assert np.frombuffer(buffer, np.float32).tolist() == [0, 1, 2, 3]


def test_eos_of_the_generation_config_wins_as_in_mlx_lm(folder):
    change_config(folder, eos_token_id=1)
    write_json(folder / "generation_config.json", {"eos_token_id": [7, 8]})
    assert open_checkpoint(folder).config["eos_token_id"] == [7, 8]


def test_a_key_that_stands_twice_in_a_config_counts_as_json_has_it(folder):
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 4, "hidden_size": 8}')
    assert open_checkpoint(folder).config["hidden_size"] == 8


# --- bad shards ---


def test_a_truncated_shard_is_named_with_both_sizes(folder):
    size = (folder / B).stat().st_size
    os.truncate(folder / B, size - 10)
    assert refused(folder) == f"{B}: {size:,} bytes expected, {size - 10:,} found; download it again"


def test_an_empty_shard_is_truncated_too(folder):
    os.truncate(folder / A, 0)
    assert refused(folder) == f"{A}: at least 8 bytes expected, 0 found; download it again"


def test_a_missing_shard_is_named(folder):
    (folder / B).unlink()
    assert refused(folder) == f"{B}: cannot be read (No such file or directory); download it again"


def test_a_number_that_is_missing_in_a_series_of_shards_is_named_without_an_index(folder):
    (folder / INDEX).unlink()
    (folder / A).unlink()
    assert refused(folder) == f"{A}: is missing; download it"


def test_a_header_longer_than_its_file_is_refused(folder):
    data = (folder / A).read_bytes()
    (folder / A).write_bytes((10**6).to_bytes(8, "little") + data[8:])
    assert refused(folder).startswith(f"{A}: its header claims 1,000,000 bytes, but the file has ")


def test_a_shard_that_is_a_pointer_of_git_lfs_is_refused(folder):
    (folder / A).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    assert refused(folder).startswith(f"{A}: weights expected, a Git LFS pointer to them found")


def test_overlapping_tensors_are_refused(folder):
    def overlap(table: Any) -> None:
        table["norm.weight"]["data_offsets"] = [0, 16]

    rewrite_header(folder / B, overlap)
    assert refused(folder) == f"{B}: tensors head.weight and norm.weight overlap; download it again"


def test_offsets_beyond_the_file_are_refused(folder):
    def beyond(table: Any) -> None:
        table["norm.weight"]["data_offsets"] = [1000, 1016]

    rewrite_header(folder / B, beyond)
    assert refused(folder) == f"{B}: 992 bytes before norm.weight belong to no tensor; download it again"


def test_a_name_that_stands_twice_in_one_header_is_refused(folder):
    entry = b'{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    (folder / B).write_bytes(encoded(b'{"norm.weight":%b,"norm.weight":%b}' % (entry, entry)))
    assert f"{B}: header: not readable as JSON (the key norm.weight stands twice)" in refused(folder)


def test_a_name_that_stands_in_two_shards_is_refused_with_both(folder):
    write_shard(folder / B, {"embed.weight": np.ones(4, np.float32), "head.weight": np.ones(4, np.float32)})
    assert f"{B}: tensor embed.weight is in {A} too" in refused(folder)


def test_a_tensor_that_the_index_has_and_the_file_has_not_is_named(folder):
    change_index(folder, **{"lost.weight": A})
    assert refused(folder) == f"{A}: tensor lost.weight is in the index but not in the file; download both again"


def test_a_shard_that_the_index_leaves_out_is_named_since_mlx_lm_would_load_it(folder):
    write_shard(folder / "model-extra.safetensors", {"x": np.ones(1, np.float32)})
    assert refused(folder).startswith("model-extra.safetensors: is not in the index, yet mlx-lm would load it")


def test_all_bad_shards_are_told_at_once(folder):
    os.truncate(folder / A, 4)
    (folder / B).unlink()
    lines = refused(folder).splitlines()
    assert [line.partition(":")[0] for line in lines] == [A, B]


def test_hundreds_of_problems_are_told_by_the_first_few_and_a_count(folder):
    change_index(folder, **{f"layer.{i}": A for i in range(500)})
    lines = refused(folder).splitlines()
    assert len(lines) == 21 and lines[-1] == "… and 480 more"


def test_a_folder_without_shards_is_no_checkpoint(folder):
    for name in (A, B, INDEX):
        (folder / name).unlink()
    assert "no model*.safetensors in it; is it a checkpoint?" in refused(folder)


def test_a_shard_that_is_a_folder_is_refused(folder):
    (folder / A).unlink()
    (folder / A).mkdir()
    assert refused(folder) == f"{A}: a file expected, something else found; download it again"


def test_a_shard_that_is_a_pipe_is_refused_and_not_waited_for(folder):
    (folder / A).unlink()
    os.mkfifo(folder / A)
    assert refused(folder) == f"{A}: a file expected, a pipe found; put the file itself there"


def test_a_file_cut_after_it_was_opened_is_an_error_of_the_read(folder):
    checkpoint = open_checkpoint(folder)
    tensor = checkpoint.tensors["embed.weight"]
    os.truncate(folder / A, tensor.start + 20)
    with pytest.raises(SourceError, match=rf"{A}: ends at byte {tensor.start + 20}.*it changed while it was read"):
        checkpoint.read_into(A, tensor.start, memoryview(bytearray(48)))


def test_a_file_removed_after_it_was_opened_is_an_error_of_the_read(folder):
    checkpoint = open_checkpoint(folder)
    (folder / A).unlink()
    with pytest.raises(SourceError, match=f"{A}: cannot be read at byte 100 .No such file"):
        checkpoint.read_into(A, 100, memoryview(bytearray(4)))


def test_opening_takes_no_memory_for_weights(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    table = encoded(header({"huge": ("BF16", [1 << 20, 1 << 16])}))
    (tmp_path / "model.safetensors").write_bytes(table)
    os.truncate(tmp_path / "model.safetensors", len(table) + (1 << 37))  # sparse: 128 GiB of nothing
    assert open_checkpoint(tmp_path).nbytes == 1 << 37


def test_a_huge_file_beside_the_weights_is_left_out_and_named_or_refused_unread(tiny, tmp_path):
    import shutil

    folder = tmp_path / "source"
    shutil.copytree(tiny("llama"), folder)
    with (folder / "extra.json").open("wb") as file:
        file.truncate(10 << 30)
    source = open_checkpoint(folder)
    assert any("extra.json: left out, 10,737,418,240 bytes" in note for note in source.notes)
    assert source.reader is not None and "extra.json" not in source.reader.listing()
    for name in ("merges.txt", "tokenizer.json", "config.json"):
        (folder / "extra.json").rename(folder / name)
        with pytest.raises(SourceError, match=f"{name}: 10,737,418,240 bytes"):
            open_checkpoint(folder)
        (folder / name).rename(folder / "extra.json")


def test_a_pipe_or_a_huge_tokenizer_is_refused_before_a_library_loads_the_folder(tmp_path):
    import os

    from mlxquant.source.checkpoint import refuse_unloadable

    refuse_unloadable(tmp_path)
    os.mkfifo(tmp_path / "added_tokens.json")
    with pytest.raises(SourceError, match=r"pipes, sockets or devices found: added_tokens\.json"):
        refuse_unloadable(tmp_path)
    (tmp_path / "added_tokens.json").unlink()
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(SourceError, match=r"tokenizer\.json: 10,737,418,240 bytes"):
        refuse_unloadable(tmp_path)
