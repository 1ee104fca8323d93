"""The documents of a build by purpose: to calibrate, to allocate, to check the allocation, to judge the build.

A document's purpose is told by the hash of its content, so the same document always has the same one, whatever file it
comes in, copies count once, and nothing that chose a format also judges it. Every purpose is a file of its own in the
work folder, which the records of its step name. With a file of its own for the judge, none of the others holds a
document of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..allocate.shares import ALLOCATE, CALIBRATE, CHECK, FEWEST, once, parted
from ..divergence.texts.documents import BUILTIN, DataLine, read_documents, read_lines
from ..divergence.texts.tokens import open_tokenizer
from ..errors import DataError
from ..source.checkpoint import Checkpoint
from .folder import JUDGE, PURPOSES, document_file

# hundredths of the hash's range, by whether something calibrates
_SHARES = {
    True: {CALIBRATE: 25, ALLOCATE: 25, CHECK: 25, JUDGE: 25},
    False: {CALIBRATE: 0, ALLOCATE: 34, CHECK: 33, JUDGE: 33},
}
# an interval by document holds its coverage from here on
ENOUGH = 20


@dataclass(frozen=True)
class Purposes:
    """Documents by purpose; `files` are the name and SHA-256 of what they were read from, by option."""

    lines: Mapping[str, list[DataLine]]
    files: Mapping[str, Mapping[str, str]]
    paths: Sequence[Path | str]

    def counts(self) -> dict[str, int]:
        """How many documents each purpose has; one without any is left out."""
        return {purpose: len(lines) for purpose, lines in self.lines.items() if lines}

    def texts(self) -> dict[str, bytes]:
        """The files of the work folder, by name."""
        return {
            document_file(purpose): "".join(f"{line.as_json()}\n" for line in lines).encode()
            for purpose, lines in self.lines.items()
            if lines
        }

    def tokens(self, source: Checkpoint, max_tokens: int | None) -> dict[str, int]:
        """How many tokens each purpose has. Raises DataError with every document that cannot be tokenized."""
        tokenizer, lengths = open_tokenizer(source), dict[str, int]()
        for path in self.paths:
            read = read_documents(path, tokenizer, max_tokens=max_tokens)
            lengths |= {document.content_hash: len(document.tokens) for document in read.documents}
        return {purpose: sum(lengths[line.content_hash] for line in lines) for purpose, lines in self.lines.items()}

    def few(self) -> list[str]:
        """Purposes whose intervals have too few documents to hold their coverage."""
        return [purpose for purpose in (CHECK, JUDGE) if len(self.lines[purpose]) < ENOUGH]


def read_purposes(data: Path | str, judge: Path | str | None, *, calibrates: bool) -> Purposes:
    """Read the documents and share them out. Raises DataError for faulty lines, and for too few documents."""
    lines, sha256 = read_lines(data)
    files = {"--data": {"name": _name(data), "sha256": sha256}}
    shares = dict(_SHARES[calibrates])
    judging: list[DataLine] = []
    if judge is not None:
        shares[JUDGE] = 0
        judging, sha256 = read_lines(judge)
        files["--judge"] = {"name": _name(judge), "sha256": sha256}
    judged = {line.content_hash for line in judging}
    parts = parted(lines, shares, apart=judged)
    parts[JUDGE] += once(judging)
    _check(parts, len(lines), calibrates=calibrates)
    return Purposes(parts, files, [data] if judge is None else [data, judge])


def _name(data: Path | str) -> str:
    return str(data) if data == BUILTIN else Path(data).name


def _check(parts: Mapping[str, Sequence[DataLine]], given: int, *, calibrates: bool) -> None:
    needed = [purpose for purpose in PURPOSES if purpose != CALIBRATE or calibrates]
    counts = {purpose: len(parts[purpose]) for purpose in needed}
    if min(counts.values()) < FEWEST:
        shared = ", ".join(f"{n} to {purpose}" for purpose, n in counts.items())
        raise DataError(
            f"--data: {given} documents leave {shared}; at least {FEWEST} for each, and {ENOUGH} to check and to judge"
            " for an interval, expected: give more documents, or others to judge by with --judge"
        )
