"""Converting straight from the Hub: shards come while they are converted, and go when they are not needed any more."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mlxquant.builds.write.convert import Converted, ConvertOptions, convert
from mlxquant.builds.write.making import read_block
from mlxquant.builds.write.pieces import Sizes, needs_of, outputs, pieces
from mlxquant.builds.write.workers import Scratch
from mlxquant.errors import MlxquantError, OutputError
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.source.checkpoint import FolderReader, open_checkpoint
from mlxquant.source.hub import client as hub_client
from mlxquant.source.hub import reader as staging
from mlxquant.source.hub import repository as downloads
from mlxquant.source.hub.errors import HubError
from mlxquant.source.hub.open import open_source
from mlxquant.words.progress import Progress
from tests.checkpoints import write_tiny_qwen3_5_moe
from tests.source.hub.hub_server import PATIENCE, HubServer, hub_with
from tests.support.builds import build, contents

SHARDS = 8
RECORDS = {"mlxquant.json", "audit.json", "AUDIT.md"}  # they name the source
TOKEN = "hf_SECRETxSECRETxSECRET"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "many"
    write_tiny_qwen3_5_moe(folder, shards=SHARDS)
    (folder / "tokenizer.json").write_text('{"a": 1}')
    (folder / "modeling.py").write_text("print()")
    return folder


@pytest.fixture(scope="module")
def expected(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected") / "build"
    build(checkpoint, out)
    return contents(out)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path) -> Iterator[HubServer]:
    with hub_with("org/many", checkpoint, monkeypatch, tmp_path / "hub") as server:
        yield server


def from_hub(out: Path, source: str = "org/many", keep: bool = False, watch: Any = None, **options: Any) -> Converted:
    opened = open_source(source, weights=True, keep=keep)
    layout = read_layout(opened)
    plan = make_plan(layout, load_recipe("gates-8bit", group_size=32, unaligned="keep"), opened)
    return convert(opened, layout, plan, out, ConvertOptions(**{"threads": 2, **options}), watch or (lambda _: None))


def reader_of(source: str) -> staging.HubReader:
    reader = open_source(source, weights=True).reader
    assert isinstance(reader, staging.HubReader)
    return reader


def same(out: Path, expected: dict[str, bytes]) -> bool:
    result = contents(out)
    return result.keys() == expected.keys() and all(result[n] == expected[n] for n in result.keys() - RECORDS)


def downloaded(hub: HubServer) -> list[str]:
    """Shards asked for whole or from some byte on, as their names; header reads end at a byte."""
    return [
        r.path.rpartition("/")[2]
        for r in hub.requests
        if r.path.startswith("/cdn/") and r.method == "GET" and not r.headers.get("range", "-").rpartition("-")[2]
    ]


# --- the same build ---


def test_a_build_from_the_hub_is_the_one_from_the_folder(hub, tmp_path, expected):
    from_hub(tmp_path / "out")
    assert same(tmp_path / "out", expected)
    assert not (tmp_path / "out.partial").exists()


def test_the_records_name_the_commit_and_the_hashes_that_the_hub_lists(hub, tmp_path, expected):
    from_hub(tmp_path / "out")
    record = json.loads((tmp_path / "out/mlxquant.json").read_bytes())
    source, from_folder = record["source"], json.loads(expected["mlxquant.json"])
    assert source["revision"] == hub.repositories["org/many"].commit
    assert source["name"] == "org/many"
    shards = [f for n, f in source["files"].items() if n.endswith(".safetensors")]
    assert len(shards) == SHARDS
    assert all(len(f["sha256"]) == 64 for f in shards)
    for record_of in (record, from_folder):
        for key in ("source", "run"):
            record_of.pop(key, None)
        for name in ("audit.json", "AUDIT.md"):
            record_of["files"].pop(name)
    assert record == from_folder


def test_the_manifest_says_which_shards_were_held_against_the_hash_that_the_hub_lists(hub, tmp_path):
    from_hub(tmp_path / "out")
    files = json.loads((tmp_path / "out/mlxquant.json").read_bytes())["source"]["files"]
    checked = {n: f["sha256_checked"] for n, f in files.items() if n.endswith(".safetensors")}
    assert [n for n, held in checked.items() if not held] == [f"model-{SHARDS:05d}-of-{SHARDS:05d}.safetensors"], (
        "not read"
    )


def test_shards_without_a_hash_are_said_to_be_unchecked_in_manifest_and_audit(hub, tmp_path):
    hub.repositories["org/many"].hashed = False
    from_hub(tmp_path / "out")
    files = json.loads((tmp_path / "out/mlxquant.json").read_bytes())["source"]["files"]
    shards = [f for n, f in files.items() if n.endswith(".safetensors")]
    assert all(f["sha256_checked"] is False and "sha256" not in f for f in shards)
    text = "not checked against a SHA-256"
    assert any(text in note for note in json.loads((tmp_path / "out/audit.json").read_bytes())["notes"])
    assert text in (tmp_path / "out/AUDIT.md").read_text()


def test_code_is_asked_for_only_where_it_is_trusted(hub, tmp_path):
    from_hub(tmp_path / "out")
    assert not any(r.path.endswith(".py") for r in hub.requests)
    from_hub(tmp_path / "trusting", trust_remote_code=True)
    assert (tmp_path / "trusting/modeling.py").read_text() == "print()"


def test_every_shard_that_is_needed_comes_once_and_no_other(hub, tmp_path):
    from_hub(tmp_path / "out")
    result = [int(name.split("-")[1]) for name in downloaded(hub)]
    assert sorted(result) == list(range(1, SHARDS)), "the last one has the next-token head alone"


def test_no_token_reaches_the_build_or_where_shards_lie(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.tokens.add(TOKEN)
    hub.repositories["org/many"].gated = True
    from_hub(tmp_path / "out")
    assert not any(TOKEN.encode() in data for data in contents(tmp_path / "out").values())
    assert not any("authorization" in r.headers for r in hub.requests if r.path.startswith("/cdn/"))


def test_no_token_is_in_an_error_nor_in_its_traceback(hub, tmp_path):
    words, environment = command(hub, tmp_path, str(tmp_path / "out"), "--debug")
    done = subprocess.run(words, env=environment | {"HF_TOKEN": TOKEN}, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "Traceback" in done.stderr
    assert "refuses the token" in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert not (tmp_path / "out.partial").exists()


# --- disk ---


def test_only_a_few_shards_are_on_the_disk_at_once(hub, tmp_path, checkpoint):
    folder, most = tmp_path / "out.partial/source", [0, 0]

    def look() -> None:
        while not done.wait(0.001):
            files = []
            with suppress(FileNotFoundError):  # the folder may go while it is listed
                for path in folder.glob("*"):
                    with suppress(FileNotFoundError):
                        files.append(path.stat().st_size)
            most[:] = max(most[0], len(files)), max(most[1], sum(files))

    done = threading.Event()
    looking = threading.Thread(target=look)
    looking.start()
    try:
        from_hub(tmp_path / "out", threads=1)
    finally:
        done.set()
        looking.join()
    total = sum(p.stat().st_size for p in checkpoint.glob("*.safetensors"))
    assert 0 < most[1] < total
    assert most[0] < SHARDS


@pytest.mark.parametrize(
    ("needs", "ahead", "peak"),
    [
        ("a b c", 0, 5),
        ("a b c", 1, 9),
        ("a b c", 2, 12),
        ("a ab b c a", 0, 9),
        ("a ab b c a", 1, 12),
        ("c b a", 1, 9),
        ("x a", 0, 5),
    ],
)
def test_the_disk_that_shards_need_is_known_beforehand(needs, ahead, peak):
    assert staging.peak_bytes([frozenset(n) for n in needs.split()], {"a": 5, "b": 4, "c": 3}, ahead) == peak


def test_a_disk_too_small_for_the_build_and_the_shards_is_refused_first(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("mlxquant.disk.files.free_bytes", lambda _: 65 << 20)
    with pytest.raises(OutputError, match=r"and the shards that it is made from .* \([\d,]+ bytes\) at a time"):
        from_hub(tmp_path / "out")
    assert downloaded(hub) == []


# --- the cache ---


def test_shards_that_the_cache_has_are_used_and_stay(hub, tmp_path, expected, checkpoint):
    from huggingface_hub import constants, hf_hub_download

    names = sorted(p.name for p in checkpoint.glob("*.safetensors"))[:3]
    paths = [Path(hf_hub_download("org/many", name, cache_dir=constants.HF_HUB_CACHE)) for name in names]
    hub.requests.clear()
    from_hub(tmp_path / "out")
    assert same(tmp_path / "out", expected)
    assert not set(names) & set(downloaded(hub))
    assert all(p.is_file() for p in paths)


def test_keep_source_leaves_every_shard_in_the_usual_cache(hub, tmp_path, expected, checkpoint):
    from_hub(tmp_path / "out", keep=True)
    assert same(tmp_path / "out", expected)
    cached = {p.name: p.read_bytes() for p in (tmp_path / "hub").rglob("snapshots/*/*.safetensors")}
    assert cached == {p.name: p.read_bytes() for p in sorted(checkpoint.glob("*.safetensors"))[:-1]}


def test_keep_source_is_refused_where_the_cache_has_no_room(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("mlxquant.disk.files.free_bytes", lambda path: 1 << 20 if "hub" in path.parts else 1 << 30)
    with pytest.raises(OutputError, match=r"--keep-source downloads .* there and 1.00 MiB \(1,048,576 bytes\)"):
        from_hub(tmp_path / "out", keep=True)
    assert downloaded(hub) == []


# --- a network that fails ---


def test_a_connection_that_is_cut_is_taken_up_where_it_broke(hub, tmp_path, expected, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # what a cut may cost
    hub.fail("/cdn/.*00002-of", cut=50_000, times=0)  # header reads must not use it up
    opened = open_source("org/many", weights=True)
    hub.faults[0].times = 2
    layout = read_layout(opened)
    plan = make_plan(layout, load_recipe("gates-8bit", group_size=32, unaligned="keep"), opened)
    convert(opened, layout, plan, tmp_path / "out", ConvertOptions(threads=2))
    assert same(tmp_path / "out", expected)
    starts = [r.headers.get("range") for r in hub.requests if r.path.startswith("/cdn/") and "00002-of" in r.path]
    assert "bytes=50000-" in starts
    assert "bytes=100000-" in starts


def broken_after_headers(hub: HubServer, out: Path, *, until: int | None = None, **fault: Any) -> str:
    """Convert, with a Hub that fails from when shards are asked for; what the error says."""
    opened = open_source("org/many", weights=True)
    layout = read_layout(opened)
    plan = make_plan(layout, load_recipe("gates-8bit", group_size=32, unaligned="keep"), opened)
    hub.fail("safetensors", times=10**6, **fault)
    with pytest.raises(MlxquantError) as error:
        convert(opened, layout, plan, out, ConvertOptions(threads=2))
    hub.faults.clear()
    return str(error.value)


def test_a_hub_that_stays_away_is_told_and_the_same_command_goes_on(hub, tmp_path, expected, monkeypatch):
    monkeypatch.setattr(downloads, "ATTEMPTS", 2)
    message = broken_after_headers(hub, tmp_path / "out", status=500)
    assert "(500)" in message
    assert "run the same command again" in message
    from_hub(tmp_path / "out")
    assert same(tmp_path / "out", expected)


@pytest.mark.slow
def test_access_that_is_taken_away_is_not_asked_for_again(hub, tmp_path):
    message = broken_after_headers(hub, tmp_path / "out", status=403)
    assert "forbids it (403)" in message
    assert sum(r.path.endswith("00001-of-00008.safetensors") for r in hub.requests if "range" not in r.headers) <= 2


def test_too_many_requests_are_waited_out(hub, tmp_path, expected):
    opened = open_source("org/many", weights=True)
    hub.fail("resolve/.*safetensors", status=429, headers={"Retry-After": "0"}, times=1)
    layout = read_layout(opened)
    plan = make_plan(layout, load_recipe("gates-8bit", group_size=32, unaligned="keep"), opened)
    convert(opened, layout, plan, tmp_path / "out", ConvertOptions(threads=2))
    assert same(tmp_path / "out", expected)


def test_what_came_of_a_shard_before_a_failure_is_not_asked_for_again(hub, tmp_path, expected, monkeypatch):
    repository = reader_of("org/many").repository
    name = sorted(n for n in repository.listing.sizes if n.endswith(".safetensors"))[0]
    folder = tmp_path / "source"
    folder.mkdir()
    whole = (hub.repositories["org/many"].folder / name).read_bytes()
    (folder / f"{name}.part").write_bytes(whole[:70_000])
    assert repository.fetch(name, folder, threading.Event()).read_bytes() == whole
    assert hub.requests[-1].headers["range"] == "bytes=70000-"


def test_bytes_that_a_crash_spoiled_are_found_by_their_hash_and_come_again(hub, tmp_path):
    repository = reader_of("org/many").repository
    name = sorted(n for n in repository.listing.sizes if n.endswith(".safetensors"))[0]
    whole = (hub.repositories["org/many"].folder / name).read_bytes()
    for spoiled in (f"{name}.part", name):
        folder = tmp_path / spoiled
        folder.mkdir()
        (folder / spoiled).write_bytes(bytes(70_000) if spoiled != name else bytes(len(whole)))
        assert repository.fetch(name, folder, threading.Event()).read_bytes() == whole


def test_a_hub_that_sends_other_bytes_than_it_lists_is_told(hub, tmp_path, checkpoint):
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    hub.add("org/copy", copy)
    repository = reader_of("org/copy").repository
    shard = sorted(copy.glob("*.safetensors"))[0]
    shard.write_bytes(bytes(shard.stat().st_size))
    (tmp_path / "source").mkdir()
    with pytest.raises(HubError, match=r"SHA-256 .* expected, .* downloaded twice"):
        repository.fetch(shard.name, tmp_path / "source", threading.Event())
    assert list((tmp_path / "source").iterdir()) == []


# --- interrupted ---


def test_a_run_that_ends_midway_is_continued_without_the_shards_that_it_is_done_with(hub, tmp_path, expected):
    def stop(progress: Progress) -> None:
        if progress.done > progress.total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        from_hub(tmp_path / "out", watch=stop, sizes=Sizes(unflushed=1))
    first = set(downloaded(hub))
    hub.requests.clear()
    done = from_hub(tmp_path / "out")
    assert done.resumed_bytes > 0
    assert len(downloaded(hub)) < SHARDS
    assert first
    assert same(tmp_path / "out", expected)


def command(hub: HubServer, tmp_path: Path, *words: str) -> tuple[list[str], dict[str, str]]:
    environment = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DOWNLOAD_TIMEOUT": str(PATIENCE), "HF_HUB_ETAG_TIMEOUT": str(PATIENCE)}
    start = [sys.executable, "-c", "from mlxquant.cli import main; main()", "convert", "org/many"]
    return [*start, "-r", "gates-8bit", "--group-size", "32", "--unaligned", "keep", "-o", *words], environment


@pytest.mark.slow
def test_the_killed_command_goes_on_at_its_commit_though_the_branch_moved_on(hub, tmp_path, expected):
    words, environment = command(hub, tmp_path, str(tmp_path / "out"))
    hub.fail("/cdn/.*00005-of", stall=1, times=100)  # also the header's reading: a time to be killed in
    run = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + PATIENCE
    while not list((tmp_path / "out.partial/source").glob("*")) and time.monotonic() < until:
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    hub.faults.clear()
    repository = hub.repositories["org/many"]
    before, repository.commit = repository.commit, "f" * 40
    repository.revisions = ("main", before)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"going on at commit {before[:12]}" in done.stderr
    assert json.loads((tmp_path / "out/mlxquant.json").read_bytes())["source"]["revision"] == before
    assert same(tmp_path / "out", expected)


def test_another_revision_than_the_unfinished_ones_is_refused_with_both_commits(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    before = hub.repositories["org/many"].commit

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        from_hub(tmp_path / "out", watch=stop, sizes=Sizes(unflushed=1))
    hub.repositories["org/many"].commit = "f" * 40
    with pytest.raises(OutputError) as error:
        from_hub(tmp_path / "out", source="org/many@main")
    assert f"source.revision: {before} then, {'f' * 40} now" in str(error.value)


def test_a_read_that_waits_ends_when_the_work_is_stopped(hub, tmp_path):
    reader, failed = reader_of("org/many"), []
    name = next(n for n in reader.repository.listing.sizes if n.endswith(".safetensors"))
    hub.fail("/cdn/", stall=0.8, times=1)
    reader.prepare([frozenset({name})])
    reader.start(tmp_path / "source")

    def read() -> None:
        try:
            reader.read_into(name, 0, memoryview(bytearray(8)))
        except hub_client.Stopped as error:
            failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    reader.stop()
    thread.join(0.7)
    assert failed
    reader.close()
    assert staging.AHEAD == 2


def test_a_read_that_waits_for_the_usual_cache_ends_too(hub, tmp_path):
    reader = reader_of("org/many")
    name = next(n for n in reader.repository.listing.sizes if n.endswith(".safetensors"))
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(hub_client.Stopped):
        reader.repository.keep(name, stopped)


def test_a_source_that_is_converted_is_checked_against_its_build_from_the_hub(hub, tmp_path):
    from mlxquant.check.remake import verify_source
    from mlxquant.check.verify import verify

    from_hub(tmp_path / "out")
    result = verify_source(verify(tmp_path / "out"), tmp_path / "out", open_source("org/many", weights=True))
    assert result.differences == ()
    assert result.sample is not None


def test_a_source_with_other_bytes_than_listed_is_no_source_to_check_a_build_against(hub, tmp_path):
    from mlxquant.check.remake import verify_source
    from mlxquant.check.verify import verify

    from_hub(tmp_path / "out")
    hub.fail("/cdn/.*safetensors", instead=lambda body: body[:-1] + b"!", times=10**6)
    hub.faults[-1].times = 0
    source = open_source("org/many", weights=True)
    hub.faults[-1].times = 10**6
    with pytest.raises(HubError, match=r"SHA-256 .* downloaded twice"):
        verify_source(verify(tmp_path / "out"), tmp_path / "out", source)


def test_each_piece_needs_the_files_that_it_reads_and_no_others(tiny_any, monkeypatch):
    seen: set[str] = set()
    real = FolderReader.read_into

    def read_into(self: FolderReader, file: str, start: int, buffer: memoryview) -> None:
        seen.add(file)
        real(self, file, start, buffer)

    monkeypatch.setattr(FolderReader, "read_into", read_into)
    source = open_checkpoint(tiny_any)
    layout = read_layout(source)
    plan = make_plan(layout, load_recipe("gates-8bit", group_size=32, unaligned="keep"), source)
    todo = [p for output in outputs(plan, layout.views) for p in pieces(output)]
    for piece, needed in zip(todo, needs_of(todo), strict=True):
        seen.clear()
        for start, rows in piece.blocks:
            read_block(piece.output, source.read_into, start, rows, Scratch())
        assert seen == needed, piece.output.name
