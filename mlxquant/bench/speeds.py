"""A bench record's speeds as figures: each build's, and each later one over the first, round by round.

Ratios are means of log ratios over rounds with Student's t, which can be stated at any confidence and says how many
more rounds would settle a question; `bench` prints a bootstrap's, near to it but at 95 % alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import log
from statistics import median
from typing import Any

from ..stats import Interval, clustered_mean
from ..validate.evidence import Figure, Side, counted, exactly, identity_of, pointer_of

Sample = Mapping[str, Any]
_Value = Callable[[Sample], float | None]


def _inter_token(sample: Sample) -> float | None:
    gaps = [gap for gap in sample["token_s"] if type(gap) in (int, float) and gap > 0]
    return 1000 * median(gaps) if gaps else None


def _number(sample: Sample, key: str) -> float | None:
    value = sample.get(key)
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _figures_of(test: str) -> dict[str, _Value]:
    """What a test measures, by its label: prefill is "pp…", decode is "tg…"."""
    speed = "prefill_tok_s" if test.startswith("pp") else "decode_tok_s"
    return {
        speed: lambda s: _number(s, "tok_s"),
        "ttft_s": lambda s: _number(s, "ttft_s"),
        "inter_token_ms": _inter_token,
    }


def bench_sides(record: Mapping[str, Any]) -> tuple[Side | None, tuple[Side, ...]]:
    """The first build as the baseline, the later ones as candidates; a lone build is a candidate without a baseline.

    `record` has been checked.
    """
    samples = [s for s in record["samples"] if "failure" not in s]
    tests = list(dict.fromkeys(s["test"] for s in samples))
    sides = []
    for number, build in enumerate(record["builds"]):
        figures = [f for test in tests for f in _of_test(test, number, samples)]
        sides.append(Side(build["name"], identity_of(build), pointer_of(build), (*figures, *counted(build))))
    return (sides[0], tuple(sides[1:])) if len(sides) > 1 else (None, tuple(sides))


def _of_test(test: str, build: int, samples: Sequence[Sample]) -> Iterator[Figure]:
    where = (("test", test),)
    first, mine = ([s for s in samples if s["test"] == test and s["build"] == b] for b in (0, build))
    for metric, value in _figures_of(test).items():
        found = {s["round"]: v for s in mine if (v := value(s)) is not None}
        if not found:
            continue
        yield Figure(metric, where, _mean(list(found.values()), list(found)))
        before = {s["round"]: v for s in first if (v := value(s)) is not None}
        both = [r for r in found if r in before]
        if build and both:
            ratios = _mean([log(found[r] / before[r]) for r in both], both)
            yield Figure(f"{metric}_ratio", where, ratios, log=True)
    peaks = [s["peak_memory_bytes"] for s in mine if type(s.get("peak_memory_bytes")) is int]
    if peaks:
        yield Figure("peak_memory_bytes", where, exactly(float(max(peaks))))


def _mean(values: Sequence[float], rounds: Sequence[int]) -> Interval:
    return clustered_mean(values, rounds, share=False)
