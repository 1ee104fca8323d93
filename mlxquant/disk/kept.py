"""What an evaluation has finished, kept so that a killed run goes on and never asks twice.

A file of JSON lines. The first is the signature of the run: everything that an answer or its score depends on. A file
that does not begin with one is somebody else's and is neither written to nor deleted. Each
further line is one item, played by one side in one trial, written and flushed to the disk before the next is begun. A
line that a kill cut short is dropped and played again. Trials that failed for want of an answer (a server that was
gone) are kept for the record but count as unfinished, so that a later run tries them anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..words.secrets import redacted
from ..words.text import listed
from . import files as disk
from .journal import differences

# What a finished trial is known by: suite, item, side, trial
Key = tuple[str, str, int, int]
# What the schema of a run's first line begins with, and what each further line has
_SCHEMA = "mlxquant.eval/"
_TRIAL = {"suite", "item", "side", "trial", "failure"}


class Kept:
    """The file of one run, opened to go on with it; `trials` is what earlier runs finished.

    Raises OutputError where it belongs to a run with other settings, naming what differs.
    """

    def __init__(self, path: Path, signature: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path = path
        lines, self._end = _read(path)
        if fresh and lines:
            disk.remove(path)
            lines, self._end = [], 0
        wanted = json.loads(json.dumps(redacted(signature)))
        if lines and lines[0] != wanted:
            problems = list(differences(lines[0], wanted))
            raise OutputError(
                f"{path}: holds the unfinished run of another evaluation; it differs in\n{listed(problems)}\n"
                "the command that began it finishes it; --fresh throws it away and starts over"
            )
        self.trials: dict[Key, dict[str, Any]] = {key_of(t): t for t in lines[1:]}
        if not lines:
            disk.write_whole(path, header := _line(wanted), replace=False)
            self._end = len(header)
        self._handle = disk.open_to_write(path, create=False)
        try:
            disk.lock(self._handle, path, f"{path}: another mlxquant is writing it right now; wait for it")
            disk.cut(self._handle, self._end, path)
        except BaseException:
            os.close(self._handle)
            raise

    @property
    def finished(self) -> dict[Key, dict[str, Any]]:
        """The trials that gave a result."""
        return {key: trial for key, trial in self.trials.items() if trial["failure"] is None}

    def add(self, trial: dict[str, Any]) -> None:
        """Keep one more trial, on the disk."""
        self._append(trial)
        self.trials[key_of(trial)] = trial

    def close(self) -> None:
        """Close the file and leave it for a later run."""
        os.close(self._handle)

    def _append(self, line: Mapping[str, Any]) -> None:
        data = _line(line)
        disk.write_at(self._handle, memoryview(data), self._end, self.path)
        disk.flush(self._handle, self.path)
        self._end += len(data)


def key_of(trial: Mapping[str, Any]) -> Key:
    """What a trial is known by."""
    return str(trial["suite"]), str(trial["item"]), int(trial["side"]), int(trial["trial"])


def check_kept(path: Path) -> None:
    """Raise OutputError where a file is there that no evaluation began."""
    _read(path)


def _line(entry: Mapping[str, Any]) -> bytes:
    return (json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8", "replace")


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines, and how many bytes they take: up to the first that is cut short or no trial.

    Raises OutputError for a file that no evaluation began.
    """
    if not os.path.lexists(path):
        return [], 0
    strange = OutputError(f"{path}: no unfinished evaluation; choose another -o, or move it away")
    if not disk.is_own(path):
        raise strange
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror}); move it away") from None
    lines: list[dict[str, Any]] = []
    end = 0
    for line in data.splitlines(keepends=True):
        try:
            entry = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or (lines and not entry.keys() >= _TRIAL):
            break
        lines.append(entry)
        end += len(line)
    if not lines or not str(lines[0].get("schema")).startswith(_SCHEMA):
        raise strange
    return lines, end
