"""Journals: what a long run has finished, line by line, so that a killed one goes on and does nothing twice.

The first line is the signature of the work: everything that the result depends on. A run with another signature is
refused with the differences. Each further line is one finished part, written and flushed to the disk. A line begins
with the checksum of its own text, so neither a torn nor a damaged one is believed; its part is done again.

Two kinds of run keep one. `Journal` is a conversion's: parts are pieces of files, with the checksums of their bytes,
and room for all lines is taken at the start, so that a full disk still lets the last ones be written. `RunJournal` is
an evaluation's: a part is what one trial gave, of any length; the file lies beside the record that it becomes, where
other files may be, so one that no evaluation began is neither written to nor deleted, and a lock keeps others out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from ..errors import OutputError
from ..words.secrets import redacted
from ..words.text import listed
from . import files as disk

# What a line may take: names are short, numbers are not.
LINE_BYTES = 512
# What a run's first line names as its schema begins with, and what each further line has
_RUN_SCHEMA = "mlxquant.eval/"
_TRIAL = {"suite", "item", "side", "trial", "failure"}
# Entries of a signature that are hashes, which tell a reader nothing.
_HASHED = ("source.config", "source.copied.")


@dataclass(frozen=True, slots=True)
class Finished:
    """One piece that is on the disk: rows from `start`, the checksum of each part, its error sums if taken.

    `checked` says that its values were found finite; a run with --allow-nonfinite does not look.
    """

    output: str
    start: int
    checksums: tuple[str, ...]
    errors: Mapping[str, Any] | None
    checked: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Its entry in the journal."""
        return {
            "job": self.output,
            "start": self.start,
            "xxh3_64": self.checksums,
            "errors": self.errors,
            "checked": self.checked,
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Finished:
        """Read what `as_dict` wrote."""
        return cls(entry["job"], entry["start"], tuple(entry["xxh3_64"]), entry["errors"], entry["checked"])


class Journal:
    """The journal of one OUT.partial, opened for this run; `finished` is what earlier runs left, by output and start.

    `pieces` is how many lines there may be. Raises OutputError where it belongs to other work, with the
    differences, or cannot be read.
    """

    def __init__(self, path: Path, signature: Mapping[str, Any], pieces: int) -> None:
        self.path = path
        self.empty = True
        entries, self._end = read_entries(path)
        if entries:
            self._compare(entries[0], signature)
        finished = [Finished.from_dict(e) for e in entries[1:] if e is not None]
        self.finished = {(f.output, f.start): f for f in finished}
        self.empty = not finished
        self._handle = disk.open_to_write(path)
        try:
            if not entries:
                self._append(_line(signature))
            self._make_room(self._end + LINE_BYTES * max(0, pieces - len(finished)))
            disk.flush(self._handle, path)
            disk.flush_folder(path.parent)
        except BaseException:
            os.close(self._handle)
            raise

    def add(self, done: Sequence[Finished]) -> None:
        """Record pieces whose bytes have been flushed."""
        self._append(b"".join(_line(d.as_dict()) for d in done))
        disk.flush(self._handle, self.path)
        self.empty = False

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def _compare(self, before: Mapping[str, Any] | None, signature: Mapping[str, Any]) -> None:
        if before is None:
            raise OutputError(f"{self.path}: damaged, so it cannot be matched to a command; pass --fresh to start over")
        problems = list(differences(before, json.loads(json.dumps(signature))))
        if problems:
            raise OutputError(
                f"{self.path.parent}: holds the unfinished work of another conversion; it differs in\n"
                f"{listed(problems)}\nrun the command that began it to finish it;"
                " --fresh throws it away and starts over with this one"
            )

    def _append(self, data: bytes) -> None:
        disk.write_at(self._handle, memoryview(data), self._end, self.path)
        self._end += len(data)

    def _make_room(self, size: int) -> None:
        """Fill the file up to `size` with zeros, which are no line, and clear what a torn one left."""
        disk.write_at(self._handle, memoryview(bytes(max(0, size - self._end))), self._end, self.path)


class RunJournal:
    """The journal of one evaluation, opened to go on with it; `entries` are the trials of earlier runs, in order.

    `fresh` throws those away. Raises OutputError where the file belongs to a run with other settings, naming what
    differs, where another process writes it, and where no evaluation began it.
    """

    def __init__(self, path: Path, signature: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path = path
        lines, self._end = _read_run(path)
        if fresh and lines:
            disk.remove(path)
            lines, self._end = [], 0
        signature = json.loads(json.dumps(redacted(signature)))
        if lines and lines[0] != signature:
            problems = list(differences(lines[0], signature))
            raise OutputError(
                f"{path}: holds the unfinished run of another evaluation; it differs in\n{listed(problems)}\n"
                "run the command that began it to finish it; --fresh throws it away and starts over"
            )
        self.entries: list[dict[str, Any]] = lines[1:]
        if not lines:
            disk.write_whole(path, header := _line(signature), replace=False)
            self._end = len(header)
        self._handle = disk.open_to_write(path, create=False)
        try:
            disk.lock(self._handle, path, f"{path}: another mlxquant is writing it right now; wait for it")
            disk.cut(self._handle, self._end, path)
        except BaseException:
            os.close(self._handle)
            raise

    def add(self, trial: dict[str, Any]) -> None:
        """Append a trial and flush it to the disk."""
        line = _line(trial)
        disk.write_at(self._handle, memoryview(line), self._end, self.path)
        disk.flush(self._handle, self.path)
        self._end += len(line)
        self.entries.append(trial)

    def close(self) -> None:
        """Close the file and leave it for a later run."""
        os.close(self._handle)


def check_run(path: Path) -> None:
    """Raise OutputError where a file is there that no evaluation began."""
    _read_run(path)


def discard_run(path: Path) -> None:
    """Delete an evaluation's journal. Raises OutputError for any other file, and where another process writes it."""
    check_run(path)
    handle = disk.open_to_write(path, create=False)
    try:
        disk.lock(handle, path, f"{path}: another mlxquant is writing it right now; wait for it")
        disk.remove(path)
    finally:
        os.close(handle)


def read_run(path: Path) -> list[dict[str, Any]]:
    """An evaluation's signature and its trials. Raises OutputError for a file that no evaluation began."""
    return _read_run(path)[0]


def _read_run(path: Path) -> tuple[list[dict[str, Any]], int]:
    """An evaluation's signature and whole trials, and how many bytes all lines take. A damaged trial is left out.

    Lines without a checksum are those of earlier versions. Raises OutputError for a file that no evaluation began.
    """
    if not os.path.lexists(path):
        return [], 0
    strange = OutputError(f"{path}: no unfinished evaluation; choose another -o, or move it away")
    if not disk.is_own(path):
        raise strange
    try:
        data = disk.read_regular(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror}); move it away") from None
    whole = data[: data.rfind(b"\n") + 1]
    first, *others = [_plain(line) if line.startswith(b"{") else _read(line) for line in whole.splitlines()] or [None]
    if first is None or not str(first.get("schema")).startswith(_RUN_SCHEMA):
        raise strange
    return [first, *(entry for entry in others if entry is not None and entry.keys() >= _TRIAL)], len(whole)


def _plain(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


# --- lines ---


def read_entries(path: Path) -> tuple[list[dict[str, Any] | None], int]:
    """The whole lines of a journal, None for a damaged one, and how many bytes they take.

    The first is the signature. No file, and a file whose first line was never finished, have no lines.
    """
    try:
        data = disk.read_regular(path)
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror}); move it away, or pass --fresh") from None
    whole = data[: data.rfind(b"\n") + 1]
    return [_read(line) for line in whole.splitlines()], len(whole)


def _line(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(entry, separators=(",", ":")).encode()
    return b"%s %s\n" % (xxhash.xxh3_64_hexdigest(text).encode(), text)


def _read(line: bytes) -> dict[str, Any] | None:
    checksum, _, text = line.partition(b" ")
    if checksum != xxhash.xxh3_64_hexdigest(text).encode():
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


# --- signatures ---


def differences(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Where two signatures differ, one sentence each: that of unfinished work, and that of the run that would go on."""
    if where == "recipe" and before and now:
        yield from _recipe_differences(before, now)
    elif isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(k for k in now if k not in before)]:
            yield from differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
    elif before != now and before and now and where.startswith(_HASHED):
        yield f"  {where}: other contents then"
    elif before != now:
        yield f"  {where}: {_short(before)} then, {_short(now)} now"


def _recipe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Recipes are distinguished by name and overrides; where those are equal, by what has changed in them."""
    if before["name"] != now["name"]:
        yield f"  recipe: {before['name']} then, {now['name']} now"
    elif before["sha256"] != now["sha256"]:
        yield f"  recipe: {now['name']} had other rules or another default then"
    elif before["record"] != now["record"]:
        yield f"  recipe: {now['name']} was worded otherwise then (name, summary, reasons), with the same rules"


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
