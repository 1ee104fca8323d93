"""Links that lead out of a checkpoint or build: what they lead to is not copied, and not published."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlxquant.check.verify import verify
from mlxquant.cli import main
from mlxquant.errors import BuildError, SourceError
from mlxquant.publish.upload import prepare
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.source.links import open_own, read_own, strays
from tests.support.builds import build

SECRET = b"PRIVATE KEY"


@pytest.fixture
def source(tiny: Callable[[str], Path], tmp_path: Path) -> Path:
    shutil.copytree(tiny("mixtral"), tmp_path / "source")
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "notes.txt").write_bytes(SECRET)
    return tmp_path / "source"


def link(source: Path, name: str, target: str | Path) -> None:
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(target)


TARGETS = [
    "{top}/secret",
    "../secret",
    "../source/../secret",
    "{top}/private/notes.txt",
    "inner/notes.txt",
    "/etc/passwd",
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "generation_config.json",
             "chat_template.jinja", "tokenizer.model", "model-00001-of-00003.safetensors"]
)  # fmt: skip
def test_a_needed_file_that_is_a_link_out_is_refused_by_name(source: Path, name: str, target: str) -> None:
    (source / "inner").symlink_to("../private")
    link(source, name, target.format(top=source.parent))
    with pytest.raises(SourceError, match="leads out of the folder") as error:
        open_checkpoint(source)
    assert str(error.value).startswith(f"{name}: ")


def test_another_file_that_is_a_link_out_is_left_out_and_named(source: Path, tmp_path: Path) -> None:
    link(source, "LICENSE.txt", "../secret")
    link(source, "folder", "../private")
    (source / "inside").mkdir()
    (source / "notes.txt").write_text("mine")
    link(source, "copy.txt", "notes.txt")
    out = tmp_path / "out"
    done = CliRunner().invoke(
        main, ["convert", str(source), "-r", "gates-8bit", "--group-size", "32", "--unaligned", "keep", "-o", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "LICENSE.txt: left out" in done.stderr and "folder: left out" in done.stderr
    assert "inside" not in done.stderr and "copy.txt" not in done.stderr
    assert not (out / "LICENSE.txt").exists() and not (out / "folder").exists()
    assert (out / "copy.txt").read_text() == "mine" and not (out / "copy.txt").is_symlink()
    assert "LICENSE.txt: left out" in (out / "audit.json").read_text()
    assert "LICENSE.txt" in (out / "AUDIT.md").read_text()
    assert all(SECRET not in path.read_bytes() for path in out.iterdir())


@pytest.mark.parametrize("target", ["nowhere", "tokenizer.json", "/nowhere/at/all"])
def test_a_link_of_a_needed_file_to_nothing_is_told_by_name(source: Path, target: str) -> None:
    link(source, "tokenizer.json", target)
    with pytest.raises(SourceError, match=r"tokenizer\.json: a link"):
        open_checkpoint(source)


def test_a_pipe_socket_or_folder_in_place_of_a_needed_file_is_told_and_not_waited_for(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source)  # a socket's path must be short
    for make in (os.mkfifo, lambda name: socket.socket(socket.AF_UNIX).bind(name)):
        (source / "tokenizer.json").unlink()
        make("tokenizer.json")
        with pytest.raises(SourceError, match=r"tokenizer\.json: a file expected"):
            open_checkpoint(source)


def test_a_snapshot_in_the_hubs_cache_is_read_and_one_that_links_further_is_not(source: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for i, path in enumerate(sorted(source.iterdir())):
        shutil.copy(path, repository / "blobs" / str(i))
        (snapshot / path.name).symlink_to(f"../../blobs/{i}")
    opened = open_checkpoint(snapshot)
    assert opened.tensors and opened.notes == ()
    assert opened.reader is not None and "tokenizer.json" in opened.reader.listing()
    for target in ("../../../secret", "../../blobs/out", "../../refs/main"):
        (repository / "blobs" / "out").unlink(missing_ok=True)
        (repository / "blobs" / "out").symlink_to(tmp_path / "secret")
        link(snapshot, "tokenizer.json", target)
        with pytest.raises(SourceError, match=r"tokenizer\.json"):
            open_checkpoint(snapshot)


def test_a_file_that_becomes_a_link_after_the_check_is_not_followed(source: Path) -> None:
    reader = open_checkpoint(source).reader
    assert reader is not None
    link(source, "tokenizer.json", "../secret")
    with pytest.raises(SourceError, match="leads out"):
        reader.read_whole("tokenizer.json")
    link(source, "model-00001-of-00003.safetensors", "../secret")
    with pytest.raises(SourceError, match="leads out"):
        reader.read_into("model-00001-of-00003.safetensors", 0, memoryview(bytearray(4)))
    with pytest.raises(OSError):
        open_own(source, "not-there")
    assert read_own(source, "config.json", 1 << 20).startswith(b"{")


def test_a_build_with_a_link_out_or_a_pipe_is_not_uploaded(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(source, out)
    prepare(out, "org/name")
    moved = tmp_path / "moved.json"
    shutil.move(out / "tokenizer.json", moved)
    link(out, "tokenizer.json", moved)
    with pytest.raises(BuildError, match=r"tokenizer\.json: a link that leads out"):
        prepare(out, "org/name")
    verified = verify(out)
    assert not verified.differences and any("tokenizer.json" in note for note in verified.notes)
    (out / "tokenizer.json").unlink()
    os.mkfifo(out / "tokenizer.json")
    with pytest.raises(BuildError, match=r"tokenizer\.json: a file expected, a pipe found"):
        prepare(out, "org/name")
    assert any("a pipe found" in difference for difference in verify(out).differences)
    assert [name for name, _ in strays(out)] == ["tokenizer.json"]
