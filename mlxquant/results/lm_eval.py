"""Results of lm-evaluation-harness: `samples_TASK_DATE.jsonl` (`--log_samples`), with the run's `results_DATE.json`.

Read as 0.4.13 writes them: a line for each document and filter, with `doc_id`, the hashes of document, prompt and
target, the names of its `metrics` and each metric as a key. A metric of a filter is called as the harness prints it,
``exact_match,strict-match``; of the filter "none" it is the metric's own name. Lines name no task: the file's name
does, and where two files are compared whose names tell none, there is one task in each. Metrics that are no number for
an item (perplexities, pairs for BLEU) cannot be paired by item and are left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import RecordError
from ..words.text import some
from .files import ResultFile
from .items import Item, Part, ResultSet
from .reader import Fields, Gathering, Reader, facts, kinds, score_of

_TASK = re.compile(r"samples_(.+?)(?:_(\d{4}-\d\d-\d\dT[\d.:+-]+))?\.(?:jsonl|ndjson)(?:\.gz)?")
_NO_FILTER = "none"
_ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")  # an image as Python shows it, in every run another text


def _is_samples(file: ResultFile) -> bool:
    if file.form != "lines" or not {"doc_id", "doc"} <= file.first.keys():
        return False
    return bool({"filter", "metrics", "doc_hash", "filtered_resps"} & file.first.keys())


def _is_run(file: ResultFile) -> bool:
    table = file.first
    if file.form != "json" or not isinstance(table, dict) or not isinstance(table.get("results"), dict):
        return False
    return bool({"lm_eval_version", "task_hashes", "n-shot", "configs"} & table.keys())


def _is_aggregate(file: ResultFile) -> bool:
    """What `mlx_lm.evaluate` writes: ``{"arc_easy": {"acc,none": 0.5, …}}``."""
    tables = file.first.values() if file.form == "json" and isinstance(file.first, dict) else ()
    return bool(tables) and all(isinstance(t, dict) and any(",none" in str(key) for key in t) for t in tables)


def _recognises(file: ResultFile) -> bool:
    return _is_samples(file) or _is_run(file) or _is_aggregate(file)


def _read(files: Sequence[ResultFile], fields: Fields) -> list[ResultSet]:
    samples, runs = kinds(files, _is_samples), kinds(files, _is_run)
    if not samples:
        how = "lm_eval --log_samples" if runs else "docs/harnesses.md has a wrapper of mlx_lm.evaluate that does"
        raise RecordError(
            f"{files[0].path}: averages alone, which cannot be paired by item; run again with samples kept ({how})"
        )
    models = {str(run.first["model_name"]) for run in runs if isinstance(run.first.get("model_name"), str)}
    if len(models) > 1:
        raise RecordError(f"{files[0].path}: runs of several models ({some(sorted(models))}); give the folder of each")
    tasks: dict[str, ResultFile] = {}
    for file in samples:
        task = _task_of(file)
        if task in tasks:
            raise RecordError(
                f"{file.path}: a second run of the task {task or 'of no name'}, beside {tasks[task].name}; give the"
                " file or the folder of one run"
            )
        tasks[task] = file
    gathering = Gathering(fields)
    groups = _groups(runs)
    for task, file in tasks.items():
        _read_task(gathering, task, file, groups.get(task, ()))
    if len(tasks) == 1:
        gathering.about["task"] = next(iter(tasks))
    if runs:
        gathering.about |= _about(runs[-1].first)
    model = gathering.about.get("model")
    return [gathering.result_set(str(model).rstrip("/").rpartition("/")[2] if model else "")]


def _task_of(file: ResultFile) -> str:
    match = _TASK.fullmatch(file.path.name)
    return match[1] if match else ""


def _groups(runs: Sequence[ResultFile]) -> dict[str, list[str]]:
    """The groups that a task counts for, such as mmlu_stem."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        table = run.first.get("group_subtasks")
        for group, tasks in table.items() if isinstance(table, dict) else ():
            for task in tasks if isinstance(tasks, list) else ():
                if isinstance(task, str) and task != group:
                    groups.setdefault(task, []).append(group)
    return groups


def _about(run: Mapping[str, Any]) -> dict[str, str | int | None]:
    about = facts(run, {"model": "model_name", "version": "lm_eval_version", "chat_template_sha": "chat_template_sha"})
    config = run.get("config")
    if isinstance(config, dict):
        about |= facts(config, {"limit": "limit", "model_kind": "model"})
    shots = run.get("n-shot")
    if isinstance(shots, dict) and len(values := {v for v in shots.values() if type(v) is int}) == 1:
        about["num_fewshot"] = values.pop()
    return about


@dataclass(slots=True)
class _Document:
    """A document's lines, one a filter."""

    row: Mapping[str, Any]
    parts: dict[str, Part] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)


def _read_task(gathering: Gathering, task: str, file: ResultFile, groups: Sequence[str]) -> None:
    documents: dict[str, _Document] = {}
    left_out: dict[str, None] = {}
    for number, row in file.rows(gathering.problems):
        identity = row.get("doc_id")
        if type(identity) not in (int, str):
            gathering.problems.append(f"{file.name}: line {number:,}: no doc_id; left out")
            continue
        document = documents.setdefault(str(identity), _Document(row))
        by = str(row.get("filter") or _NO_FILTER)
        if by in document.seen:
            gathering.twice.append(str(identity))
            continue
        document.seen.add(by)
        for metric, part, share in _metrics(row, left_out):
            name = metric if by == _NO_FILTER else f"{metric},{by}"
            document.parts[name] = part
            gathering.metric(name, part, share=share)
    if left_out:
        gathering.notes.append(f"{task or file.name}: no number for an item, so left out: {some(list(left_out), 6)}")
    judges = _judges(list(documents.values()))
    gathering.judges[task] = judges
    for identity, document in documents.items():
        doc, name = document.row.get("doc"), f"{task}/{identity}" if task else identity
        score = document.parts.get(judges[0]) if judges else None
        gathering.add(
            Item(
                id=name,
                cluster=gathering.cluster_of(name, doc),
                success=None if score is None else score[0] == 1.0,
                parts=document.parts,
                slices=(*((task,) if task else ()), *groups, *gathering.slices_of(doc)),
                prompt=_text(document.row.get("prompt_hash")),
                target=_hash(document.row, "target_hash", "target"),
                document=None if _ADDRESS.search(json.dumps(doc)) else _hash(document.row, "doc_hash", "doc"),
            )
        )


def _metrics(row: Mapping[str, Any], left_out: dict[str, None]) -> Iterator[tuple[str, Part, bool]]:
    """The metrics of a line as (name, part, whether it is a share of several truths)."""
    named = row.get("metrics")
    for metric in named if isinstance(named, list) else ():
        value = row.get(metric) if isinstance(metric, str) else None
        if (score := score_of(value)) is not None:
            yield metric, (score, 1.0), False
        elif isinstance(value, list) and value and all(isinstance(each, bool) for each in value):
            yield metric, (float(sum(value)), float(len(value))), True
        elif isinstance(metric, str):
            left_out[metric] = None


def _judges(documents: Sequence[_Document]) -> tuple[str, ...]:
    """The metrics that are 0 or 1 for every document; by the first of them one passes or not."""
    names = documents[0].parts if documents else ()
    return tuple(name for name in names if all(d.parts.get(name) in ((0.0, 1.0), (1.0, 1.0)) for d in documents))


def _hash(row: Mapping[str, Any], key: str, of: str) -> str | None:
    """A hash that a line has, or what lm-eval hashes, hashed as it does it: earlier versions wrote no hashes."""
    if isinstance(value := row.get(key), str):
        return value
    if of not in row:
        return None
    text = str(row[of]) if of == "target" else json.dumps(row[of], indent=2, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


READER = Reader("lm-evaluation-harness", "samples_*.jsonl, or the folder of a run", _recognises, _read)
