"""A conversion that is interrupted anywhere goes on there, and ends in the bytes of one that never was.

Each change to the file system is a point where it may fail, the process may die, or the power be cut. All of them are
tried: a small build is made once to count them, then once for each.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxquant.builds.write.convert import ConvertOptions, convert
from mlxquant.disk import files as disk
from mlxquant.errors import NonFiniteError, OutputError
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.words.progress import Progress
from tests.builds.write.cases import SMALL, Run, runner
from tests.builds.write.faults import Count, Dead, Die, Fail, PowerCut, hooked
from tests.checkpoints import Size, write_tiny
from tests.support.builds import contents, patch, stored


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    write_tiny(tmp_path / "source", "mixtral", Size(layers=1, experts=2))
    # what a flush is for shows in a power cut alone, which is played by hand
    monkeypatch.setattr(disk, "_sync", lambda handle: None)
    return runner(tmp_path / "source")


@pytest.fixture
def whole(run: Run, tmp_path: Path) -> dict[str, bytes]:
    """Give the bytes of an undisturbed build."""
    run(tmp_path / "whole")
    return contents(tmp_path / "whole")


@pytest.fixture
def points(run: Run, tmp_path: Path) -> int:
    """Count the changes to the file system that a build makes."""
    with hooked(count := Count()):
        run(tmp_path / "counted")
    assert set(count.seen) == {"mkdir", "open", "write", "fsync", "link", "rename", "unlink", "rmdir"}
    return len(count.seen)


def test_no_change_to_the_disk_escapes_the_count(run, tmp_path, monkeypatch):
    """Python itself tells what is opened to be written, made, renamed and removed: all of it within `disk._guard`."""
    guarded, seen = threading.local(), list[str]()
    changes = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod")

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if listening and (event in changes or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))):
            seen.append(f"{event} {args[0]}")
            if str(tmp_path) in str(args[0]) and not getattr(guarded, "inside", False):
                escaped.append(seen[-1])

    def guard(operation: str, path: Path, act: Callable[[], Any]) -> Any:
        guarded.inside = True
        try:
            return original(operation, path, act)
        finally:
            guarded.inside = False

    original, escaped, listening = disk._guard, list[str](), True
    monkeypatch.setattr(disk, "_guard", guard)
    sys.addaudithook(audit)
    try:
        run(tmp_path / "out")
    finally:
        listening = False  # a hook cannot be taken away
    assert len(seen) > 15
    assert escaped == []


def partial(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def continued(run: Run, out: Path, whole: dict[str, bytes]) -> None:
    """Run once more, undisturbed: the build is whole, and nothing else is left."""
    run(out)
    assert contents(out) == whole
    assert not partial(out).exists()


@pytest.mark.slow
def test_a_write_that_fails_anywhere_is_told_and_the_rerun_is_byte_identical(run, whole, points, tmp_path):
    for point in range(points):
        out, code = tmp_path / f"failed-{point}", (errno.EIO, errno.ENOSPC)[point % 2]
        with hooked(Fail(point, code)), pytest.raises(OutputError) as error:
            run(out)
        assert "run the same command again" in str(error.value)
        assert not out.exists() or contents(out) == whole
        continued(run, out, whole)


@pytest.mark.slow
def test_after_a_process_that_died_anywhere_the_rerun_is_byte_identical(run, whole, points, tmp_path):
    for point in range(points):
        out = tmp_path / f"died-{point}"
        with hooked(Die(point)), pytest.raises(Dead):
            run(out)
        assert not out.exists() or contents(out) == whole
        continued(run, out, whole)


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_after_a_power_cut_anywhere_the_rerun_is_byte_identical(run, whole, points, tmp_path, step):
    for point in range(0, points, step):
        out = tmp_path / f"cut-{point}"
        with hooked(cut := PowerCut(point, partial(out))), pytest.raises(Dead):
            run(out)
        cut.lose()
        assert not out.exists() or contents(out) == whole
        continued(run, out, whole)


def test_all_bytes_of_a_build_are_on_the_disk_before_it_gets_its_name(run, tmp_path):
    out = tmp_path / "out"

    class AtRename(PowerCut):
        def __call__(self, operation: str, path: str) -> None:
            super().__call__(operation, path)
            if operation == "rename":
                folder = partial(out) / "build"
                assert {p: p.read_bytes() for p in folder.iterdir()}.items() <= self.files.items()
                assert {p.name for p in folder.iterdir()} == self.folders[folder]

    with hooked(AtRename(10**9, partial(out))):
        run(out)
    assert out.exists()


def test_a_rerun_makes_again_only_what_was_not_journaled(run, whole, points, tmp_path):
    taken = []
    for point in (*range(0, points - 8, 8), points - 5):  # the last is the renaming
        out, count = tmp_path / f"again-{point}", Count()
        with hooked(Die(point)), pytest.raises(Dead):
            run(out)
        with hooked(count):
            resumed = run(out).resumed_bytes
        taken.append((resumed, -count.seen.count("write")))
    assert taken == sorted(taken)  # the later it died, the more was kept, and the less was written
    assert taken[0][0] == 0
    assert taken[-1][0] == sum(len(tensor[2]) for tensor in stored(tmp_path / "again-0").values())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not let a process with Accelerate loaded be forked")
def test_processes_killed_at_every_write_leave_what_the_next_one_needs(whole, points, tmp_path):
    script = Path(__file__).with_name("die_everywhere.py")
    env = {**os.environ, "PYTHONPATH": str(script.parent.parent)}
    done = subprocess.run(
        [sys.executable, script, tmp_path / "source", tmp_path / "killed", str(points)],
        capture_output=True, text=True, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for point in range(points):
        assert contents(tmp_path / "killed" / f"{point}") == whole
        assert not partial(tmp_path / "killed" / f"{point}").exists()


# --- a full disk ---


@pytest.fixture
def disk_of_100_mb(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root on Linux")
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"this machine lets nobody mount a disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_midway_keeps_the_work_and_goes_on_when_there_is_room(run, whole, points, disk_of_100_mb):
    out, filler = disk_of_100_mb / "out", disk_of_100_mb / "filler"
    left = [points * 2 // 3]

    def fill_up(operation: str, path: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
                while True:
                    file.write(bytes(1 << 12))

    with hooked(fill_up), pytest.raises(OutputError) as error:
        run(out)
    assert "no space left on the disk; what is finished is kept, make room" in str(error.value)
    assert not out.exists()
    filler.unlink()
    assert run(out).resumed_bytes > 100_000
    assert contents(out) == whole


def test_a_disk_that_is_too_small_is_known_before_anything_is_written(run, disk_of_100_mb):
    (disk_of_100_mb / "filler").write_bytes(bytes(40 << 20))
    with pytest.raises(OutputError) as error:
        run(disk_of_100_mb / "new" / "out")
    assert "the build takes" in str(error.value)
    assert [p.name for p in disk_of_100_mb.iterdir()] == ["filler"]


# --- what is refused, midway ---


def test_a_refusal_that_dies_while_it_tidies_up_is_tidied_up_by_the_next(run, tmp_path):
    patch(tmp_path / "source", "lm_head.weight", b"\xc0\x7f", at=4)
    with hooked(count := Count()), pytest.raises(NonFiniteError):
        run(tmp_path / "counted")
    before = sorted(tmp_path.iterdir())
    for point in range(len(count.seen) - 12, len(count.seen)):
        with hooked(Die(point)), pytest.raises(Dead):
            run(tmp_path / "out")
        with pytest.raises(NonFiniteError):
            run(tmp_path / "out")
        assert sorted(tmp_path.iterdir()) == before


# --- the source, midway ---


def test_a_source_that_changes_midway_is_named_and_nothing_is_published(run, whole, tmp_path):
    shard = tmp_path / "source" / "model-00002-of-00003.safetensors"
    before, times = shard.read_bytes(), shard.stat()
    out = tmp_path / "out"

    def meddle(operation: str, path: str) -> None:
        if "model-00002" in path and operation == "write":
            shard.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))

    with hooked(meddle), pytest.raises(Exception, match=r"model-00002-of-00003.safetensors: changed while it was read"):
        run(out)
    assert not out.exists()
    shard.write_bytes(before)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    continued(run, out, whole)


def test_a_source_that_ends_midway_is_named_and_nothing_is_published(run, tmp_path):
    shard = tmp_path / "source" / "model-00003-of-00003.safetensors"

    def cut(operation: str, path: str) -> None:
        if "model-00002" in path and operation == "write":
            os.truncate(shard, 20_000)

    with hooked(cut), pytest.raises(Exception, match=r"model-00003-of-00003.safetensors: (ends at byte|changed)"):
        run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_progress_is_told_for_what_was_taken_over_as_well(run, tmp_path):
    with hooked(Die(60)), pytest.raises(Dead):
        run(tmp_path / "out")
    seen: list[Progress] = []
    layout = read_layout(open_checkpoint(tmp_path / "source"))
    plan = make_plan(layout, load_recipe("gates-8bit", group_size=32), open_checkpoint(tmp_path / "source"))
    convert(
        open_checkpoint(tmp_path / "source"),
        layout,
        plan,
        tmp_path / "out",
        ConvertOptions(threads=1, sizes=SMALL),
        seen.append,
    )
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total == seen[0].total
