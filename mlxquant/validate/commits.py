"""When a file was committed, asked of a repository that may come from a stranger.

Many settings of a repository name programs that git runs: core.fsmonitor, hooks, filters, textconv, a pager, a
signature checker, a partial clone's transport. So git never reads the repository's settings. It is given an empty
repository, made here, and takes from the stranger's only the objects, which are data. Which commit is checked out is
read here (HEAD, loose and packed references), and whether the file is as committed is told by its own hash.

Not read: reftable references, and what lies beyond a shallow clone's border or only at a partial clone's server. Those
are told as what cannot be told; a commit within the border is told also of a shallow clone.
"""

from __future__ import annotations

import hashlib
import re
import stat
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from ..disk.files import read_regular, real_path
from ..disk.programs import ProgramError, run_program

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REFERENCE = re.compile(r"ref: *(refs/\S+)")
_LARGEST = 64 << 20  # packed-refs of the largest repositories
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_ATTR_NOSYSTEM": "1",
}


class CannotTellError(Exception):
    """There is a repository, but when the file was committed cannot be told from it. Says why."""


def committed(path: Path) -> datetime | None:
    """When the commit was made that last changed a file; None where no repository keeps it as it is.

    Raises CannotTellError where there is a repository, but it does not tell.
    """
    try:
        path = real_path(path)
        top = next((folder for folder in path.parents if (folder / ".git").exists()), None)
        return None if top is None or not path.is_file() else _committed(top, path)
    except (OSError, ValueError) as error:
        raise CannotTellError(f"its repository cannot be read ({error})") from error
    except ProgramError as error:
        raise CannotTellError(str(error)) from error


def _committed(top: Path, path: Path) -> datetime | None:
    own, common = _folders(top)
    commit = _head(own, common)
    if commit is None:
        return None
    border = _border(common)
    with tempfile.TemporaryDirectory(prefix="mlxquant-") as empty:
        _make_empty(Path(empty), "sha256" if len(commit) == 64 else "sha1", border)
        variables = {**_ENVIRONMENT, "GIT_DIR": empty, "GIT_OBJECT_DIRECTORY": str(common / "objects")}
        name = path.relative_to(top).as_posix()

        def git(*words: str) -> str:
            return run_program("git", *words, variables=variables, folder=empty)

        entry = git("ls-tree", "-z", commit, "--", name).split()
        if len(entry) < 3 or entry[1] != "blob" or entry[2] != _blob_hash(path, len(commit)):
            return None
        seconds, _, last = git("rev-list", "--max-count=1", "--timestamp", commit, "--", name).strip().partition(" ")
    if last in border:  # which looks as if it had made all that is older
        raise CannotTellError(
            "a shallow clone lacks the history that would tell; fetch all of it: fetch-depth: 0 of"
            " actions/checkout, or git fetch --unshallow"
        )
    if not seconds.isdigit():
        raise CannotTellError("its repository does not hold the commit")
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        raise CannotTellError(f"its commit has no date ({seconds[:20]})") from None


def _folders(top: Path) -> tuple[Path, Path]:
    """The folders of HEAD and of objects, which differ in a worktree; there and in a submodule `.git` is a file."""
    own = top / ".git"
    if own.is_file():
        place = _text(own).strip()
        if not place.startswith("gitdir:"):
            raise ValueError(".git: a folder or `gitdir: PATH` expected")
        own = real_path(top / place.removeprefix("gitdir:").strip())
    shared = own / "commondir"
    common = real_path(own / _text(shared).strip()) if shared.exists() else own
    return own, common


def _head(own: Path, common: Path) -> str | None:
    """The hash of the commit that is checked out; None before the first one."""
    text = _text(own / "HEAD").strip()
    for _ in range(5):  # references to references; git itself follows five
        if _HASH.fullmatch(text):
            return text
        match = _REFERENCE.fullmatch(text)
        if match is None or ".." in match[1].split("/"):
            raise ValueError(f"HEAD: a commit or a reference expected, {text[:60]!r} found")
        if match[1] == "refs/heads/.invalid":
            raise CannotTellError("its repository keeps references as reftable")
        loose = [folder / match[1] for folder in (own, common)]
        text = next((_text(file).strip() for file in loose if file.exists()), None) or _packed(common, match[1])
        if not text:
            return None
    raise ValueError("HEAD: too many references to references")


def _packed(common: Path, reference: str) -> str:
    """What packed-refs says of a reference; "" where it has none."""
    file = common / "packed-refs"
    for line in _text(file).splitlines() if file.exists() else ():
        target, _, name = line.partition(" ")
        if name == reference:
            return target
    return ""


def _border(common: Path) -> frozenset[str]:
    """The commits whose parents a shallow clone lacks; none of a whole one."""
    file = common / "shallow"
    return frozenset(filter(_HASH.fullmatch, _text(file).split())) if file.exists() else frozenset()


def _text(file: Path) -> str:
    """Read a small file of a repository. Raises OSError or ValueError; a pipe would be waited for."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
        raise ValueError(f"{file.name}: a small file expected")
    return file.read_bytes().decode(errors="replace")


def _blob_hash(path: Path, digits: int) -> str:
    """What git calls a file's content: the hash of "blob LENGTH", a zero byte and the bytes."""
    data = read_regular(path)
    whole = b"blob %d\0" % len(data) + data
    return hashlib.sha256(whole).hexdigest() if digits == 64 else hashlib.sha1(whole, usedforsecurity=False).hexdigest()


def _make_empty(folder: Path, algorithm: str, border: Iterable[str] = ()) -> None:
    """Make a repository without objects, references, hooks or programs; history ends at the commits of `border`."""
    if border:
        (folder / "shallow").write_text("".join(f"{commit}\n" for commit in sorted(border)))
    for name in ("objects", "refs"):
        (folder / name).mkdir()
    (folder / "HEAD").write_text("ref: refs/heads/none\n")
    version, extension = (1, "[extensions]\n\tobjectFormat = sha256\n") if algorithm == "sha256" else (0, "")
    (folder / "config").write_text(
        f"[core]\n\trepositoryFormatVersion = {version}\n\tbare = true\n\tcommitGraph = false\n"
        f'{extension}[protocol]\n\tallow = "never"\n'
    )
