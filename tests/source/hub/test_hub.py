"""Sources on the Hub: huggingface_hub's real client against a Hub on 127.0.0.1."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxquant.errors import SourceError, UsageError
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.source.hub.open import open_source
from mlxquant.source.hub.reader import HubReader
from mlxquant.words.progress import when_waiting
from tests.source.hub.hub_server import INVALID, PATIENCE, HubServer, hub_with

TOKEN = "hf_SECRETxSECRETxSECRET"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_qwen: Path) -> Iterator[HubServer]:
    revisions = ("main", "v1", "refs/pr/1")
    with hub_with("org/tiny", tiny_qwen, monkeypatch, tmp_path / "hub", revisions=revisions) as server:
        yield server


def refused(source: str) -> str:
    with pytest.raises(SourceError) as error:
        open_source(source)
    message = str(error.value)
    assert "\n" not in message, "one line"
    assert TOKEN not in message
    return message


# --- what is read ---


def test_a_repository_is_the_same_source_as_its_folder(hub, tiny_qwen):
    remote, local = open_source("org/tiny"), open_checkpoint(tiny_qwen)
    assert dict(remote.tensors) == dict(local.tensors)
    assert remote.config == local.config
    assert dict(remote.files) == dict(local.files)
    assert remote.name == "org/tiny"
    assert remote.folder is None


def test_the_revision_is_pinned_to_a_commit_before_anything_else_is_read(hub):
    found = open_source("org/tiny")
    assert found.revision == hub.repositories["org/tiny"].commit
    assert hub.requests[0].path == "/api/models/org/tiny"
    resolved = [r.path.split("/resolve/")[1].split("/")[0] for r in hub.requests if "/resolve/" in r.path]
    assert set(resolved) == {found.revision}


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1"])
def test_a_revision_stands_after_the_at_sign(hub, revision):
    assert open_source(f"org/tiny@{revision}").revision == hub.repositories["org/tiny"].commit


def test_of_the_shards_only_headers_are_read(hub, tiny_qwen):
    open_source("org/tiny")
    shards = [r for r in hub.requests if r.path.endswith(".safetensors")]
    assert shards
    assert all(r.method == "GET" and r.headers["range"].startswith("bytes=") for r in shards)


def test_a_full_size_model_takes_little_traffic(hub, paper_headers):
    hub.add("org/large", paper_headers)
    hub.sent = 0
    assert open_source("org/large").nbytes == 245_125_640_160
    assert hub.sent < 10_000_000


def test_a_header_longer_than_the_first_read_comes_in_two(hub, monkeypatch):
    monkeypatch.setattr("mlxquant.source.hub.open.FIRST_READ", 100)
    assert open_source("org/tiny").tensors
    shard = next(r.path for r in hub.requests if r.path.endswith(".safetensors") and r.path.startswith("/org"))
    assert [r.path for r in hub.requests].count(shard) == 2


def test_a_repository_without_an_index_has_its_model_files(hub, tmp_path):
    from tests.checkpoints import write_tiny_qwen3_5_moe

    write_tiny_qwen3_5_moe(tmp_path / "one", shards=1)
    (tmp_path / "one/model.safetensors.index.json").unlink(missing_ok=True)
    hub.add("org/one", tmp_path / "one")
    assert list(open_source("org/one").files) == ["model.safetensors"]


def test_a_path_that_exists_wins_over_a_hub_id(hub, tiny_qwen, tmp_path, monkeypatch):
    shutil.copytree(tiny_qwen, tmp_path / "org/tiny")
    monkeypatch.chdir(tmp_path)
    assert open_source("org/tiny").folder == Path("org/tiny")
    assert hub.requests == []


@pytest.mark.parametrize(
    "text", ["nothere", "a/b/c", "./org/tiny", "/org/tiny", "org/tiny.json", "org/tiny/", "../tiny", "a--b/c", "a/b..c"]
)
def test_what_cannot_be_a_hub_id_is_looked_for_on_disk_alone(hub, text):
    assert "no such folder, config.json or Hub id (org/name)" in refused(text)
    assert hub.requests == []


def test_an_empty_source_is_a_usage_error():
    with pytest.raises(UsageError, match="SOURCE is empty"):
        open_source("")


# --- tokens ---


def test_a_token_goes_to_the_hub_and_not_to_where_it_redirects(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.tokens.add(TOKEN)
    hub.repositories["org/tiny"].gated = True
    assert open_source("org/tiny").tensors
    own, cdn = ([r for r in hub.requests if r.path.startswith("/cdn/") is there] for there in (False, True))
    assert own
    assert cdn
    assert all(r.headers["authorization"] == f"Bearer {TOKEN}" for r in own)
    assert all("authorization" not in r.headers for r in cdn)


def test_a_gated_repository_says_where_to_ask_for_access(hub):
    hub.repositories["org/tiny"].gated = True
    message = refused("org/tiny")
    assert "gated" in message
    assert f"127.0.0.1:{hub.port}/org/tiny" in message
    assert "hf auth login" in message


def test_a_bad_token_is_told_and_not_shown(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "refuses the token" in refused("org/tiny")
    assert INVALID not in refused("org/tiny")


def test_a_private_repository_looks_like_one_that_is_missing(hub):
    hub.repositories["org/tiny"].private = True
    assert refused("org/tiny") == refused("org/missing").replace("missing", "tiny")


# --- what is missing ---


def test_a_missing_repository_says_to_check_the_spelling(hub):
    assert "no such folder here and no such repository" in refused("org/missing")


def test_a_missing_revision_is_named(hub):
    assert refused("org/tiny@v9") == "org/tiny: has no revision 'v9'; give a branch, tag or commit after the @"


def test_a_repository_without_config_is_no_checkpoint(hub, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/README.md").write_text("hello")
    hub.add("org/empty", tmp_path / "empty")
    assert "has no config.json" in refused("org/empty")


def test_a_repository_without_weights_says_so(hub, tiny_qwen, tmp_path):
    (tmp_path / "bare").mkdir()
    shutil.copy(tiny_qwen / "config.json", tmp_path / "bare")
    hub.add("org/bare", tmp_path / "bare")
    assert "no model*.safetensors" in refused("org/bare")


def test_a_repository_that_holds_something_else_says_what_and_what_to_do(hub, tiny_qwen, tmp_path):
    (tmp_path / "gguf").mkdir()
    shutil.copy(tiny_qwen / "config.json", tmp_path / "gguf")
    (tmp_path / "gguf/model-Q4_K_M.gguf").write_bytes(b"GGUF")
    hub.add("org/gguf", tmp_path / "gguf")
    assert "but GGUF files (model-Q4_K_M.gguf)" in refused("org/gguf")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    hub.add("org/adapter", tmp_path / "adapter")
    assert "but a LoRA adapter of org/base" in refused("org/adapter")


def test_a_wrong_index_on_the_hub_is_settled_by_the_headers_too(hub, tiny_qwen, tmp_path):
    shutil.copytree(tiny_qwen, tmp_path / "stale")
    (tmp_path / "stale" / "model.safetensors.index.json").write_text("{}")
    hub.add("org/stale", tmp_path / "stale")
    source = open_source("org/stale")
    assert dict(source.tensors) == dict(open_checkpoint(tiny_qwen).tensors)
    assert any("it has no weight_map" in note for note in source.notes)


def test_a_shard_of_the_index_that_is_missing_is_named(hub, tiny_qwen, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_qwen, copy)
    gone = sorted(copy.glob("*.safetensors"))[-1]
    gone.unlink()
    hub.add("org/copy", copy)
    assert gone.name in refused("org/copy")


def test_a_shard_cut_short_is_found_by_the_size_that_the_hub_lists(hub, tiny_qwen, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_qwen, copy)
    shard = sorted(copy.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-64])
    hub.add("org/copy", copy)
    message = refused("org/copy")
    assert message.startswith(f"{shard.name}: ")
    assert "bytes expected" in message


def test_an_empty_shard_is_told(hub, tiny_qwen, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_qwen, copy)
    shard = sorted(copy.glob("*.safetensors"))[0]
    shard.write_bytes(b"")
    hub.add("org/copy", copy)
    assert f"{shard.name}: at least 8 bytes expected, 0 found" in refused("org/copy")


def test_an_index_that_points_outside_its_folder_is_not_followed(hub, tiny_qwen, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_qwen, copy)
    index = copy / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"] = dict.fromkeys(table["weight_map"], "../../secret.safetensors")
    index.write_text(json.dumps(table))
    hub.add("org/copy", copy)
    assert "points outside its folder" in refused("org/copy")
    assert not any("secret" in r.path for r in hub.requests)


def test_a_packing_that_cannot_be_read_is_refused_before_its_shards_are_asked_for(hub, tiny_qwen, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_qwen, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    hub.add("org/copy", copy)
    assert "quantized with bitsandbytes" in refused("org/copy")
    assert not any(r.path.endswith(".safetensors") for r in hub.requests)


# --- a network that fails ---


def test_too_many_requests_are_asked_again_after_the_time_given(hub):
    hub.fail(r"resolve/.*safetensors", status=429, headers={"Retry-After": "0"}, times=1)
    assert open_source("org/tiny").tensors


def test_too_many_requests_for_the_listing_say_when_to_come_back(hub):
    hub.fail("/api/models", status=429, headers={"Retry-After": "30"}, times=1)
    assert "(429); try again in 30 s" in refused("org/tiny")


@pytest.mark.parametrize(("status", "told"), [(500, "(500)"), (503, "(503)"), (403, "(403)"), (418, "answers 418")])
def test_a_status_that_is_no_answer_is_told(hub, status, told):
    hub.fail("/api/models", status=status, times=1)
    assert told in refused("org/tiny")


def test_a_connection_cut_while_a_header_is_read_is_told(hub):
    hub.fail("/cdn/.*safetensors", cut=50, times=99)
    assert "broke the connection off" in refused("org/tiny")


def test_a_server_that_ignores_ranges_is_not_downloaded_from(hub, tmp_path, tiny_qwen):
    hub.fail("/cdn/", whole=True, times=99)
    hub.sent = 0
    assert "does not serve parts of files" in refused("org/tiny")


def test_a_server_that_does_not_answer_is_told_within_the_time_limit(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.fail("/api/models", stall=1.0, times=1)
    assert "no answer from 127.0.0.1" in refused("org/tiny")


def test_an_answer_that_is_not_the_hubs_is_told(hub):
    hub.fail("/api/models", status=200, body=b"<html>log in to this network</html>", times=1)
    assert "is a login page or proxy in between?" in refused("org/tiny")


def test_a_refused_connection_is_told(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert "127.0.0.1:1 cannot be reached" in refused("org/tiny")


def test_offline_mode_is_told(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused("org/tiny")
    assert hub.requests == []


def test_a_cache_that_cannot_be_written_is_told(hub, monkeypatch, tmp_path):
    from huggingface_hub import constants

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    assert "HF_HOME" in refused("org/tiny")


# --- weights ---


def test_weights_of_a_hub_id_are_read_by_way_of_the_usual_cache(hub, tiny_qwen, tmp_path):
    remote, local = open_source("org/tiny", weights=True), open_checkpoint(tiny_qwen)
    tensor = next(iter(remote.tensors.values()))
    buffers = bytearray(64), bytearray(64)
    for source, buffer in zip((remote, local), buffers, strict=True):
        source.read_into(tensor.file, tensor.start, memoryview(buffer))
        source.close()
    assert buffers[0] == buffers[1]
    assert list((tmp_path / "hub").rglob(f"snapshots/*/{tensor.file}"))


@pytest.mark.parametrize("keep", [False, True])
def test_whoever_waits_for_a_shard_hears_how_much_of_it_is_there(hub, tmp_path, keep):
    source = open_source("org/tiny", weights=True, keep=keep)
    tensor = next(iter(source.tensors.values()))
    size = source.files[tensor.file]
    assert isinstance(source.reader, HubReader)
    hub.fail("/cdn/", cut=size // 2, times=1)
    hub.fail("/cdn/", stall=0.3)
    source.reader.prepare([frozenset([tensor.file])])
    source.reader.start(tmp_path / "shards")
    events = list[tuple[str, float]]()
    when_waiting(lambda name, share: events.append((name, round(share, 1))))
    try:
        source.read_into(tensor.file, tensor.start, memoryview(bytearray(64)))
    finally:
        when_waiting(None)
        source.close()
    assert (tensor.file, 0.5) in events


def test_weights_of_a_lone_config_are_refused(tiny_qwen):
    with pytest.raises(SourceError, match="a config alone has no weights"):
        open_source(str(tiny_qwen / "config.json"), weights=True)


# --- as a person types it ---


def test_plan_reads_a_hub_id_with_nothing_but_the_environment(hub, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    environment |= {"HF_HUB_DOWNLOAD_TIMEOUT": str(PATIENCE), "HF_HUB_ETAG_TIMEOUT": str(PATIENCE)}
    hub.tokens.add(TOKEN)
    command = [sys.executable, "-c", "from mlxquant.cli import main; main()", "plan", "org/tiny", "-r", "gates-8bit"]
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    source = json.loads(done.stdout)["source"]
    assert (source["name"], source["revision"]) == ("org/tiny", hub.repositories["org/tiny"].commit)
    assert done.stderr == ""
    assert TOKEN not in done.stdout
