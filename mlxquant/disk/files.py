"""Every change to the file system that a build makes goes through here, and nowhere else; and whole files are read.

So the tests can fail or kill the process at each of them in turn, and nothing that a build writes can escape
that. The operations are the operating system's own; what they add is that a short write is never taken for a
whole one, that "flushed" means on the disk also on macOS, and that a full disk is told in words.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import OutputError

T = TypeVar("T")

# Called with the operation's name and path before each change; tests set it.
on_change: Callable[[str, str], None] | None = None

# On macOS fsync leaves bytes in the drive's own cache; this goes through to the medium.
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


def read_regular(path: Path) -> bytes:
    """Read a whole file. Raises OSError, also for a pipe, a socket or a device, from which a read may never return."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "a pipe, socket or device; a regular file expected", str(path))
        with os.fdopen(os.dup(handle), "rb") as file:
            return file.read()
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Create a folder (and those above it) if it is not there."""
    _guard("mkdir", path, lambda: path.mkdir(parents=True, exist_ok=True))


def open_to_write(path: Path, size: int | None = None) -> int:
    """Open a file for positioned writes, keeping what is in it; with `size`, make it exactly that long.

    Raises OutputError, also where a symbolic link stands in its place: a build's files are its own.
    """

    def act() -> int:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            if size is not None and os.fstat(handle).st_size != size:
                os.ftruncate(handle, size)
        except OSError:
            os.close(handle)
            raise
        return handle

    return _guard("open", path, act)


def write_at(handle: int, data: memoryview, position: int, path: Path) -> None:
    """Write all of `data` at a position."""

    def act() -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(handle, data[done:], position + done)

    _guard("write", path, act)


def write_file(path: Path, data: bytes) -> None:
    """Write a whole small file and flush it to the disk."""
    handle = open_to_write(path, len(data))
    try:
        write_at(handle, memoryview(data), 0, path)
        flush(handle, path)
    finally:
        os.close(handle)


def flush(handle: int, path: Path) -> None:
    """Wait until a file's bytes are on the disk (fsync; on macOS F_FULLFSYNC where the file system has it)."""
    _guard("fsync", path, lambda: _sync(handle))


def flush_folder(path: Path) -> None:
    """Wait until a folder's entries are on the disk."""

    def act() -> None:
        handle = os.open(path, os.O_RDONLY)
        try:
            _sync(handle)
        finally:
            os.close(handle)

    _guard("fsync", path, act)


def rename(source: Path, target: Path) -> None:
    """Give a finished folder its name; the target must not exist."""
    _guard("rename", target, lambda: source.rename(target))


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, entry by entry; nothing there is fine too."""
    if path.is_dir() and not path.is_symlink():
        for entry in sorted(path.iterdir()):
            remove(entry)
        _guard("rmdir", path, path.rmdir)
    else:
        _guard("unlink", path, lambda: path.unlink(missing_ok=True))


def remove_empty(path: Path) -> bool:
    """Delete a folder if nothing is in it. Says whether it is gone."""

    def act() -> bool:
        try:
            path.rmdir()
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        return True

    return _guard("rmdir", path, act)


def free_bytes(path: Path) -> int:
    """Bytes that can still be written where `path` is, or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _sync(handle: int) -> None:
    if _FULL_SYNC is not None:
        try:
            fcntl.fcntl(handle, _FULL_SYNC)
        except OSError:
            pass  # a file system without it
        else:
            return
    os.fsync(handle)


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
        raise OutputError(
            f"{path}: cannot {operation} ({error.strerror}); what is finished is kept, run the same command again"
        ) from error
