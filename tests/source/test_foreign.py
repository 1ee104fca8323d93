"""What is handed over in place of a checkpoint is named, with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxquant.errors import SourceError, UsageError
from mlxquant.source.foreign import described
from mlxquant.source.hub.open import open_source
from tests.source.two_shards import POINTER, A, B, refused, two_shards, write_json


@pytest.mark.parametrize(
    ("files", "what", "advice"),
    [
        (["config.json", "pytorch_model-00001-of-00002.bin"], "PyTorch pickles", "save_pretrained(OUT)"),
        (["consolidated.00.pth", "params.json"], "PyTorch pickles", "use a repository with model*.safetensors"),
        (["model.ckpt"], "PyTorch pickles", "use a repository with model*.safetensors"),
        (["config.json", "model-Q4_K_M.gguf"], "GGUF files (model-Q4_K_M.gguf)", "use the original repository"),
        (["org/model-Q8_0.gguf"], "GGUF files", "use the original repository"),
        (["blobs/sha256-00aa", "manifests/registry.ollama.ai"], "models of Ollama", "use the original repository"),
        (["models/manifests/x", "models/blobs/x"], "models of Ollama", "use the original repository"),
        (["consolidated.safetensors", "params.json", "tekken.json"], "Mistral's own layout", "transformers' layout"),
        (["config.json", "weights.00.safetensors"], "an older MLX build", "model*.safetensors"),
        (["weights.npz", "config.json"], "an older MLX build", "model*.safetensors"),
        (["onnx/model.onnx", "config.json"], "for another framework", "model*.safetensors"),
        (["tf_model.h5", "config.json"], "for another framework", "model*.safetensors"),
        (["model_index.json", "unet/x.safetensors"], "a diffusers pipeline", "only language models"),
        (["data/train.parquet", "README.md"], "a data set", "give a model's repository"),
        (["dataset_dict.json", "train/data.arrow"], "a data set", "give a model's repository"),
        (["config.json", "pytorch_model.safetensors"], "other names (pytorch_model.safetensors)", "rename them"),
        (["tokenizer.json", "tokenizer_config.json"], "a tokenizer alone", "config.json and weights"),
        (["config.json", "tokenizer.json"], "the weights are missing", "download model*.safetensors"),
        (["bf16/config.json", "bf16/model.safetensors", "x.md"], "in its folder bf16/", "give that"),
        (["refs", "blobs", "snapshots", "snapshots/abc"], "in the Hub's cache", "org/name"),
        (["model.safetensors.incomplete", "config.json"], "an unfinished download", "finish it"),
    ],
)
def test_the_names_of_files_tell_what_they_are_and_what_to_do(files, what, advice):
    text = described(files)
    assert text is not None
    assert what in text
    assert advice in text
    assert "\n" not in text


def test_names_that_tell_nothing_give_nothing():
    assert described(["README.md", ".gitattributes"]) is None


def test_an_adapter_names_its_base_and_the_way_to_merge_it(tmp_path):
    write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "org/base"})
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path}: has no config.json, but a LoRA adapter of org/base")
    assert "merge_and_unload" in message


def test_an_adapter_of_mlx_lm_is_fused(tmp_path):
    write_json(tmp_path / "adapter_config.json", {})
    (tmp_path / "adapters.safetensors").write_bytes(b"x")
    assert "mlx_lm.fuse --model BASE" in refused(tmp_path)


def test_a_base_from_a_stranger_is_shown_in_one_printable_line():
    config = json.dumps({"base_model_name_or_path": "a\x1b[31m\nb" + "x" * 900}).encode()
    text = described(["adapter_config.json"], lambda _: config)
    assert text is not None and text.isprintable() and len(text) < 400


def test_a_folder_with_weights_of_another_kind_is_refused_with_what_they_are(tmp_path):
    folder = two_shards(tmp_path)
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    assert refused(folder).startswith(f"{folder}: no model*.safetensors in it, but GGUF files (model-Q4_K_M.gguf)")


def test_shards_in_a_folder_below_are_named(tmp_path):
    folder = two_shards(tmp_path)
    (folder / "sub").mkdir()
    for file in folder.glob("model*"):
        file.rename(folder / "sub" / file.name)
    assert "the checkpoint lies in its folder sub/" in refused(folder)


def test_an_empty_folder_is_called_empty(tmp_path):
    assert "it is empty" in refused(tmp_path)


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(SourceError, match=r"a file found: GGUF files \(m\.gguf\)"):
        open_source(str(tmp_path / "m.gguf"))


@pytest.mark.parametrize("text", ["https://huggingface.co/datasets/org/name", "hf://spaces/org/name"])
def test_an_address_of_a_data_set_or_space_is_called_so(text):
    with pytest.raises(UsageError, match="the address of a data set or Space; a model expected"):
        open_source(text)


@pytest.mark.parametrize(
    "text",
    ["https://huggingface.co/org/name", "https://huggingface.co/org/name/tree/main", "hf://org/name", "https://x"],
)
def test_an_address_of_the_hub_gives_the_id_to_type(text):
    with pytest.raises(UsageError, match="an address; give the Hub id alone: org/name"):
        open_source(text)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_pointer_of_git_lfs_in_place_of_a_small_file_is_named(tmp_path, name):
    folder = two_shards(tmp_path)
    (folder / name).write_bytes(POINTER)
    assert refused(folder) == (
        f"{name}: a Git LFS pointer to the file found, not the file; fetch it with `git lfs pull`"
    )


def test_an_empty_config_is_called_empty(tmp_path):
    folder = two_shards(tmp_path)
    (folder / "config.json").write_bytes(b"")
    assert refused(folder) == "config.json: not readable as JSON (it is empty); download it again"


def test_an_empty_shard_is_named(tmp_path):
    folder = two_shards(tmp_path)
    (folder / A).write_bytes(b"")
    assert refused(folder) == f"{A}: at least 8 bytes expected, 0 found; download it again"
    assert (folder / B).is_file()


def test_nothing_below_a_link_is_looked_at(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.gguf").write_bytes(b"x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "link").symlink_to(outside)
    assert refused(folder) == f"{folder}: no model*.safetensors in it; is it a checkpoint?"
