"""Result files and folders as result sets: which harness wrote them is seen in the files, not in their names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import RecordError
from ..words.text import counted, printable, some
from . import bfcl, evalplus, inspect_logs, lm_eval, omlx
from .files import ResultFile, files_of
from .items import ResultSet
from .reader import Fields, Reader

READERS: tuple[Reader, ...] = (
    inspect_logs.READER, lm_eval.READER, bfcl.READER, evalplus.READER, omlx.READER,
)  # fmt: skip
_TAU2_HINT = "τ²-bench and τ-bench (results.json, or its folder)"


def known() -> str:
    """The harnesses whose files are read, for messages."""
    return "; ".join([*(f"{reader.harness} ({reader.hint})" for reader in READERS), _TAU2_HINT])


def read_result_sets(path: Path, fields: Fields = Fields()) -> list[ResultSet]:  # noqa: B008 - frozen, so one is enough
    """Read what a path holds: one result set, or one of each model where files hold several.

    Raises RecordError where no harness knows the files, or several do.
    """
    damaged: list[str] = []
    files = files_of(path, damaged)
    mine = {reader.harness: [file for file in files if reader.recognises(file)] for reader in READERS}
    known_files = {harness: group for harness, group in mine.items() if group}
    if not known_files:
        what = "nothing in it is of a harness" if path.is_dir() else "not of a harness"
        if path.is_dir() and damaged and not files:
            raise RecordError(f"{path}: no file in it can be read: {damaged[0].removesuffix('; left out')}")
        raise RecordError(f"{path}: {what} that is known here: {known()}")
    if len(known_files) > 1:
        each = ", ".join(
            f"{harness} ({some([file.name for file in group], 2)})" for harness, group in known_files.items()
        )
        raise RecordError(f"{path}: results of several harnesses: {each}; give the folder of one")
    ((harness, group),) = known_files.items()
    reader = next(reader for reader in READERS if reader.harness == harness)
    sets = reader.read(group, fields)
    named = [_named(result_set, path, reader, group, alone=len(sets) == 1) for result_set in sets]
    for result_set in named:
        _check_not_empty(result_set, path)
    return [replace(result_set, problems=(*result_set.problems, *map(printable, damaged))) for result_set in named]


def _check_not_empty(results: ResultSet, path: Path) -> None:
    """Raises RecordError where no item says anything: a run that measured nothing is no result."""
    if any(item.parts or item.success is not None for item in results.items):
        return
    why = next(iter((*results.problems, *results.notes)), f"{counted(len(results.items), 'item')}, none with a number")
    raise RecordError(f"{path}: no item of {results.name} has a score ({why}); run the harness again")


def recognises(path: Path) -> bool:
    """Whether a path holds results of one of `READERS`."""
    try:
        return any(reader.recognises(file) for file in files_of(path) for reader in READERS)
    except RecordError:
        return False


def _named(result_set: ResultSet, path: Path, reader: Reader, group: Sequence[ResultFile], *, alone: bool) -> ResultSet:
    """The set with its origin; called by the path where that tells more than the model, or there is no model."""
    files = result_set.sources or tuple(group)
    digest = hashlib.sha256("".join(sorted(file.sha256() for file in files)).encode()).hexdigest()
    name = path.resolve().name if path.is_dir() else path.name
    for ending in (".gz", ".jsonl", ".json", ".eval", ".ndjson"):
        name = name.removesuffix(ending) if not path.is_dir() else name
    return replace(
        result_set,
        name=printable(name) if alone else result_set.name or printable(name),
        harness=reader.harness,
        files=tuple(printable(str(f.path.relative_to(path)) if path in f.path.parents else f.path.name) for f in files),
        sha256=files[0].sha256() if len(files) == 1 else digest,
        folder=printable(path.resolve().parent.name),
    )
