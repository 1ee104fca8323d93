"""A record as rows: a list of flat tables, as pandas, polars or a spreadsheet take them.

    rows(plan)                     a row a module
    rows(compare)                  a row a measurement, with the candidate that it is of
    rows(bench, "samples")         a row an entry of another list in the record

A value that is a table becomes columns with a dot in their names (``format.bits``), a list becomes JSON text, so that
every cell is a number, a text, a truth or nothing. Rows of one call have the same columns in the same order. Nothing
is computed here: a figure is what the record holds, and records of other versions are refused where they are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import RecordError, UsageError
from .files import read_record

Cell = str | int | float | bool | None
Row = dict[str, Cell]

_MEASURED = "measurements"
# kind of record -> the list that its rows are made of
_TABLES = {
    "plan": "modules",
    "audit": "modules",
    "diff": "changes",
    "compare": _MEASURED,
    "eval": _MEASURED,
    "tau2": _MEASURED,
    "rollout": _MEASURED,
    "results": _MEASURED,
    "bench": "results",
    "predict": "chips",
    "fits": "recipes",
    "sweep": "candidates",
    "validate": "checks",
    "recipes": "recipes",
    "load": "libraries",
    "allocate": "groups",
    "build": "steps",
}


def rows(record: Mapping[str, Any] | str | Path, table: str | None = None) -> list[Row]:
    """Give a record's main list, or another of its lists, as flat tables of one set of columns.

    `record` is a record, or the path of one. `table` names a list of tables at the record's top, such as "samples" of
    a bench record; "measurements" are those of the baseline and of all candidates, with `candidate` (a name) and
    `baseline` (whether it is the baseline). By default: modules of plan and audit, changes of diff, measurements of
    compare, eval, results and tau2, results of bench, candidates of sweep, checks of validate, recipes of
    `plan --fits`, groups of allocate.

    Raises RecordError for what is no record, UsageError for a list that the record does not have.

    >>> rows({"schema": "mlxquant.plan/1", "modules": [{"path": "lm_head", "shape": [8, 64], "format": {"bits": 8}}]})
    [{'path': 'lm_head', 'shape': '[8, 64]', 'format.bits': 8}]
    """
    contents = read_record(Path(record)) if isinstance(record, str | Path) else record
    schema = contents.get("schema")
    if not isinstance(schema, str):
        raise RecordError("no record of mlxquant: it names no schema; give what a command's --json printed")
    wanted = table or _TABLES.get(schema.removeprefix("mlxquant.").partition("/")[0], "")
    entries = list(_measurements(contents)) if wanted == _MEASURED else contents.get(wanted)
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise UsageError(f"{schema} has no list {wanted!r} of tables; it has: {', '.join(_lists(contents)) or 'none'}")
    flat = [dict(_cells(entry)) for entry in entries]
    columns = dict.fromkeys(column for row in flat for column in row)
    for absent in [c for c in columns if any(other.startswith(f"{c}.") for other in columns)]:
        if all(row.get(absent) is None for row in flat):  # a table elsewhere, nothing here
            del columns[absent]
    return [{column: row.get(column) for column in columns} for row in flat]


def _measurements(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every measurement of the baseline and the candidates, with whose it is."""
    baseline = record.get("baseline")
    sides = [(baseline, True)] if isinstance(baseline, Mapping) else []
    sides += [(candidate, False) for candidate in record.get("candidates", ()) if isinstance(candidate, Mapping)]
    builds = [build for build in record.get("builds", ()) if isinstance(build, Mapping) and _MEASURED in build]
    sides += [(build, place == 0 and len(builds) > 1) for place, build in enumerate(builds)]
    for side, is_baseline in sides:
        for measurement in side.get(_MEASURED, ()):
            yield {"candidate": side.get("name"), "baseline": is_baseline, **measurement}


def _lists(record: Mapping[str, Any]) -> Iterator[str]:
    """Names of the lists of tables that a record has."""
    for key, value in record.items():
        if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
            yield key
    if next(_measurements(record), None) is not None:
        yield _MEASURED


def _cells(entry: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Cell]]:
    """Columns and values of one entry. A table within becomes columns, a list JSON text."""
    for key, value in entry.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _cells(value, f"{name}.")
        elif isinstance(value, list | Mapping):
            yield name, json.dumps(value, ensure_ascii=False) if value else None
        else:
            yield name, value
