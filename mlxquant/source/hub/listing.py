"""What the Hub says of a repository: its commit, and its files with sizes and hashes; checked as a stranger's text.

All that is used of the answer of /api/models is checked here, once: a commit is forty hex digits, a name is a path
within the repository that every system takes for the same, sizes are whole numbers, a SHA-256 has 64 hex digits. A
listing that breaks one of these is refused whole, since the rest of it would come from the same source.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import SourceError
from ..headers import load_json, shown
from .errors import HubError, endpoint

# Bytes of a listing, some 60,000 files; and files in it.
LISTING_BYTES = 16 << 20
MOST_FILES = 50_000
_COMMIT = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")
_MOST_BYTES = 255  # of a name, on most file systems
# Control, format (text direction) and surrogate characters, line and paragraph separators: a name shows what it is.
_UNSHOWN = ("Cc", "Cf", "Cs", "Zl", "Zp")


@dataclass(frozen=True)
class Listing:
    """One commit of a repository: sizes of its files, SHA-256 of those outside git, git's SHA-1 of others."""

    commit: str
    sizes: Mapping[str, int | None]
    hashes: Mapping[str, str] = field(default_factory=dict)
    blobs: Mapping[str, str] = field(default_factory=dict)
    private: bool = False


def read_listing(text: bytes, repository: str, revision: str | None) -> Listing:
    """Read the Hub's answer. Raises HubError naming the first thing that no Hub says."""
    try:
        answer = load_json(text, repository)
    except SourceError:
        raise _strange(repository, "no table of JSON") from None
    commit, siblings = answer.get("sha"), answer.get("siblings")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise _strange(repository, f"the commit '{shown(commit, 50)}', where forty hex digits are expected")
    if revision is not None and _COMMIT.fullmatch(revision) and revision != commit:
        raise _strange(repository, f"commit {commit[:12]} where {revision[:12]} was asked for")
    if not isinstance(siblings, list):
        raise _strange(repository, f"{shown(siblings, 40)} where a list of files is expected")
    if len(siblings) > MOST_FILES:
        raise HubError(f"{repository}: {endpoint()} lists {len(siblings):,} files; up to {MOST_FILES:,} are read")
    return replace(_files(commit, siblings, repository), private=answer.get("private") is True)


def _files(commit: str, siblings: list[Any], repository: str) -> Listing:
    sizes: dict[str, int | None] = {}
    hashes: dict[str, str] = {}
    blobs: dict[str, str] = {}
    known: dict[str, str] = {}
    for entry in siblings:
        name = entry.get("rfilename") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise _strange(repository, f"a file without a name ({shown(entry, 40)})")
        if fault := _name_fault(name):
            raise _strange(repository, f"a file named '{shown(name, 60)}' ({fault})")
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in known:
            raise _strange(repository, f"{shown(name, 60)} beside {shown(known[folded], 60)}, one file on some systems")
        known[folded] = name
        sizes[name] = _size(entry.get("size"), name, repository)
        lfs = entry.get("lfs")
        if lfs is not None:
            hashes[name] = _hash(lfs, name, sizes[name], repository)
        elif (blob := entry.get("blobId")) is not None:
            if not isinstance(blob, str) or not _COMMIT.fullmatch(blob):
                raise _strange(repository, f"{shown(name, 60)} with blobId {shown(blob, 50)}")
            blobs[name] = blob
    return Listing(commit, sizes, hashes, blobs)


def _name_fault(name: str) -> str:
    """Why a name is no path within the repository; empty if it is one."""
    if any(unicodedata.category(c) in _UNSHOWN for c in name):
        return "with characters that no terminal shows"
    if "\\" in name or ":" in name:
        return "with a backslash or colon"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "no path within the repository"
    if any(len(part.encode()) > _MOST_BYTES for part in name.split("/")):
        return f"longer than {_MOST_BYTES} bytes"
    return ""


def _size(size: object, name: str, repository: str) -> int | None:
    if size is None or (type(size) is int and 0 <= size < 1 << 63):
        return size
    raise _strange(repository, f"{shown(name, 60)} with the size '{shown(size, 40)}'")


def _hash(lfs: object, name: str, size: int | None, repository: str) -> str:
    """The SHA-256 of a file outside git."""
    digest = lfs.get("sha256") if isinstance(lfs, dict) else None
    if not isinstance(lfs, dict) or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise _strange(repository, f"{shown(name, 60)} with the SHA-256 {shown(digest, 80)}")
    if lfs.get("size") not in (None, size):
        raise _strange(repository, f"{shown(name, 60)} with two sizes, {size} and {shown(lfs['size'], 40)}")
    return digest


def _strange(repository: str, what: str) -> HubError:
    return HubError(
        f"{repository}: {endpoint()} answers what no Hub does: {what}; is a login page or proxy in between?"
    )
