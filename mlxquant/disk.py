"""Every change to the file system that a build makes goes through here, and nowhere else.

So the tests can fail or kill the process at each of them in turn, and nothing that a build writes can escape
that. The operations are the operating system's own; what they add is that a short write is never taken for a
whole one, and that a full disk is told in words.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .errors import OutputError

T = TypeVar("T")

# Called with the operation's name and path before each change; tests set it.
on_change: Callable[[str, str], None] | None = None


def make_folder(path: Path) -> None:
    """Create a folder (and those above it) if it is not there."""
    _guard("mkdir", path, lambda: path.mkdir(parents=True, exist_ok=True))


def open_to_write(path: Path, size: int | None = None) -> int:
    """Open a file for positioned writes, keeping what is in it; with `size`, make it exactly that long."""

    def act() -> int:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if size is not None and os.fstat(handle).st_size != size:
            os.ftruncate(handle, size)
        return handle

    return _guard("open", path, act)


def write_at(handle: int, data: memoryview, position: int, path: Path) -> None:
    """Write all of `data` at a position."""

    def act() -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(handle, data[done:], position + done)

    _guard("write", path, act)


def append(handle: int, data: bytes, path: Path) -> None:
    """Write `data` at the end of a file opened with `open_to_write`."""

    def act() -> None:
        os.lseek(handle, 0, os.SEEK_END)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]

    _guard("append", path, act)


def write_file(path: Path, data: bytes) -> None:
    """Write a whole small file and flush it to the disk."""
    handle = open_to_write(path, len(data))
    try:
        write_at(handle, memoryview(data), 0, path)
        flush(handle, path)
    finally:
        os.close(handle)


def flush(handle: int, path: Path) -> None:
    """Wait until a file's bytes are on the disk (fsync)."""
    _guard("fsync", path, lambda: os.fsync(handle))


def flush_folder(path: Path) -> None:
    """Wait until a folder's entries are on the disk."""

    def act() -> None:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    _guard("fsync", path, act)


def rename(source: Path, target: Path) -> None:
    """Give a finished folder its name; the target must not exist."""
    _guard("rename", target, lambda: os.rename(source, target))


def remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it; nothing there is fine too."""

    def act() -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    _guard("remove", path, act)


def free_bytes(path: Path) -> int:
    """Bytes that can still be written where `path` is, or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _guard(operation: str, path: Path, act: Callable[[], T]) -> T:
    """Run one change; a full disk or a refusal becomes an OutputError that says what to do."""
    try:
        if on_change is not None:
            on_change(operation, str(path))
        return act()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"{path}: no space left on the disk; what is finished is kept, make room and run the same command again"
            ) from error
        raise OutputError(f"{path}: cannot {operation} ({error.strerror})") from error
