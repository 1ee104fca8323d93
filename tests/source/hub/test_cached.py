"""A snapshot in the cache stands in for a Hub that cannot be asked; huggingface_hub itself filled that cache."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxquant.errors import SourceError
from mlxquant.source.checkpoint import Checkpoint, open_checkpoint
from mlxquant.source.hub.open import open_source
from mlxquant.source.index import is_shard
from tests.source.hub.hub_server import HubServer, use_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_qwen: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        server.add("org/tiny", tiny_qwen, revisions=("main", "v1", "refs/pr/1"))
        use_hub(server, monkeypatch, tmp_path / "hub")
        yield server


@pytest.fixture
def cache(hub: HubServer, tmp_path: Path) -> Path:
    """Let huggingface_hub download the repository; gives its folder in the cache."""
    download(hub)
    return tmp_path / "hub" / "models--org--tiny"


def download(hub: HubServer, revision: str = "main", without: str = "") -> None:
    from huggingface_hub import hf_hub_download

    for file in hub.repositories["org/tiny"].files():
        if file.name != without:
            name = file.relative_to(hub.repositories["org/tiny"].folder).as_posix()
            hf_hub_download("org/tiny", name, revision=revision)


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def refused(source: str = "org/tiny") -> str:
    with pytest.raises(SourceError) as error:
        open_source(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def same(source: Checkpoint, folder: Path) -> bool:
    """Whether a source has the tensors of a folder, byte for byte of the first of each file."""
    local = open_checkpoint(folder)
    for tensor in {t.file: t for t in local.tensors.values()}.values():
        a, b = bytearray(tensor.nbytes), bytearray(tensor.nbytes)
        source.read_into(tensor.file, tensor.start, memoryview(a))
        local.read_into(tensor.file, tensor.start, memoryview(b))
        if a != b:
            return False
    return dict(source.tensors) == dict(local.tensors) and source.config == local.config


def test_offline_the_cached_snapshot_is_the_source_with_weights(hub, cache, monkeypatch, tiny_qwen):
    go_offline(monkeypatch)
    before = len(hub.requests)
    source = open_source("org/tiny", weights=True)
    assert len(hub.requests) == before
    assert same(source, tiny_qwen)
    assert (source.name, source.revision) == ("org/tiny", hub.repositories["org/tiny"].commit)


def test_a_note_names_the_commit_and_that_it_was_not_checked(hub, cache, monkeypatch):
    go_offline(monkeypatch)
    (note,) = open_source("org/tiny").notes
    commit = hub.repositories["org/tiny"].commit[:12]
    assert note == (
        f"org/tiny: commit {commit} from the cache, as it was downloaded; not checked against the Hub"
        " (offline mode is on (HF_HUB_OFFLINE))"
    )


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}])
def test_a_hub_that_has_trouble_of_its_own_is_stood_in_for(hub, cache, fault, tiny_qwen):
    hub.fail("/api/models", times=9, **fault)
    assert same(open_source("org/tiny", weights=True), tiny_qwen)


def test_a_hub_out_of_reach_is_stood_in_for(hub, cache, monkeypatch, tiny_qwen):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    source = open_source("org/tiny", weights=True)
    assert same(source, tiny_qwen)
    assert "127.0.0.1:9 cannot be reached" in source.notes[0]


def test_a_repository_that_the_hub_does_not_have_is_not_taken_from_the_cache(hub, cache):
    hub.repositories["org/tiny"].private = True
    assert "no such repository" in refused()


def test_a_tag_or_branch_is_that_of_the_last_download(hub, cache, monkeypatch):
    download(hub, "v1")
    (cache / "refs" / "refs" / "pr").mkdir(parents=True)
    (cache / "refs" / "refs" / "pr" / "1").write_text(hub.repositories["org/tiny"].commit)
    go_offline(monkeypatch)
    for revision in ("v1", "refs/pr/1"):
        assert open_source(f"org/tiny@{revision}").revision == hub.repositories["org/tiny"].commit
    assert "has no copy of it at v2" in refused("org/tiny@v2")


def test_a_commit_is_its_snapshot(hub, cache, monkeypatch):
    go_offline(monkeypatch)
    commit = hub.repositories["org/tiny"].commit
    assert open_source(f"org/tiny@{commit}").revision == commit
    assert "has no copy of it at " + "b" * 40 in refused("org/tiny@" + "b" * 40)


def test_the_only_snapshot_serves_where_no_branch_is_noted(hub, cache, monkeypatch):
    shutil.rmtree(cache / "refs")
    go_offline(monkeypatch)
    assert open_source("org/tiny").revision == hub.repositories["org/tiny"].commit


def test_what_a_conversion_kept_serves_offline(hub, monkeypatch, tiny_qwen):
    source = open_source("org/tiny", weights=True, keep=True)
    assert source.reader is not None
    for name in source.reader.listing():
        source.reader.repository.keep(name, source.reader._stopped)  # type: ignore[attr-defined]
    source.close()
    go_offline(monkeypatch)
    assert same(open_source("org/tiny", weights=True), tiny_qwen)


def test_a_snapshot_without_a_shard_names_it_and_how_to_get_it(hub, monkeypatch, tiny_qwen):
    shard = sorted(p.name for p in tiny_qwen.iterdir() if is_shard(p.name))[-1]
    download(hub, without=shard)
    go_offline(monkeypatch)
    message = refused()
    assert message.startswith("org/tiny: offline mode is on (HF_HUB_OFFLINE), and its copy in the cache (commit ")
    assert f"lacks {'model.safetensors' if shard == 'model.safetensors' else shard}" in message
    assert "hf download org/tiny --revision" in message


def test_a_link_whose_file_is_gone_counts_as_missing(hub, cache, monkeypatch):
    config = next((cache / "snapshots").glob("*/config.json"))
    config.resolve().unlink()
    go_offline(monkeypatch)
    assert "lacks config.json" in refused()


def test_named_templates_come_from_the_hub_and_from_its_cache(hub, monkeypatch, tiny_qwen, tmp_path):
    folder, name = tmp_path / "named", "additional_chat_templates/tool_use.jinja"
    shutil.copytree(tiny_qwen, folder)
    (folder / name).parent.mkdir()
    (folder / name).write_text("{{ tools }}")
    (folder / "other").mkdir()
    (folder / "other" / "x.json").write_text("{}")
    hub.repositories["org/tiny"].folder = folder
    source = open_source("org/tiny", weights=True)
    assert (
        source.reader is not None and name in source.reader.listing() and "other/x.json" not in source.reader.listing()
    )
    assert source.reader.read_whole(name) == b"{{ tools }}"
    download(hub)
    go_offline(monkeypatch)
    source = open_source("org/tiny", weights=True)
    assert source.reader is not None and source.reader.read_whole(name) == b"{{ tools }}"


def test_without_a_copy_the_refusal_says_so(hub, monkeypatch):
    go_offline(monkeypatch)
    assert "HF_HUB_OFFLINE" in refused() and "has no copy of it" in refused()


@pytest.mark.parametrize("text", ["../../outside", "x" * 40, "", "a" * 39, "\xff"])
def test_a_ref_that_is_no_commit_leads_nowhere(hub, cache, monkeypatch, text):
    (cache / "refs" / "main").write_text(text)
    (cache / "snapshots" / ("c" * 40)).mkdir()
    go_offline(monkeypatch)
    assert "has no copy of it" in refused()


def test_a_snapshot_that_is_a_link_to_a_folder_elsewhere_is_none(hub, cache, monkeypatch, tmp_path, tiny_qwen):
    (snapshot,) = (cache / "snapshots").iterdir()
    shutil.rmtree(snapshot)
    snapshot.symlink_to(tiny_qwen)
    go_offline(monkeypatch)
    assert "has no copy of it" in refused()


def test_a_file_that_links_elsewhere_than_to_the_blobs_is_refused(hub, cache, monkeypatch, tmp_path):
    (snapshot,) = (cache / "snapshots").iterdir()
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer.json").symlink_to(outside)
    go_offline(monkeypatch)
    assert "a link that leads out of the folder" in refused()


def test_the_store_that_repositories_share_is_read_and_no_other_file_there(hub, cache, monkeypatch, tiny_qwen):
    store, name = cache.parent / "blobs", "ab" + "0" * 62
    (store / "ab").mkdir(parents=True)
    (store / ".huggingface-shared-blobs").write_text("1")
    shard = next(p for p in next((cache / "snapshots").iterdir()).iterdir() if is_shard(p.name))
    blob = shard.resolve()
    blob.rename(store / "ab" / name)
    blob.symlink_to(f"../../blobs/ab/{name}")
    go_offline(monkeypatch)
    assert same(open_source("org/tiny", weights=True), tiny_qwen)
    (store / "ab" / name).rename(store / "ab" / "other")
    blob.unlink()
    blob.symlink_to("../../blobs/ab/other")
    assert "a link that leads out of the folder" in refused()
