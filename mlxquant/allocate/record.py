"""The record of an allocation: what every choice costs, the frontier, and each budget's contest and recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..layout.layout import Layout
from ..plan.plan import source_record
from ..records.head import describe_machine, describe_versions, head, utc_date
from ..source.checkpoint import Checkpoint
from .contest import Final
from .groups import ModuleGroup
from .run import Allocated, AllocateOptions, Outcome, checked_with
from .shares import Shares
from .solve import Allocation, Option, frontier

SCHEMA = "mlxquant.allocate/1"
FRONTIER = 24  # sizes that the frontier is drawn at


def allocation_record(
    source: Checkpoint, layout: Layout, shares: Shares, described: dict[str, Any], options: AllocateOptions,
    outcome: Outcome,
) -> dict[str, Any]:  # fmt: skip
    """The record; recipes that ship are in it as text."""
    groups = outcome.groups
    return {
        **head(SCHEMA),
        "date": utc_date(),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "source": source_record(layout, source),
        "data": {**described, "shares": shares.counts(), "left_out": shares.left_out},
        "options": {
            "method": options.method,
            "measured_with": options.measured_with,
            "checked_with": checked_with(options, layout),
            "bits": list(options.bits),
            "group_sizes": list(options.group_sizes),
            "routers": options.routers,
            "active_bytes": options.active,
            "confidence": options.confidence,
        },
        "fixed_bytes": outcome.fixed,
        "probes": sum(o.measured for own in outcome.choices for o in own if o.choice.format is not None),
        "groups": [_group_entry(group, own) for group, own in zip(groups, outcome.choices, strict=False)],
        "frontier": _frontier(outcome) if outcome.choices else [],
        "budgets": [_budget_entry(budget, outcome) for budget in outcome.budgets],
    }


def _group_entry(group: ModuleGroup, choices: Sequence[Option]) -> dict[str, Any]:
    return {
        "name": group.label,
        "role": group.role,
        "layers": list(group.layers),
        "modules": list(group.paths),
        "choices": [
            {
                "format": _format(option),
                "bytes": option.choice.nbytes,
                "active_bytes": option.choice.active,
                "kl_nats": option.damage,
                "measured": option.measured,
            }
            for option in choices
        ],
    }


def _budget_entry(outcome: Allocated, whole: Outcome) -> dict[str, Any]:
    end, proposed = outcome.final, outcome.proposed
    return {
        "asked": outcome.budget.words,
        "bytes": outcome.budget.nbytes,
        "allocated": {
            "name": proposed.name,
            "sha256": proposed.sha256,
            "bytes": whole.fixed + outcome.allocation.nbytes,
            "expected_kl_nats": outcome.allocation.damage,
            **_kl(end, proposed.name),
            "choices": _choices(whole.groups, outcome.allocation),
        },
        "contestants": [
            {
                "name": each.name,
                "sha256": each.recipe.sha256,
                "bytes": each.nbytes,
                "bpw": each.bpw,
                **_kl(end, each.name),
            }
            for each in outcome.contestants
        ],
        "best": None if end is None or end.best is None else end.best.name,
        "difference": None if end is None or end.difference is None else end.difference.as_dict(),
        "ships": proposed.name if end is None else end.ships,
        "why": "the budget holds the model as it is; nothing is quantized" if end is None else end.why,
        "recipe": outcome.text.splitlines(),
    }


def _kl(end: Final | None, name: str) -> dict[str, Any]:
    """KL in the check, null where that did not judge it; and in the one before, where another encoder stood in."""
    kl = None if end is None or name not in end.kl else end.kl[name].as_dict()
    return {"kl": kl} | ({"stand_in_kl": end.stand_in[name].as_dict()} if end is not None and end.stand_in else {})


def _choices(groups: Sequence[ModuleGroup], allocation: Allocation) -> list[dict[str, Any]]:
    """An allocation's choice for every group."""
    return [
        {
            "group": group.label,
            "format": _format(option),
            "bytes": option.choice.nbytes,
            "kl_nats": option.damage,
            "measured": option.measured,
        }
        for group, option in zip(groups, allocation.options, strict=True)
    ]


def _format(option: Option) -> dict[str, Any] | None:
    return option.choice.format.as_dict() if option.choice.format else None


def _frontier(outcome: Outcome) -> list[dict[str, Any]]:
    """What the solver expects at sizes from the smallest build to the one that keeps everything."""
    points = [p for p in frontier(outcome.choices) if outcome.active is None or p[2] <= outcome.active]
    if not points:
        return []
    ratio = points[-1][0] / max(1, points[0][0])
    ends = [points[0][0] * ratio ** (i / (FRONTIER - 1)) for i in range(FRONTIER)]
    sampled = dict.fromkeys(max((p for p in points if p[0] <= end * 1.000001), default=points[0]) for end in ends)
    return [{"bytes": outcome.fixed + nbytes, "kl_nats": damage} for nbytes, damage, _ in sampled]
