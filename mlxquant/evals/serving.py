"""How fast the answers of an evaluation came, and what kept some from coming. No benchmark: `bench` is one.

Requests of a loop share a prompt cache and come one at a time; their times are those of this work load. Quantiles are
over requests, intervals over tasks. The time to the first token is left out where it cannot be seen, as in calls that
a server hands out whole; how many were seen stands in `n`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ..stats import clustered_quantiles
from .figures import Trial
from .measures import as_measurement

_PERCENTILES = (50, 90, 99)
_FIGURES = (("ttft_s", "ttft_s"), ("decode_tok_s", "decode_tok_s"), ("request_s", "seconds"))
_TOKENS = ("input_tokens", "output_tokens", "cached_tokens")


def of_requests(trials: Sequence[Trial], confidence: float) -> list[dict[str, Any]]:
    """Quantiles of a side's requests, and how many trials had no answer; failed trials' answers count as well."""
    return [*_quantiles(trials, confidence), *_failures(trials)]


def _quantiles(trials: Sequence[Trial], confidence: float) -> Iterator[dict[str, Any]]:
    for metric, key in _FIGURES:
        seen = [(r[key], f"{t['suite']}/{t['unit']}") for t in trials for r in t["requests"] if r[key] is not None]
        if not seen:
            continue
        values, units = zip(*seen, strict=True)
        found = clustered_quantiles(values, units, [p / 100 for p in _PERCENTILES], confidence=confidence)
        for percentile, interval in zip(_PERCENTILES, found, strict=True):
            yield as_measurement(f"{metric}_p{percentile}", interval)


def _failures(trials: Sequence[Trial]) -> Iterator[dict[str, Any]]:
    failed = [t["failure"]["kind"] for t in trials if t["failure"]]
    units = len({(t["suite"], t["unit"]) for t in trials})
    for metric, hits in (("infrastructure_errors", len(failed)), ("timeouts", failed.count("timeout"))):
        yield {
            "metric": metric, "estimate": hits, "low": None, "high": None, "se": None, "n": len(trials),
            "clusters": units, "reason": "a count of trials, not a sample",
        }  # fmt: skip


def totals(trials: Sequence[Trial]) -> dict[str, Any]:
    """Requests, repeats after transport errors, tokens and seconds of a side; None for tokens nobody counted."""
    requests = [r for t in trials for r in t["requests"]]
    counts = {key: [r[key] for r in requests if r[key] is not None] for key in _TOKENS}
    return {
        "requests": len(requests),
        "repeats": sum(t["attempts"] for t in trials) - len(requests) - sum(t["failure"] is not None for t in trials),
        **{key: sum(found) if found else None for key, found in counts.items()},
        "seconds": round(sum(r["seconds"] for r in requests), 3),
        "first_token_seen": sum(r["ttft_s"] is not None for r in requests),
        "failures": dict(sorted(Counter(t["failure"]["kind"] for t in trials if t["failure"]).items())),
    }
