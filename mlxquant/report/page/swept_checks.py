"""What the page counts on in a sweep's record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..verdict import ORDER

_NUMBER = (int, float, type(None))


def sweep_problems(record: Mapping[str, Any]) -> Iterator[str]:
    """What a sweep's record lacks."""
    for key in ("recommendation", "tolerances", "source", "frontier"):
        if not isinstance(record.get(key), Mapping):
            yield f"{key}: a table expected"
    found = record.get("recommendation")
    if isinstance(found, Mapping) and not _is_recommendation(found):
        yield "recommendation: name, why, and tables with name and reasons expected"
    frontier = record.get("frontier")
    if isinstance(frontier, Mapping) and not all(
        isinstance(frontier.get(key), list) for key in ("bytes", "active_bytes_per_token")
    ):
        yield "frontier: lists of names by bytes and active_bytes_per_token expected"
    floor = record.get("noise_floor_kl_nats")
    if floor is not None and not _is_figure(floor):
        yield "noise_floor_kl_nats: a measurement expected"
    candidates, thresholds = record.get("candidates"), record.get("thresholds")
    if not isinstance(candidates, list) or not all(_is_candidate(c) for c in candidates):
        yield "candidates: a list of tables with name, family, sizes, verdict, dominated and measurements expected"
    if not isinstance(thresholds, list) or not all(_is_line(t) for t in thresholds):
        yield "thresholds: a list of tables with family, tolerance and statuses by bits expected"


def _is_recommendation(found: Mapping[str, Any]) -> bool:
    refused = found.get("smaller", []) if found.get("name") is not None else [found.get("nearest")]
    return (
        isinstance(found.get("name"), str | None)
        and isinstance(found.get("why"), str)
        and isinstance(refused, list)
        and all(
            r is None or (isinstance(r, Mapping) and isinstance(r.get("name"), str) and _texts(r.get("reasons")))
            for r in refused
        )
    )


def _is_candidate(c: Any) -> bool:
    return (
        isinstance(c, Mapping)
        and all(isinstance(c.get(key), str) for key in ("name", "family", "verdict"))
        and all(type(c.get(key, "")) in _NUMBER for key in ("bits", "bytes", "bpw", "active_bytes_per_token"))
        and isinstance(c.get("dominated"), Mapping)
        and all(isinstance(d, Mapping) and {"by", "resolved"} <= d.keys() for d in c["dominated"].values())
        and _is_first(c.get("first_missed"))
        and isinstance(c.get("measurements"), list)
        and all(_is_figure(m) for m in c["measurements"])
    )


def _is_first(value: Any) -> bool:
    return value is None or (
        isinstance(value, Mapping) and value.get("status") in ORDER and isinstance(value.get("metric"), str)
    )


def _is_line(t: Any) -> bool:
    return (
        isinstance(t, Mapping)
        and isinstance(t.get("family"), str)
        and isinstance(t.get("statuses"), Mapping)
        and all(status in ORDER for status in t["statuses"].values())
        and (
            t.get("tolerance", "") is None
            or (type(t.get("tolerance")) is int and all(isinstance(t.get(key), str) for key in ("metric", "limit")))
        )
    )


def _is_figure(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        type(value.get(key, "")) in _NUMBER for key in ("estimate", "low", "high")
    )


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
