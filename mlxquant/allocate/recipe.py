"""An allocation as a recipe that a person can read: few rules, each with its reason in figures.

Layers of one projection with one format become one rule, as do projections of one role with the same layers and format.
What most of its layers have comes last for each projection, without layers; the most common format is the default. The
text is an ordinary recipe file: `plan`, `convert`, `compare` and `quant_predicate` take it as they take any other.
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
from .solve import Allocation, Option

KEPT_REASON = "picks experts by comparing scores, where a small error flips which expert fires"


@dataclass(frozen=True)
class _RuleDraft:
    """Groups of one role with one format: what these globs match, in these layers or (None) wherever it is."""

    role: str
    globs: tuple[str, ...]
    layers: tuple[int, ...] | None
    format: Format | None
    options: tuple[Option, ...]

    @property
    def reason(self) -> str:
        """What the format costs: ``0.31 mnat of KL for 33.0 KiB``."""
        damage, nbytes = sum(o.damage for o in self.options), sum(o.choice.nbytes for o in self.options)
        inferred = "" if all(o.measured for o in self.options) else " (in part inferred)"
        return f"{figure(1e3 * damage, 2)} mnat of KL for {show_bytes(nbytes, 1)}{inferred}"


def recipe_text(
    name: str, summary: str, groups: Sequence[ModuleGroup], allocation: Allocation, *, method: str = RTN,
    reference: str = "",
) -> str:  # fmt: skip
    """Write the recipe file of an allocation; `reference` says what it was made from."""
    default = _default(groups, allocation)
    kinds = Counter(role for role, _ in {(group.role, group.name) for group in groups})
    drafts = _drafts(groups, allocation, default)
    plain = [draft for draft in drafts if draft.layers is None and draft.format == default]
    lines = [f"name = {_text(name)}", f"summary = {_text(summary)}", f"reference = {_text(reference)}", ""]
    if plain:
        whole = _RuleDraft("", (), None, default, tuple(o for draft in plain for o in draft.options))
        called = [_called(draft, whole=len(draft.globs) == kinds[draft.role]) for draft in plain]
        lines += [f"# the default: {whole.reason},", f"# of {', '.join(called)}"]
    lines += ["[quantize]", f"bits = {default.bits}", f"group_size = {default.group_size}"]
    lines += [f"method = {_text(method)}"] if method != RTN else []
    lines += ['unaligned = "keep"']
    decided = {group.role for group in groups}
    if roles := [role for role in KEPT_ROLES if role not in decided]:
        lines += _rule({"role": roles}, None, default, KEPT_REASON, optional=True)
    for draft in drafts:
        if draft in plain:
            continue
        match: dict[str, object] = {"role": draft.role}
        if len(draft.globs) < kinds[draft.role] or draft.layers is not None:
            match["path"] = _one_or_more(draft.globs)
        if draft.layers is not None:
            match["layers"] = _one_or_more(layers_text(draft.layers))
        lines += _rule(match, draft.format, default, draft.reason)
    return "\n".join(lines) + "\n"


def _called(draft: _RuleDraft, *, whole: bool) -> str:
    """How a comment names what a draft is about; `whole` says that it is all of the role."""
    names = [glob.lstrip("*.").rpartition(".")[2] for glob in draft.globs]
    return draft.role if whole else f"{draft.role} {' and '.join(names)}"


def _one_or_more(values: Sequence[object]) -> object:
    return values if len(values) > 1 else values[0]


def _default(groups: Sequence[ModuleGroup], allocation: Allocation) -> Format:
    """The format of the most modules; 8 bits at the usual group size where nothing is quantized."""
    counts: Counter[Format] = Counter()
    for group, option in zip(groups, allocation.options, strict=True):
        if option.choice.format is not None:
            counts[option.choice.format] += len(group.modules)
    return counts.most_common(1)[0][0] if counts else Format(8, 64)


def _drafts(groups: Sequence[ModuleGroup], allocation: Allocation, default: Format) -> list[_RuleDraft]:
    """Rules of which the first that matches decides: for each kind its formats by layers, then the one of the rest."""
    kinds: dict[tuple[str, str], list[tuple[ModuleGroup, Option]]] = {}
    for group, option in zip(groups, allocation.options, strict=True):
        kinds.setdefault((group.role, group.name), []).append((group, option))
    merged: dict[tuple[str, tuple[int, ...] | None, Format | None], _RuleDraft] = {}
    for (role, _), members in kinds.items():
        by_format: dict[Format | None, list[tuple[ModuleGroup, Option]]] = {}
        for group, option in members:
            by_format.setdefault(option.choice.format, []).append((group, option))
        rest = max(by_format, key=lambda f: (sum(len(g.modules) for g, _ in by_format[f]), f == default))
        for fmt, own in by_format.items():
            layers = None if fmt == rest else tuple(sorted({layer for group, _ in own for layer in group.layers}))
            options = tuple(option for _, option in own)
            same = merged.get((role, layers, fmt))
            globs, before = (same.globs, same.options) if same else ((), ())
            merged[role, layers, fmt] = _RuleDraft(role, (*globs, own[0][0].glob), layers, fmt, (*before, *options))
    return sorted(merged.values(), key=lambda draft: draft.layers is None)


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
        *([f"method = {_text(default.method)}"] if default is not None else []),
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
