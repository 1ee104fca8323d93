"""OUT.partial: where a build lies until it is complete, and who may touch it.

    OUT.partial/build/          the files of the build, published by renaming this folder to OUT
    OUT.partial/journal.jsonl   what is finished (see `journal`)
    OUT.partial/source/         shards that were downloaded and are still needed, or on their way (see `staging`)
    OUT.partial/lock            held while a run is at work; the lock is the kernel's, so a crash leaves none behind

Whatever else lies there is somebody's, and is never taken over, published or deleted.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError, UsageError
from . import files as disk
from .journal import read_entries

BUILD, JOURNAL, LOCK, SOURCE = "build", "journal.jsonl", "lock", "source"


class Partial:
    """The work in progress towards `out`. Nothing is written before `claimed`."""

    def __init__(self, out: Path) -> None:
        if out.name in ("", "..") and not os.path.lexists(out):
            raise UsageError(f"{out}: a name for the build's folder expected, such as ./build")
        self.out = out
        self.folder = out.parent / f"{out.name}.partial"
        self.build = self.folder / BUILD
        self.journal = self.folder / JOURNAL
        self.source = self.folder / SOURCE
        self._made: list[Path] = []

    def check(self) -> None:
        """Raise OutputError where OUT.partial is not what a run of ours left, or cannot become OUT by a rename."""
        if not os.path.lexists(self.folder):
            return
        if self.folder.is_symlink() or not self.folder.is_dir():
            raise OutputError(
                f"{self.folder}: a folder for unfinished work expected, a file or link found; move it away"
            )
        names = _names(self.folder)
        strange = (names - {BUILD, JOURNAL, LOCK, SOURCE}) | {n for n in names if (self.folder / n).is_symlink()}
        if JOURNAL not in names:
            strange |= names & {BUILD, SOURCE}
        if strange:
            raise OutputError(
                f"{self.folder}: holds {_some(strange)}, which mlxquant did not leave there;"
                " unfinished work goes into that folder: move it away, or choose another OUT"
            )
        if self.folder.stat().st_dev != self.out.parent.stat().st_dev:
            raise OutputError(f"{self.folder}: lies on another disk than {self.out.parent}, so it cannot become OUT")

    def check_files(self, expected: Set[str]) -> None:
        """Raise OutputError where the unfinished build holds what this build has no place for."""
        strange = _names(self.build) - expected if self.build.is_dir() else set()
        if strange:
            raise OutputError(f"{self.build}: holds {_some(strange)}, which is no part of this build; move it away")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold OUT against a second run, making OUT.partial if need be.

        Raises OutputError where another process holds it.
        """
        self._made = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        handle = None
        try:
            try:
                handle = self._lock()
                for folder in self._made:
                    disk.flush_folder(folder.parent)
            except OutputError:
                if self._made:
                    with suppress(OutputError):
                        self.discard()
                raise
            yield
        finally:
            if handle is not None:
                os.close(handle)

    def publish(self) -> None:
        """Give the finished build its name, and wait until the disk knows it."""
        for name in _LITTER & {p.name for p in self.build.iterdir()}:
            disk.remove(self.build / name)
        disk.flush_folder(self.build)
        if os.path.lexists(self.out):
            raise OutputError(
                f"{self.out}: somebody else made it meanwhile; the finished build is kept in {self.folder}:"
                " move that OUT away and run the same command again"
            )
        disk.rename(self.build, self.out)
        disk.flush_folder(self.out.parent)

    def clear(self) -> None:
        """Take the folder away, in an order that a crash may cut anywhere: the journal outlives the build."""
        litter = [self.folder / name for name in sorted(_LITTER)]
        for path in (self.source, self.build, self.journal, *litter, self.folder / LOCK):
            if os.path.lexists(path):
                disk.remove(path)
        disk.remove_empty(self.folder)  # not if another run has just moved in

    def discard(self) -> None:
        """Leave nothing behind: neither the folder nor those above it that were made for it."""
        self.clear()
        for folder in self._made[1:]:
            if not disk.remove_empty(folder):
                break

    def held_bytes(self) -> int:
        """Bytes of the disk that the unfinished work takes already."""
        if not self.folder.is_dir():
            return 0
        return sum(p.stat().st_blocks * 512 for p in self.folder.rglob("*") if p.is_file())

    def holds_source(self) -> bool:
        """Whether a byte of the source was downloaded, which is worth keeping."""
        return self.source.is_dir() and any(p.stat().st_size for p in self.source.iterdir())

    def begun_at(self, name: str) -> str | None:
        """The commit of the repository `name` that the unfinished work here was begun at, if it was."""
        entries, _ = read_entries(self.journal)
        source = entries[0].get("source", {}) if entries and entries[0] is not None else {}
        return source.get("revision") if source.get("name") == name else None

    def _lock(self) -> int:
        path = self.folder / LOCK
        while True:
            disk.make_folder(self.folder)
            try:
                handle = disk.open_to_write(path)
            except OutputError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    continue  # the run that held it took the folder away just now
                raise
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                raise OutputError(
                    f"{self.out}: another mlxquant is writing it right now; wait for it, or choose another OUT"
                ) from None
            except OSError as error:
                os.close(handle)
                raise OutputError(f"{path}: cannot be locked ({error.strerror}); choose another disk") from None
            if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
            os.close(handle)  # the run that held it took the file away just now


# What macOS's Finder leaves in any folder that it shows.
_LITTER = {".DS_Store"}


def _names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - _LITTER


def _some(names: Set[str], limit: int = 3) -> str:
    shown = sorted(names)
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")
