"""Read an evaluation's record as if a stranger had written it: what readers count on is checked, all of it at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..records.files import read_checked
from .figures import DEPTHS
from .record import SCHEMA

_NUMBER: tuple[type, ...] = (int, float)
_MAYBE: tuple[type, ...] = (int, float, type(None))
_RECORD: Mapping[str, tuple[type, ...]] = {
    "baseline": (dict,), "candidates": (list,), "settings": (dict,), "suites": (list,), "survival": (list,),
    "notes": (list,), "trials": (list,), "confidence": _NUMBER, "machine": (dict,), "versions": (dict,), "date": (str,),
}  # fmt: skip
_SETTINGS = {"trials": (int,), "temperature": _NUMBER, "seed": (int,)}
_SUITE = {"name": (str,), "items": (int,), "about": (dict,)}
_SIDE = {"name": (str,), "measurements": (list,), "serving": (dict,)}
_MEASURED = {"metric": (str,), "estimate": _MAYBE, "low": _MAYBE, "high": _MAYBE, "n": (int,), "clusters": (int,)}
_PAIRED = {"metric": (str,), "mcnemar_p": _NUMBER, **dict.fromkeys(
    ("n", "units", "both_right", "both_wrong", "only_baseline", "only_candidate", "units_worse", "units_better"), (int,)
)}  # fmt: skip
_SERVING = {"requests": (int,), "repeats": (int,), "failures": (dict,), "input_tokens": _MAYBE, "output_tokens": _MAYBE}
_CURVE = {"name": (str,), "times": (list,), "survival": (list,), "failed": (list,), "median": _MAYBE,
          "median_low": _MAYBE, "median_high": _MAYBE, "n": (int,), "clusters": (int,)}  # fmt: skip
_TRIAL = {"side": (int,), "depth": (int,)}


def read_eval(path: Path) -> dict[str, Any]:
    """Read a record and check what is counted on. Raises RecordError with all that is wrong."""
    return read_checked(path, SCHEMA, "eval", problems_of)


def problems_of(record: Mapping[str, Any]) -> Iterator[str]:
    """What a record of this schema lacks, or has of the wrong type."""
    wrong = list(_faults(record, _RECORD, "record"))
    yield from wrong
    if wrong:
        return
    yield from _faults(record["settings"], _SETTINGS, "settings")
    for key, expected in (("suites", _SUITE), ("survival", _CURVE), ("trials", _TRIAL)):
        for number, entry in enumerate(record[key]):
            yield from _faults(entry, expected, f"{key}[{number}]")
    for number, curve in enumerate(record["survival"]):
        if isinstance(curve, dict) and not _are_numbers(curve, ("times", "survival", "failed")):
            yield f"survival[{number}]: times, survival and failed: lists of numbers, all of one length, expected"
    yield from _side_faults(record["baseline"], "baseline")
    for number, side in enumerate(record["candidates"]):
        yield from _side_faults(side, f"candidates[{number}]")
        rows = side.get("paired") if isinstance(side, dict) else None
        if not isinstance(rows, list):
            yield f"candidates[{number}]: paired: a list expected"
            continue
        for place, row in enumerate(rows):
            yield from _faults(row, _PAIRED, f"candidates[{number}].paired[{place}]")


def _side_faults(side: Any, place: str) -> Iterator[str]:
    wrong = list(_faults(side, _SIDE, place))
    yield from wrong
    if wrong:
        return
    yield from _faults(side["serving"], _SERVING, f"{place}.serving")
    if side.get("recipe") is not None and not isinstance(side["recipe"], dict):
        yield f"{place}: recipe: a table or null expected"
    if side.get("bytes") is not None and not all(type(side.get(k)) in _NUMBER for k in ("bytes", "bpw")):
        yield f"{place}: bytes and bpw: numbers expected"
    labels = [label for label, _, _ in DEPTHS]
    for number, found in enumerate(side["measurements"]):
        yield from _faults(found, _MEASURED, f"{place}.measurements[{number}]")
        if isinstance(found, dict) and "depth" in found and found["depth"] not in labels:
            yield f"{place}.measurements[{number}]: depth: one of {', '.join(labels)} expected"
        if isinstance(found, dict) and not isinstance(found.get("slice", ""), str):
            yield f"{place}.measurements[{number}]: slice: a name expected"


def _faults(table: Any, expected: Mapping[str, tuple[type, ...]], place: str) -> Iterator[str]:
    if not isinstance(table, dict):
        yield f"{place}: a table expected, {type(table).__name__} found"
        return
    for key, types in expected.items():
        if key not in table or type(table[key]) not in types:
            found = repr(table[key])[:40] if key in table else "nothing"
            yield f"{place}: {key} is {found}, {' or '.join(_word(t) for t in types)} expected"


def _word(kind: type) -> str:
    return {"dict": "a table", "list": "a list", "str": "text", "NoneType": "null"}.get(kind.__name__, kind.__name__)


def _are_numbers(curve: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    lists = [curve.get(key) for key in keys]
    if not all(isinstance(found, list) and all(type(v) in _NUMBER for v in found) for found in lists):
        return False
    return len({len(found) for found in lists if isinstance(found, list)}) == 1
