"""A Hub that is not to be trusted: too much, too slow, from elsewhere, other bytes than listed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mlxquant.errors import MlxquantError, UsageError
from mlxquant.source.hub import client as hub_client
from mlxquant.source.hub.client import Stopped
from mlxquant.source.hub.errors import HubError
from mlxquant.source.hub.open import open_source
from mlxquant.source.hub.reader import HubReader
from tests.source.hub.hub_server import HubServer, hub_with

TOKEN = "hf_SECRETxSECRETxSECRET"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_qwen: Path) -> Iterator[HubServer]:
    with hub_with("org/tiny", tiny_qwen, monkeypatch, tmp_path / "hub") as server:
        yield server


def refused(source: str = "org/tiny") -> str:
    with pytest.raises(MlxquantError) as error:
        open_source(source)
    assert str(error.value).isprintable(), "one line"
    return str(error.value)


def shard(hub: HubServer) -> str:
    return min(p.name for p in hub.repositories["org/tiny"].folder.glob("*.safetensors"))


def fetched(hub: HubServer, tmp_path: Path, **fault: Any) -> Path:
    """Bring the first shard into a folder, from a Hub with a fault."""
    reader = open_source("org/tiny", weights=True).reader
    assert isinstance(reader, HubReader)
    if fault:
        hub.fail(r"/cdn/.*safetensors", **{"times": 99, **fault})
    folder = tmp_path / "shards"
    folder.mkdir(exist_ok=True)
    return reader.repository.fetch(shard(hub), folder, threading.Event())


# --- too much ---


@pytest.mark.parametrize("path", ["/api/models", "/resolve/.*/config.json", "/cdn/.*safetensors"])
def test_an_answer_without_end_is_ended_here(hub, path):
    hub.fail(path, endless=True, times=99)
    assert "sends more than" in refused()
    assert hub.sent < 100_000_000


@pytest.mark.parametrize("path", ["/api/models", "/resolve/.*/config.json", "/cdn/.*safetensors"])
def test_an_answer_that_is_packed_though_that_was_not_asked_for_is_not_unpacked(hub, path):
    hub.fail(path, gzip=True, endless=True, times=99)
    assert "sends it compressed (gzip)" in refused()


@pytest.mark.parametrize("path", ["/resolve/.*/config.json", "/cdn/.*safetensors"])
def test_a_file_longer_than_listed_is_refused(hub, path):
    hub.fail(path, instead=lambda body: body + b" " * 1000, times=99)
    assert "sends more than" in refused()


def test_a_shard_without_end_takes_no_more_of_the_disk_than_listed(hub, tmp_path):
    with pytest.raises(HubError, match="sends more than"):
        fetched(hub, tmp_path, endless=True)
    assert (
        sum(p.stat().st_size for p in (tmp_path / "shards").iterdir())
        <= (hub.repositories["org/tiny"].folder / shard(hub)).stat().st_size
    )


def test_a_file_beside_the_weights_has_a_limit(hub, monkeypatch):
    monkeypatch.setattr("mlxquant.source.checkpoint.LARGEST_SMALL", 10)
    assert "files beside the weights are copied up to 10" in refused()
    assert not any("/resolve/" in r.path for r in hub.requests)


def test_a_large_file_that_no_model_needs_is_left_out_and_named(hub, tmp_path, tiny_qwen):
    shutil.copytree(tiny_qwen, tmp_path / "copy")
    with (tmp_path / "copy/train.jsonl").open("wb") as file:
        file.truncate((256 << 20) + 1)
    hub.add("org/copy", tmp_path / "copy", hashed=False)
    source = open_source("org/copy", weights=True)
    assert any(note.startswith("train.jsonl: left out, 268,435,457 bytes") for note in source.notes)
    assert source.reader is not None
    assert "train.jsonl" not in source.reader.listing()
    assert "config.json" in source.reader.listing()


# --- too slow ---


def test_a_hub_that_drips_is_told_after_a_stated_time(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(hub_client, "WINDOW", 0.5)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    hub.fail("/cdn/.*safetensors", drip=0.05, times=99)
    assert "sends less than 1,000 bytes a second" in refused()


def test_a_wait_of_years_is_a_no(hub, tmp_path):
    with pytest.raises(HubError, match=r"\(429\); try again in 1,157 days"):
        fetched(hub, tmp_path, status=429, headers={"Retry-After": "99999999"})


def test_the_limit_of_a_rate_is_read_from_the_headers_that_the_hub_has_for_it(hub):
    hub.fail("/api/models", status=429, headers={"RateLimit": '"api";r=0;t=7200'}, times=1)
    assert "(429); try again in 2 hours" in refused()


@pytest.mark.parametrize("after", ["\u00b2", "-1", "1e9", "9" * 4000, "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_time_that_is_none_is_not_waited_for(hub, after):
    hub.fail("/api/models", status=429, headers={"Retry-After": after}, times=1)
    assert "(429); try again later" in refused()


def test_a_wait_ends_when_the_work_is_stopped(hub, tmp_path):
    reader = open_source("org/tiny", weights=True).reader
    assert isinstance(reader, HubReader)
    stopped, began = threading.Event(), time.monotonic()
    hub.fail(r"/cdn/.*safetensors", stall=3, times=1)
    threading.Timer(0.3, stopped.set).start()
    with pytest.raises(Stopped):
        reader.repository.fetch(shard(hub), tmp_path, stopped)
    assert time.monotonic() - began < 2


def command(hub: HubServer, tmp_path: Path, *words: str, **variables: str) -> tuple[list[str], dict[str, str]]:
    environment = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), **variables}
    return [sys.executable, "-c", "from mlxquant.cli import main; main()", *words], environment


@pytest.mark.parametrize(("path", "number"), [("/cdn/.*00001-of", signal.SIGINT), ("/api/models", signal.SIGTERM)])
def test_a_signal_ends_a_command_that_waits_for_the_hub(hub, tmp_path, path, number):
    hub.fail(path, stall=60, times=99)
    words, environment = command(hub, tmp_path, "plan", "org/tiny", "-r", "gates-8bit", HF_HUB_DOWNLOAD_TIMEOUT="60")
    run = subprocess.Popen(
        words,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until = time.monotonic() + 60
    while not any(f.pattern.search(r.path) for r in hub.requests for f in hub.faults) and time.monotonic() < until:
        time.sleep(0.05)
    run.send_signal(number)
    assert run.communicate(timeout=10)[1].endswith("mlxquant: stopped\n")
    assert run.returncode == 130


# --- from elsewhere ---


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "", "http://[::1", "https://"])
def test_a_redirect_leads_to_a_server(hub, place):
    hub.fail("/api/models", status=302, headers={"Location": place}, times=1)
    assert "127.0.0.1" in refused()


def test_a_redirect_to_itself_comes_to_an_end(hub):
    hub.fail("/api/models", status=302, headers={"Location": "/api/models/org/tiny"}, times=99)
    assert "redirects more than 5 times" in refused()


def test_a_repository_that_was_renamed_is_followed(hub):
    hub.fail("/api/models", status=307, headers={"Location": "/api/models/org/tiny?blobs=true"}, times=1)
    assert open_source("org/tiny").tensors


@pytest.mark.parametrize("span", ["bytes 5-9/10", "bytes 0-1/2", "bytes", "", "bytes 0-99999999999999999999/5"])
def test_a_part_is_the_one_that_was_asked_for(hub, span):
    hub.fail("/cdn/.*safetensors", instead=lambda body: body, headers={"Content-Range": span}, times=99)
    assert "asked for" in refused()


# --- other bytes ---


def test_bytes_that_go_bad_on_the_way_are_found_and_come_again(hub, tmp_path):
    whole = (hub.repositories["org/tiny"].folder / shard(hub)).read_bytes()
    path = fetched(hub, tmp_path, instead=lambda body: body[:-1] + bytes([body[-1] ^ 1]), times=1)
    assert path.read_bytes() == whole


def test_a_flipped_bit_in_the_cache_is_found(hub, tmp_path):
    reader = open_source("org/tiny", weights=True, keep=True).reader
    assert isinstance(reader, HubReader)
    path = reader.repository.keep(shard(hub), threading.Event())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.resolve().write_bytes(data)
    again = open_source("org/tiny", weights=True).reader
    assert again is not None
    with pytest.raises(HubError, match=r"SHA-256 .* expected, .* found in the cache; delete"):
        again.read_into(shard(hub), 0, memoryview(bytearray(8)))


def test_a_kept_shard_is_held_against_its_hash(hub, tmp_path):
    reader = open_source("org/tiny", weights=True, keep=True).reader
    assert isinstance(reader, HubReader)
    hub.fail("/cdn/.*safetensors", instead=lambda body: bytes(len(body)), times=99)
    with pytest.raises(HubError, match=r"SHA-256 .* expected, .* found from .*; downloaded twice"):
        reader.repository.keep(shard(hub), threading.Event())
    assert not list((tmp_path / "hub").rglob("*.safetensors"))


def test_two_that_want_the_same_shard_bring_it_once(hub, tmp_path):
    readers = [open_source("org/tiny", weights=True, keep=True).reader for _ in range(2)]
    whole = (hub.repositories["org/tiny"].folder / shard(hub)).read_bytes()
    hub.requests.clear()
    hub.fail(f"/cdn/.*{shard(hub)}", stall=0.5, times=2)
    with ThreadPoolExecutor(2) as pool:
        wanted = [r.repository.keep for r in readers if isinstance(r, HubReader)]
        paths = list(pool.map(lambda keep: keep(shard(hub), threading.Event()), wanted))
    assert [p.read_bytes() for p in paths] == [whole, whole]
    assert sum(r.path.startswith("/cdn/") for r in hub.requests) == 1
    assert not list((tmp_path / "hub").rglob("*part"))


def test_a_header_that_is_another_in_the_whole_file_is_found(hub, tmp_path, tiny_qwen):
    shutil.copytree(tiny_qwen, tmp_path / "copy")
    hub.add("org/copy", tmp_path / "copy")

    def swapped(body: bytes) -> bytes:
        zero, one, other = (b"layers.%b.mlp.gate.weight" % n for n in (b"0", b"1", b"X"))
        assert zero in body
        assert one in body
        return body.replace(zero, other).replace(one, zero).replace(other, one)

    hub.fail(f"/cdn/.*{shard(hub)}", instead=swapped, times=1)
    reader = open_source("org/copy", weights=True).reader
    assert reader is not None
    with pytest.raises(HubError, match=r"its first [\d,]+ bytes are not those that .* sent before"):
        reader.read_into(shard(hub), 0, memoryview(bytearray(8)))


def test_the_cache_is_laid_out_as_huggingface_hub_does(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants, hf_hub_download

    reader = open_source("org/tiny", weights=True, keep=True).reader
    assert isinstance(reader, HubReader)
    path = reader.repository.keep(shard(hub), threading.Event())
    assert path.is_symlink()
    assert path.resolve().name == hashlib.sha256(path.read_bytes()).hexdigest()
    hub.requests.clear()
    cache, commit = constants.HF_HUB_CACHE, reader.repository.commit
    assert hf_hub_download("org/tiny", shard(hub), revision=commit, cache_dir=cache) == str(path)
    assert hf_hub_download("org/tiny", "config.json", revision=commit, cache_dir=cache)
    assert hub.requests == []


def test_names_that_the_server_sends_with_a_file_lead_nowhere(hub, tmp_path):
    evil = {"ETag": '"../../../../ESC"', "X-Repo-Commit": "../../../../ESC", "X-Linked-ETag": '"../../ESC"'}
    hub.fail("/resolve/", instead=lambda body: body, headers=evil, times=99)
    open_source("org/tiny")
    assert not list(tmp_path.rglob("ESC*"))


def test_weights_in_a_folder_of_the_repository_are_no_shards(hub, tmp_path, tiny_qwen):
    body = json.dumps(
        {"sha": "a" * 40, "siblings": [{"rfilename": "model_fp16/model.safetensors", "size": 9}]}
    ).encode()
    hub.fail("/api/models", status=200, body=body, times=1)
    assert "has no config.json" in refused()


def test_shards_without_a_hash_are_named(hub):
    folder = hub.repositories["org/tiny"].folder
    siblings = [{"rfilename": p.name, "size": p.stat().st_size} for p in folder.iterdir()]
    body = json.dumps({"sha": hub.repositories["org/tiny"].commit, "siblings": siblings}).encode()
    hub.fail("/api/models", status=200, body=body, times=1)
    assert open_source("org/tiny").notes == (
        f"not checked against a SHA-256, since 127.0.0.1:{hub.port} lists none: {shard(hub)} and 2 more of 3 shards",
    )


# --- keys ---


@pytest.mark.parametrize("token", ["hf_SECRET\nSECRET", "hf_SECRÉT", "hf_SECRET SECRET", "hf_\u2028SECRET", "hf_\x07S"])
def test_a_token_that_no_header_can_carry_is_told_and_not_shown(hub, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    message = refused()
    assert "HF_TOKEN: holds characters that no token has" in message
    assert "SEC" not in message


def test_the_password_of_the_endpoint_reaches_no_message(hub, tmp_path):
    hub.tokens.add("Basic dXNlcjpQQVNTV09SRA==")
    hub.fail("/cdn/", status=403, times=99)
    address = hub.url.replace("://", "://user:PASSWORD@")
    words, environment = command(hub, tmp_path, "--debug", "plan", "org/tiny", "-r", "none", HF_ENDPOINT=address)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert "(403)" in done.stderr
    assert "PASSWORD" not in done.stdout + done.stderr
    sent = {r.headers.get("authorization", "") for r in hub.requests if not r.path.startswith("/cdn/")}
    assert sent == {"Basic dXNlcjpQQVNTV09SRA=="}
    assert not any("authorization" in r.headers for r in hub.requests if r.path.startswith("/cdn/"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HTTP_PROXY", "nonsense://user:PASSWORD@x", "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY: no proxy that can be used"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "abc", "has a value that huggingface_hub refuses"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "-3", "HF_HUB_DOWNLOAD_TIMEOUT: seconds above 0 expected"),
    ],
)
def test_a_variable_of_the_environment_that_cannot_be_used_is_named(hub, tmp_path, name, value, message):
    words, environment = command(hub, tmp_path, "plan", "org/tiny", "-r", "none", **{name: value})
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (2, 3)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "PASSWORD" not in done.stderr


@pytest.mark.parametrize(
    "address", ["huggingface.co", "http://[::1", "ftp://x", "http://user:PASSWORD@host:port", "http://"]
)
def test_an_endpoint_that_is_no_address_is_told(hub, monkeypatch, address):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    with pytest.raises(UsageError, match="HF_ENDPOINT: an address such as") as error:
        open_source("org/tiny")
    assert "PASSWORD" not in str(error.value)
