"""What a conversion has finished, kept so that a killed run can go on, and a lock so that two do not mix.

`OUT.partial/` holds the journal, the lock and the build so far. The journal's first line is the signature of
the work: everything that changes a byte of the result. Each further line is one finished piece with the
checksum of its bytes, written after those bytes were flushed to the disk. A line that a crash cut short is
dropped; a piece whose bytes do not match its line is made again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import disk
from .errors import OutputError, listed

JOURNAL = "journal.jsonl"
LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Finished:
    """One piece that is on the disk: rows from `start`, the checksum of each part, its error sums if taken."""

    job: str
    start: int
    checksums: tuple[str, ...]
    errors: Mapping[str, Any] | None

    def line(self) -> bytes:
        """Its line in the journal."""
        table = {"job": self.job, "start": self.start, "xxh3_64": self.checksums, "errors": self.errors}
        return json.dumps(table, separators=(",", ":")).encode() + b"\n"


class Journal:
    """The journal of one OUT.partial, opened for this run."""

    def __init__(self, folder: Path, signature: Mapping[str, Any]) -> None:
        self.path = folder / JOURNAL
        self.finished: dict[tuple[str, int], Finished] = {}
        kept, length = _read(self.path)
        if kept:
            problems = list(_differences(kept[0], json.loads(json.dumps(signature))))
            if problems:
                raise OutputError(
                    f"{folder}: holds the unfinished work of another conversion; it differs in\n"
                    f"{listed(problems)}\nrun that one again to finish it, or pass --fresh to start over"
                )
        for entry in kept[1:]:
            if "job" in entry:
                done = Finished(entry["job"], entry["start"], tuple(entry["xxh3_64"]), entry["errors"])
                self.finished[done.job, done.start] = done
        self._handle = disk.open_to_write(self.path, length)
        if not kept:
            disk.append(self._handle, json.dumps(signature, separators=(",", ":")).encode() + b"\n", self.path)
            disk.flush(self._handle, self.path)

    def add(self, done: Sequence[Finished]) -> None:
        """Record pieces whose bytes have been flushed."""
        disk.append(self._handle, b"".join(d.line() for d in done), self.path)
        disk.flush(self._handle, self.path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def signature_in(folder: Path) -> Mapping[str, Any] | None:
    """The signature of the work that a partial folder holds, or None."""
    kept, _ = _read(folder / JOURNAL)
    return kept[0] if kept else None


@contextmanager
def locked(folder: Path, name: Path) -> Iterator[None]:
    """Hold a folder against a second run. The lock is the kernel's, so a crash leaves none behind.

    Raises OutputError, naming `name`, when another process holds it.
    """
    path = folder / LOCK
    while True:
        handle = disk.open_to_write(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise OutputError(f"{name}: another mlxquant is writing it right now; wait for it, or choose another OUT") from None
        if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
            break
        os.close(handle)  # the run that held it has just finished and taken the file away
        disk.make_folder(folder)
    try:
        yield
    finally:
        os.close(handle)


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a journal, and how many bytes they take."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    entries: list[dict[str, Any]] = []
    length = 0
    for line in data.splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(entry, dict):
            break
        entries.append(entry)
        length += len(line)
    return entries, length


def _differences(kept: Any, wanted: Any, where: str = "") -> Iterator[str]:
    if isinstance(kept, dict) and isinstance(wanted, dict):
        for key in [*kept, *(k for k in wanted if k not in kept)]:
            yield from _differences(kept.get(key), wanted.get(key), f"{where}.{key}" if where else key)
    elif kept != wanted:
        yield f"  {where}: {_word(kept)} then, {_word(wanted)} now"


def _word(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
