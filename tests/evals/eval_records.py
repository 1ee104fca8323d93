"""Records of evaluations for tests: trials of loops, with chosen calls gone wrong, and what is worked out of them."""

from __future__ import annotations

import random

from mlxquant.evals.items import CALL_CHECKS
from mlxquant.evals.record import finish

RIGHT = "1" * len(CALL_CHECKS)
WRONG = "11110010"


def trial(side, item, *, passed=True, calls=(), trial=0, first_error=None, failure=None, **more):
    requests = [
        {"depth": i, "seconds": 0.1 + i / 100, "ttft_s": 0.05 + i / 1000, "decode_tok_s": 50.0 + i, "repeats": 0,
         "input_tokens": 100, "output_tokens": 10, "cached_tokens": 50}
        for i in range(4)
    ]  # fmt: skip
    return {
        "suite": "tool-loop", "item": item, "unit": item, "slices": ["calls:20"], "side": side, "trial": trial,
        "at": "2026-01-01T00:00:00Z", "passed": None if failure else passed, "checks": {"state_equal": passed},
        "calls": list(calls), "depth": len(calls), "first_error": first_error, "said": "", "failure": failure,
        "requests": requests, "attempts": len(requests) + bool(failure), **more,
    }  # fmt: skip


def loop(side, item, length, wrong=(), **more):
    calls = [
        [d, WRONG if d in wrong else RIGHT, "get_order", ["read" if d % 2 else "write"]] for d in range(1, length + 1)
    ]
    return trial(side, item, passed=not wrong, calls=calls, first_error=min(wrong, default=None), **more)


def record_of(trials, **more):
    return finish(
        {
            "schema": "mlxquant.eval/1", "date": "2026-01-01T00:00:00Z",
            "machine": {"chip": "M", "cores": 2, "memory_bytes": 2**34, "os": "Linux"}, "versions": {"mlxquant": "0"},
            "confidence": 0.95, "settings": {"trials": 1, "temperature": 0.0, "seed": 0},
            "suites": [{"name": "tool-loop", "items": 10, "sha256": "0", "about": {"calls": [20]}}],
            "baseline": {"name": "base", "kind": "build"},
            "candidates": [{"name": "candidate", "kind": "build"}],
            "trials": trials, **more,
        }
    )  # fmt: skip


def damaged(n=20, length=30, share=0.15, seed=1):
    """A faultless baseline beside a candidate that gets a share of calls wrong, more so after the twentieth."""
    draw = random.Random(seed)
    trials = []
    for i in range(n):
        wrong = {d for d in range(1, length + 1) if draw.random() < share * (2 if d > 20 else 1)}
        trials += [loop(0, f"t{i}", length), loop(1, f"t{i}", length, wrong)]
    return record_of(trials)
