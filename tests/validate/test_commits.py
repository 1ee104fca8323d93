"""A tolerance file's date comes from a repository that may be a stranger's, and nothing of it is run."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlxquant.disk.programs import ProgramError, program_folders, run_program
from mlxquant.validate.commits import CannotTellError, committed
from mlxquant.validate.verdict import FILE, UNKNOWN, written

DATE = datetime(2025, 12, 1, tzinfo=UTC)


def git(folder: Path, *words: str, date: datetime = DATE) -> None:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    dates = {"GIT_COMMITTER_DATE": date.isoformat(), "GIT_AUTHOR_DATE": date.isoformat()}
    own = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
    subprocess.run(
        ["git", "-C", str(folder), "-c", "protocol.file.allow=always", *words],
        check=True, capture_output=True, env={**os.environ, **who, **dates, **own},
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A committed file in a repository."""
    folder = tmp_path / "repository"
    (folder / "gates").mkdir(parents=True)
    path = folder / "gates" / "t.toml"
    path.write_text("max = 1\n")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "tolerances")
    return path


PROGRAMS = [
    "core.fsmonitor", "core.pager", "pager.log", "core.sshCommand", "core.askPass", "core.editor", "core.gitProxy",
    "core.alternateRefsCommand", "diff.external", "diff.x.textconv", "diff.x.command", "filter.x.clean",
    "filter.x.smudge", "filter.x.process", "gpg.program", "gpg.ssh.program", "credential.helper",
    "uploadpack.packObjectsHook", "alias.log", "alias.ls-tree", "alias.rev-list", "remote.origin.uploadpack",
    "trace2.eventTarget", "merge.x.driver",
]  # fmt: skip


def test_no_program_that_a_repository_names_is_run(file: Path, tmp_path: Path) -> None:
    marker, program = tmp_path / "RAN", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    folder = file.parent.parent
    for key in PROGRAMS:
        git(folder, "config", key, f"!{program}" if key.startswith("alias") else str(program))
    for key, value in (("log.showSignature", "true"), ("core.hooksPath", str(tmp_path / "hooks"))):
        git(folder, "config", key, value)
    included = tmp_path / "included"
    included.write_text(f"[core]\n\tfsmonitor = {program}\n")
    git(folder, "config", "include.path", str(included))
    (folder / ".gitattributes").write_text("* filter=x diff=x merge=x\n")
    (tmp_path / "hooks").mkdir()
    for hook in ("fsmonitor-watchman", "post-index-change", "reference-transaction"):
        (tmp_path / "hooks" / hook).write_text(program.read_text())
        (tmp_path / "hooks" / hook).chmod(0o755)
    os.utime(file, (0, 0))  # a status would hash it anew
    assert committed(file) == DATE
    assert not marker.exists()


def test_variables_that_a_folder_sets_do_not_reach_git(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    for name, value in {
        "GIT_TRACE": str(trace), "GIT_TRACE2_EVENT": str(trace), "GIT_DIR": "/nowhere", "GIT_EXEC_PATH": str(tmp_path),
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsmonitor", "GIT_CONFIG_VALUE_0": str(trace),
        "GIT_OBJECT_DIRECTORY": "/nowhere", "GIT_EXTERNAL_DIFF": str(trace),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert committed(file) == DATE
    assert not trace.exists()


def test_a_program_in_the_folder_at_hand_is_not_run(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = file.parent / "git"
    fake.write_text(f"#!/bin/sh\ntouch {file.parent}/RAN\n")
    fake.chmod(0o755)
    monkeypatch.chdir(file.parent)
    for path in (f".:{os.environ['PATH']}", f":{os.environ['PATH']}", f"./:{os.environ['PATH']}"):
        monkeypatch.setenv("PATH", path)
        assert committed(file) == DATE
    assert not (file.parent / "RAN").exists()
    assert program_folders("bin:.:") and all(Path(f).is_absolute() for f in program_folders("bin:.:"))


def test_the_last_commit_that_changed_the_file_counts(file: Path) -> None:
    folder, later = file.parent.parent, datetime(2026, 1, 1, tzinfo=UTC)
    (folder / "other").write_text("x")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "other", date=later)
    assert committed(file) == DATE
    file.write_text("max = 2\n")
    assert committed(file) is None
    git(folder, "commit", "-q", "-a", "-m", "loosened", date=later)
    assert committed(file) == later
    git(folder, "gc", "-q")  # packs objects and references
    assert committed(file) == later


def test_a_file_that_is_not_committed_has_the_files_time(file: Path, tmp_path: Path) -> None:
    new = file.with_name("-new file.toml")
    new.write_text("max = 1\n")
    assert committed(new) is None and written(new)[1] == FILE
    (tmp_path / "fresh").mkdir()
    git(tmp_path / "fresh", "init", "-q")
    (tmp_path / "fresh" / "t.toml").write_text("")
    assert committed(tmp_path / "fresh" / "t.toml") is None
    (tmp_path / "alone.toml").write_text("")
    assert committed(tmp_path / "alone.toml") is None


def test_worktrees_submodules_links_and_detached_heads_are_told_as_well(file: Path, tmp_path: Path) -> None:
    folder = file.parent.parent
    git(folder, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    assert committed(tmp_path / "side" / "gates" / "t.toml") == DATE
    git(folder, "checkout", "-q", "--detach")
    assert committed(file) == DATE
    whole = tmp_path / "whole"
    whole.mkdir()
    git(whole, "init", "-q")
    git(whole, "submodule", "add", "-q", str(folder), "part")
    assert committed(whole / "part" / "gates" / "t.toml") == DATE
    (tmp_path / "link.toml").symlink_to(file)
    assert committed(tmp_path / "link.toml") == DATE


def test_a_repository_of_sha256_is_told_as_well(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--object-format=sha256")
    (tmp_path / "t.toml").write_text("max = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    assert committed(tmp_path / "t.toml") == DATE


def test_a_shallow_clone_cannot_tell(file: Path, tmp_path: Path) -> None:
    folder = file.parent.parent
    (folder / "other").write_text("x")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "other", date=datetime(2026, 1, 1, tzinfo=UTC))
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{folder}", "clone")
    moment, why = written(tmp_path / "clone" / "gates" / "t.toml")
    assert moment is None and why.startswith(UNKNOWN) and "shallow" in why and "fetch-depth: 0" in why
    (tmp_path / "clone" / "own.toml").write_text("max = 1\n")  # of which no history is needed
    assert written(tmp_path / "clone" / "own.toml")[1] == FILE


def test_a_shallow_clone_tells_of_commits_that_it_has(file: Path, tmp_path: Path) -> None:
    folder, later = file.parent.parent, datetime(2026, 1, 1, tzinfo=UTC)
    file.write_text("max = 2\n")
    (folder / "other.toml").write_text("max = 1\n")
    git(folder, "commit", "-q", "-a", "-m", "loosened", date=later)
    git(tmp_path, "clone", "-q", "--depth", "2", f"file://{folder}", "clone")
    git(folder, "add", "other.toml")
    git(folder, "commit", "-q", "-m", "other", date=later)
    git(tmp_path, "clone", "-q", "--depth", "2", f"file://{folder}", "later")
    assert committed(tmp_path / "clone" / "gates" / "t.toml") == later
    with pytest.raises(CannotTellError, match="shallow"):  # the border holds all that is older
        committed(tmp_path / "later" / "gates" / "t.toml")


def test_without_git_it_cannot_be_told(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    moment, why = written(file)
    assert moment is None and "git is not installed" in why


@pytest.mark.parametrize(
    "head", ["", "ref: refs/heads/../../../secret\n", "ref: refs/heads/.invalid\n", "0" * 40 + "\n", "--output=x\n"]
)
def test_a_damaged_repository_cannot_tell(file: Path, head: str) -> None:
    (file.parent.parent / ".git" / "HEAD").write_text(head)
    with pytest.raises(CannotTellError):
        committed(file)


def test_a_pipe_in_a_repository_is_not_waited_for(file: Path) -> None:
    head = file.parent.parent / ".git" / "HEAD"
    head.unlink()
    os.mkfifo(head)
    with pytest.raises(CannotTellError):
        committed(file)


def test_a_program_that_fails_or_hangs_says_so() -> None:
    with pytest.raises(ProgramError, match="not installed"):
        run_program("no-such-program-here")
    with pytest.raises(ProgramError, match="failed"):
        run_program("false")
    with pytest.raises(ProgramError, match="took too long"):
        run_program("sleep", "5", seconds=0.1)
