"""Which of several builds that fit to take, and why: what was measured, by whom, on what; and what nobody measured.

More bits are no reason of their own. At 8 bits the one published study of agents found that protecting more than the
routers costs speed and buys nothing; below, this project's own model of 2 million parameters is all there is. A recipe
stands here only with a measurement behind it, in the order in which they are to be taken. A record of `allocate` is
evidence of the very model. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..words.text import counted, figure
from .recipe.recipe import Recipe, parse_recipe

STUDY = "Ahmed 2026 (Qwen3.5-122B-A10B at 8 bits, M3 Ultra, tau2-bench retail, 456 simulations a build)"
STORE = "docs/studies/store-moe.md (a model of 2 million parameters, KL and tool loops on a CPU)"
STUDIED = ("qwen3_5_moe", 48)  # model_type and layers of the study's model


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a recipe, as a reason in a line, whose measurements these are, and what they leave open."""

    recipe: str
    reason: str
    sources: tuple[str, ...]
    open: str


PREFERENCE = (
    Evidence(
        "gates-8bit",
        "8 bits with the routers kept. Keeping embedding, head and attention as well (deepseek-8bit) cost 5.3 % of"
        " decode and 30.4 % of prefill in the study, and no score of its agents rose; no quantization at all (none)"
        " reads twice the bytes a token",
        (STUDY, STORE),
        "the study has no unquantized baseline: what 8 bits cost beside the source was measured on the model of 2"
        " million parameters alone (0.0 points of calls, 95 % interval -2.4 to 2.4)",
    ),
    Evidence(
        "gates-4bit",
        "the 4-bit recipe that was measured: on the model of 2 million parameters its tool calls were right 1.7 points"
        " more often than at full precision (95 % interval -6.4 to 9.7: no difference seen). Nothing measured speaks"
        " for what larger 4-bit builds keep beside the routers",
        (STORE,),
        "no agent of a real model was measured at 4 bits, where protection may matter more than at 8 (Ahmed 2026);"
        " 24.8 % of its tokens' experts were others than at full precision",
    ),
)


def evidence_for(fitting: Collection[str]) -> Evidence | None:
    """What was measured of the best of these recipes, by name; None where nothing was of any."""
    return next((evidence for evidence in PREFERENCE if evidence.recipe in fitting), None)


def is_studied(model_type: str, n_layers: int) -> bool:
    """Whether this is the study's model."""
    return (model_type, n_layers) == STUDIED


def allocated_recipes(
    record: Mapping[str, Any], where: str, source: Mapping[str, Any]
) -> Iterator[tuple[Recipe, Evidence]]:
    """The recipes that an allocation's record shows to be ahead of all others of their bytes, and what speaks for each.

    `where` is the record's file, `source` what a record says of the model at hand. Raises UsageError for another one.
    """
    of = record["source"] or {}
    if any(of.get(key) != source[key] for key in ("model_type", "layers")):
        raise UsageError(
            f"{where}: allocates for {of.get('name')} ({of.get('model_type')}, {of.get('layers')} layers), and this is"
            f" {source['model_type']} with {source['layers']} layers; allocate for this model"
        )
    for budget in record["budgets"]:
        name, ahead = budget["allocated"]["name"], budget["difference"]
        if budget["ships"] != name or ahead is None or ahead["estimate"] is None:
            continue
        reason = (
            f"allocated for this model: {figure(-1e3 * ahead['estimate'], 2)} mnat of KL a token less than"
            f" {budget['best']}, the best of {counted(len(budget['contestants']), 'other')} of at most the same bytes,"
            " on documents that chose nothing"
        )
        recipe = parse_recipe("\n".join(budget["recipe"]), where=f"{where}: {name}")
        yield recipe, Evidence(name, reason, (where,), "no agent was measured: `mlxquant eval` measures yours")
