"""Files of a folder that are the folder's own, and links that lead out of it.

A checkpoint from a stranger may hold a link to a file of the user's (git, tar and rsync keep links). What it leads to
would be copied into a build, and published by `upload`. So a link counts as a file of its folder only where it ends in
it. One lead out is allowed: in the Hub's cache, `snapshots/COMMIT/FILE` links to `blobs/HASH` of the same repository,
which may itself link to the store `blobs/HA/HASH` that huggingface_hub's version 2 keeps for the whole cache.

A hard link cannot be told from a file, nor be sent by a stranger. Folders above the one at hand are the user's choice.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import SourceError
from .headers import shown

# Where transformers keeps chat templates that have names; more of them are no tokenizer that anyone has.
TEMPLATES = "additional_chat_templates"
MOST_TEMPLATES = 100
_TEMPLATE = re.compile(r"[\w][\w.-]{0,200}\.jinja", re.ASCII)
_SHARED, _SHARED_MARKER = re.compile("[0-9a-f]{64}"), ".huggingface-shared-blobs"
_KINDS = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISDIR, "a folder"))


def read_own(folder: Path, name: str, most: int) -> bytes:
    """Read a file of a folder, of at most `most` bytes. SourceError for a longer one, a stray link, no file."""
    handle = open_own(folder, name)
    with os.fdopen(handle, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise SourceError(f"{name}: more than {most:,} bytes; files beside the weights are read up to that")
    return data


def open_own(folder: Path, name: str) -> int:
    """Open a file of a folder to read it, and no other: neither by a link that leads out, nor a pipe.

    What is opened is looked at, so a link that is put there meanwhile is not followed. Raises SourceError, OSError.
    """
    if why := fault(folder, name):
        raise SourceError(f"{name}: {why}")
    place = (folder / name).resolve()
    if not _inside(folder.resolve(), place):
        raise SourceError(f"{name}: became a link that leads out of the folder while it was opened; do not trust it")
    handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise SourceError(f"{name}: {_NO_FILE.format('something else')}")
    return handle


def own_files(folder: Path) -> list[str]:
    """Names of a folder's own files, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and fault(folder, path.name) is None)


def own_templates(folder: Path) -> list[str]:
    """Names of a folder's named chat templates that are its own: ``additional_chat_templates/NAME.jinja``, sorted."""
    names = _templates(folder)
    return [n for n in names[:MOST_TEMPLATES] if (folder / n).is_file() and fault(folder, n) is None]


def is_template(name: str) -> bool:
    """Whether a relative name is that of a named chat template, and leads nowhere else."""
    above, _, last = name.partition("/")
    return above == TEMPLATES and _TEMPLATE.fullmatch(last) is not None


def _templates(folder: Path) -> list[str]:
    below = folder / TEMPLATES
    if below.is_symlink() or not below.is_dir():
        return []
    return sorted(name for path in below.iterdir() if is_template(name := f"{TEMPLATES}/{path.name}"))


def strays(folder: Path) -> Iterator[tuple[str, str]]:
    """What lies in a folder and is neither a file of its own nor a folder: name and what is wrong with it."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            continue
        if why := fault(folder, path.name):
            yield path.name, why
    for name in _templates(folder):
        if why := fault(folder, name):
            yield name, why


def fault(folder: Path, name: str) -> str | None:
    """Why an entry of a folder is no file of its own; None where it is one, or where there is nothing of the name."""
    path = folder / name
    if not os.path.lexists(path):
        return None
    target = shown(str(path.readlink())) if path.is_symlink() else None
    try:
        place = path.resolve()
        if target and not _inside(folder.resolve(), place):
            return f"a link that leads out of the folder (to {target}); put the file itself there"
        mode = place.stat().st_mode
    except (OSError, RuntimeError):  # the latter: a link to itself
        return f"a link to nothing ({target}); put the file itself there" if target else None
    if target and stat.S_ISDIR(mode):
        return None  # a link to one of its own folders
    if not stat.S_ISREG(mode):
        return _NO_FILE.format(next((kind for test, kind in _KINDS if test(mode)), "a device"))
    return None


_NO_FILE = "a file expected, {} found; put the file itself there"


def _inside(folder: Path, place: Path) -> bool:
    """Whether a place without links is of a folder, or of the blobs that a snapshot in the Hub's cache links to."""
    if place.is_relative_to(folder):
        return True
    repository = folder.parent.parent
    if folder.parent.name != "snapshots":
        return False
    return place.parent == repository / "blobs" or _is_shared(repository, place)


def _is_shared(repository: Path, place: Path) -> bool:
    """Whether a place is of the store that all repositories of the Hub's cache share; its names are hashes."""
    store = repository.parent / "blobs"
    hashed = _SHARED.fullmatch(place.name) is not None and place.parent == store / place.name[:2]
    return hashed and repository.name.startswith("models--") and (store / _SHARED_MARKER).is_file()
