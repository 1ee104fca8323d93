"""A file is written whole or not at all, over nothing that nobody named, and leaves nothing beside it."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mlxquant.disk import files as disk
from mlxquant.errors import OutputError
from tests.builds.write.faults import Count, Dead, Die, Fail, hooked

OLD, NEW = b"what was there", b"what is written" * 1000


def points(path: Path, *, replace: bool) -> int:
    with hooked(count := Count()):
        disk.write_whole(path, NEW, replace=replace)
    return len(count.seen)


@pytest.mark.parametrize("before", [None, OLD])
def test_a_write_that_fails_anywhere_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path, before: bytes | None):
    path = tmp_path / "record.json"
    for point in range(points(tmp_path / "counted", replace=before is not None)):
        folder = tmp_path / f"{point}"
        folder.mkdir()
        path = folder / "record.json"
        if before is not None:
            path.write_bytes(before)
        with hooked(Fail(point, errno.ENOSPC)), pytest.raises(OutputError, match="what was there is unchanged"):
            disk.write_whole(path, NEW, replace=before is not None)
        assert [p.name for p in folder.iterdir()] in (["record.json"], [])
        assert not path.exists() or path.read_bytes() in (before, NEW)


@pytest.mark.parametrize("before", [None, OLD])
def test_a_process_that_dies_anywhere_leaves_the_old_bytes_or_the_new(tmp_path: Path, before: bytes | None):
    for point in range(points(tmp_path / "counted", replace=before is not None)):
        folder = tmp_path / f"{point}"
        folder.mkdir()
        path = folder / "record.json"
        if before is not None:
            path.write_bytes(before)
        with hooked(Die(point)), pytest.raises(Dead):
            disk.write_whole(path, NEW, replace=before is not None)
        assert (path.read_bytes() if path.exists() else None) in (before, NEW)
        assert all(disk.TEMPORARY.fullmatch(p.name) for p in folder.iterdir() if p != path)


def test_a_file_that_is_there_is_replaced_only_where_it_may_be(tmp_path: Path):
    path = tmp_path / "record.json"
    path.write_bytes(OLD)
    with pytest.raises(OutputError, match="already exists; choose another name or remove it"):
        disk.write_whole(path, NEW, replace=False)
    assert path.read_bytes() == OLD
    disk.write_whole(path, NEW, replace=True)
    assert path.read_bytes() == NEW


def test_a_file_that_appears_while_another_is_written_is_not_replaced(tmp_path: Path):
    path = tmp_path / "record.json"

    def appear(operation: str, where: str) -> None:
        if operation == "link":
            path.write_bytes(OLD)

    with hooked(appear), pytest.raises(OutputError, match="already exists"):
        disk.write_whole(path, NEW, replace=False)
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_links_and_folders_are_neither_followed_nor_replaced(tmp_path: Path):
    theirs = tmp_path / "theirs"
    theirs.write_bytes(OLD)
    (tmp_path / "link").symlink_to(theirs)
    (tmp_path / "nowhere").symlink_to(tmp_path / "not there")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    for name in ("link", "nowhere", "folder", "pipe"):
        for replace in (False, True):
            with pytest.raises(OutputError, match=name):
                disk.write_whole(tmp_path / name, NEW, replace=replace)
    assert sorted(tmp_path.iterdir()) == before
    assert theirs.read_bytes() == OLD
    assert (tmp_path / "link").is_symlink()


def test_another_name_of_the_file_keeps_its_bytes(tmp_path: Path):
    (tmp_path / "kept").write_bytes(OLD)
    os.link(tmp_path / "kept", tmp_path / "record.json")
    disk.write_whole(tmp_path / "record.json", NEW, replace=True)
    assert (tmp_path / "kept").read_bytes() == OLD


def test_permissions_are_those_of_the_file_that_was_there_else_the_usual_ones(tmp_path: Path):
    old, umask = tmp_path / "old", os.umask(0o027)
    try:
        old.write_bytes(OLD)
        old.chmod(0o604)
        disk.write_whole(old, NEW, replace=True)
        disk.write_whole(tmp_path / "new", NEW, replace=False)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(old.stat().st_mode) == 0o604
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_a_file_system_without_hard_links_gets_the_file_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    disk.write_whole(tmp_path / "record.json", NEW, replace=False)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"record.json": NEW}
    (tmp_path / "other").write_bytes(OLD)
    with pytest.raises(OutputError, match="cannot link"):
        disk.link_new(tmp_path / "other", tmp_path / "record.json")
    assert (tmp_path / "record.json").read_bytes() == NEW


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        ("recipes --from {build} -o {out}", 0),
        ("report {record} -o {out}", 1),
        pytest.param("recipes --from {build} -o {out}", 1, marks=pytest.mark.slow),
        pytest.param("report {record} -o {out}", 0, marks=pytest.mark.slow),
    ],
)
def test_a_file_size_limit_is_one_line_and_exit_code_3(tmp_path: Path, root: Path, words: str, limit: int, tiny):
    record, out = root / "audits" / "store-moe" / "compare.json", tmp_path / "out"
    if "{build}" in words:
        from tests.support.builds import build

        build(tiny("qwen3_moe"), tmp_path / "build")
    told = words.format(record=record, out=out, build=tmp_path / "build").split()
    done = subprocess.run(
        [sys.executable, "-m", "mlxquant", *told],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"mlxquant: {out}: cannot be written (File too large)")
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] in ([], ["build"])


def test_a_link_in_a_circle_is_refused_as_an_output_and_harmless_beside_one(tmp_path: Path) -> None:
    from mlxquant.disk.outputs import OutputFile, check_outputs
    from mlxquant.errors import OutputError

    (tmp_path / "circle").symlink_to("circle")
    check_outputs([OutputFile("-o", tmp_path / "out")], [("the record", tmp_path / "circle")], tmp_path / "circle")
    with pytest.raises(OutputError, match="circle: a link"):
        check_outputs([OutputFile("-o", tmp_path / "circle")], [("the record", tmp_path / "none")])
