"""Faults put under a conversion's writer: a failing operation, a dying process, a power cut."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlxquant.disk import files as disk


class Dead(BaseException):
    """The process is gone: nothing catches this, and nothing is written after it."""


@contextmanager
def hooked(hook: object) -> Iterator[None]:
    """Have `hook` called with operation and path before each change to the file system."""
    disk.on_change = hook  # type: ignore[assignment]
    try:
        yield
    finally:
        disk.on_change = None


class Count:
    """Counts the operations of a run."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, operation: str, path: str) -> None:
        self.seen.append(operation)


class Fail:
    """Fails one operation with an errno; those after it go through."""

    def __init__(self, at: int, code: int) -> None:
        self.left, self.code = at, code
        self.lock = threading.Lock()  # workers and the main thread write side by side

    def __call__(self, operation: str, path: str) -> None:
        with self.lock:
            self.left -= 1
            now = self.left == -1
        if now:
            raise OSError(self.code, os.strerror(self.code), path)


class Die:
    """Ends the process, as far as the disk can tell: from one operation on, none happens."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, operation: str, path: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise Dead


class AtRename:
    """Dies when all is done but the renaming."""

    def __call__(self, operation: str, path: str) -> None:
        if operation == "rename":
            raise Dead


class PowerCut(Die):
    """Dies like `Die`; `lose` then takes from the disk all that was not flushed by then.

    What a flush of a file made safe is its bytes at that time, of a folder the names in it. A file that nobody
    flushed is there with its length and no bytes, if its folder was flushed, else not at all.
    """

    def __init__(self, at: int, top: Path) -> None:
        super().__init__(at)
        self.top = top
        self.files: dict[Path, bytes] = {}
        self.folders: dict[Path, set[str]] = {}

    def __call__(self, operation: str, path: str) -> None:
        super().__call__(operation, path)
        where = Path(path)
        if operation == "fsync" and where.is_dir():
            self.folders[where] = {p.name for p in where.iterdir()}
        elif operation == "fsync":
            self.files[where] = where.read_bytes()

    def lose(self) -> None:
        """Bring the disk to where it would be when power returns."""
        for path in sorted(self.top.rglob("*"), reverse=True):
            known = path.name in self.folders.get(path.parent, set())
            if path.is_dir():
                if not known:
                    disk.remove(path)
            elif path in self.files:
                path.write_bytes(self.files[path])
            elif known:
                path.write_bytes(bytes(path.stat().st_size))
            else:
                path.unlink()
