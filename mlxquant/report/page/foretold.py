"""What the page shows where candidates were both compared and played: which figure of tokens foretells wrong calls.

Compare scores given text, eval lets a build act. A candidate that stands in records of both, by its recipe's or its
manifest's hash, gives a point for each figure; how well a figure puts candidates in order is its rank correlation with
the share of calls, or of items, that went wrong. Fewer than three candidates show nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from ...records.loading import Loaded
from ...records.measurements import measurement
from ...stats import rank_correlation
from ..common import short_name
from .candidates import Candidate, Cast, legend
from .charts import Pair, foretelling

_LEAST = 3
_SPOKEN = {"slice": "in:tool_call"}
# metric, where, what it is called, as it is drawn (the share that differs, not the one that is the same; 10⁻³ nats)
_FIGURES: tuple[tuple[str, dict[str, str], str, Callable[[float], float]], ...] = (
    ("kl_nats", {}, "KL, 10⁻³ nats", lambda v: 1000 * v),
    ("kl_nats", _SPOKEN, "KL within calls, 10⁻³ nats", lambda v: 1000 * v),
    ("same_top", {}, "another top token, %", lambda v: 100 * (1 - v)),
    ("same_top", _SPOKEN, "another top token within calls, %", lambda v: 100 * (1 - v)),
    ("expert_set_changed", {}, "other experts, %", lambda v: 100 * v),
)
_PLAYED = (("right_call", "calls with something wrong"), ("pass", "items not right"))


def foretold(comparisons: Sequence[Loaded], evaluations: Sequence[Loaded], cast: Cast) -> list[dict[str, Any]]:
    """A section for each comparison and evaluation that have three candidates in common."""
    pairs = product(enumerate(comparisons, 1), enumerate(evaluations, 1))
    return [
        section
        for (i, compared), (j, played) in pairs
        if (section := _section(compared, played, cast, f"{i}-{j}")) is not None
    ]


def _section(compared: Loaded, played: Loaded, cast: Cast, number: str) -> dict[str, Any] | None:
    scored = {cast.of(side).number: side for side in compared.record["candidates"]}
    common = [
        (cast.of(side), scored[cast.of(side).number], side)
        for side in played.record["candidates"]
        if cast.of(side).number in scored
    ]
    metric, what = next(
        ((m, words) for m, words in _PLAYED if all(measurement(side, m) for _, _, side in common)), ("", "")
    )
    if len(common) < _LEAST or not metric:
        return None
    charts, rows = [], []
    for name, where, title, shown in _FIGURES:
        points = list(_points(common, name, where, metric, shown))
        if len(points) < _LEAST:
            continue
        correlation = rank_correlation([p.x for p in points], [p.y for p in points])
        text = "-" if correlation is None else f"{correlation.estimate:.2f}".replace("-", "−")
        if correlation is not None and correlation.low is not None and correlation.high is not None:
            text += f" [{correlation.low:.2f}, {correlation.high:.2f}]".replace("-", "−")
        rows.append((title, len(points), text))
        words = f"{what} by {title}, rank correlation {text}: {'; '.join(p.words for p in points)}"
        charts.append(foretelling(f"{title}: ρ = {text}", words, points, title, what))
    return {
        "number": number,
        "title": f"{compared.name} and {played.name}",
        "what": what,
        "rows": rows,
        "legend": legend(((c.name, c) for c, _, _ in common), {c.number for c, _, _ in common}),
        "charts": charts,
    }


def _points(
    common: Sequence[tuple[Candidate, Mapping[str, Any], Mapping[str, Any]]],
    name: str,
    where: Mapping[str, str],
    metric: str,
    shown: Callable[[float], float],
) -> Iterator[Pair]:
    for candidate, scored, side in common:
        figure, share = measurement(scored, name, **where), measurement(side, metric)
        if figure is None or share is None or figure["estimate"] is None or share["estimate"] is None:
            continue
        x, y = shown(figure["estimate"]), 1 - share["estimate"]
        low, high = (None if share[end] is None else 1 - share[end] for end in ("high", "low"))
        words = f"{candidate.name} {x:.3g}, {100 * y:.2g} % wrong"
        yield Pair(candidate, x, y, low, high, short_name(candidate.name, 14), words)
