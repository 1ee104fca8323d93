"""The record of an evaluation: sides, measurements with intervals, pairs, survival, and every trial.

All figures are worked out from the trials by `finish`, which keeps them, so that another confidence or another slice
needs no new run. `read_eval` reads a record and checks what is counted on. No model here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RecordError, listed
from ..intervals import kaplan_meier
from ..records import read_record
from .items import CALL_CHECKS
from .measures import of_difference, of_side
from .paired import outcomes, pair_up
from .serving import of_requests, totals
from .tallies import Trial

SCHEMA = "mlxquant.eval/1"


def finish(record: Mapping[str, Any]) -> dict[str, Any]:
    """Work out `measurements` of each side, `paired` and `survival` from `trials`.

    `record` has `baseline`, `candidates`, `trials`, `confidence`, `suites` and what surrounds them.
    """
    done = dict(record)
    trials, confidence = done.pop("trials"), float(done["confidence"])
    several = len(done["suites"]) > 1
    names = [done["baseline"]["name"], *(c["name"] for c in done["candidates"])]
    by_side = [[t for t in trials if t["side"] == side] for side in range(len(names))]
    sides = [done["baseline"], *done["candidates"]]
    finished = []
    for side, mine in zip(sides, by_side, strict=True):
        judged = [t for t in mine if t["passed"] is not None]
        measured = of_side(judged, suites=several, confidence=confidence)
        measured += of_requests(mine, confidence)
        finished.append({**side, "measurements": measured, "serving": totals(mine)})
    for place, mine in enumerate(by_side[1:], 1):
        a, b = pair_up(by_side[0], mine)
        finished[place]["measurements"] += of_difference(a, b, suites=several, confidence=confidence)
        finished[place]["paired"] = outcomes(a, b, suites=several)
    done["baseline"], done["candidates"] = finished[0], finished[1:]
    done["survival"] = list(_survival(names, by_side, confidence))
    done["notes"] = [*done.get("notes", []), *_notes(names, by_side, done)]
    done["call_checks"] = list(CALL_CHECKS)
    return {**done, "trials": trials}


def _survival(names: Sequence[str], by_side: Sequence[Sequence[Trial]], confidence: float) -> Iterator[dict[str, Any]]:
    """How far loops get before they first go wrong, a curve a side; loops that never did are censored at their end."""
    for name, trials in zip(names, by_side, strict=True):
        loops = [t for t in trials if t["passed"] is not None and t["depth"]]
        if not loops:
            continue
        times = [t["first_error"] or t["depth"] for t in loops]
        seen = [t["first_error"] is not None for t in loops]
        units = [f"{t['suite']}/{t['unit']}" for t in loops]
        clusters = units if len(set(units)) < len(units) else None
        yield {"name": name, **kaplan_meier(times, seen, clusters, confidence=confidence).as_dict()}


def _notes(names: Sequence[str], by_side: Sequence[Sequence[Trial]], record: Mapping[str, Any]) -> Iterator[str]:
    for name, trials in zip(names, by_side, strict=True):
        failed = [t["failure"] for t in trials if t["failure"]]
        if failed:
            kinds = ", ".join(f"{n} × {kind}" for kind, n in Counter(f["kind"] for f in failed).most_common())
            yield (
                f"{name}: {len(failed)} of {len(trials)} trials had no answer ({kinds}) and count nowhere:"
                f" {failed[0]['message']}"
            )
        if broken := sum(f["kind"] == "truncated" for f in failed):
            yield (
                f"{name}: in {broken} trials the server broke off the same answer each time. mlx_lm.server does so"
                " where a call is JSON without name or arguments; a build given as a folder shows what they are"
            )
        requests = [r for t in trials for r in t["requests"]]
        seen = sum(r["ttft_s"] is not None for r in requests)
        if requests and seen < len(requests):
            yield (
                f"{name}: the first token of {len(requests) - seen} of {len(requests)} answers could not be seen"
                " (calls that the server hands out whole); times to it are of the others"
            )
    settings = record["settings"]
    if settings["trials"] > 1 and not settings["temperature"]:
        yield "at temperature 0 trials of one item repeat each other; pass^k says what --temperature would vary"


def measurement(side: Mapping[str, Any], metric: str, **where: str) -> dict[str, Any] | None:
    """A side's measurement of exactly this metric and place, None where there is none."""
    for found in side["measurements"]:
        if found["metric"] == metric and {k: found[k] for k in ("slice", "depth") if k in found} == where:
            return dict(found)
    return None


def read_eval(path: Path) -> dict[str, Any]:
    """Read a record and check what is counted on. Raises RecordError with all that is wrong."""
    record = read_record(path)
    if record["schema"] != SCHEMA:
        raise RecordError(f"{path}: schema {SCHEMA} expected, {record['schema']!r} found; give what eval -o wrote")
    problems = list(problems_of(record))
    if problems:
        raise RecordError(listed([f"{path}: {problem}" for problem in problems], limit=5))
    return record


def problems_of(record: Mapping[str, Any]) -> Iterator[str]:
    """What a record of this schema lacks."""
    wanted: dict[str, type | tuple[type, ...]] = {
        "baseline": dict, "candidates": list, "settings": dict, "suites": list, "survival": list, "notes": list,
        "trials": list, "confidence": (int, float),
    }  # fmt: skip
    wrong = [k for k, kinds in wanted.items() if not isinstance(record.get(k), kinds)]
    yield from (f"{k}: missing, or not of the type that it has" for k in wrong)
    if wrong:
        return
    for place, side in (("baseline", record["baseline"]), *enumerate(record["candidates"])):
        where = place if isinstance(place, str) else f"candidates[{place}]"
        if not isinstance(side, dict) or not isinstance(side.get("name"), str):
            yield f"{where}: a table with a name expected"
        elif not isinstance(side.get("measurements"), list):
            yield f"{where}: measurements: a list expected"
        else:
            yield from (f"{where}: {p}" for p in _measurement_problems(side["measurements"]))
            if place != "baseline" and not isinstance(side.get("paired"), list):
                yield f"{where}: paired: a list expected"


def _measurement_problems(found: Sequence[Any]) -> Iterator[str]:
    for number, entry in enumerate(found):
        if not isinstance(entry, dict) or not isinstance(entry.get("metric"), str):
            yield f"measurements[{number}]: a table with a metric expected"
        elif any(type(entry.get(k)) not in (int, float, type(None)) for k in ("estimate", "low", "high")):
            yield f"measurements[{number}]: estimate, low and high are numbers or null"
