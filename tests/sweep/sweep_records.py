"""Comparisons for tests of sweep, in the form that compare writes: recipes at several bits, few figures, all chosen."""

from __future__ import annotations

from typing import Any

from tests.validate.validate_records import DATE, MACHINE, SOURCE, VERSIONS, measure

GATE = """
name = "gate"
[[tolerance]]
metric = "kl_nats"
max = 0.02
[[tolerance]]
metric = "kl_nats"
slice = ["json"]
max = 0.1
"""

# kl_nats of gates-8bit's members by bits, in nats: eight bits cost nothing, two are ruin
KL = {8: 0.0004, 6: 0.002, 5: 0.008, 4: 0.03, 3: 0.2, 2: 2.0}
NAME = {"gates": "gates-8bit", "uniform": "uniform-8bit"}


def rules(family: str) -> list[dict[str, Any]]:
    """What sets a family apart from others."""
    gate = {"match": {"role": ["router"]}, "keep": True, "reason": "routes", "origin": family, "index": 1}
    return [gate] if family == "gates" else []


def member(
    family: str,
    bits: int,
    *measurements: dict[str, Any],
    kl: float | None = None,
    half: float | None = None,
    size: int | None = None,
    **changed: Any,
) -> dict[str, Any]:
    """A candidate: a recipe at these bits, its mean KL with a narrow interval, and what else was measured."""
    value = KL[bits] if kl is None else kl
    recipe = {
        "name": NAME.get(family, family), "sha256": f"{family}{bits}".ljust(64, "0"), "overrides": [f"--bits {bits}"],
        "quantize": {"bits": bits, "group_size": 64, "mode": "affine"}, "rules": rules(family), "unaligned": "error",
    }  # fmt: skip
    nbytes = bits * 1_000_000 + (50_000 if family == "gates" else 0) if size is None else size
    found = [
        measure("kl_nats", value, value / 10 if half is None else half),
        measure("same_top", 1 - min(value / 4, 0.5), 0.001),
        *measurements,
    ]
    return {
        "name": f"{recipe['name']}:bits={bits}", "kind": "recipe", "bytes": nbytes, "bpw": nbytes * 8 / 8_000_000,
        "active_bytes_per_token": nbytes // 8, "recipe": recipe, "warnings": [], "beside": [], "measurements": found,
    } | changed  # fmt: skip


def comparison(*candidates: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """A comparison of these, the noise floor last."""
    floor = {"name": "bf16 noise floor", "kind": "noise floor", "measurements": [measure("kl_nats", 0.0001, 1e-5)]}
    done = {"layers": 4, "source_bytes": 16_000_000, "bytes_read": 16_000_000, "seconds": 1.5, "ranks": 1,
            "peak_memory_bytes": 2**28}  # fmt: skip
    return {
        "schema": "mlxquant.compare/1", "mlxquant": "0.1.0", "date": DATE, "machine": MACHINE, "versions": VERSIONS,
        "confidence": 0.95, "margin_nats": 0.001, "source": SOURCE, "pass": done,
        "data": {"name": "own.jsonl", "sha256": "d" * 64, "documents": 50, "tokens": 5100, "scored_tokens": 5000},
        "baseline": {"name": "Model", "measurements": [measure("perplexity", 5.0, 0.1)]},
        "candidates": [*candidates, floor], "notes": [],
    } | changed  # fmt: skip


def walk(
    family: str = "gates", bits: tuple[int, ...] = (8, 6, 5, 4, 3, 2), factor: float = 1.0
) -> list[dict[str, Any]]:
    """A family from many bits to few; JSON costs three times as much as all."""
    return [
        member(family, b, measure("kl_nats", 3 * KL[b] * factor, KL[b] / 4, slice="json"), kl=KL[b] * factor)
        for b in bits
    ]
