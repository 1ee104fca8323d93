"""The record of an evaluation: sides, measurements with intervals, pairs, survival, and every trial.

All figures are worked out from the trials by `finish`, which keeps them, so that another confidence or another slice
needs no new run. No model here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..records.files import read_checked
from ..stats import kaplan_meier
from .figures import Trial, of_difference, of_requests, of_side, outcomes, pair_up, totals
from .identity import identity_notes, observed
from .items import CALL_CHECKS

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
        observations = observed(side["model"], mine) if side.get("model") else {}
        finished.append({**side, **observations, "measurements": measured, "serving": totals(mine)})
    for place, mine in enumerate(by_side[1:], 1):
        a, b = pair_up(by_side[0], mine)
        finished[place]["measurements"] += of_difference(a, b, suites=several, confidence=confidence)
        finished[place]["paired"] = outcomes(a, b, suites=several)
    done["baseline"], done["candidates"] = finished[0], finished[1:]
    done["survival"] = list(_survival(names, by_side, confidence))
    done["notes"] = [*done.get("notes", []), *identity_notes(done), *_notes(names, by_side, done)]
    done["call_checks"] = list(CALL_CHECKS)
    return {**done, "trials": trials}


def _survival(names: Sequence[str], by_side: Sequence[Sequence[Trial]], confidence: float) -> Iterator[dict[str, Any]]:
    """How far loops get before they first go wrong, a curve a side; loops that never did are censored at their end."""
    for name, trials in zip(names, by_side, strict=True):
        loops = [t for t in trials if t["passed"] is not None and t["depth"]]
        if not loops:
            continue
        times = [t["first_error"] or t["depth"] for t in loops]
        failures = [t["first_error"] is not None for t in loops]
        units = [f"{t['suite']}/{t['unit']}" for t in loops]
        clusters = units if len(set(units)) < len(units) else None
        yield {"name": name, **kaplan_meier(times, failures, clusters, confidence=confidence).as_dict()}


def _notes(names: Sequence[str], by_side: Sequence[Sequence[Trial]], record: Mapping[str, Any]) -> Iterator[str]:
    for name, trials in zip(names, by_side, strict=True):
        failed = [t["failure"] for t in trials if t["failure"]]
        if failed:
            kinds = ", ".join(f"{n} × {kind}" for kind, n in Counter(f["kind"] for f in failed).most_common())
            yield (
                f"{name}: {len(failed)} of {len(trials)} trials had no answer ({kinds}) and are left out:"
                f" {failed[0]['message']}"
            )
        if broken := sum(f["kind"] == "truncated" for f in failed):
            yield (
                f"{name}: in {broken} trials the server broke off the same answer each time. mlx_lm.server does so"
                " where a call is JSON without name or arguments; a build given as a folder shows what they are"
            )
        requests = [r for t in trials for r in t["requests"]]
        visible = sum(r["ttft_s"] is not None for r in requests)
        if requests and visible < len(requests) and not record["settings"].get("draft"):
            yield (
                f"{name}: the first token of {len(requests) - visible} of {len(requests)} answers could not be seen"
                " (calls or answers that the server hands out whole); times to it are of the others"
            )
    settings = record["settings"]
    if settings.get("draft"):
        yield "builds read along what a faultless run goes on with (--draft): times of answers are no times of decoding"
    if settings["trials"] > 1 and not settings["temperature"]:
        yield "at temperature 0 trials of one item repeat each other; give --temperature above 0 for pass^k"


def read_eval(path: Path) -> dict[str, Any]:
    """Read a record and check what is counted on. Raises RecordError with what is wrong with it."""
    return read_checked(path, "eval")
