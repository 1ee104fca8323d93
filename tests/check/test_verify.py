"""Verifying a build: one flipped bit anywhere is found and named; what was never there is not made up."""

from __future__ import annotations

import json
import os
import random
import socket
from pathlib import Path

import pytest

from mlxquant.builds.manifest import manifest_text, read_manifest, seal_holds
from mlxquant.check.verify import verify
from mlxquant.errors import BuildError
from tests.builds.cases import RECIPES, made_with_mlx_lm
from tests.support.builds import build, flip, place_of, stored


def test_a_whole_build_has_no_differences_and_says_what_was_read(own_build):
    result = verify(own_build)
    assert result.differences == ()
    assert result.notes == ()
    assert result.files == len(list(own_build.iterdir()))
    assert result.tensors == len(stored(own_build))
    assert result.nbytes + (own_build / "mlxquant.json").stat().st_size == sum(
        p.stat().st_size for p in own_build.iterdir()
    )


# --- one flipped bit ---

WEIGHTS = [
    ("language_model.model.layers.1.mlp.switch_mlp.down_proj.weight", 777),
    ("language_model.model.layers.0.mlp.switch_mlp.up_proj.scales", 3),
    ("language_model.model.embed_tokens.biases", 0),
    ("language_model.model.layers.0.mlp.gate.weight", 100),
    ("language_model.model.norm.weight", 5),
]


@pytest.mark.parametrize(("tensor", "at"), WEIGHTS)
def test_a_flipped_bit_in_a_tensor_is_found_and_the_tensor_named(copy, tensor, at):
    path, start = place_of(copy, tensor)
    flip(path, start + at, bit=at % 8)
    (difference,) = verify(copy).differences
    assert difference.startswith(f"{tensor} (model.safetensors): its bytes changed")


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "audit.json",
             "AUDIT.md", "chat_template.jinja", "generation_config.json", "mlxquant.json"],
)  # fmt: skip
def test_a_flipped_bit_anywhere_in_a_small_file_is_found_and_the_file_named(copy, name):
    path = copy / name
    good = path.read_bytes()
    chance = random.Random(name)
    for _ in range(5):
        flip(path, chance.randrange(len(good)), chance.randrange(8))
        assert any(d.startswith(name) for d in verify(copy).differences)
        path.write_bytes(good)
    assert verify(copy).differences == ()


@pytest.mark.parametrize("at", [0, 1, 4, 7, 8, 20, 60, 1000, -1])
def test_a_flipped_bit_in_a_shards_header_or_last_byte_is_found(copy, at):
    flip(copy / "model.safetensors", at)
    assert any("model.safetensors" in difference for difference in verify(copy).differences)


def test_every_section_of_the_manifest_is_sealed(copy):
    text = (copy / "mlxquant.json").read_bytes()
    for section in json.loads(text):
        at = text.index(f'"{section}"'.encode())
        for place in (at + 1, at + len(section) + 6):
            flip(copy / "mlxquant.json", place)
            assert any(d.startswith("mlxquant.json") for d in verify(copy).differences), (section, place)
            (copy / "mlxquant.json").write_bytes(text)


def test_the_seal_covers_the_run_section_and_itself(own_build):
    text = (own_build / "mlxquant.json").read_bytes()
    assert seal_holds(text)
    for key in (b'"seconds"', b'"resumed_bytes"', b'"manifest_sha256"'):
        at = text.rindex(key)
        for place in (at + 2, text.index(b"\n", at) - 3):
            damaged = bytearray(text)
            damaged[place] ^= 1
            assert not seal_holds(bytes(damaged))
    assert not seal_holds(text + b" ")
    assert not seal_holds(b"")


@pytest.mark.slow
def test_any_bit_of_any_file_may_flip(copy):
    chance = random.Random(1)
    files = sorted(copy.iterdir())
    for _ in range(500):
        path = chance.choice(files)
        good = path.read_bytes()
        flip(path, chance.randrange(len(good)), chance.randrange(8))
        assert verify(copy).differences, path.name
        path.write_bytes(good)


# --- files ---


def test_missing_extra_and_shortened_files_are_named(copy):
    (copy / "tokenizer.json").unlink()
    (copy / "model-extra.safetensors").write_bytes(b"")
    os.truncate(copy / "audit.json", 100)
    (copy / "README.md").write_text("a card")
    result = verify(copy)
    text = "\n".join(result.differences)
    assert "tokenizer.json: missing" in text
    assert "model-extra.safetensors: not part of the build" in text
    assert "audit.json: " in text
    assert "bytes expected, 100 found" in text
    assert "README.md" not in text
    assert any(note.startswith("README.md") for note in result.notes)


def test_a_manifest_that_points_outside_the_folder_is_damaged(copy):
    manifest = read_manifest(copy)
    assert manifest is not None
    manifest["files"]["../../secret"] = {"bytes": 1, "sha256": None}
    (copy / "mlxquant.json").write_bytes(manifest_text(manifest))
    assert "lies outside the folder" in "\n".join(verify(copy).differences)


def test_a_tensor_in_another_place_than_the_manifest_says_is_found(copy):
    manifest = read_manifest(copy)
    assert manifest is not None
    name = "language_model.model.norm.weight"
    manifest["tensors"]["new.name"] = manifest["tensors"].pop(name)
    manifest["tensors"]["language_model.lm_head.scales"]["shape"] = [1]
    (copy / "mlxquant.json").write_bytes(manifest_text(manifest))
    text = "\n".join(verify(copy).differences)
    assert f"{name} (model.safetensors): not in mlxquant.json" in text
    assert "new.name: missing from model.safetensors" in text
    assert "language_model.lm_head.scales (model.safetensors): BF16 [1] expected" in text


def test_a_lost_manifest_of_our_own_is_a_difference_and_of_others_a_note(copy, source, tmp_path):
    (copy / "mlxquant.json").unlink()
    assert "mlxquant.json: missing" in "\n".join(verify(copy).differences)
    result = verify(made_with_mlx_lm(source, tmp_path / "theirs", RECIPES["uniform"]()))
    assert result.differences == ()
    assert "another tool made this build" in result.notes[0]


def test_another_tools_build_is_held_against_itself(source, tmp_path):
    folder = made_with_mlx_lm(source, tmp_path / "theirs", RECIPES["uniform"]())
    config = json.loads((folder / "config.json").read_text())
    for block in (config["quantization"], config["quantization_config"]):
        block["language_model.lm_head"]["bits"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    assert "language_model.lm_head" in "\n".join(verify(folder).differences)


def test_a_build_without_hashes_says_what_could_not_be_checked(source, tmp_path):
    build(source, tmp_path / "out", hash=False)
    result = verify(tmp_path / "out")
    assert result.differences == ()
    assert "model.safetensors: made with --no-hash" in result.notes[0]
    flip(tmp_path / "out" / "tokenizer.json", 100)
    assert verify(tmp_path / "out").differences


def test_what_is_no_build_is_an_error(tmp_path):
    with pytest.raises(BuildError, match="no such folder"):
        verify(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert verify(tmp_path / "empty").differences


# --- what a build tells of the machine it was made on ---


def test_no_file_of_a_build_names_a_user_a_host_or_a_path(own_build, tmp_path):
    private = {os.environ.get("USER", ""), socket.gethostname(), str(Path.home()), str(tmp_path), str(own_build.parent)}
    private |= {f"/{part}/" for part in own_build.parts[1:-1]}
    for path in own_build.iterdir():
        text = path.read_bytes()
        if path.suffix != ".safetensors":
            assert [word for word in private - {"", "root", "/"} if word.encode() in text] == [], path.name


def test_the_manifest_says_all_that_a_build_depends_on(own_build, source):
    manifest = read_manifest(own_build)
    assert manifest is not None
    assert set(manifest["versions"]) == {"python", "mlxquant", "mlx", "mlx-lm", "numpy", "numba"}
    assert None not in manifest["versions"].values()
    assert {"chip", "architecture", "cores", "memory_bytes", "os"} == set(manifest["machine"])
    listed = manifest["source"]["files"]
    assert set(listed) == {p.name for p in source.iterdir()}
    assert all(entry["bytes"] == (source / name).stat().st_size for name, entry in listed.items())
    assert len(manifest["recipe"]["sha256"]) == 64
    assert manifest["recipe"]["rules"]
    assert manifest["totals"]["bytes"] == sum(len(data) for _, _, data in stored(own_build).values())
    assert set(manifest["files"]) == {p.name for p in own_build.iterdir()} - {"mlxquant.json"}
    assert all(len(entry["sha256"]) == 64 for entry in manifest["files"].values())
    assert all(len(entry["xxh3_64"]) == 16 for entry in manifest["tensors"].values())
    assert {"seconds", "bytes_per_second"} <= set(manifest["run"])
