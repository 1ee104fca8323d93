"""Every change to the file system goes through here, and nowhere else: builds, records, pages; whole files are read.

So the tests can fail or kill the process at each of them in turn, and nothing that is written can escape that. The
operations are the operating system's own; what they add is that a short write is never taken for a whole one, that
"flushed" means on the disk also on macOS, that a full disk is told in words, and that no link is followed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from ..errors import OutputError

T = TypeVar("T")

# Called with the operation's name and path before each change; tests set it.
on_change: Callable[[str, str], None] | None = None

# On macOS fsync leaves bytes in the drive's own cache; this goes through to the medium.
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


# Bytes of a file that is read whole: records, recipes, texts.
LARGEST = 1 << 30


def read_regular(path: Path, most: int = LARGEST) -> bytes:
    """Read a whole file of at most `most` bytes.

    Raises OSError, also for a longer one, and for a pipe, a socket or a device, from which a read may never return.
    """
    with open_regular(path, most) as file:
        return file.read(most)


def open_regular(path: Path, most: int = LARGEST) -> BinaryIO:
    """Open a file of at most `most` bytes to read. Raises OSError as `read_regular` does."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "a pipe, socket or device; a regular file expected", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"{status.st_size:,} bytes; at most {most:,} are read", str(path))
        return os.fdopen(os.dup(handle), "rb")
    finally:
        os.close(handle)


def real_path(path: Path) -> Path:
    """Where a path leads through all links; of one that leads in a circle, as far as that goes (`resolve` raises)."""
    return Path(os.path.realpath(path))


def make_folder(path: Path) -> None:
    """Create a folder (and those above it) if it is not there."""
    _guard("mkdir", path, lambda: path.mkdir(parents=True, exist_ok=True))


def open_to_write(path: Path, size: int | None = None, *, create: bool = True) -> int:
    """Open a file for positioned writes, keeping what is in it; with `size`, make it exactly that long.

    Raises OutputError, also where a symbolic link stands in its place: a build's files are its own.
    """

    def act() -> int:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0), 0o644)
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


def cut(handle: int, size: int, path: Path) -> None:
    """Make an open file end after `size` bytes."""
    _guard("truncate", path, lambda: os.ftruncate(handle, size))


def write_file(path: Path, data: bytes) -> None:
    """Write a whole small file and flush it to the disk."""
    handle = open_to_write(path, len(data))
    try:
        write_at(handle, memoryview(data), 0, path)
        flush(handle, path)
    finally:
        os.close(handle)


EXISTS = "already exists; choose another name or remove it"
# What a file is called until it has its name: no name that a person gives, and too long to be met by chance.
TEMPORARY = re.compile(r"\.mlxquant-[0-9a-f]{32}")
# What says that a file system has no hard links.
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)


def write_whole(path: Path, data: bytes, *, replace: bool) -> None:
    """Write a file such that its name never stands for less than all of `data`.

    The bytes go to a new name beside it, are flushed, and then take the place of what is there; without `replace` a
    file that is there is refused. Raises OutputError; what was there is then unchanged, and nothing else is left.
    """
    try:
        mode = _mode_of(path)
        if mode is not None and not replace:
            raise OutputError(f"{path}: {EXISTS}")
        handle, temporary = open_new(path.parent)
        try:
            try:
                if mode is not None:
                    _guard("chmod", temporary, lambda: os.fchmod(handle, mode))
                write_at(handle, memoryview(data), 0, temporary)
                flush(handle, temporary)
            finally:
                os.close(handle)
            if replace:
                rename_over(temporary, path)
            else:
                link_new(temporary, path)
        except BaseException:
            with suppress(OutputError):
                remove(temporary)
            raise
    except OutputError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        reason = error.__cause__.strerror
        if isinstance(error.__cause__, FileExistsError):
            raise OutputError(f"{path}: {EXISTS}") from error
        raise OutputError(
            f"{path}: cannot be written ({reason}); what was there is unchanged: make room, or choose another place"
        ) from error


def open_new(folder: Path) -> tuple[int, Path]:
    """Create a file in `folder` under a name that is not taken; gives its handle and its path."""
    path = folder / f".mlxquant-{secrets.token_hex(16)}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    return _guard("open", path, lambda: os.open(path, flags, 0o666)), path


def link_new(temporary: Path, path: Path) -> None:
    """Give a finished file its name, and take the temporary one away; raises OutputError where the name is taken."""

    def act() -> None:
        try:
            os.link(temporary, path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            temporary.rename(path)

    _guard("link", path, act)
    remove(temporary)


def is_own(path: Path) -> bool:
    """Whether a path is a regular file with no other name, so that nothing elsewhere changes with it."""
    return is_file(path) and path.lstat().st_nlink == 1


def is_file(path: Path) -> bool:
    """Whether a regular file, and no link to one, is there."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def lock(handle: int, path: Path, busy: str, *, shared: bool = False) -> None:
    """Hold an open file against other processes until it is closed; a crash leaves no lock behind.

    Raises OutputError with the text `busy` where another process holds it.
    """
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(busy) from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be locked ({error.strerror}); choose another disk") from None


def _mode_of(path: Path) -> int | None:
    """Permissions of the file that is there, None where there is none. Raises OutputError for all that is no file."""
    try:
        state = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
    if stat.S_ISLNK(state.st_mode):
        raise OutputError(f"{path}: a link, which is not followed; name the file itself")
    if not stat.S_ISREG(state.st_mode):
        raise OutputError(f"{path}: no regular file; choose another name")
    return stat.S_IMODE(state.st_mode)


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


def rename_over(source: Path, target: Path) -> None:
    """Give a finished file the name of another, which it replaces."""
    _guard("rename", target, lambda: source.replace(target))


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


def names_below(folder: Path) -> list[str]:
    """Relative names of all that lies in a folder and the folders in it, but for these; links are not followed."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


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
