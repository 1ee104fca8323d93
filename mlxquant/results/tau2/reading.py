"""Result files of τ²-bench and τ-bench: a JSON, `results.json` with `simulations/`, a v1 list; gzip or not.

Files that were cut off while being written, whose index and folder disagree, or that hold a broken simulation among
good ones are usual after an interrupted run. What can be read is read; what cannot is said, with file and record. Only
a file from which nothing comes raises.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...disk.files import open_regular, read_regular
from ...errors import RecordError
from ..files import open_file
from .parsing import Results, Simulation, expected_actions, parse_tau1, parse_tau2

_FOLDER, _INDEX = "simulations", "results.json"
_GZIP = b"\x1f\x8b"
_PIECE = 64
_DIGITS = 300
_HEAD = 1 << 16
_ARRAY = re.compile(r'"simulations"\s*:\s*\[')


def recognises(path: Path) -> bool:
    """Whether a file, or the results.json of a folder, holds simulations; a damaged one by how it begins."""
    path = path / _INDEX if path.is_dir() else path
    try:
        value = open_file(path).first
    except RecordError:
        try:
            with open_regular(path) as file:
                start = file.read(_HEAD)
        except OSError:
            return False
        head = (_before_the_damage(start) if start[:2] == _GZIP else start)[:_HEAD]
        return bool(_ARRAY.search(head.decode("utf-8", "replace")))
    if isinstance(value, list):
        return bool(value) and isinstance(value[0], dict) and {"task_id", "reward"} <= value[0].keys()
    return isinstance(value, dict) and ("simulations" in value or {"info", "tasks"} <= value.keys())


def read_results(path: Path, name: str | None = None) -> Results:
    """Read a result file, or the folder of one. Raises RecordError where nothing of it can be read."""
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        if not (path / _INDEX).is_file():
            raise RecordError(
                f"{path}: a folder without {_INDEX}; give a τ²-bench result file, or a folder that has it"
            )
        path = path / _INDEX
    problems: list[str] = []
    data = _bytes_of(path)
    digest = hashlib.sha256(data)
    value = _parsed(data, path, problems)
    if isinstance(value, list):
        form = "tau-bench list"
        simulations = [parse_tau1(entry, f"{path.name}: entry {n}", problems) for n, entry in enumerate(value)]
        table: Mapping[str, Any] = {}
    elif isinstance(value, Mapping) and ("simulations" in value or "info" in value or "tasks" in value):
        form, table = "tau2-bench file", value
        actions = expected_actions(value.get("tasks"), problems, path.name)
        if value.get("simulations"):
            entries = _listed(value["simulations"], path, problems)
        elif (folder / _FOLDER).is_dir():
            form = "tau2-bench folder"
            entries = _from_folder(folder / _FOLDER, value.get("simulation_index"), problems, digest)
        else:
            entries = iter(())
        simulations = [parse_tau2(entry, place, problems, actions) for place, entry in entries]
    else:
        raise RecordError(
            f"{path}: neither τ²-bench results (a table with simulations) nor τ-bench's (a list): give the results.json"
            " or trajectory file that the run wrote"
        )
    distinct = _without_repeats([s for s in simulations if s is not None], path.name, problems)
    if not distinct:
        first = (
            f" ({problems[0]}{f'; and {len(problems) - 1:,} more' if len(problems) > 1 else ''})" if problems else ""
        )
        raise RecordError(
            f"{path}: no simulation in it can be read{first}; give the file that the finished run wrote, with a task_id"
            " in each simulation"
        )
    return Results(
        name=name or _name_of(path),
        file=path.name if path.name != _INDEX else f"{path.resolve().parent.name}/{_INDEX}",
        form=form,
        sha256=digest.hexdigest(),
        simulations=tuple(distinct),
        problems=tuple(problems),
        about=_about(table),
        num_trials=_trials(table),
    )


def _bytes_of(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None


def _parsed(data: bytes, path: Path, problems: list[str]) -> Any:
    """The file's JSON; of one that was cut off, what stands before the cut."""
    if data[:2] == _GZIP:
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            data = _before_the_damage(data)
            if not data:
                raise RecordError(
                    f"{path}: begins as gzip does, but nothing of it can be unpacked; it is damaged: get it again"
                ) from None
            problems.append(f"{path.name}: the gzip stream is cut off or damaged")
    if not data.strip():
        raise RecordError(f"{path}: the file is empty; the run wrote nothing, or was ended before it did")
    try:
        return json.loads(data, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        text = data.decode("utf-8", "replace")
        rest = _before_the_cut(text)
        if rest is None:
            raise RecordError(f"{path}: a JSON file expected: {error}") from None
        count = len(rest if isinstance(rest, list) else rest["simulations"])
        problems.append(f"{path.name}: broken JSON ({error}); the {count:,} records before that are read")
        return rest


def _whole(text: str) -> float:
    """A whole number; one that no float holds is infinite, which no field of a result can be."""
    return int(text) if len(text) <= _DIGITS else math.inf


def _before_the_damage(data: bytes) -> bytes:
    """What a cut or damaged gzip stream holds up to there; a piece at a time, since an error loses its whole piece."""
    stream, whole = zlib.decompressobj(zlib.MAX_WBITS | 16), bytearray()
    for start in range(0, len(data), _PIECE):
        try:
            whole += stream.decompress(data[start : start + _PIECE])
        except zlib.error:
            break
    return bytes(whole)


def _before_the_cut(text: str) -> Any:
    """Whole records at the beginning of a damaged list of them, in the form of the file; None if there are none."""
    start = text.lstrip()
    if start.startswith("["):
        return list(_whole_items(start, 1)) or None
    match = _ARRAY.search(start)
    items = list(_whole_items(start, match.end())) if match else []
    return {"simulations": items} if items else None


def _whole_items(text: str, position: int) -> Iterator[Any]:
    decoder = json.JSONDecoder(parse_int=_whole)
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        try:
            item, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            return
        yield item


def _listed(value: Any, path: Path, problems: list[str]) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, list):
        problems.append(f"{path.name}: simulations is no list; nothing read from it")
        return
    for number, entry in enumerate(value):
        yield f"{path.name}: simulation {number}{_called(entry)}", entry


def _called(entry: Any) -> str:
    task = entry.get("task_id") if isinstance(entry, Mapping) else None
    return f" (task {str(task)[:40]}, trial {entry.get('trial')})" if task is not None else ""


def _from_folder(folder: Path, index: Any, problems: list[str], digest: Any) -> Iterator[tuple[str, Any]]:
    """Each simulation's own file, held against the index where there is one; τ² itself refuses on any difference."""
    files = sorted(folder.glob("*.json"))
    if isinstance(index, list):
        wanted = {str(entry.get("id")) for entry in index if isinstance(entry, Mapping)}
        there = {file.stem for file in files}
        problems += [f"{folder.name}/{stem}.json: in the index, but not there" for stem in sorted(wanted - there)]
        problems += [
            f"{folder.name}/{stem}.json: not in the index; read all the same" for stem in sorted(there - wanted)
        ]
    for file in files:
        try:
            data = read_regular(file)
            entry = json.loads(data, parse_int=_whole)
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"{folder.name}/{file.name}: cannot be read as JSON ({error}); left out")
            continue
        digest.update(data)
        yield f"{folder.name}/{file.name}{_called(entry)}", entry


def _without_repeats(simulations: list[Simulation], file: str, problems: list[str]) -> list[Simulation]:
    """Leave out a simulation that stands twice; two of one task and trial are both kept, as τ² keeps them."""
    distinct: list[Simulation] = []
    ids, trials = set[str](), set[tuple[str, int]]()
    for s in simulations:
        if s.id is not None and s.id in ids:
            problems.append(f"{file}: simulation {s.id} (task {s.task[:40]}) stands twice; the second is left out")
            continue
        if s.id is not None:
            ids.add(s.id)
        if s.trial is not None and (s.task, s.trial) in trials:
            problems.append(
                f"{file}: task {s.task[:40]}, trial {s.trial} stands twice; both count, the first is paired"
            )
        elif s.trial is not None:
            trials.add((s.task, s.trial))
        distinct.append(s)
    return distinct


def _about(table: Mapping[str, Any]) -> dict[str, str | int | None]:
    """What the run says of itself, as far as it helps to tell whether two runs are comparable."""
    info = table.get("info")
    info = info if isinstance(info, Mapping) else {}

    def inner(key: str, field: str) -> Any:
        part = info.get(key)
        return part.get(field) if isinstance(part, Mapping) else None

    facts = {
        "domain": inner("environment_info", "domain_name"),
        "agent": inner("agent_info", "implementation"),
        "agent_llm": inner("agent_info", "llm"),
        "user": inner("user_info", "implementation"),
        "user_llm": inner("user_info", "llm"),
        "max_steps": info.get("max_steps"),
        "max_errors": info.get("max_errors"),
        "seed": info.get("seed"),
        "git_commit": info.get("git_commit"),
        "date": table.get("timestamp"),
    }
    return {key: value for key, value in facts.items() if type(value) in (str, int)}


def _trials(table: Mapping[str, Any]) -> int | None:
    info = table.get("info")
    trials = info.get("num_trials") if isinstance(info, Mapping) else None
    return trials if type(trials) is int and trials > 0 else None


def _name_of(path: Path) -> str:
    if path.name == _INDEX:
        return path.resolve().parent.name
    return path.name.removesuffix(".gz").removesuffix(".json")
