"""What a conversion has finished, kept so that a killed run can go on.

The journal's first line is the signature of the work: everything that changes a byte of the result. Each further
line is one finished piece with the checksums of its bytes, written after those bytes were flushed to the disk. A
line begins with the checksum of its own text, so neither a torn nor a damaged one is believed; the piece that it
told of is made again. Room for all lines is taken at the start, so a full disk still lets the last ones be written.
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
from ..words.text import listed
from . import files as disk

# What a line may take: names are short, numbers are not.
LINE_BYTES = 512
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

    def _compare(self, kept: Mapping[str, Any] | None, signature: Mapping[str, Any]) -> None:
        if kept is None:
            raise OutputError(
                f"{self.path}: damaged, so what it belongs to cannot be known; pass --fresh to start over"
            )
        problems = list(differences(kept, json.loads(json.dumps(signature))))
        if problems:
            raise OutputError(
                f"{self.path.parent}: holds the unfinished work of another conversion; it differs in\n"
                f"{listed(problems)}\nthe command that began it finishes it;"
                " --fresh throws it away and starts over with this one"
            )

    def _append(self, data: bytes) -> None:
        disk.write_at(self._handle, memoryview(data), self._end, self.path)
        self._end += len(data)

    def _make_room(self, size: int) -> None:
        """Fill the file up to `size` with zeros, which are no line, and clear what a torn one left."""
        disk.write_at(self._handle, memoryview(bytes(max(0, size - self._end))), self._end, self.path)


def read_entries(path: Path) -> tuple[list[dict[str, Any] | None], int]:
    """The whole lines of a journal, None for a damaged one, and how many bytes they take.

    The first is the signature. No file, and a file whose first line was never finished, have no lines.
    """
    try:
        data = path.read_bytes()
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
