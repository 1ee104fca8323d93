"""Files that a command is told to write: refused before any work where they cannot be written, or must not be.

One rule for all commands. A file that is there stays: the command is refused. Only what is worked out of records in
seconds (a page, a verdict, tau2's table) replaces its own earlier version, known by how that begins (`earlier`). An
empty file holds nothing and counts as none. An input is never replaced, by whatever name or link it is called.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError, UsageError
from . import files as disk

# An input: the option or argument that named it, and where it lies
Input = tuple[str, str | Path]
_BEGINNING = 4096


def record_of(command: str) -> bytes:
    """How a record of a command (a pattern) begins, as a pattern for `OutputFile.earlier`."""
    return rb'\s*\{\s*"schema":\s*"mlxquant\.' + command.encode() + rb"/"


@dataclass(frozen=True)
class OutputFile:
    """A file to be written, as `option` names it; `earlier` is how one begins that may be replaced, if any may."""

    option: str
    path: Path
    earlier: bytes | None = None

    def write(self, text: str) -> None:
        """Write the whole text. Raises OutputError."""
        disk.write_whole(self.path, text.encode("utf-8", "replace"), replace=self._is_replaceable())

    def check(self) -> None:
        """Raise OutputError where the file could not be written now, or is there and stays."""
        folder = self.path.absolute().parent
        if not folder.is_dir():
            raise OutputError(f"{self.path}: cannot be written: its folder does not exist; make it first")
        if self.path.is_dir() or self.path.name in ("", ".."):
            raise OutputError(f"{self.path}: a folder; a file's name expected")
        if os.path.lexists(self.path):
            if not disk.is_file(self.path):
                raise OutputError(f"{self.path}: a link or no regular file; name the file itself")
            if not self._is_replaceable():
                raise OutputError(f"{self.path}: {disk.EXISTS}")
        try:
            handle, temporary = disk.open_new(folder)
        except OutputError as error:
            reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else str(error)
            raise OutputError(f"{self.path}: cannot be written ({reason}); choose another place") from error
        os.close(handle)
        disk.remove(temporary)

    def _is_replaceable(self) -> bool:
        """Whether what is there is nothing, or an earlier version of this file."""
        try:
            with self.path.open("rb") as file:
                beginning = file.read(_BEGINNING)
        except OSError:
            return False
        return not beginning or (self.earlier is not None and re.match(self.earlier, beginning) is not None)


def check_outputs(outputs: Sequence[OutputFile], inputs: Iterable[Input] = (), work: Path | None = None) -> None:
    """Refuse what cannot be written or must not be replaced, before anything is done.

    `inputs` are files and folders that are read, or that the command itself writes to: a word that names nothing that
    is there (a Hub id) is skipped, a Path is not. `work` is a work folder.

    Raises UsageError where an output is an input, lies in a folder that is read or in `work`, or is another output;
    OutputError where it exists and stays, or where its folder takes no file.
    """
    paths = [(name, Path(path)) for name, path in inputs if isinstance(path, Path) or _exists(Path(path))]
    for number, output in enumerate(outputs):
        if output.earlier is not None or not disk.is_file(output.path):
            _check_apart(output, paths)
        for other in outputs[:number]:
            if _is_same(output.path, other.path):
                raise UsageError(
                    f"{output.option} {output.path}: is what {other.option} names too; give each a file of its own"
                )
        if work is not None and disk.real_path(output.path).is_relative_to(disk.real_path(work)):
            raise UsageError(f"{output.option} {output.path}: lies in the work folder {work}; choose a place beside it")
    for output in outputs:
        output.check()


def _check_apart(output: OutputFile, inputs: Sequence[tuple[str, Path]]) -> None:
    for name, path in inputs:
        if _is_same(output.path, path):
            raise UsageError(f"{output.option} {output.path}: is the input {name} {path}; choose another name")
        if path.is_dir() and disk.real_path(output.path).is_relative_to(disk.real_path(path)):
            raise UsageError(
                f"{output.option} {output.path}: lies in {name} {path}, which is only read; choose a place beside it"
            )


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are of one file: by links and hard links too, and where none is there yet."""
    if _exists(one) and _exists(other):
        return one.samefile(other)
    return disk.real_path(one) == disk.real_path(other)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False
