"""Where the bytes of a checkpoint's files come from: a folder here, or a repository on the Hub (see `staging`)."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Protocol

from ..errors import SourceError
from .links import open_own, own_files, read_own


class Reader(Protocol):
    """Where the bytes of a checkpoint's files come from."""

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of `file`, from any thread. Raises SourceError."""

    def beside(self) -> list[str]:
        """Names of the files that lie there, shards and all."""

    def read_whole(self, file: str) -> bytes:
        """Read a small file."""

    def stop(self) -> None:
        """Let reads that wait fail: their results are not wanted any more."""

    def close(self) -> None:
        """Let go of what reads have opened."""


class FolderReader:
    """Reads the files of a folder by position; each is opened once, when first read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handles: dict[str, int] = {}
        self._lock = threading.Lock()

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of `file`. Raises SourceError if the file ends or fails first."""
        try:
            handle = self._open(file)
        except OSError as error:
            raise SourceError(f"{file}: cannot be read at byte {start:,} ({error.strerror})") from error
        read_at(handle, file, start, buffer)

    def beside(self) -> list[str]:
        """Names of the files that lie there, shards and all."""
        return own_files(self.folder)

    def read_whole(self, file: str) -> bytes:
        """Read a small file."""
        return read_own(self.folder, file)

    def stop(self) -> None:
        """Do nothing: no read waits."""

    def close(self) -> None:
        """Close the files that reads have opened."""
        with self._lock:
            for handle in self._handles.values():
                os.close(handle)
            self._handles.clear()

    def _open(self, file: str) -> int:
        handle = self._handles.get(file)
        if handle is None:
            with self._lock:
                if file not in self._handles:
                    self._handles[file] = open_own(self.folder, file)
                handle = self._handles[file]
        return handle


def read_at(handle: int, file: str, start: int, buffer: memoryview) -> None:
    """Fill `buffer` from byte `start` of an open file. Raises SourceError if it ends or fails first."""
    done = 0
    try:
        while done < len(buffer):
            got = os.preadv(handle, [buffer[done:]], start + done)
            if got == 0:
                raise SourceError(
                    f"{file}: ends at byte {start + done:,}, but {start + len(buffer):,} were there"
                    " when it was opened; it changed while it was read, start again"
                )
            done += got
    except OSError as error:
        raise SourceError(f"{file}: cannot be read at byte {start + done:,} ({error.strerror})") from error
