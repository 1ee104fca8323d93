"""What an evaluation has finished, kept so that a killed run goes on and never asks twice.

A file of JSON lines. The first is the signature of the run: everything that an answer or its score depends on. Each
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

from ..builds.write.signature import differences
from ..errors import OutputError, listed
from ..words.secrets import redacted
from . import files as disk

# What a finished trial is known by: suite, item, side, trial
Key = tuple[str, str, int, int]


class Kept:
    """The file of one run, opened to go on with it; `trials` is what earlier runs finished.

    Raises OutputError where it belongs to a run with other settings, naming what differs.
    """

    def __init__(self, path: Path, signature: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.path = path
        if fresh:
            disk.remove(path)
        lines, self._end = _read(path)
        wanted = json.loads(json.dumps(redacted(signature)))
        if lines and lines[0] != wanted:
            problems = list(differences(lines[0], wanted)) or ["  its first line is no signature"]
            raise OutputError(
                f"{path}: holds the unfinished run of another evaluation; it differs in\n{listed(problems)}\n"
                "the command that began it finishes it; --fresh throws it away and starts over"
            )
        self.trials: dict[Key, dict[str, Any]] = {key_of(t): t for t in lines[1:]}
        self._handle = disk.open_to_write(path, self._end)
        if not lines:
            self._append(wanted)

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
        data = (json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
        disk.write_at(self._handle, memoryview(data), self._end, self.path)
        disk.flush(self._handle, self.path)
        self._end += len(data)


def key_of(trial: Mapping[str, Any]) -> Key:
    """What a trial is known by."""
    return str(trial["suite"]), str(trial["item"]), int(trial["side"]), int(trial["trial"])


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines, and how many bytes they take: up to the first that is cut short or no table."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror}); move it away, or pass --fresh") from None
    lines: list[dict[str, Any]] = []
    end = 0
    for line in data.splitlines(keepends=True):
        try:
            entry = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            break
        lines.append(entry)
        end += len(line)
    if data and not lines and not data.startswith(b"{"):
        raise OutputError(f"{path}: no unfinished evaluation; choose another -o, or move it away")
    return lines, end
