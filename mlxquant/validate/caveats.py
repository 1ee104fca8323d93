"""What the evidence of a verdict cannot say, whatever it shows; only where such evidence was used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..records.metrics import metric_named
from .judge import INCONCLUSIVE, MISSING, Check

_KL = "kl_"
_FLIPS = ("same_top", "expert_set_changed", "first_expert_changed", "flips_weighted")
_LONG = 151


def caveats(checks: Sequence[Check]) -> list[str]:
    """Sentences for the reader of a verdict."""
    return list(_sentences([c for c in checks if c.status != MISSING], checks))


def _sentences(used: Sequence[Check], checks: Sequence[Check]) -> Iterator[str]:
    if any(c.tolerance.metric.startswith(_KL) for c in used):
        yield (
            "KL rejects bad quantizations; it does not rank near-lossless ones. Among quantizations close to the"
            " reference its rank correlation with benchmark scores was 0.00 and -0.24 (arXiv:2606.19558)."
        )
    families = {metric.family for c in used if (metric := metric_named(c.tolerance.metric))}
    if any(c.tolerance.metric in _FLIPS for c in used):
        flips = [c for c in used if c.tolerance.metric in _FLIPS and c.interval is not None]
        few = min(
            (c.interval.n * min(c.interval.estimate, 1 - c.interval.estimate) for c in flips if c.interval), default=0
        )
        yield (
            f"Flips are counted token by token (about {max(few, 0):,.0f} in the smallest of these samples), and a few"
            " hundred of them say little about a 200-call loop, in which one may spoil all that follows."
        )
    if "compare" in families and not families & {"eval", "tau2"}:
        yield "Nothing here was generated: a comparison scores given text, so what a build writes itself is not judged."
    if families & {"eval", "tau2"} and not any(_deep(c) for c in used):
        yield (
            f"No loop of {_LONG} calls or more was judged. Errors compound: at 1 % of calls wrong, 82 % of loops of 20"
            " calls are right throughout and 13 % of those of 200."
        )
    if len(checks) > 20 and any(c.status == INCONCLUSIVE for c in checks):
        yield f"Of {len(checks)} checks some stay open by chance, even where the build is the baseline itself."


def _deep(check: Check) -> bool:
    depth = dict(check.where).get("depth", "")
    first = depth.split()[-1].split("-")[0].rstrip("+") if depth else ""
    return first.isdigit() and int(first) >= _LONG
