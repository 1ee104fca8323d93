"""Results of BFCL v4: a score file of each category lists the failures alone; its result file has all ids.

`result/MODEL/…/BFCL_v4_CATEGORY_result.json` has a line a test case, `score/MODEL/…/BFCL_v4_CATEGORY_score.json` a
line with the counts and then one for each case that failed (bfcl-eval 2026.3.23). A case that was asked and did not
fail has passed; without the result file nothing says what was asked, so that file is needed: it is found beside the
scores, in the folder or by putting `result` for `score` in the path. A folder of several models is as many result sets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecordError
from .files import ResultFile, hashed, open_file
from .items import Item, ResultSet
from .reader import Fields, Gathering, Reader, kinds

_NAME = re.compile(r"(?:BFCL_v\d+_)?(.+)_(?:score|result)\.json(?:l)?(?:\.gz)?")
_COUNTS = {"accuracy", "correct_count", "total_count"}


def _is_scores(file: ResultFile) -> bool:
    return isinstance(file.first, dict) and file.first.keys() >= _COUNTS


def _is_results(file: ResultFile) -> bool:
    return file.form == "lines" and file.first.keys() >= {"id", "result"} and "doc_id" not in file.first


def _recognises(file: ResultFile) -> bool:
    return _is_scores(file) or _is_results(file)


@dataclass(frozen=True, slots=True)
class _Key:
    """Of which model and category a file is, as its path says."""

    model: str
    category: str


def _key(file: ResultFile) -> _Key:
    match = _NAME.fullmatch(file.path.name)
    parts = file.path.absolute().parts[:-1]
    at = max((i for i, part in enumerate(parts) if part in ("score", "result")), default=None)
    model = parts[at + 1] if at is not None and at + 1 < len(parts) else ""
    return _Key(model, match[1] if match else "")


def _read(files: Sequence[ResultFile], fields: Fields) -> list[ResultSet]:
    scores = {_key(file): file for file in kinds(files, _is_scores)}
    results = {_key(file): file for file in kinds(files, _is_results)}
    if not scores:
        raise RecordError(f"{files[0].path}: results without scores; bfcl evaluate writes those, give both folders")
    alone = len(scores) == len(results) == 1  # two files by whatever names
    models: dict[str, Gathering] = {}
    for key, file in scores.items():
        asked = next(iter(results.values())) if alone else results.get(key) or _beside(file)
        _read_category(models.setdefault(key.model, Gathering(fields)), key.category, file, asked)
    for key, file in results.items():
        prepares = key.category.endswith("_prereq")  # conversations that fill a memory, which nobody scores
        if key not in scores and not alone and not prepares and key.model in models:
            models[key.model].problems.append(f"{file.name}: no scores of this category; left out")
    for model, gathering in models.items():
        gathering.about |= {"model": model} if model else {}
    return [gathering.result_set(model) for model, gathering in models.items()]


def _beside(file: ResultFile) -> ResultFile | None:
    """The result file of a score file, by its path."""
    parts = list(file.path.absolute().parts)
    at = max((i for i, part in enumerate(parts[:-1]) if part == "score"), default=None)
    if at is None:
        return None
    parts[at] = "result"
    parts[-1] = parts[-1].replace("_score.", "_result.")
    path = Path(*parts)
    if not path.is_file():
        return None
    other = open_file(path)
    return other if _is_results(other) else None


def _read_category(gathering: Gathering, category: str, scores: ResultFile, asked: ResultFile | None) -> None:
    gathering.sources += [scores, asked] if asked else [scores]
    failures: dict[str, Mapping[str, Any]] = {}
    for number, row in scores.rows(gathering.problems):
        if row.keys() >= _COUNTS:
            continue
        if type(row.get("id")) not in (str, int):
            gathering.problems.append(f"{scores.name}: line {number:,}: no id; left out")
            continue
        failures[str(row["id"])] = row
    category = category or str(next(iter(failures.values()), {}).get("test_category") or "")
    total, right = scores.first.get("total_count"), scores.first.get("correct_count")
    ids = _ids(gathering, scores, asked, failures)
    if total != len(ids) or right != len(ids.keys() - failures.keys()):
        raise RecordError(
            f"{scores.path}: {right} of {total} right by its first line, {len(ids.keys() - failures.keys()):,} of"
            f" {len(ids):,} by the ids of {asked.name if asked else 'its failures'}; the scores are of other results:"
            " evaluate again"
        )
    for identity in ids:
        failure = failures.get(identity, {})
        answer = failure.get("possible_answer")
        gathering.add(
            Item(
                id=identity,
                cluster=gathering.cluster_of(identity, ids[identity]),
                success=identity not in failures,
                slices=((category,) if category else ()) + gathering.slices_of(ids[identity]),
                target=hashed(answer) if answer is not None else None,
            )
        )


def _ids(
    gathering: Gathering, scores: ResultFile, asked: ResultFile | None, failures: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Every case that was asked, with its row; of a category in which all failed, the failures are all."""
    if asked is None:
        if scores.first.get("total_count") == len(failures):
            return dict(failures)
        raise RecordError(
            f"{scores.path}: a score file lists failures alone; its result file, which names all that was asked, is"
            " not beside it: give a folder that has score/ and result/"
        )
    rows = (row for _, row in asked.rows(gathering.problems) if type(row.get("id")) in (str, int))
    return {str(row["id"]): {"id": row["id"]} for row in rows}


READER = Reader("BFCL", "score/ and result/ of a model", _recognises, _read)
