"""Where a recipe's rules and a model do not fit: which misfits are mistakes, which merely worth a note.

`decide` asks this once for a model. A mistake is what nobody can have meant for any model, or what was typed for
this one; a note is what a recipe that serves many models must be allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from ..words.layers import select_layers
from ..words.modules import Module, is_raw_router
from .recipe.recipe import Recipe
from .recipe.rule_syntax import nearest
from .recipe.rules import SET_ORIGIN, Rule


@dataclass(frozen=True, slots=True)
class _Found:
    """Misfits so far."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, rule: Rule, text: str, *, mistake: bool) -> None:
        """File a misfit; an optional rule has only notes. What is noted of one rule at once is one note."""
        lead = f"{rule.label} ({rule.match}): "
        if mistake and not rule.optional:
            self.problems.append(lead + text)
        elif self.notes and self.notes[-1].startswith(lead):
            self.notes[-1] += f"; {text}"
        else:
            self.notes.append(lead + text)


def rule_misfits(
    recipe: Recipe, modules: Sequence[Module], hits: Sequence[Sequence[Module]], n_layers: int
) -> tuple[list[str], list[str]]:
    """Problems and notes of each rule against a model; `hits` are the modules that each rule matches."""
    found = _Found()
    taken: dict[str, Rule] = {}
    for rule, matched in zip(recipe.rules, hits, strict=True):
        if not matched:
            _matches_nothing(rule, modules, n_layers, found)
        else:
            _dead_patterns(rule, modules, found)
            _lacking_roles(rule, modules, found)
            _shadowed(rule, matched, taken, found)
            _without_effect(recipe, rule, [m for m in matched if m.path not in taken], found)
        for module in matched:
            taken.setdefault(module.path, rule)
    return found.problems, found.notes


def _matches_nothing(rule: Rule, modules: Sequence[Module], n_layers: int, found: _Found) -> None:
    """Say which part of a match this model lacks."""
    match, typed = rule.match, rule.origin == SET_ORIGIN
    if rule.optional:
        found.add(rule, "matches nothing in this model, as it may", mistake=False)
        return
    if _dead_patterns(rule, modules, found):
        return
    roles = {m.role for m in modules}
    types = {m.layer_type for m in modules if m.layer_type}
    if match.role and not roles & set(match.role):
        text = f"this model has no {' or '.join(match.role)}"
    elif match.layer_type and not types & set(match.layer_type):
        text = f"this model has no {' or '.join(match.layer_type)} layer; it has {', '.join(sorted(types)) or 'none'}"
    elif match.layers and not select_layers(match.layers, n_layers):
        text = f"its layers lie outside this model's {n_layers}, 0 to {n_layers - 1}"
    else:
        text = "no module of this model meets all of it"
    found.add(rule, text, mistake=typed)


def _lacking_roles(rule: Rule, modules: Sequence[Module], found: _Found) -> None:
    """Note those roles of a rule that this model lacks, where others of them it has."""
    lacking = set(rule.match.role) - {m.role for m in modules}
    if lacking and not rule.optional:
        named = " and no ".join(role for role in rule.match.role if role in lacking)
        found.add(rule, f"this model has no {named}", mistake=False)


def _dead_patterns(rule: Rule, modules: Sequence[Module], found: _Found) -> bool:
    """Report globs that match no path at all; True where there are any. An optional rule may have them."""
    dead = [glob for glob in rule.match.path if not any(fnmatchcase(m.path, glob) for m in modules)]
    if not dead or rule.optional:
        return False
    for glob in dead:
        found.add(rule, f"path {glob!r} matches no module{_better_glob(glob, modules)}", mistake=True)
    return True


def _better_glob(glob: str, modules: Sequence[Module]) -> str:
    """Guess what was meant: a wider glob, one without `.weight`, or another last name."""
    paths = [m.path for m in modules]
    for suffix in (".weight", ".bias"):
        bare = glob.removesuffix(suffix)
        if bare != glob and any(fnmatchcase(path, bare) for path in paths):
            return f"; paths name modules, not their arrays: write {bare!r}"
    wider = f"*{glob.strip('*')}"
    for candidate in (wider, f"{wider}*"):
        if any(fnmatchcase(path, candidate) for path in paths):
            return f"; {candidate!r} would"
    tail = glob.rpartition(".")[2].strip("*")
    return nearest(tail, sorted({path.rpartition(".")[2] for path in paths})) + "; `plan --json` lists the paths"


def _shadowed(rule: Rule, matched: Sequence[Module], taken: dict[str, Rule], found: _Found) -> None:
    """A rule that earlier ones leave nothing: a mistake within one file, an override across files."""
    if any(m.path not in taken for m in matched):
        return
    before = list(dict.fromkeys(taken[m.path].label for m in matched))
    same = {taken[m.path].origin for m in matched} == {rule.origin}
    by = ", ".join(before)
    if same:
        match = "matches" if len(before) == 1 else "match"
        found.add(rule, f"never applies: {by} before it {match} all {len(matched)} of its modules", mistake=True)
    else:
        found.notes.append(f"{rule.label} ({rule.match}): overridden by {by} for all {len(matched)} of its modules")


def _without_effect(recipe: Recipe, rule: Rule, won: Sequence[Module], found: _Found) -> None:
    """A rule for modules that mlx cannot quantize, or a format for what the source already stores in another."""
    if not rule.match.names or not won:
        return
    typed = bool(rule.match.path) or rule.origin == SET_ORIGIN
    if not any(m.quantizable or m.prequantized for m in won):
        kinds = ", ".join(sorted({m.kind for m in won}))
        text = f"mlx has no quantized form of what it matches here ({kinds}), which stays as it is"
        if all(is_raw_router(m) for m in won):
            text = f"the routers stay at source precision anyway: {kinds} is a raw array, which mlx cannot quantize"
        found.add(rule, text, mistake=typed and not rule.keep)
    if rule.keep or rule.use:
        return
    asked = rule.format(recipe.default)
    if stored := [m for m in won if m.prequantized and m.prequantized != asked]:
        more = f" and {len(stored) - 1} more" if len(stored) > 1 else ""
        text = f"asks for {asked}, but the source already stores {stored[0].path}{more} as {stored[0].prequantized}"
        found.add(rule, f"{text}; what is quantized is not quantized again", mistake=True)
