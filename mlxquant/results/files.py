"""Files as a harness may have left them: JSON, JSON lines, a zip of JSON; packed by gzip or not. Bounded, not trusted.

A file is recognised by what is in it, so it is opened once to see its form and first entry (`open_file`), and read by
the reader of the harness that knows it. Nothing is unpacked to disk and nothing in a file is executed. What JSON cannot
say and Python writes all the same (NaN, infinity) comes out as None. No more is read than `LARGEST` bytes of a file and
of what it unpacks to, and `_LINE` of a line.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from ..disk.files import LARGEST, open_regular
from ..errors import RecordError
from ..words.strict_json import deeper_than
from ..words.text import printable
from .zips import Archive

_GZIP, _ZIP = b"\x1f\x8b", b"PK"
_LINE = 1 << 27
_DIGITS, _DEEPEST = 300, 200
_FILES, _DEPTH = 20_000, 12
# what other tools leave beside results
_ENDINGS = (".json", ".jsonl", ".eval", ".gz", ".ndjson", "")


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A file that may hold results. `first` is its value ("json"), its first entry ("lines"), or None ("zip")."""

    path: Path
    form: Literal["json", "lines", "zip"]
    first: Any

    @property
    def name(self) -> str:
        """Its name, as messages show it."""
        return printable(self.path.name)

    def rows(self, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each line's table with its number; a line that is none becomes a line of `problems`."""
        with _opened(self.path) as file:
            for number, line in _lines(file, self.path):
                if not line.strip():
                    continue
                try:
                    row = parse(line)
                except ValueError as error:
                    problems.append(f"{self.name}: line {number:,}: {error}; left out")
                    continue
                if isinstance(row, dict):
                    yield number, row
                else:
                    problems.append(f"{self.name}: line {number:,}: a table expected, a {type(row).__name__} found")

    def archive(self) -> Archive:
        """The zip, to be closed."""
        return Archive(self.path)

    def sha256(self) -> str:
        """SHA-256 of the file's bytes."""
        with _caught(self.path), open_regular(self.path) as file:
            return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()


def files_of(path: Path, problems: list[str] | None = None) -> list[ResultFile]:
    """The file that a path names, or all in the folder (and those below it) that have a form of results.

    Raises RecordError for a single file of another form; in a folder such files are passed over, each with a line of
    `problems`: an empty or cut one may have been results.
    """
    if not path.is_dir():
        return [open_file(path)]
    opened = []
    for below in _walk(path):
        try:
            opened.append(open_file(below))
        except RecordError as error:
            if problems is not None and below.suffix:  # such as LICENSE
                problems.append(f"{error}; left out")
    return opened


def open_file(path: Path) -> ResultFile:
    """See what form a file has. Raises RecordError for one that cannot be read, or is none of them."""
    with _opened(path) as file:
        start = file.peek(len(_ZIP))[: len(_ZIP)]
        if start == _ZIP:
            return ResultFile(path, "zip", None)
        first = file.readline(_LINE + 1)
        while first and not first.strip():
            first = file.readline(_LINE + 1)
        if not first:
            raise RecordError(f"{path}: the file is empty; the run wrote nothing, or was ended before it did")
        try:
            value = parse(first)
        except ValueError:
            value = None
        if isinstance(value, dict) and (file.peek(1).strip() or not _is_document(value)):
            return ResultFile(path, "lines", value)
        try:
            return ResultFile(path, "json", parse(first + file.read(LARGEST)))
        except ValueError as error:
            raise RecordError(f"{path}: JSON, JSON lines or a zip expected: {error}") from None


def _is_document(table: Mapping[str, Any]) -> bool:
    """Whether a table on one line is a whole document, and not the one line of JSON lines."""
    return any(isinstance(value, dict | list) and len(value) > 0 for value in table.values()) and not (
        {"doc_id", "task_id", "id", "question_id", "total_count"} & table.keys()
    )


def parse(text: bytes) -> Any:
    """Read JSON that Python may have written. Raises ValueError for what is none, or no one could work with."""
    try:
        value = json.loads(
            text.decode("utf-8-sig", "replace"), parse_constant=lambda _: None, parse_int=_int, parse_float=_float
        )
    except RecursionError:
        raise ValueError(f"tables and lists stand more than {_DEEPEST} deep in each other") from None
    if deeper_than(value, _DEEPEST):
        raise ValueError(f"tables and lists stand more than {_DEEPEST} deep in each other")
    return value


def hashed(value: Any) -> str:
    """A hash of any JSON value, to tell whether two are the same."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _int(digits: str) -> int | None:
    return int(digits) if len(digits) <= _DIGITS else None


def _float(digits: str) -> float | None:
    return value if math.isfinite(value := float(digits)) else None


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, in order, without following links to folders; no more than `_FILES` of them."""
    count = 0
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < _DEPTH else []
        for name in sorted(names):
            if name.startswith(".") or Path(name).suffix.lower() not in _ENDINGS:
                continue
            count += 1
            if count > _FILES:
                raise RecordError(f"{folder}: more than {_FILES:,} files; give the folder of one run's results")
            yield Path(place) / name


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    size = 0
    for number in range(1, LARGEST):
        line = file.readline(_LINE + 1)
        size += len(line)
        if not line:
            return
        if len(line) > _LINE or size > LARGEST:
            raise RecordError(f"{path}: line {number:,}: at most {_LINE:,} bytes a line are read, {LARGEST:,} in all")
        yield number, line


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    """A file to read, through gzip where it is packed. Raises RecordError for all that goes wrong meanwhile."""
    with _caught(path), open_regular(path) as file:
        raw = cast(io.BufferedReader, file)
        packed = raw.peek(len(_GZIP))[: len(_GZIP)] == _GZIP
        yield io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=raw))) if packed else raw


@contextmanager
def _caught(path: Path) -> Iterator[None]:
    """Errors of reading as one RecordError that names the file."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise RecordError(f"{path}: the gzip stream is cut off or damaged; get the file again") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from None
