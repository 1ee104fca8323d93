"""build.json: what a build was asked for, and the steps that are done, each with the hashes of its files.

A step is done again only where a file that it wrote is gone, or where a step before it was done again. Whether a file
is the same is told by its content, never by its date. A request that differs from the one that began the work, and a
file that somebody changed, are refused by name: nothing is judged by what it was not made from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..disk import files as disk
from ..disk.journal import differences
from ..errors import OutputError
from ..records.files import record_text
from ..records.head import describe_machine, describe_versions, head, utc_date
from ..words.text import listed
from .folder import RECORD, BuildFolder

SCHEMA = "mlxquant.build/1"
FRESH = "--fresh starts over"
_HASHES = re.compile(r"  (\S+): (?:[0-9a-f]{16,64}…?|nothing) then, (?:[0-9a-f]{16,64}…?|nothing) now")


class Steps:
    """The steps of one build. `record` is what build.json holds."""

    def __init__(self, folder: BuildFolder, request: Mapping[str, Any], *, fresh: bool = False) -> None:
        self._folder = folder
        self._again = False
        request = json.loads(json.dumps(request))
        earlier = None if fresh else _read(folder)
        if earlier is not None and (changed := _changed(earlier["request"], request)):
            raise OutputError(
                f"{folder.path}: holds the work of another build; since it began, there changed\n"
                f"{listed(changed, limit=8)}\nrun the command that began it to finish it; {FRESH}"
            )
        self.record: dict[str, Any] = earlier or {
            **head(SCHEMA), "date": utc_date(), "machine": describe_machine(), "versions": describe_versions(),
            "request": request, "steps": [],
        }  # fmt: skip

    def has(self, step: str) -> bool:
        """Whether a step was finished by an earlier run."""
        return any(entry["step"] == step for entry in self.record["steps"])

    def begin(self, texts: Mapping[str, bytes], expected: Mapping[str, Any] | None) -> None:
        """Write what stands before the first step: the files of documents, and what the build is expected to take."""
        for name, text in texts.items():
            self._folder.write(name, text)
        if expected is not None:
            self.record["expected"] = dict(expected)
        self._write()

    def is_done(self, step: str, reads: Sequence[str]) -> bool:
        """Whether a step was done with these files as they are now.

        Raises OutputError where a file that it read or wrote is another now, and no step before it was done again.
        """
        entry = next((e for e in self.record["steps"] if e["step"] == step), None)
        if entry is None:
            return False
        if self._again or any(self._folder.digest(name) is None for name in entry["writes"]):
            return self._again_from(entry, reads)
        for name, digest in {**entry["reads"], **entry["writes"]}.items():
            if self._folder.digest(name) != digest:
                raise OutputError(
                    f"{self._folder.shown(name)}: was changed since {step} was done with it; put it back, or {FRESH}"
                )
        return True

    def finish(self, step: str, reads: Sequence[str], writes: Sequence[str], seconds: float, **facts: Any) -> None:
        """Note that a step is done."""
        self._again = True
        entry = {
            "step": step,
            "reads": {name: self._folder.digest(name) for name in reads},
            "writes": {name: self._folder.digest(name) for name in writes},
            "seconds": round(seconds, 3),
            **facts,
        }
        self.record["steps"] = [*(e for e in self.record["steps"] if e["step"] != step), entry]
        self._write()

    def conclude(self, facts: Mapping[str, Any]) -> None:
        """Add what came out, once every step is done."""
        self.record |= facts
        self._write()

    def _again_from(self, entry: Mapping[str, Any], reads: Sequence[str]) -> bool:
        """Whether a step stands although one before it was done again, which may have given the same bytes."""
        same = all(self._folder.digest(name) == entry["reads"].get(name) for name in reads)
        return same and all(self._folder.digest(name) == digest for name, digest in entry["writes"].items())

    def _write(self) -> None:
        self._folder.write(RECORD, (record_text(self.record) + "\n").encode())


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Where two requests differ, one line each; a hash tells a reader only that the contents are others."""
    lines = [_HASHES.sub(r"  \1: other contents then", line) for line in differences(before, now)]
    data = [line.replace(".sha256:", ":").replace("  data.", "  ") for line in lines if line.startswith("  data.")]
    others = [line for line in lines if not line.startswith(("  data.", "  documents.") if data else "  data.")]
    return [*data, *others]


def commit_of(folder: BuildFolder, repository: str) -> str | None:
    """The commit of a repository that the work in a folder was begun at; None where it is none of that."""
    try:
        record = _read(folder)
        source = {} if record is None else record["request"]["source"]
        return str(source["revision"]) if source["name"] == repository and source["revision"] else None
    except (OutputError, KeyError, TypeError):
        return None


def _read(folder: BuildFolder) -> dict[str, Any] | None:
    """The record of an earlier run; None where there is none. Raises OutputError for one that cannot be read."""
    path = folder.file(RECORD)
    if not disk.is_file(path):
        return None
    try:
        record: dict[str, Any] = json.loads(disk.read_regular(path))
        names = [(e["step"], dict(e["reads"]), dict(e["writes"])) for e in record["steps"]]
        if record["schema"] != SCHEMA or len({name for name, _, _ in names}) < len(names):
            raise ValueError(record["schema"])
        _ = record["request"]["source"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise OutputError(f"{path}: damaged, or of another version of mlxquant; {FRESH}") from None
    return record
