"""The record of a rollout's logs: both sides over mirrored pairs, and over the requests that each served.

Pairs show the model: both sides had the same prompt, so agreement and differences rest on it. What users waited for
shows the service: errors, time, thumbs, repetitions; its slice is `served`, and the sides had different requests there.
Intervals take conversations (trace ids) as independent. Agreement is with the baseline, which may be the one that is
wrong; at a temperature above 0 two answers of one model differ, too, so a baseline mirrored to itself is the measure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import RecordError
from ..records.head import describe_versions, head, utc_date
from ..records.measurements import as_measurement
from ..results.figures import differences, measure, ratio_of
from ..results.items import Item, Part, Scale
from ..stats import clustered_quantiles
from .calls import BASELINE, CANDIDATE, LoggedCall
from .deployments import Side
from .pairing import MOST, Pair, Traffic, gather
from .payloads import Faults, read_payloads

SCHEMA = "mlxquant.rollout/1"
SERVED = "served"
_SCALES: dict[str, Scale] = {
    "valid_call": "score", "valid_json": "score", "valid_schema": "score", "same_tool": "score",
    "same_arguments": "score", "unexpected_call": "score", "same_finish": "score", "same_language": "score",
    "refused": "score", "cut_off": "score", "output_tokens": "count", "infrastructure_errors": "score",
    "timeouts": "score", "thumbs_up": "score", "retried": "score",
}  # fmt: skip
_AGREEMENT = ("same_tool", "same_arguments", "unexpected_call", "same_finish", "same_language")
_OF_PAIRS = tuple(metric for metric in _SCALES if metric not in ("thumbs_up", "retried"))
_OF_SERVED = tuple(metric for metric in _SCALES if metric not in _AGREEMENT)
_QUANTILES = (0.5, 0.9, 0.99)
_MOST_SLICES = 40


def read_rollout(paths: Sequence[Path], baseline: Side, candidate: Side, *, confidence: float = 0.95) -> dict[str, Any]:
    """Read logs and measure both sides. Raises RecordError where nothing in them is of both."""
    faults = Faults()
    addresses = {
        url.rstrip("/"): role for role, side in ((BASELINE, baseline), (CANDIDATE, candidate)) for url in side.urls
    }
    manifests = {
        role: side.build["manifest_sha256"] for role, side in ((BASELINE, baseline), (CANDIDATE, candidate))
        if "manifest_sha256" in side.build
    }  # fmt: skip
    traffic = gather(read_payloads(paths, faults), addresses, manifests, faults)
    if not traffic.counts["pairs"] and not traffic.counts["served_candidate"]:
        raise RecordError(
            f"{paths[0]}{' and others' if len(paths) > 1 else ''}: no request to the candidate among"
            f" {traffic.counts['payloads']:,} payloads ({traffic.counts['others']:,} to other servers,"
            f" {traffic.counts['other_builds']:,} to other builds, {faults.count:,} unreadable"
            f"{': ' + faults.first[0] if faults.first else ''}); give the addresses, or --config FILE of the rollout"
        )
    return make_record(traffic, (baseline, candidate), faults, [path.name for path in paths], confidence)


def make_record(
    traffic: Traffic, sides: tuple[Side, Side], faults: Faults, files: Sequence[str], confidence: float
) -> dict[str, Any]:
    """The record of what was gathered."""
    pairs = [_items(pair, number) for number, pair in enumerate(traffic.pairs.items)]
    slices = _slices([a for a, _ in pairs])
    entries = []
    for place, (side, role) in enumerate(zip(sides, (BASELINE, CANDIDATE), strict=True)):
        scales = {m: _SCALES[m] for m in _OF_PAIRS}
        measurements = measure([pair[place] for pair in pairs], scales, slices, confidence)
        if place:
            measurements += differences(
                pairs, {m: s for m, s in scales.items() if m not in _AGREEMENT}, slices, confidence
            )
        calls = [(pair[place], item[place].slices) for pair, item in zip(traffic.pairs.items, pairs, strict=True)]
        measurements += _times(calls, slices if len(slices) > 1 else (), confidence)
        measurements += _served(traffic.served[role].items, confidence)
        entries.append(_side(side, role, traffic.counts) | {"measurements": measurements})
    last = datetime.fromtimestamp(traffic.last or 0, UTC)
    return {
        **head(SCHEMA),
        "date": utc_date(last),
        "machine": {"unknown": "LiteLLM's logs do not say what served the model"},
        "versions": describe_versions(),
        "confidence": confidence,
        "files": list(files),
        "first": utc_date(datetime.fromtimestamp(traffic.first or 0, UTC)),
        "last": utc_date(last),
        "counts": {key: traffic.counts[key] for key in _COUNTS},
        "baseline": entries[0],
        "candidates": [entries[1]],
        "notes": list(_notes(traffic)),
        "problems": [
            *faults.first,
            *([f"and {faults.count - len(faults.first):,} more"] if faults.count > len(faults.first) else []),
        ],
    }


_COUNTS = (
    "payloads", "others", "other_builds", "twice", "served_baseline", "served_candidate", "answered_by_fallback",
    "mirrors", "pairs", "unpaired_baseline", "unpaired_mirrors", "ratings", "ratings_of_nothing",
)  # fmt: skip


def _side(side: Side, role: str, counts: Counter[str]) -> dict[str, Any]:
    recipe = {"name": side.build.get("recipe"), "sha256": side.build.get("recipe_sha256")}
    return {
        "name": side.variant,
        "role": role,
        "endpoint": side.urls[0] if side.urls else None,
        "model": side.model,
        "manifest_sha256": side.build.get("manifest_sha256"),
        "config_sha256": side.build.get("config_sha256"),
        "format": side.build.get("format"),
        "recipe": recipe if recipe["name"] else None,
    }


def _items(pair: Pair, number: int) -> tuple[Item, Item]:
    """A pair as two items of one question."""
    baseline, candidate = pair
    agreement = _agreement(baseline, candidate)
    tools = [f"tool:{name}" for name in dict.fromkeys(baseline.tools)]
    slices = (*baseline.slices, *tools)
    first, second = (
        Item(str(number), baseline.trace, parts=parts, slices=slices)
        for parts in (_parts(baseline), _parts(candidate) | agreement)
    )
    return first, second


def _parts(call: LoggedCall) -> dict[str, Part]:
    """What is counted of a request by itself."""
    values: dict[str, float | None] = {"infrastructure_errors": call.failed, "timeouts": call.timeout}
    if not call.failed:
        names = ("valid_call", "valid_json", "valid_schema")
        values |= dict(zip(names, call.checks or (None, None, None), strict=True))
        values |= {"refused": call.refused, "output_tokens": call.output_tokens}
        values["cut_off"] = None if call.finish is None else call.finish == "length"
    return {metric: (float(value), 1.0) for metric, value in values.items() if value is not None}


def _agreement(a: LoggedCall, b: LoggedCall) -> dict[str, Part]:
    """What is counted of a pair: whether the candidate does as the baseline; nothing where one of them failed."""
    if a.failed or b.failed or a.finish is None or b.finish is None:
        return {}
    values: dict[str, float | None] = {"same_finish": a.finish == b.finish}
    if a.tools:
        values["same_tool"] = a.tools == b.tools
        values["same_arguments"] = a.tools == b.tools and a.arguments == b.arguments
    else:
        values["unexpected_call"] = bool(b.tools) or b.checks is not None
    if a.language is not None and b.language is not None:
        values["same_language"] = a.language == b.language
    return {metric: (float(value), 1.0) for metric, value in values.items() if value is not None}


def _slices(items: Sequence[Item]) -> list[str]:
    """The commonest slices, those of one kind together."""
    counts = Counter(name for item in items for name in item.slices)
    return sorted(name for name, _ in counts.most_common(_MOST_SLICES))


def _served(calls: Sequence[LoggedCall], confidence: float) -> Iterator[dict[str, Any]]:
    """Figures over what a side served, in all and by cohort."""
    items = []
    for number, call in enumerate(calls):
        parts = _parts(call)
        if call.rating is not None:
            parts["thumbs_up"] = (float(call.rating), 1.0)
        if not call.failed:
            parts["retried"] = (float(call.retried), 1.0)
        cohorts = [f"{SERVED} {name}" for name in call.slices if name.startswith("cohort:")]
        items.append(Item(str(number), call.trace, parts=parts, slices=(SERVED, *cohorts)))
    slices = _slices(items)
    for name in slices:
        here = [item for item in items if name in item.slices]
        for metric in _OF_SERVED:
            if (interval := ratio_of(here, metric, _SCALES[metric], confidence)) is not None:
                yield as_measurement(metric, interval, slice=name)
    with_slices = [(call, item.slices) for call, item in zip(calls, items, strict=True)]
    yield from _times(with_slices, slices, confidence, everywhere=False)


def _times(
    calls: Sequence[tuple[LoggedCall, tuple[str, ...]]],
    slices: Sequence[str],
    confidence: float,
    *,
    everywhere: bool = True,
) -> Iterator[dict[str, Any]]:
    """Quantiles of the whole answer's seconds, those to the first token, and tokens a second, over answers."""
    places: list[tuple[dict[str, Any], str | None]] = [({}, None)] if everywhere else []
    for where, inside in [*places, *(({"slice": name}, name) for name in slices)]:
        here = [call for call, names in calls if not call.failed and (inside is None or inside in names)]
        for name, values in (
            ("ttft_s", [(call.ttft_s, call.trace) for call in here]),
            ("request_s", [(call.seconds, call.trace) for call in here]),
            ("decode_tok_s", [(_rate(call), call.trace) for call in here]),
        ):
            known = [(value, trace) for value, trace in values if value is not None]
            if not known:
                continue
            numbers, clusters = zip(*known, strict=True)
            for q, interval in zip(
                _QUANTILES, clustered_quantiles(numbers, clusters, _QUANTILES, confidence=confidence), strict=True
            ):
                yield as_measurement(f"{name}_p{round(100 * q)}", interval, **where)


def _rate(call: LoggedCall) -> float | None:
    """Tokens a second after the first; None where the first was not seen or there is none after it."""
    if call.ttft_s is None or not call.output_tokens or call.output_tokens < 2 or call.seconds <= call.ttft_s:
        return None
    return (call.output_tokens - 1) / (call.seconds - call.ttft_s)


def _notes(traffic: Traffic) -> Iterator[str]:
    counts = traffic.counts
    if counts["pairs"]:
        yield "agreement is with the baseline's answers; where it samples, two answers of one model differ, too"
    else:
        yield "no mirrored request was found, so the sides are not compared on the same requests"
    if traffic.pairs.seen > MOST or any(sample.seen > MOST for sample in traffic.served.values()):
        yield f"figures are of a uniform sample of {MOST:,} pairs, and of {MOST:,} requests that each side served"
    if counts["other_builds"]:
        yield f"{counts['other_builds']:,} requests went to a build of another manifest, and are left out"
    if counts["unpaired_mirrors"]:
        yield f"{counts['unpaired_mirrors']:,} mirrors have no request in the logs, and are left out"
    calls = [call for pair in traffic.pairs.items for call in pair if not call.failed]
    if calls and all(call.finish is None for call in calls):
        yield "answers are not in the logs (turn_off_message_logging), so calls and texts are not compared"
