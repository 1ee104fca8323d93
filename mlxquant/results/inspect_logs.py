"""Logs of inspect_ai, `.eval` (a zip with a member a sample) and `.json`: items by sample id, trials by epoch.

Read as 0.3.285 writes them. Each scorer is a metric, each key of a scorer's table one of its own (``both/right``);
letters, words and numbers in text count as inspect_ai counts them: C 1, P 0.5, I and N 0. A log says itself what its
errors are clustered by (`stderr(cluster="passage")`) and grouped by (`grouped(…, "subject")`): those are clusters and
slices here. A sample that ended in an error has no score and is counted as lost. Of several logs of one task in a
folder, the one that ended well counts; an unfinished log is read as far as it goes, and said to be one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RecordError
from ..words.text import counted, some
from .files import ResultFile, hashed, parse
from .items import Item, Part, ResultSet, judged
from .reader import Fields, Gathering, Reader, facts, score_of

_HEADER, _START, _SAMPLES = "header.json", "_journal/start.json", "samples/"
_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


def _recognises(file: ResultFile) -> bool:
    if file.form == "zip":
        with file.archive() as archive:
            return bool({_HEADER, _START} & set(archive.names))
    return file.form == "json" and isinstance(file.first, dict) and _is_header(file.first)


def _is_header(table: Mapping[str, Any]) -> bool:
    spec = table.get("eval")
    return isinstance(spec, dict) and "task" in spec and ("version" in table or "samples" in table)


@dataclass(frozen=True, slots=True)
class _Log:
    """A log: its header, and a way to go over its samples."""

    file: ResultFile
    header: Mapping[str, Any]
    samples: Callable[[list[str]], Iterator[Mapping[str, Any]]]

    @property
    def spec(self) -> Mapping[str, Any]:
        spec: Mapping[str, Any] = self.header["eval"]
        return spec

    @property
    def task(self) -> str:
        return str(self.spec.get("task") or "")

    @property
    def status(self) -> str:
        """How it ended: success, cancelled, error, or started where it did not end."""
        return str(self.header.get("status") or "started")


def _open(file: ResultFile) -> _Log:
    if file.form == "json":
        return _Log(file, file.first, lambda problems: _listed(file, problems))
    with file.archive() as archive:
        name = _HEADER if _HEADER in archive.names else _START
        try:
            header = parse(archive.read(name))
        except ValueError as error:
            raise RecordError(f"{file.path}: {name}: {error}") from None
    if not isinstance(header, dict) or not _is_header(header):
        raise RecordError(f"{file.path}: {name} does not name the task that the log is of")
    return _Log(file, header, lambda problems: _unpacked(file, problems))


def _listed(file: ResultFile, problems: list[str]) -> Iterator[Mapping[str, Any]]:
    samples = file.first.get("samples")
    if not isinstance(samples, list):
        problems.append(f"{file.name}: no samples; the log was written without them (log_samples)")
    for number, sample in enumerate(samples if isinstance(samples, list) else ()):
        if isinstance(sample, dict):
            yield sample
        else:
            problems.append(f"{file.name}: sample {number:,} is no table; left out")


def _unpacked(file: ResultFile, problems: list[str]) -> Iterator[Mapping[str, Any]]:
    with file.archive() as archive:
        for name in archive.names:
            if not (name.startswith(_SAMPLES) and name.endswith(".json")):
                continue
            try:
                sample = parse(archive.read(name))
            except ValueError as error:
                problems.append(f"{file.name}: {name[:80]}: {error}; left out")
                continue
            if isinstance(sample, dict):
                yield sample
            else:
                problems.append(f"{file.name}: {name[:80]} is no table; left out")


def _read(files: Sequence[ResultFile], fields: Fields) -> list[ResultSet]:
    gathering = Gathering(fields)
    logs = _one_a_task([_open(file) for file in files], gathering)
    models = {str(log.spec.get("model") or "") for log in logs}
    if len(models) > 1:
        raise RecordError(f"{files[0].path}: logs of several models ({some(sorted(models))}); give a folder for each")
    for log in logs:
        _read_log(gathering, log)
    if len(logs) == 1:
        gathering.about["task"] = logs[0].task
    model = next(iter(models), "")
    return [gathering.result_set(model.rpartition("/")[2])]


def _one_a_task(logs: Sequence[_Log], gathering: Gathering) -> list[_Log]:
    """Of a task's logs the one that ended well. Raises RecordError where that leaves several."""
    tasks: dict[str, list[_Log]] = {}
    for log in logs:
        tasks.setdefault(log.task, []).append(log)
    for task, runs in tasks.items():
        ended = [log for log in runs if log.status == "success"] if len(runs) > 1 else runs
        if len(ended) != 1:
            raise RecordError(
                f"{runs[-1].file.path}: {len(runs)} logs of the task {task}, {len(ended)} of which ended well; give the"
                " log of one run"
            )
        for log in runs:
            if log is not ended[0]:
                counts = ended[0].file.name
                gathering.notes.append(f"{log.file.name}: ended by {log.status}; {counts} counts for {task}")
        tasks[task] = ended
    return [log for runs in tasks.values() for log in runs]


def _read_log(gathering: Gathering, log: _Log) -> None:
    spec = log.spec
    gathering.about |= facts(spec, {"model": "model", "date": "created"})
    gathering.about |= facts(_table(spec.get("packages")), {"version": "inspect_ai"})
    clusters, groups = _options(spec, "cluster"), _options(spec, "group_key")
    main, lost = _headline(log.header), 0
    for sample in log.samples(gathering.problems):
        identity, epoch = sample.get("id"), sample.get("epoch", 1)
        if type(identity) not in (str, int) or type(epoch) is not int:
            gathering.problems.append(f"{log.file.name}: a sample without id and epoch; left out")
            continue
        parts = dict(_scores(sample.get("scores")))
        if not parts:
            lost += 1
            continue
        for metric, part in parts.items():
            gathering.metric(metric, part)
        name = f"{log.task}/{identity}"
        metadata = sample.get("metadata")
        gathering.add(
            Item(
                id=name,
                cluster=gathering.cluster_of(name, metadata, clusters),
                trial=epoch,
                success=None,
                parts=parts,
                slices=(log.task, *gathering.slices_of(metadata, groups)),
                prompt=hashed(_asked(sample.get("input"))),
                target=hashed(sample.get("target")),
            )
        )
    _judge(gathering, log.task, main)
    gathering.lost += lost
    if lost:
        gathering.notes.append(f"{log.task}: {counted(lost, 'sample')} without a score, by an error or a limit")
    if log.status != "success":
        gathering.notes.append(f"{log.file.name}: the run ended by {log.status}, so it may not hold all samples")


def _judge(gathering: Gathering, task: str, main: str | None) -> None:
    """Say of each of a task's items whether it passed: by the log's headline, else by its first score of 0 or 1."""
    mine = [(key, item) for key, item in gathering.items.items() if item.slices[0] == task]
    names = dict.fromkeys([*([main] if main else []), *(metric for _, item in mine for metric in item.parts)])
    judges = tuple(n for n in names if all(item.parts.get(n, (0.0, 1.0))[0] in (0.0, 1.0) for _, item in mine))
    gathering.judges[task] = judges
    for key, item in mine if judges else ():
        gathering.items[key] = judged(item, judges[0])


def _headline(header: Mapping[str, Any]) -> str | None:
    headline = _table(_table(header.get("results")).get("headline"))
    scorer, score = headline.get("scorer"), headline.get("score")
    if not isinstance(scorer, str):
        return None
    return scorer if score in (None, scorer) else f"{scorer}/{score}"


def _scores(scores: Any) -> Iterator[tuple[str, Part]]:
    """A sample's scores as metrics."""
    for scorer, score in _table(scores).items():
        value = score.get("value") if isinstance(score, dict) else score
        keyed = {f"{scorer}/{key}": each for key, each in value.items()} if isinstance(value, dict) else {scorer: value}
        for name, each in keyed.items():
            if (number := _number(each)) is not None:
                yield name, (number, 1.0)


def _number(value: Any) -> float | None:
    if not isinstance(value, str):
        return score_of(value)
    known = _LETTERS.get(value, _WORDS.get(value.lower()))
    if known is not None:
        return known
    try:
        return score_of(float(value))
    except ValueError:
        return None


def _options(spec: Any, key: str) -> tuple[str, ...]:
    """Values of an option of any metric of the log, such as the field that errors are clustered by."""
    values: dict[str, None] = {}
    left = [spec.get("metrics"), spec.get("scorers")]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if isinstance(value.get(key), str):
                values[value[key]] = None
            left += [each for each in value.values() if isinstance(each, dict | list)]
        elif isinstance(value, list):
            left += value
    return tuple(values)


def _asked(value: Any) -> Any:
    """What was asked, without the ids that messages get anew in each run."""
    if not isinstance(value, list):
        return value
    return [
        {key: each for key, each in message.items() if key in ("role", "content", "tool_calls")}
        if isinstance(message, dict)
        else message
        for message in value
    ]


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


READER = Reader("inspect_ai", ".eval and .json logs", _recognises, _read)
