"""LiteLLM's standard logging payloads, read one at a time from whatever they were collected in.

A file holds a payload a line (ndjson), a JSON array a line (what `generic_api` posts, as a collector keeps it), one
array, or one payload (as S3 and GCS have them); .gz too. A folder is read file by file, by name. A line is read whole
and no more than a line, so a file may be larger than memory. What cannot be read is counted, the first of it named.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from ..errors import RecordError
from ..words.strict_json import read_json
from ..words.text import printable

_ENDINGS = (".json", ".jsonl", ".ndjson", ".log")
# bytes of a line; a prompt of a million tokens has some 5 MB, and a batch some hundred of them
_LONGEST_LINE = 256 << 20
_MOST_FILES = 100_000
_DEEPEST = 100
_NAMED = 10


@dataclass
class Faults:
    """What could not be read: how often, and the first of it."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, where: str, why: str) -> None:
        """Count a fault."""
        self.count += 1
        if len(self.first) < _NAMED:
            self.first.append(printable(f"{where}: {why}")[:300])


def read_payloads(paths: Sequence[Path], faults: Faults) -> Iterator[Mapping[str, Any]]:
    """Every table in the files, in their order. Raises RecordError for a file that cannot be opened or read on."""
    for path in paths:
        for file in _files(path):
            try:
                with _opened(file) as handle:
                    yield from _tables(handle, str(file), faults)
            except (OSError, EOFError, zlib.error) as error:
                why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                raise RecordError(f"{file}: cannot be read ({why})") from None


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    names = [p for p in sorted(path.rglob("*")) if p.is_file() and p.name.removesuffix(".gz").endswith(_ENDINGS)]
    if not names:
        raise RecordError(f"{path}: a folder without logs; files that end in {', '.join(_ENDINGS)} (.gz) expected")
    if len(names) > _MOST_FILES:
        raise RecordError(f"{path}: {len(names):,} files; at most {_MOST_FILES:,} are read, so join them first")
    return names


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file, and no pipe, from which a read may never return."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as raw:
        if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
            raise OSError(0, "a pipe, socket or device; a regular file expected")
        if path.name.endswith(".gz"):
            with gzip.open(raw) as unpacked:
                yield cast(IO[bytes], unpacked)
        else:
            yield raw


def _tables(file: IO[bytes], where: str, faults: Faults) -> Iterator[Mapping[str, Any]]:
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        place = f"{where}:{number}"
        if not line.endswith(b"\n") and len(line) == _LONGEST_LINE:
            raise RecordError(f"{place}: a line of more than {_LONGEST_LINE >> 20} MB; is it a log of LiteLLM's?")
        if not line.strip():
            continue
        if number == 1 and line.strip() in (b"[", b"{"):  # one value over many lines
            line += file.read(_LONGEST_LINE)
        try:
            value = read_json(line, _DEEPEST)
        except ValueError as error:  # UnicodeDecodeError is one
            faults.add(place, f"no JSON: {error}")
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                yield each
            else:
                faults.add(place, "a table expected")
