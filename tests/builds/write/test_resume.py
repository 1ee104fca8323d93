"""What a later run believes of OUT.partial, what it refuses, and whom it lets in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_hexdigest

from mlxquant.builds.write.convert import Converted
from mlxquant.builds.write.partial import Partial
from mlxquant.builds.write.pieces import Sizes
from mlxquant.disk import files as disk
from mlxquant.disk.journal import read_entries
from mlxquant.errors import MlxquantError, NonFiniteError, OutputError
from mlxquant.plan.recipe.recipe import Recipe, parse_recipe
from tests.builds.write.faults import AtRename, Dead, hooked
from tests.checkpoints import Size, write_tiny
from tests.support import builds
from tests.support.builds import contents, flip, patch

NAN = b"\xc0\x7f"
SMALL = Sizes(piece=64 << 10, unflushed=128 << 10)


def build(*args: Any, **options: Any) -> Converted:
    """Convert in small portions."""
    return builds.build(*args, **{"sizes": SMALL, **options})


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(disk, "_sync", lambda handle: None)
    write_tiny(tmp_path / "source", "mixtral", Size(layers=1, experts=2))
    return tmp_path / "source"


@pytest.fixture
def out(source: Path, tmp_path: Path) -> Path:
    """Give an OUT whose OUT.partial holds a whole build, journaled and not yet published."""
    with hooked(AtRename()), pytest.raises(Dead):
        build(source, tmp_path / "out", threads=1)
    return tmp_path / "out"


@pytest.fixture
def whole(source: Path, tmp_path: Path) -> dict[str, bytes]:
    build(source, tmp_path / "whole", threads=1)
    return contents(tmp_path / "whole")


def partial(out: Path) -> Path:
    return Partial(out).folder


# --- what is believed ---


def test_nothing_that_is_proven_is_made_again(source, out, whole):
    written: list[str] = []
    with hooked(lambda operation, path: written.append(Path(path).name) if operation == "write" else None):
        done = build(source, out)
    assert contents(out) == whole
    assert written.count("model.safetensors") == 1  # its header
    assert done.resumed_bytes > 300_000


@pytest.mark.parametrize("where", [0, 3, 100, 5_000, 100_000, 200_000, -1])
def test_a_flipped_bit_in_the_unfinished_build_is_found_and_made_good(source, out, whole, where):
    flip(partial(out) / "build" / "model.safetensors", where)
    done = build(source, out)
    assert contents(out) == whole
    assert done.resumed_bytes > 150_000


def test_a_shard_that_merely_exists_is_not_trusted(source, out, whole):
    shard = partial(out) / "build" / "model.safetensors"
    shard.write_bytes(bytes(shard.stat().st_size))
    assert build(source, out).resumed_bytes == 0
    assert contents(out) == whole


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "audit.json", "mlxquant.json", "model.safetensors"])
def test_a_missing_or_damaged_file_of_the_unfinished_build_is_written_anew(source, out, whole, name):
    path = partial(out) / "build" / name
    path.write_bytes(path.read_bytes()[:100] + b"?")
    build(source, out)
    assert contents(out) == whole


def test_pieces_whose_error_sums_an_earlier_version_named_otherwise_are_made_again(source, out, whole):
    journal = partial(out) / "journal.jsonl"
    texts = [line.partition(b" ")[2] for line in journal.read_bytes().rstrip(b"\0").splitlines()]
    assert sum(b"worst_row_relative_rms_error" in text for text in texts) > 3
    renamed = [text.replace(b"worst_row_relative_rms_error", b"worst_row_error") for text in texts]
    journal.write_bytes(b"".join(b"%s %s\n" % (xxh3_64_hexdigest(text).encode(), text) for text in renamed))
    assert 0 < build(source, out).resumed_bytes < sum(len(data) for data in whole.values()) // 2
    assert contents(out) == whole


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_journal_that_was_cut_or_damaged_anywhere_costs_work_but_never_bytes(source, out, whole, data):
    saved = Path(f"{out}.kept")
    if not saved.exists():
        shutil.copytree(partial(out), saved)
    shutil.rmtree(partial(out), ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(saved, partial(out))
    journal = partial(out) / "journal.jsonl"
    lines, length = read_entries(journal)
    assert lines[0] is not None
    assert len(lines) > 10
    text = bytearray(journal.read_bytes())
    at = data.draw(st.integers(0, length - 1))
    match data.draw(st.sampled_from(["cut", "flip", "garbage", "nothing"])):
        case "cut":
            text = text[:at]
        case "flip":
            text[at] ^= 1 << data.draw(st.integers(0, 7))
        case "garbage":
            text[at:] = data.draw(st.binary(max_size=200))
    journal.write_bytes(text)
    try:
        build(source, out, threads=1)
    except OutputError as error:
        assert "--fresh" in str(error)  # the signature itself was hit
        build(source, out, threads=1, fresh=True)
    assert contents(out) == whole
    assert not partial(out).exists()


# --- whose work it is ---


def refusal(*args: object, **options: object) -> str:
    with pytest.raises(OutputError) as error:
        build(*args, **options)
    return str(error.value)


def test_work_of_another_recipe_is_refused_with_the_difference_and_fresh_starts_over(source, out, tmp_path):
    message = refusal(source, out, "uniform-8bit")
    assert "holds the unfinished work of another conversion; it differs in" in message
    assert "  recipe: gates-8bit --group-size 32 --unaligned keep then, uniform-8bit --group-size 32" in message
    assert "sha256" not in message and "…" not in message
    assert "--fresh" in message
    build(source, out, "uniform-8bit", fresh=True)
    build(source, tmp_path / "other", "uniform-8bit")
    assert contents(out) == contents(tmp_path / "other")


def test_a_recipe_file_that_was_changed_is_told_as_one_and_not_by_its_hashes(source, tmp_path):
    def recipe(bits: int, reason: str) -> Recipe:
        return parse_recipe(f"name='mine'\n[quantize]\nbits={bits}\ngroup_size=32\n[[rules]]\n"
                            f"match={{role='router'}}\nkeep=true\nreason='{reason}'\n")  # fmt: skip

    out = tmp_path / "out"
    with hooked(AtRename()), pytest.raises(Dead):
        build(source, out, recipe(8, "why"), threads=1)
    other, worded = refusal(source, out, recipe(4, "why")), refusal(source, out, recipe(8, "because"))
    assert other.splitlines()[1:-1] == ["  recipe: mine had other rules or another default then"]
    assert worded.splitlines()[1:-1] == [
        "  recipe: mine was worded otherwise then (name, summary, reasons), with the same rules"
    ]
    assert "run the command that began it to finish it; --fresh" in other


def test_every_option_that_changes_a_byte_is_part_of_the_signature(source, out):
    for option in ({"dtype": "float32"}, {"audit": False}, {"hash": False}, {"trust_remote_code": True}):
        ((name, value),) = option.items()
        assert f"options.{name}:" in refusal(source, out, **option)
        assert f"{value} now" in refusal(source, out, **option)


def test_options_that_change_no_byte_do_not_stop_a_run(source, out, whole):
    build(source, out, threads=3, max_memory=1 << 40)
    assert contents(out) == whole


def test_another_version_of_the_stack_is_refused(source, out, monkeypatch):
    from mlxquant.builds.write import signature

    monkeypatch.setattr(signature, "describe_versions", lambda: {"mlx": "0.0.1"})
    assert "versions.mlx: 0." in refusal(source, out)


@pytest.mark.parametrize("name", ["model-00002-of-00003.safetensors", "tokenizer.json", "config.json"])
def test_a_source_that_is_no_longer_the_same_is_refused(source, out, name):
    path = source / name
    data = path.read_bytes()
    path.write_bytes(data.replace(b"1000000", b"1000001") if name == "config.json" else data[:-3] + b" " + data[-2:])
    os.utime(path, ns=(0, 0))
    message = refusal(source, out)
    assert {"config.json": "source.config", "tokenizer.json": "source.copied.tokenizer.json"}.get(name, name) in message


def test_a_shard_replaced_by_another_of_the_same_size_and_time_is_noticed(source, out):
    shard = source / "model-00001-of-00003.safetensors"
    times = shard.stat()
    data = bytearray(shard.read_bytes())
    data[-4000:] = bytes(4000)
    shard.write_bytes(data)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "model-00001-of-00003.safetensors.sample" in refusal(source, out)


def test_values_that_nobody_looked_at_are_made_again_by_a_run_that_looks(source, tmp_path):
    sizes = replace(SMALL, worth_keeping=0)
    patch(source, "lm_head.weight", NAN, at=4000)
    out = tmp_path / "out"
    with hooked(AtRename()), pytest.raises(Dead):
        build(source, out, "none", allow_nonfinite=True, sizes=sizes)
    with pytest.raises(NonFiniteError, match=r"lm_head.weight: row 15, column 80"):
        build(source, out, "none", sizes=sizes)
    done = build(source, out, "none", allow_nonfinite=True, sizes=sizes)
    assert done.resumed_bytes > 0
    build(source, tmp_path / "whole", "none", allow_nonfinite=True)
    assert contents(out) == contents(tmp_path / "whole")


# --- whose folder it is ---


def test_a_folder_of_somebody_else_is_neither_used_nor_deleted(source, tmp_path):
    theirs = tmp_path / "out.partial" / "thesis.tex"
    theirs.parent.mkdir()
    theirs.write_text("years of work")
    for fresh in (False, True):
        assert "holds thesis.tex, which mlxquant did not leave there" in refusal(source, tmp_path / "out", fresh=fresh)
    assert theirs.read_text() == "years of work"


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("journal", ["", '{"my": "journal"}'])
def test_an_empty_journal_or_that_of_a_stranger_proves_nothing(source, tmp_path, fresh, journal):
    theirs = tmp_path / "out.partial" / "source" / "thesis.tex"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of work")
    (tmp_path / "out.partial" / "journal.jsonl").write_text(journal)
    assert "holds journal.jsonl, source, which mlxquant did not leave" in refusal(source, tmp_path / "out", fresh=fresh)
    assert theirs.read_text() == "years of work"


@pytest.mark.parametrize("where", ["build", "source", "."])
def test_starting_over_deletes_nothing_of_somebody_else(source, out, where):
    theirs = partial(out) / where / "model.safetensors.bak"
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("years of work")
    before = sorted(partial(out).rglob("*"))
    assert "which mlxquant did not leave there" in refusal(source, out, "uniform-8bit", fresh=True)
    assert sorted(partial(out).rglob("*")) == before


@pytest.mark.parametrize("fresh", [False, True])
def test_work_that_a_version_without_markers_began_is_taken_over(source, out, whole, fresh):
    (partial(out) / "lock").write_bytes(b"")
    assert (build(source, out, fresh=fresh).resumed_bytes > 0) != fresh
    assert contents(out) == whole
    assert not partial(out).exists()


def test_a_checkpoint_in_the_folder_for_unfinished_work_is_refused(source, tmp_path):
    (tmp_path / "out.partial").mkdir()
    source.rename(tmp_path / "out.partial" / "source")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MlxquantError):
        build(tmp_path / "out.partial" / "source", tmp_path / "out", fresh=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_put_into_the_unfinished_build_is_neither_published_nor_deleted(source, out, whole):
    stray = partial(out) / "build" / "notes.txt"
    stray.write_text("mine")
    assert "holds notes.txt" in refusal(source, out)
    assert stray.read_text() == "mine"
    stray.unlink()
    (partial(out) / "build" / ".DS_Store").write_bytes(b"Finder was here")
    build(source, out)
    assert contents(out) == whole


def test_a_file_or_a_link_in_place_of_the_folder_is_refused(source, tmp_path):
    (tmp_path / "out.partial").write_text("a file")
    assert "a folder for unfinished work expected" in refusal(source, tmp_path / "out")
    (tmp_path / "out.partial").unlink()
    (tmp_path / "out.partial").symlink_to(tmp_path / "elsewhere")
    assert "a folder for unfinished work expected" in refusal(source, tmp_path / "out")


def test_a_link_in_place_of_the_unfinished_build_is_refused(source, out, tmp_path):
    (partial(out) / "build").rename(tmp_path / "elsewhere")
    (partial(out) / "build").symlink_to(tmp_path / "elsewhere")
    assert "holds build, which mlxquant did not leave there" in refusal(source, out)


def test_a_link_in_place_of_a_shard_is_not_followed(source, out, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    shard = partial(out) / "build" / "model.safetensors"
    shard.unlink()
    shard.symlink_to(victim)
    assert "holds model.safetensors, which mlxquant did not leave there" in refusal(source, out)
    assert victim.read_text() == "untouched"


def test_an_out_that_appears_meanwhile_is_left_alone_and_the_work_is_kept(source, out, whole):
    def appear(operation: str, path: str) -> None:
        if path.endswith("mlxquant.json") and operation == "open":
            out.mkdir()

    with hooked(appear):
        assert "another process made it meanwhile" in refusal(source, out)
    assert list(out.iterdir()) == []
    out.rmdir()
    build(source, out)
    assert contents(out) == whole


def test_an_out_of_other_making_is_not_taken_for_the_end_of_this_work(source, out):
    shutil.rmtree(partial(out) / "build")
    out.mkdir()
    (out / "config.json").write_text("{}")
    assert "exists already" in refusal(source, out)
    assert partial(out).exists()


# --- two at once ---


def test_a_second_run_on_the_same_out_is_told_so(source, out, whole):
    with Partial(out).claimed():
        assert "another mlxquant is writing it right now" in refusal(source, out)
    build(source, out)
    assert contents(out) == whole


HOLD = """
import sys, time
from dataclasses import replace
from pathlib import Path
from typing import Any
from mlxquant.builds.write.convert import Converted
from mlxquant.builds.write.partial import Partial
with Partial(Path(sys.argv[1])).claimed():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_crash_leaves_no_lock_behind(source, out, whole, root):
    env = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, env=env) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert "another mlxquant" in refusal(source, out)
        holder.kill()
    build(source, out)
    assert contents(out) == whole
