"""What convert does not accept: one clear message before the first byte, and nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from mlxquant.disk import files as disk
from mlxquant.errors import MlxquantError, NonFiniteError, OutputError, SourceError, UsageError
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.words.units import parse_memory
from tests.builds.cases import RECIPES, made_with_mlx_lm
from tests.builds.write.faults import hooked
from tests.support.builds import build, patch, stored

NAN, INF = b"\xc0\x7f", b"\x80\xff"  # bf16, little endian
HUGE = b"\x7f\x7f\x7f\xff"  # 3.4e38 and -3.4e38


@pytest.fixture
def source(tiny_qwen: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    shutil.copytree(tiny_qwen, folder)
    return folder


def refused(kind: type[MlxquantError], source: Path, out: Path, recipe: str = "gates-8bit", **options: Any) -> str:
    """Convert, which must fail; nothing may be left behind. The source lies in the test's folder."""
    top = source.parent if source.is_dir() else source.parent.parent
    before = sorted(top.rglob("*"))
    with pytest.raises(kind) as error:
        build(source, out, recipe, **options)
    assert sorted(top.rglob("*")) == before
    return str(error.value)


# --- values ---

EXPERTS = "model.language_model.layers.1.mlp.experts.gate_up_proj"
BROKEN = [
    # tensor, byte, values, and what is said: the build's name, row and column, the fault
    ("lm_head.weight", 256 * 3 + 2 * 7, NAN, r"language_model.lm_head.weight: row 3, column 7: .* NaN"),
    # row 200 of expert 1's 256 is row 72 of its up_proj, the second of the 128-row experts
    (EXPERTS, 256 * 456 + 2 * 5, INF, r"layers.1.mlp.switch_mlp.up_proj.weight: row 200, column 5: .* infinity"),
    ("model.language_model.norm.weight", 2 * 9, NAN, r"language_model.model.norm.weight: row 0, column 9"),
    ("lm_head.weight", 256 * 2 + 2 * 64, HUGE, r"language_model.lm_head.weight: row 2, column 64: .* range overflows"),
]


@pytest.mark.parametrize(("tensor", "at", "values", "text"), BROKEN)
def test_a_value_that_is_not_finite_is_named_with_its_place(source, tmp_path, tensor, at, values, text):
    patch(source, tensor, values, at)
    message = refused(NonFiniteError, source, tmp_path / "out", "uniform-8bit")
    assert re.search(text, message)
    assert "found (the first; there may be more)" in message and "--allow-nonfinite" in message


@pytest.mark.parametrize(("tensor", "at", "values"), [case[:3] for case in BROKEN])
def test_allowed_it_is_stored_as_mlx_stores_it(source, tmp_path, tensor, at, values):
    patch(source, tensor, values, at)
    build(source, tmp_path / "ours", RECIPES["uniform"](), allow_nonfinite=True)
    made_with_mlx_lm(source, tmp_path / "theirs", RECIPES["uniform"]())
    assert stored(tmp_path / "ours") == stored(tmp_path / "theirs")


def test_a_value_that_overflows_the_dtype_asked_for_is_named(source, tmp_path):
    patch(source, "lm_head.weight", b"\x80\x4b")  # 2**24 is finite in bf16, not in float16
    assert "language_model.lm_head.weight: row 0, column 0" in refused(
        NonFiniteError, source, tmp_path / "out", "none", dtype="float16"
    )


# --- OUT ---


def test_an_out_that_exists_is_left_as_it_is(source, tmp_path):
    out = tmp_path / "out"
    for make in (out.mkdir, lambda: out.write_text("mine"), lambda: out.symlink_to(tmp_path / "nowhere")):
        make()
        assert "exists already; choose another OUT, or remove it first" in refused(OutputError, source, out)
        out.rmdir() if out.is_dir() else out.unlink()


def test_an_out_within_a_file_cannot_be_written(source, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "out", tmp_path / "file" / "deeper" / "out"):
        assert f"{tmp_path / 'file'} cannot be written to" in refused(OutputError, source, out)


def test_an_out_in_a_folder_without_the_right_to_write_is_known_beforehand(source, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("root may write anywhere")
    assert "cannot be written to" in refused(OutputError, source, folder / "out")


def test_an_out_without_a_name_is_a_usage_error(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "exists already" in refused(OutputError, source, Path())
    assert "exists already" in refused(OutputError, source, Path("/"))
    assert "a name for the build's folder expected" in refused(UsageError, source, Path("new") / "..")


def test_an_out_within_the_source_is_refused(source, tmp_path):
    (tmp_path / "link").symlink_to(source)
    for out in (source / "out", source / "deeper" / "out", tmp_path / "link" / "out"):
        assert "lies in the checkpoint's own folder" in refused(OutputError, source, out)
    (tmp_path / "link").unlink()
    build(source, tmp_path / "source-8bit")


def test_folders_above_out_go_again_where_nothing_comes_of_it(source, tmp_path):
    patch(source, "lm_head.weight", NAN)
    refused(NonFiniteError, source, tmp_path / "new" / "deeper" / "out")


@pytest.mark.parametrize("operation", ["mkdir", "open", "write", "fsync"])
def test_folders_above_out_go_again_where_the_disk_fails_before_the_first_byte(source, tmp_path, operation):
    def fail(changed: str, path: str) -> None:
        if changed == operation:
            disk.on_change = None
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    with hooked(fail):
        refused(OutputError, source, tmp_path / "new" / "deeper" / "out")


def test_too_little_disk_is_known_beforehand(source, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda path: 60 << 20)
    text = refused(OutputError, source, tmp_path / "new" / "out")
    assert re.search(
        r"the build takes .* \([\d,]+ bytes\).* 60.00 MiB \(62,914,560 bytes\) are free there; make room", text
    )


# --- options and source ---


def test_too_little_memory_says_how_much_is_needed(source, tmp_path):
    text = refused(UsageError, source, tmp_path / "out", max_memory=1 << 20)
    needed = re.search(r"MiB are needed for one worker .* 1\.00 MiB given; give --max-memory (\d+MB) or more", text)
    assert needed
    build(source, tmp_path / "out", max_memory=parse_memory(needed[1]))


def test_a_config_alone_has_no_weights_to_convert(source, tmp_path):
    assert "a config alone has no weights" in refused(SourceError, source / "config.json", tmp_path / "out")


def test_a_group_that_does_not_divide_is_refused_with_the_modules(source, tmp_path):
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["moe_intermediate_size"] = 96
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(MlxquantError):
        build(source, tmp_path / "out", load_recipe("gates-8bit"))
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("broken", ["short", "long header", "gone", "index", "config"])
def test_a_damaged_source_is_refused_by_name(source, tmp_path, broken):
    shard, index = source / "model-00002-of-00003.safetensors", source / "model.safetensors.index.json"
    name = shard.name
    if broken == "short":
        os.truncate(shard, 1000)
    elif broken == "long header":
        shard.write_bytes(struct.pack("<Q", 1 << 40) + shard.read_bytes()[8:])
    elif broken == "gone":
        shard.unlink()
    elif broken == "index":
        index.write_text(index.read_text().replace(name, f"../{name}", 1))
        name = index.name
    else:
        (source / "config.json").write_text("{")
        name = "config.json"
    assert name in refused(SourceError, source, tmp_path / "out")


# --- files ---


def test_the_tokenizer_and_its_like_are_copied_and_nothing_else(tiny, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tiny("qwen3_5_moe_vision"), source)
    for name in ("README.md", ".gitattributes", "picture.png", "modeling.py", "merges.txt", "other.safetensors"):
        (source / name).write_text(name)
    (source / "quantize_config.json").write_text("{}")
    (source / "assets").mkdir()
    build(source, tmp_path / "out")
    copied = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "merges.txt"}
    names = {"config.json", "model.safetensors", "model.safetensors.index.json", "audit.json", "AUDIT.md"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == copied | names | {"mlxquant.json"}
    for name in copied:
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    assert "vision_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_code_is_copied_only_where_it_is_trusted(source, tmp_path):
    (source / "modeling.py").write_text("print('run me')")
    build(source, tmp_path / "wary")
    build(source, tmp_path / "trusting", trust_remote_code=True)
    assert not (tmp_path / "wary" / "modeling.py").exists()
    assert (tmp_path / "trusting" / "modeling.py").exists()


def test_a_source_that_has_our_own_records_does_not_pass_them_on(source, tmp_path):
    (source / "audit.json").write_text("forged")
    (source / "mlxquant.json").write_text("forged")
    build(source, tmp_path / "out")
    assert "forged" not in (tmp_path / "out" / "audit.json").read_text()
