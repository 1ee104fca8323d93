"""Accuracy benchmarks of oMLX, as its dashboard exports them and its API gives them.

A run is a table with `model_id`, `benchmark` and `question_results`, each of which has an id (`id` or `question_id`),
`correct`, `expected`, `predicted`, the question and its category (omlx/admin/accuracy_benchmark.py@024e134). A file
holds one run, a list of them, a table with the list as `results`, or the questions alone; as JSON lines, a run or a
question a line. Runs of several models in one file are as many result sets. A question whose engine failed counts as
wrong, as oMLX counts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import RecordError
from .files import ResultFile, hashed
from .items import Item, ResultSet
from .reader import Fields, Gathering, Reader, facts

_QUESTIONS = "question_results"


def _is_run(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get(_QUESTIONS), list)


def _is_question(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and "correct" in value
        and bool("question_id" in value or {"expected", "predicted"} <= value.keys())
    )


def _entries(file: ResultFile, problems: list[str]) -> Iterator[Any]:
    """Runs or questions, wherever in the file they stand."""
    value = file.first
    if file.form == "lines":
        yield from (row for _, row in file.rows(problems))
    elif isinstance(value, list):
        yield from value
    elif _is_run(value):
        yield value
    elif isinstance(value, dict) and isinstance(value.get("results"), list):
        yield from value["results"]


def _recognises(file: ResultFile) -> bool:
    if file.form == "lines":
        return _is_run(file.first) or _is_question(file.first)
    first = next(_entries(file, []), None)
    return _is_run(first) or _is_question(first)


def _read(files: Sequence[ResultFile], fields: Fields) -> list[ResultSet]:
    models: dict[str, Gathering] = {}
    for file in files:
        problems: list[str] = []
        for number, entry in enumerate(_entries(file, problems)):
            alone = _is_question(entry)
            if not alone and not _is_run(entry):
                problems.append(f"{file.name}: entry {number:,}: neither a run nor a question; left out")
                continue
            run: Mapping[str, Any] = {_QUESTIONS: [entry]} if alone else entry
            model = str(run.get("model_id") or entry.get("model_id") or "")
            gathering = models.setdefault(model, Gathering(fields))
            if file not in gathering.sources:
                gathering.sources.append(file)
            if not alone:
                gathering.about |= facts(run, {"model": "model_id"})
            benchmark = str(run.get("benchmark") or entry.get("benchmark") or "")
            _read_run(gathering, run, benchmark, file, first=number if alone else 0)
        for gathering in models.values():
            gathering.problems += problems
    if not models:
        raise RecordError(f"{files[0].path}: no run with {_QUESTIONS} in it")
    return [gathering.result_set(model.rpartition("/")[2]) for model, gathering in models.items()]


def _read_run(gathering: Gathering, run: Mapping[str, Any], benchmark: str, file: ResultFile, *, first: int) -> None:
    failed = 0
    for number, question in enumerate(run[_QUESTIONS], first):
        identity = question.get("question_id", question.get("id")) if isinstance(question, dict) else None
        if type(identity) not in (str, int) or not isinstance(question.get("correct"), bool):
            gathering.problems.append(
                f"{file.name}: {benchmark or 'question'} {number:,}: an id and true or false as correct expected;"
                " left out"
            )
            continue
        failed += bool(question.get("error"))
        category = question.get("category")
        slices = [benchmark] if benchmark else []
        if isinstance(category, str) and category:
            slices.append(f"{benchmark}:{category}" if benchmark else category)
        name = f"{benchmark}/{identity}" if benchmark else str(identity)
        asked = question.get("question_text") or question.get("question")
        gathering.add(
            Item(
                id=name,
                cluster=gathering.cluster_of(name, question),
                success=question["correct"],
                slices=(*slices, *gathering.slices_of(question)),
                prompt=hashed(asked) if isinstance(asked, str) and asked else None,
                target=hashed(question["expected"]) if question.get("expected") not in (None, "") else None,
            )
        )
    if failed:
        gathering.notes.append(f"{benchmark or file.name}: {failed:,} questions met an error, and count as wrong")


READER = Reader("oMLX", "an export of its accuracy benchmarks", _recognises, _read)
