"""A work folder is mlxquant's only where its marker says so; nothing that is not of mlxquant is deleted in it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mlxquant.disk.work_folder import LOCK, WorkFolder, check_apart
from mlxquant.errors import OutputError, UsageError
from tests.builds.write.faults import Count, Dead, Die, hooked

NAMES = ("journal.jsonl", "build/a", "build/b", "source/c")


def folder(path: Path, command: str = "convert", **options: object) -> WorkFolder:
    return WorkFolder(path, command, NAMES, makes=re.compile("|".join(NAMES)), **options)  # type: ignore[arg-type]


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def fill(path: Path) -> None:
    """Make all the files that the work has."""
    for name in NAMES:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)


def test_the_marker_names_tool_command_and_schema_and_goes_with_the_work(tmp_path: Path):
    work = folder(tmp_path / "work")
    with work.claimed():
        marker = json.loads((tmp_path / "work" / LOCK).read_text())
        assert (marker["schema"], marker["tool"], marker["command"]) == ("mlxquant.work/1", "mlxquant", "convert")
        assert marker["names"] == sorted(NAMES)
        fill(tmp_path / "work")
        work.remove()
        assert work.leave()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "theirs",
    [LOCK, "journal.jsonl", "build/a", "source/c", "build/thesis.tex", "state.npz", "source/model.safetensors"],
)
@pytest.mark.parametrize("text", ["", "years of work", '{"schema": "mine"}'])
def test_a_folder_without_a_marker_is_refused_whatever_lies_there(tmp_path: Path, theirs: str, text: str):
    path = tmp_path / "work" / theirs
    path.parent.mkdir(parents=True)
    path.write_text(text)
    for attempt in (folder(tmp_path / "work").check, lambda: folder(tmp_path / "work").claimed().__enter__()):
        with pytest.raises(OutputError, match="which mlxquant did not leave there"):
            attempt()
    assert contents(tmp_path / "work") == {theirs: text.encode()}


@pytest.mark.parametrize("theirs", ["thesis.tex", "build/thesis.tex", "source/deeper/thesis.tex", "build/a/thesis.tex"])
def test_what_somebody_put_into_a_marked_folder_is_a_reason_to_refuse_it(tmp_path: Path, theirs: str):
    path = tmp_path / "work" / theirs
    with folder(tmp_path / "work").claimed():
        path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("years of work")
    with pytest.raises(OutputError, match="which mlxquant did not leave there"), folder(tmp_path / "work").claimed():
        raise AssertionError
    assert path.read_text() == "years of work"


def by_link(path: Path, theirs: Path) -> None:
    path.symlink_to(theirs)


def by_hard_link(path: Path, theirs: Path) -> None:
    os.link(theirs, path)


@pytest.mark.parametrize("link", [by_link, by_hard_link])
@pytest.mark.parametrize("name", ["journal.jsonl", "build/a"])
def test_a_link_in_place_of_a_file_of_ours_is_refused(tmp_path: Path, link: Callable[[Path, Path], None], name: str):
    theirs = tmp_path / "theirs"
    theirs.write_text("years of work")
    with folder(tmp_path / "work").claimed():
        (tmp_path / "work" / name).parent.mkdir(exist_ok=True)
    link(tmp_path / "work" / name, theirs)
    with pytest.raises(OutputError, match="which mlxquant did not leave there"):
        folder(tmp_path / "work").check()
    assert theirs.read_text() == "years of work"


def test_a_link_in_place_of_a_folder_of_ours_is_refused(tmp_path: Path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a").write_text("years of work")
    with folder(tmp_path / "work").claimed():
        (tmp_path / "work" / "build").symlink_to(tmp_path / "theirs")
    with pytest.raises(OutputError, match="holds build, which mlxquant did not leave there"):
        folder(tmp_path / "work").check()


def test_what_appears_while_the_work_goes_on_stays(tmp_path: Path):
    work = folder(tmp_path / "work")
    with work.claimed():
        fill(tmp_path / "work")
        (tmp_path / "work" / "build" / "thesis.tex").write_text("years of work")
        work.remove()
        assert not work.leave()
    assert contents(tmp_path / "work") == {"build/thesis.tex": b"years of work"}


def test_a_folder_of_another_command_is_refused(tmp_path: Path):
    with folder(tmp_path / "work").claimed():
        pass
    with pytest.raises(OutputError, match="holds unfinished work of mlxquant convert"):
        folder(tmp_path / "work", "compare").check()


def test_an_empty_folder_that_was_there_before_stays(tmp_path: Path):
    work = folder(tmp_path)
    with work.claimed():
        fill(tmp_path)
        work.remove()
        work.leave()
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_folder_on_another_disk_may_be_a_work_folder(tmp_path: Path):
    (tmp_path / "large").mkdir()
    (tmp_path / "work").symlink_to(tmp_path / "large")
    work = folder(tmp_path / "work")
    with work.claimed():
        assert (tmp_path / "large" / LOCK).is_file()
        work.leave()
    assert (tmp_path / "work").is_symlink()
    assert list((tmp_path / "large").iterdir()) == []


def test_a_marker_that_names_a_file_outside_the_folder_does_not_reach_it(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    work = folder(tmp_path / "work")
    with work.claimed():
        pass
    marker = json.loads(work.lock.read_text())
    work.lock.write_text(json.dumps({**marker, "names": ["../thesis.tex", "/etc/passwd", "build/../../thesis.tex"]}))
    with folder(tmp_path / "work").claimed():
        folder(tmp_path / "work").remove()
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_whoever_dies_anywhere_while_taking_a_folder_leaves_one_that_the_next_can_take(tmp_path: Path):
    def take(path: Path) -> None:
        work = folder(path)
        with work.claimed():
            work.own(anew=True)

    with hooked(count := Count()):
        take(tmp_path / "counted")
    for point in range(len(count.seen)):
        path = tmp_path / f"{point}"
        with hooked(Die(point)), pytest.raises(Dead):
            take(path)
        work = folder(path)
        with work.claimed():
            work.remove()
            work.leave()
        assert not path.exists() or list(path.iterdir()) == []


def test_a_file_that_only_looks_like_an_unfinished_marker_is_somebodys(tmp_path: Path):
    path = tmp_path / "work" / f".mlxquant-{'0' * 32}"
    path.parent.mkdir()
    path.write_text("years of work")
    with pytest.raises(OutputError, match="which mlxquant did not leave there"):
        folder(tmp_path / "work").check()


def test_two_at_once_are_told_apart_and_shared_ones_are_not(tmp_path: Path):
    with (
        folder(tmp_path / "work").claimed(),
        pytest.raises(OutputError, match="another mlxquant works there"),
        folder(tmp_path / "work").claimed(),
    ):
        raise AssertionError
    with folder(tmp_path / "work", shared=True).claimed(), folder(tmp_path / "work", shared=True).claimed():
        pass


def test_inputs_in_above_or_at_a_work_folder_are_refused(tmp_path: Path):
    (tmp_path / "work" / "source").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "work")
    for path in (tmp_path / "work", tmp_path / "work" / "source", tmp_path / "link" / "source", tmp_path):
        with pytest.raises(UsageError, match="choose another"):
            check_apart(tmp_path / "work", [("the source", path)])
    check_apart(tmp_path / "work", [("the source", tmp_path / "work-source")])
    shutil.rmtree(tmp_path / "work")
    check_apart(tmp_path / "work", [("the source", tmp_path / "elsewhere")])


@pytest.mark.parametrize("theirs", ["thesis.tex", "build/thesis.tex", "source/main.py", "deep/er/thesis.tex"])
def test_a_marker_that_a_stranger_wrote_gives_nothing_of_the_user_s_away(tmp_path: Path, theirs: str):
    path = tmp_path / "work" / theirs
    path.parent.mkdir(parents=True)
    path.write_text("years of work")
    marker = {"schema": "mlxquant.work/1", "tool": "mlxquant", "command": "convert", "made_folder": True}
    (tmp_path / "work" / LOCK).write_text(json.dumps({**marker, "names": [*NAMES, theirs]}))
    with pytest.raises(OutputError, match="which mlxquant did not leave there"):
        folder(tmp_path / "work").check()
    with pytest.raises(OutputError, match="which mlxquant did not leave there"), folder(tmp_path / "work").claimed():
        pass
    assert path.read_text() == "years of work"
