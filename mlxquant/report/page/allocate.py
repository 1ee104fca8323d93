"""What the page shows of an allocation: the frontier with all that were judged, who ships, what each module got.

The frontier is what the solver expects of sizes; marks are what the check measured. Both have one scale, so that a
reader sees how far the expectation holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...records.loading import Loaded
from ...words.text import counted, figure
from ...words.units import show_bytes
from ..allocate import chosen_formats, method_text, shares_text
from ..common import machine_text, short_name
from ..compare import mnat
from ..sweep import unit_of
from .candidates import Cast, legend
from .charts import Plot, Point, size_against_damage

Record = Mapping[str, Any]
_BEYOND = 1.3  # times the largest that was judged: as far as the frontier is drawn


def allocation(loaded: Loaded, number: int, cast: Cast) -> dict[str, Any]:
    """Lay an allocation's record out."""
    record = loaded.record
    budgets, options = record["budgets"], record["options"]
    drawn = _judged(budgets, cast)
    return {
        "number": number,
        "title": str(record["source"].get("name") or loaded.name),
        "facts": list(_facts(record)),
        "confidence": f"{options.get('confidence', 0.95):.0%}",
        "measured_with": options["measured_with"],
        "stood_in": options["measured_with"] != options.get("checked_with", options["measured_with"]),
        "fixed": show_bytes(record["fixed_bytes"]),
        "legend": legend(cast.named(drawn), {cast.of(side).number for side in drawn}),
        "charts": [_chart(record, drawn, cast)] if drawn else [],
        "finals": [_final(budget, cast) for budget in budgets],
        "budgets": [_budget(budget, record["groups"], cast) for budget in budgets],
    }


def _facts(record: Record) -> Iterator[str]:
    data, shares = record["data"], record["data"]["shares"]
    if revision := record["source"].get("revision"):
        yield f"revision {str(revision)[:12]}"
    names = " and ".join(str(each["name"]) for each in (data, data.get("judge")) if each)
    yield f"{names}: {shares_text(shares) or 'nothing measured'}"
    yield method_text(record["options"])
    if record["groups"] and type(record.get("probes")) is int:
        yield f"{counted(record['probes'], 'format')} of {counted(len(record['groups']), 'group')} measured, each alone"
    if machine := machine_text(record.get("machine")):
        yield machine


# --- the chart ---


def _judged(budgets: Sequence[Record], cast: Cast) -> list[Record]:
    """All that a check judged and a logarithm has a place for, each once though it may fit several budgets."""
    sides: dict[int, Record] = {}
    for budget in budgets:
        for side in (budget["allocated"], *budget["contestants"]):
            if _damage(side) > 0:
                sides.setdefault(cast.of(side).number, side)
    return list(sides.values())


def _damage(side: Record) -> float:
    return float((side["kl"] or {}).get("estimate") or 0.0)


def _chart(record: Record, drawn: Sequence[Record], cast: Cast) -> Plot:
    budgets = record["budgets"]
    line = _frontier(record, budgets)
    unit, one = unit_of([*(side["bytes"] for side in drawn), *(nbytes for nbytes, _ in line)])
    points = [_point(side, one, budgets, cast) for side in drawn]
    words = f"KL, 10⁻³ nats, by size of the build: {'; '.join(p.words for p in points)}."
    scaled = [(nbytes / one, damage) for nbytes, damage in line]
    return size_against_damage("KL by size of the build", words, points, scaled, None, f"size of the build, {unit}")


def _point(side: Record, one: int, budgets: Sequence[Record], cast: Cast) -> Point:
    kl, candidate = side["kl"], cast.of(side)
    return Point(
        candidate=candidate,
        size=side["bytes"] / one,
        damage=kl["estimate"],
        low=kl["low"],
        high=kl["high"],
        label=short_name(str(side["name"]), 16),
        words=f"{side['name']} {show_bytes(side['bytes'])}, KL {mnat(kl)}",
        inside=any(cast.of(budget["allocated"]) is candidate for budget in budgets),
        chosen=any(cast.of(each) is candidate for budget in budgets if (each := _shipping(budget))),
    )


def _frontier(record: Record, budgets: Sequence[Record]) -> list[tuple[int, float]]:
    """The frontier's points above zero, to a little beyond the largest budget for which something was decided."""
    most = _BEYOND * max((budget["bytes"] for budget in budgets if budget["allocated"]["kl"]), default=0)
    return [(p["bytes"], p["kl_nats"]) for p in record["frontier"] if p["kl_nats"] > 0 and p["bytes"] <= most]


# --- the tables ---


def _shipping(budget: Record) -> Record | None:
    """The side that ships."""
    sides = (budget["allocated"], *budget["contestants"])
    return next((side for side in sides if side["name"] == budget["ships"]), None)


def _final(budget: Record, cast: Cast) -> dict[str, Any]:
    """The row of a budget: the solver's recipe, the best other one, the difference, who ships and why."""
    allocated, ships = budget["allocated"], _shipping(budget)
    best = next((each for each in budget["contestants"] if each["name"] == budget["best"]), None)
    measured = allocated["kl"] is not None
    return {
        "asked": budget["asked"],
        "room": show_bytes(budget["bytes"]),
        "own": budget["ships"] == allocated["name"],
        "ships": budget["ships"],
        "css": cast.of(ships).css if ships else "",
        "bytes": show_bytes(ships["bytes"]) if ships else "-",
        "expected": figure(1e3 * allocated["expected_kl_nats"], 3) if measured else "-",
        "kl": mnat(allocated["kl"]),
        "best": None if best is None else {"name": best["name"], "css": cast.of(best).css, "kl": mnat(best["kl"])},
        "difference": mnat(budget["difference"]).replace("-", "−") if budget["difference"] else "-",
        "why": budget["why"],
    }


def _budget(budget: Record, groups: Sequence[Record], cast: Cast) -> dict[str, Any]:
    """All that were judged at a budget, the least damage first, and what each kind of module got."""
    allocated = budget["allocated"]
    sides = [allocated, *budget["contestants"]]
    sides.sort(key=lambda side: (side["kl"] is None, _damage(side) or _stand_in(side)))
    return {
        "asked": budget["asked"],
        "judged": allocated["kl"] is not None,
        "stood_in": any(side.get("stand_in_kl") for side in sides),
        "rows": [_row(side, budget["ships"], cast) for side in sides],
        "formats": [
            {
                "role": row.role,
                "name": row.name,
                "format": row.format,
                "layers": row.layers,
                "bytes": row.nbytes,
                "size": show_bytes(row.nbytes, 1),
                "damage": row.kl_nats,
                "kl": figure(1e3 * row.kl_nats, 2),
            }
            for row in chosen_formats(allocated["choices"], groups)
        ],
    }


def _row(side: Record, ships: str, cast: Cast) -> dict[str, Any]:
    return {
        "name": side["name"],
        "css": cast.of(side).css,
        "ships": side["name"] == ships,
        "bytes": side["bytes"],
        "size": show_bytes(side["bytes"]),
        "kl": mnat(side["kl"]),
        "stand_in": mnat(side.get("stand_in_kl")),
    }


def _stand_in(side: Record) -> float:
    return float((side.get("stand_in_kl") or {}).get("estimate") or 0.0)
