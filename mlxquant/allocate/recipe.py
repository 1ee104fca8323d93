"""An allocation as a recipe that a person can read: few rules, each with its reason in figures.

Neighbouring layers of one projection with one format become one rule, as do projections of one role with the same
layers and format. The most common format becomes the default. The text is an ordinary recipe file: `plan`, `convert`,
`compare` and `quant_predicate` take it as they take any other.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import PlanError
from ..layout.layout import Layout
from ..plan.plan import make_plan
from ..plan.recipe.recipe import Recipe, parse_recipe
from ..source.checkpoint import Checkpoint
from ..words.formats import RTN, Format
from ..words.layers import layers_text
from ..words.text import figure
from ..words.units import show_bytes
from .contest import Contestant
from .groups import KEPT_ROLES, ModuleGroup
from .solve import Allocation

KEPT_REASON = "picks experts by comparing scores, where a small error flips which expert fires"


@dataclass
class _RuleDraft:
    """Groups of one role and format in the same layers."""

    role: str
    names: list[str]
    layers: tuple[int, ...]
    format: Format | None
    nbytes: int
    damage: float
    measured: bool


def recipe_text(
    name: str,
    summary: str,
    groups: Sequence[ModuleGroup],
    allocation: Allocation,
    *,
    method: str = RTN,
    reference: str = "",
) -> str:
    """Write the recipe file of an allocation; `reference` says what it was made from."""
    drafts = _drafts(groups, allocation)
    default = _default(groups, allocation)
    lines = [f"name = {_text(name)}", f"summary = {_text(summary)}", f"reference = {_text(reference)}", ""]
    lines += ["[quantize]", f"bits = {default.bits}", f"group_size = {default.group_size}"]
    lines += [f"method = {_text(method)}"] if method != RTN else []
    lines += ['unaligned = "keep"']
    decided = {group.role for group in groups}
    if kept := [role for role in KEPT_ROLES if role not in decided]:
        lines += _rule({"role": kept}, None, default, KEPT_REASON, optional=True)
    for draft in drafts:
        names = [f"*.{each}" if draft.layers else f"*{each}" for each in draft.names]
        match: dict[str, object] = {"role": draft.role, "path": names if len(names) > 1 else names[0]}
        if draft.layers:
            spans = layers_text(draft.layers)
            match["layers"] = spans if len(spans) > 1 else spans[0]
        inferred = "" if draft.measured else ", inferred"
        reason = f"{figure(1e3 * draft.damage, 2)} mnat of KL for {show_bytes(draft.nbytes, 1)}{inferred}"
        lines += _rule(match, draft.format, default, reason)
    return "\n".join(lines) + "\n"


def _default(groups: Sequence[ModuleGroup], allocation: Allocation) -> Format:
    """The format of the most modules; 8 bits at the widest group where nothing is quantized."""
    counts: Counter[Format] = Counter()
    for group, option in zip(groups, allocation.options, strict=True):
        if option.choice.format is not None:
            counts[option.choice.format] += len(group.modules)
    return counts.most_common(1)[0][0] if counts else Format(8, 64)


def _drafts(groups: Sequence[ModuleGroup], allocation: Allocation) -> list[_RuleDraft]:
    runs: dict[tuple[str, str, Format | None], _RuleDraft] = {}
    for group, option in zip(groups, allocation.options, strict=True):
        key = (group.role, group.name, option.choice.format)
        draft = runs.get(key)
        if draft is None:
            runs[key] = _RuleDraft(
                group.role, [group.name], group.layers, option.choice.format, option.choice.nbytes, option.damage,
                option.measured,
            )  # fmt: skip
            continue
        draft.layers = tuple(sorted({*draft.layers, *group.layers}))
        draft.nbytes += option.choice.nbytes
        draft.damage += option.damage
        draft.measured &= option.measured
    merged: dict[tuple[str, tuple[int, ...], Format | None], _RuleDraft] = {}
    for draft in runs.values():
        place = (draft.role, draft.layers, draft.format)
        if draft.layers and place in merged:
            other = merged[place]
            other.names += draft.names
            other.nbytes, other.damage = other.nbytes + draft.nbytes, other.damage + draft.damage
            other.measured &= draft.measured
        else:
            merged[place if draft.layers else (draft.role, (-len(merged) - 1,), draft.format)] = draft
    return list(merged.values())


def _rule(
    match: Mapping[str, object], fmt: Format | None, default: Format, reason: str, *, optional: bool = False
) -> list[str]:
    lines = ["", "[[rules]]", f"match = {{ {', '.join(f'{key} = {_text(value)}' for key, value in match.items())} }}"]
    if fmt is None:
        lines.append("keep = true")
    elif fmt == default:
        lines.append('use = "default"')
    else:
        lines += [f"bits = {fmt.bits}", f"group_size = {fmt.group_size}"]
    return [*lines, *(["optional = true"] if optional else []), f"reason = {_text(reason)}"]


def _text(value: object) -> str:
    """A value as TOML writes it; texts and lists of them are JSON's."""
    return json.dumps(value, ensure_ascii=False)


def contestant_text(name: str, best: Contestant) -> str:
    """A recipe file that is the contestant: it extends the shipped one, with its changes."""
    shipped, _, changes = best.name.partition(":")
    pairs = [pair.partition("=") for pair in changes.split(",") if pair]
    default = best.recipe.default
    lines = [
        f"name = {_text(name)}",
        f"summary = {_text(f'{best.name}: no allocation was shown to be ahead of it at these bytes')}",
        f"extends = {_text(shipped)}",
        "",
        "[quantize]",
        *(f"{key} = {value}" for key, _, value in pairs),
        *([f"method = {_text(default.method)}"] if default is not None and default.method != RTN else []),
        'unaligned = "keep"',
    ]
    return "\n".join(lines) + "\n"


def kept_text(name: str, words: str) -> str:
    """The recipe file of a budget that holds the model as it is."""
    lines = [f"name = {_text(name)}", f"summary = {_text(f'{words} hold the model as it is')}", "quantize = false"]
    return "\n".join(lines) + "\n"


def read_back(
    text: str, groups: Sequence[ModuleGroup], allocation: Allocation, layout: Layout, source: Checkpoint, nbytes: int
) -> Recipe:
    """Parse a recipe's text, and make sure that it gives every module the format that was chosen, in so many bytes.

    Raises PlanError.
    """
    recipe = parse_recipe(text, where="the allocated recipe")
    plan = make_plan(layout, recipe, source)
    wanted = {
        path: option.choice.format
        for group, option in zip(groups, allocation.options, strict=True)
        for path in group.paths
    }
    wrong = [p for p in plan.modules if p.module.path in wanted and p.format != wanted[p.module.path]]
    if wrong:
        path = wrong[0].module.path
        raise PlanError(f"the allocated recipe gives {path} {wrong[0].format}, {wanted[path]} was chosen")
    stray = [
        p.module.path for p in plan.modules if p.format and not p.module.prequantized and p.module.path not in wanted
    ]
    if stray:
        raise PlanError(f"the allocated recipe quantizes {stray[0]}, which no choice was made for")
    if plan.totals["bytes"] != nbytes:
        raise PlanError(f"the allocated recipe takes {plan.totals['bytes']:,} bytes, {nbytes:,} were chosen")
    return recipe
