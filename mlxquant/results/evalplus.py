"""Results of EvalPlus (HumanEval+, MBPP+): `*_eval_results.json`, which `evalplus.evaluate` writes beside the samples.

Read as 0.3.1 writes them: under `eval`, for each task, a list of its samples with `base_status` and `plus_status`;
earlier versions had lists of statuses (`base`, `plus`). `pass` is base and plus together, as "HumanEval+" counts, and
base alone where no plus tests were run. Samples of one task are its trials, by their number. The file's `hash` names
the version of the data set; two versions are not compared. A file of samples alone says nothing of right or wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import RecordError
from .files import ResultFile
from .items import Item, Part, ResultSet
from .reader import Fields, Gathering, Reader, facts, kinds

_PASS, _STATUSES = "pass", ("pass", "fail", "timeout")
_BASE, _PLUS = "base_pass", "plus_pass"


def _is_results(file: ResultFile) -> bool:
    table = file.first
    if file.form != "json" or not isinstance(table, dict) or not isinstance(table.get("eval"), dict):
        return False
    first = next(iter(table["eval"].values()), None)
    listed = isinstance(first, list) and (not first or (isinstance(first[0], dict) and "base_status" in first[0]))
    return listed or (isinstance(first, dict) and "base" in first)


def _is_samples(file: ResultFile) -> bool:
    return file.form == "lines" and "task_id" in file.first and bool({"solution", "completion"} & file.first.keys())


def _recognises(file: ResultFile) -> bool:
    return _is_results(file) or _is_samples(file)


def _read(files: Sequence[ResultFile], fields: Fields) -> list[ResultSet]:
    results = kinds(files, _is_results)
    if not results:
        raise RecordError(
            f"{files[0].path}: samples alone, which nobody has run; evalplus.evaluate --samples writes the results"
            " beside them"
        )
    gathering = Gathering(fields)
    for file in results:
        table = file.first
        gathering.about |= facts(table, {"date": "date", "dataset_hash": "hash"})
        version = table.get("hash") if isinstance(table.get("hash"), str) else None
        for task, entries in table["eval"].items():
            samples = list(_statuses(entries))
            for trial, statuses in enumerate(samples):
                _add(gathering, task, trial, statuses, version, file)
            if not samples:
                gathering.problems.append(f"{file.name}: {task}: no samples with statuses; left out")
    return [gathering.result_set("")]


def _statuses(entries: Any) -> Iterator[tuple[Any, Any]]:
    """(base, plus) of each sample, of either form; plus is None where it was not run."""
    if isinstance(entries, list):
        yield from ((e.get("base_status"), e.get("plus_status")) if isinstance(e, dict) else (e, None) for e in entries)
    elif isinstance(entries, dict):
        base, plus = (
            [each[0] if isinstance(each, list) and each else each for each in listed]
            for listed in (_list(entries.get("base")), _list(entries.get("plus")))
        )
        yield from ((status, plus[i] if i < len(plus) else None) for i, status in enumerate(base))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _add(
    gathering: Gathering, task: str, trial: int, statuses: tuple[Any, Any], version: str | None, file: ResultFile
) -> None:
    base, plus = statuses
    if base not in _STATUSES or plus not in (*_STATUSES, None):
        known = ", ".join(_STATUSES)
        gathering.problems.append(f"{file.name}: {task}, sample {trial}: statuses of {known} expected; left out")
        return
    parts: dict[str, Part] = {_BASE: (float(base == _PASS), 1.0)}
    if plus is not None:
        parts[_PLUS] = (float(base == plus == _PASS), 1.0)
    for metric, part in parts.items():
        gathering.metric(metric, part)
    gathering.add(
        Item(
            id=task,
            cluster=task,
            trial=trial,
            success=parts.get(_PLUS, parts[_BASE])[0] == 1.0,
            parts=parts,
            slices=(task.partition("/")[0],),
            target=version,
        )
    )


READER = Reader("EvalPlus", "eval_results.json", _recognises, _read)
