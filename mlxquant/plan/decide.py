"""Rules × modules → one decision for each module, or every reason why there can be none.

The first rule that matches a module decides; the recipe's default takes the rest. What does not fit is an error
where a person must have meant something else (a path that matches nothing, a rule that can never win, a dimension
that the group size does not divide) and a note where one recipe merely serves many models (a role that this model
lacks). `optional = true` turns a rule's misfits into notes. A rule from `--set` was typed for this very model, so
matching nothing is an error there.

Nothing is read or written here: shapes in, formats and reasons out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import version

from ..errors import PlanError
from ..words.formats import MODES, NEEDED, RTN, Format, FormatChoice
from ..words.layers import select_layers
from ..words.modules import CARRIED, Module, is_raw_router, unaligned_reason
from ..words.text import either, listed, nearest, some
from .recipe.recipe import Recipe
from .recipe.rules import SET_ORIGIN, Fault, Rule

# below this, a router's or an embedding's format should be someone's choice (PAPER: gates flip experts)
CAREFUL_BITS = 8
CAREFUL_ROLES = ("router", "embedding")
_HINTED = 20  # mistakes that get a guess at what was meant: as many as a message lists


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one module: its format (None stays unquantized), and why.

    `protected` says that mlx could quantize it and a rule keeps it. `rule` is the deciding rule's label,
    None where none matched or none was asked. `unaligned` is the group size that was to be (the smallest of several),
    where none divides the module's input dimension and the module therefore stays unquantized; else None.
    `preferred` is the group size that the recipe names first, where that does not divide the input dimension and the
    module is quantized with a later one; else None. `kept` says that the bits are the source's own, `method` how values
    become integers where they are not.
    """

    format: Format | None
    protected: bool
    reason: str
    rule: str | None = None
    unaligned: int | None = None
    preferred: int | None = None
    kept: bool = False
    method: str = RTN


@dataclass(frozen=True, slots=True)
class Decisions:
    """A decision for every module by path, and what a person should know of how they came about."""

    by_path: dict[str, Decision]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def decide(recipe: Recipe, modules: Sequence[Module], *, n_layers: int) -> Decisions:
    """Apply a recipe to a model's modules. Raises PlanError with every misfit, one a line."""
    hits = [rule.match.hits(modules, n_layers) for rule in recipe.rules]
    winner: dict[str, Rule] = {}
    for rule, matched in zip(recipe.rules, hits, strict=True):
        for module in matched:
            winner.setdefault(module.path, rule)
    faults, misfit_notes = rule_misfits(recipe, modules, hits, n_layers)
    by_path = {m.path: _decision(recipe, m, winner.get(m.path)) for m in modules}
    if recipe.unaligned == "error":
        faults += _unaligned_faults(recipe, modules, by_path, winner)
    faults += _faults_of_mlx(by_path)
    if faults:
        raise PlanError(listed([f"recipe {recipe}: {fault}" for fault in faults]), reason=faults[0].reason)
    notes = [*recipe.notes, *(str(note) for note in misfit_notes)]
    notes += [*_left_notes(modules, by_path), *_default_note(recipe, modules, by_path, winner)]
    warnings = [*_warnings(modules, by_path, winner), *_rounded_warnings(recipe, modules, by_path, winner)]
    return Decisions(by_path, notes, warnings)


def _decision(recipe: Recipe, module: Module, rule: Rule | None) -> Decision:
    """Decide on one module, given the rule that won it."""
    label = rule.label if rule else None
    if module.prequantized:
        why = f"the source stores it as {module.prequantized}; it stays so"
        return Decision(module.prequantized, False, why, label)
    if not module.quantizable:
        return Decision(None, False, unquantizable(module))
    if module.tower and not (rule and rule.match.names):
        return Decision(None, False, "a tower stays as it is unless a rule names it (role=vision), as in mlx-vlm")
    if rule is None:
        if recipe.default is None:
            return Decision(None, False, f"recipe {recipe.name} quantizes nothing that no rule names")
        return _aligned(module, recipe.default, f"no rule matches: the default, {recipe.default.formats[0]}", None)
    if rule.keep:
        return Decision(None, True, rule.reason, label)
    if rule.use == "source":
        return Decision(
            module.kept, module.kept is None, f"{rule.reason} (as in the source)", label, kept=bool(module.kept)
        )
    if rule.use == "model":
        return _model_decision(recipe, module, rule)
    return _aligned(module, _asked(recipe, rule), rule.reason, label)


def _asked(recipe: Recipe, rule: Rule) -> FormatChoice:
    """The formats of a rule that quantizes; `load_recipe` saw to it that `use` has a default."""
    if rule.use:
        assert recipe.default is not None
        return recipe.default
    return rule.format(recipe.default)


def _model_decision(recipe: Recipe, module: Module, rule: Rule) -> Decision:
    """What mlx_lm.convert does: skip what the default's group does not divide, then ask the class's predicate.

    The order is that of `wrapped_predicate` in mlx_lm/utils.py (0.32.2): a predicate's own group size is not
    looked at until the default's fits.
    """
    assert recipe.default is not None
    answer = module.model_rule
    fits = _aligned(module, recipe.default, f"{rule.reason} (the class says: default)", rule.label)
    if fits.unaligned:
        return fits
    if answer is False:
        return Decision(None, True, f"{rule.reason} (the class says: keep)", rule.label)
    if isinstance(answer, Format):
        return _aligned(
            module,
            FormatChoice.of(answer, recipe.default.method),
            f"{rule.reason} (the class says: {answer})",
            rule.label,
        )
    if answer is None:
        return _aligned(module, recipe.default, f"{rule.reason} (the class has no predicate: default)", rule.label)
    return fits


def _aligned(module: Module, choice: FormatChoice, reason: str, label: str | None) -> Decision:
    """Quantize with the first group size that divides the input dimension, unless none does."""
    width, first = module.shape[-1], choice.group_sizes[0]
    chosen = choice.at(width)
    if chosen is None:
        unaligned = min(choice.group_sizes)
        return Decision(None, False, unaligned_reason(choice.group_sizes, width), label, unaligned=unaligned)
    method = choice.method if chosen.mode == "affine" else RTN  # the other modes have no bias to choose
    if chosen.group_size == first:
        return Decision(chosen, False, reason, label, method=method)
    reason += f"; group size {chosen.group_size}, since {first} does not divide its input dimension {width}"
    return Decision(chosen, False, reason, label, preferred=first, method=method)


def unquantizable(module: Module) -> str:
    """Why mlx has no quantized form of it."""
    if module.kind == CARRIED:
        return f"carried along as the source has it: mlx-lm's model has no {module.role} part"
    if is_raw_router(module):
        return f"{module.kind}: this model's router is a raw array, which mlx has no quantized form of"
    if module.kind.lower() in ("", "array", "parameter"):
        return "a single array: mlx has no quantized form"
    return f"{module.kind}: mlx has no quantized form"


def _unaligned_faults(
    recipe: Recipe, modules: Sequence[Module], by_path: dict[str, Decision], winner: dict[str, Rule]
) -> list[Fault]:
    """One fault for each deciding rule and width that does not divide, naming the modules."""
    groups: dict[tuple[str | None, int, int], list[Module]] = defaultdict(list)
    for module in modules:
        decision = by_path[module.path]
        if decision.unaligned:
            groups[decision.rule, module.shape[-1], decision.unaligned].append(module)
    faults = []
    for (label, width, size), members in groups.items():
        rule = winner.get(members[0].path)
        choice = _asked(recipe, rule) if rule and rule.use != "model" else recipe.default
        mode, sizes = (choice.mode, choice.group_sizes) if choice else ("affine", (size,))
        tried = sizes if size in sizes else (size,)  # not where a class's own predicate asked for it
        fitting = [str(g) for g in MODES[mode][0] if width % g == 0]
        advice = f"group size {' or '.join(fitting)} would" if fitting else f"no group size of {mode} does"
        reason = (
            f"group size {either(tried)} ({label or 'the default'}) does not divide the input dimension {width};"
            f" {advice}, or leave them with --unaligned keep"
        )
        faults.append(Fault(_some(members, 4), reason))
    return faults


def _faults_of_mlx(by_path: Mapping[str, Decision]) -> list[Fault]:
    """Formats that the installed mlx does not have yet, one fault for each."""
    asked = {d.format.bits: path for path, d in by_path.items() if d.format and d.format.bits in NEEDED}
    installed = version("mlx") if asked else ""
    return [
        Fault(path, f"{bits} bit needs mlx {NEEDED[bits]} or newer, {installed} is installed; pip install -U mlx")
        for bits, path in asked.items()
        if _release(installed) < _release(NEEDED[bits])
    ]


def _release(text: str) -> tuple[int, ...]:
    """The numbers of a version: ``(0, 32, 4)`` of 0.32.4.dev1."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _some(modules: Sequence[Module], limit: int) -> str:
    return some([m.path for m in modules], limit)


def _left_notes(modules: Sequence[Module], by_path: dict[str, Decision]) -> list[str]:
    """Say what mlx could quantize but is left: stored quantized in the source, or of a width that does not divide."""
    notes = []
    stored = Counter((m.role, m.prequantized) for m in modules if m.prequantized)
    for (role, kind), count in stored.items():
        notes.append(f"the source already stores {count:,} {role} modules as {kind}; they stay so")
    kept = Counter((m.role, str(m.kept)) for m in modules if by_path[m.path].kept)
    for (role, form), count in kept.items():
        notes.append(f"{count:,} {role} modules are as in the source: its own bits, as {form}")
    left = [m for m in modules if by_path[m.path].unaligned]
    if left:
        notes.append(f"{len(left):,} modules are left unquantized, as unaligned = keep says: {_some(left, 4)}")
    return notes


def _default_note(
    recipe: Recipe, modules: Sequence[Module], by_path: dict[str, Decision], winner: dict[str, Rule]
) -> list[str]:
    """Say what fitted no rule, by role."""
    open_ = (m for m in modules if m.quantizable and not m.prequantized and not m.tower)
    left = [m for m in open_ if m.path not in winner]
    if not left or not recipe.rules:
        return []
    taken = {by_path[m.path].format for m in left}
    formats = " or ".join(str(fmt) for fmt in recipe.default.formats if fmt in taken) if recipe.default else ""
    becomes = f"take the default, {formats or recipe.default}" if recipe.default else "stay at source precision"
    counts = ", ".join(f"{count:,} {role}" for role, count in Counter(m.role for m in left).most_common())
    return [f"no rule matches {len(left):,} modules, which {becomes}: {counts}"]


def _rounded_warnings(
    recipe: Recipe, modules: Sequence[Module], by_path: Mapping[str, Decision], winner: Mapping[str, Rule]
) -> list[str]:
    """A method that was asked for where the mode has nothing for it to choose."""
    rounded: Counter[tuple[str, str]] = Counter()
    for module in modules:
        decision, rule = by_path[module.path], winner.get(module.path)
        choice = _asked(recipe, rule) if rule and not rule.keep and rule.use != "source" else recipe.default
        if (
            choice
            and decision.format
            and decision.format.mode != "affine"
            and not (module.prequantized or decision.kept)
        ):
            rounded[choice.method, decision.format.mode] += 1
    return [
        f"{count:,} modules are rounded (rtn), not encoded by {method}: {mode} has no bias to choose"
        for (method, mode), count in rounded.items()
        if method != RTN
    ]


def _warnings(modules: Sequence[Module], by_path: dict[str, Decision], winner: dict[str, Rule]) -> list[str]:
    """A router or an embedding that falls below 8 bits though no rule names it."""
    fallen: dict[tuple[str, Format], list[Module]] = defaultdict(list)
    for module in modules:
        chosen, rule = by_path[module.path].format, winner.get(module.path)
        if module.role not in CAREFUL_ROLES or module.prequantized or (rule and rule.match.names):
            continue
        if chosen and chosen.bits < CAREFUL_BITS:
            fallen[module.role, chosen].append(module)
    return _warnings_of_bits(modules, by_path) + [
        f"{role} at {chosen} though no rule names it ({_some(members, 2)}); "
        f'--set "role={role}:keep" or "role={role}:bits=8" protects it'
        for (role, chosen), members in fallen.items()
    ]


def _warnings_of_bits(modules: Sequence[Module], by_path: dict[str, Decision]) -> list[str]:
    """What quantizing to one bit does to a model that was not trained for it."""
    ones = [m for m in modules if (f := by_path[m.path].format) and f.bits == 1 and not m.prequantized]
    if not ones:
        return []
    return [
        f"{len(ones):,} modules at 1 bit: a weight becomes the smallest or the largest of its group, so that the error"
        f" is larger than the weights unless the model was trained for one bit ({_some(ones, 2)})"
    ]


# --- misfits ---

# Where a recipe's rules and a model do not fit: a mistake is what nobody can have meant for any model, or what was
# typed for this one; a note is what a recipe that serves many models must be allowed.


@dataclass(frozen=True, slots=True)
class _Misfits:
    """Misfits so far: mistakes and notes."""

    mistakes: list[Fault] = field(default_factory=list)
    notes: list[Fault] = field(default_factory=list)

    def add(self, rule: Rule, text: str, *, mistake: bool) -> None:
        """File a misfit; an optional rule has only notes. Notes on one rule that follow each other become one."""
        if mistake and not rule.optional:
            self.mistakes.append(Fault(rule.place, text))
        elif self.notes and self.notes[-1].where == rule.place:
            self.notes[-1] = Fault(rule.place, f"{self.notes[-1].reason}; {text}")
        else:
            self.notes.append(Fault(rule.place, text))


def rule_misfits(
    recipe: Recipe, modules: Sequence[Module], hits: Sequence[Sequence[Module]], n_layers: int
) -> tuple[list[Fault], list[Fault]]:
    """Mistakes and notes of each rule against a model; `hits` are the modules that each rule matches."""
    misfits = _Misfits()
    taken: dict[str, Rule] = {}
    for rule, matched in zip(recipe.rules, hits, strict=True):
        if not matched:
            _matches_nothing(rule, modules, n_layers, misfits)
        else:
            _dead_patterns(rule, modules, misfits)
            _lacking_roles(rule, modules, misfits)
            _shadowed(rule, matched, taken, misfits)
            _without_effect(recipe, rule, [m for m in matched if m.path not in taken], misfits)
        for module in matched:
            taken.setdefault(module.path, rule)
    return misfits.mistakes, misfits.notes


def _matches_nothing(rule: Rule, modules: Sequence[Module], n_layers: int, misfits: _Misfits) -> None:
    """Say which part of a match this model lacks."""
    match, typed = rule.match, rule.origin == SET_ORIGIN
    if rule.optional:
        misfits.add(rule, "matches nothing in this model, which is allowed", mistake=False)
        return
    if _dead_patterns(rule, modules, misfits):
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
        text = "no module of this model meets all its conditions"
    misfits.add(rule, text, mistake=typed)


def _lacking_roles(rule: Rule, modules: Sequence[Module], misfits: _Misfits) -> None:
    """Note those roles of a rule that this model lacks, where others of them it has."""
    lacking = set(rule.match.role) - {m.role for m in modules}
    if lacking and not rule.optional:
        named = " and no ".join(role for role in rule.match.role if role in lacking)
        misfits.add(rule, f"this model has no {named}", mistake=False)


def _dead_patterns(rule: Rule, modules: Sequence[Module], misfits: _Misfits) -> bool:
    """Report globs that match no path at all; True where there are any. An optional rule may have them."""
    dead = [glob for glob in rule.match.path if not any(fnmatchcase(m.path, glob) for m in modules)]
    if not dead or rule.optional:
        return False
    for glob in dead:
        hint = _better_glob(glob, modules) if len(misfits.mistakes) < _HINTED else ""  # further ones are not listed
        misfits.add(rule, f"path {glob!r} matches no module{hint}", mistake=True)
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


def _shadowed(rule: Rule, matched: Sequence[Module], taken: dict[str, Rule], misfits: _Misfits) -> None:
    """A rule that earlier ones leave nothing: a mistake within one file, an override across files."""
    if any(m.path not in taken for m in matched):
        return
    before = list(dict.fromkeys(taken[m.path].label for m in matched))
    same = {taken[m.path].origin for m in matched} == {rule.origin}
    by = ", ".join(before)
    if same:
        match = "matches" if len(before) == 1 else "match"
        misfits.add(rule, f"never applies: {by} before it {match} all {len(matched)} of its modules", mistake=True)
    else:
        misfits.notes.append(Fault(rule.place, f"overridden by {by} for all {len(matched)} of its modules"))


def _not_kept(won: Sequence[Module], rule: Rule, misfits: _Misfits) -> None:
    """Packed modules whose bits no format of mlx has: the rule would store them as floats."""
    reasons: dict[str, list[Module]] = defaultdict(list)
    for module in won:
        if module.not_kept:
            reasons[module.not_kept].append(module)
    for reason, members in reasons.items():
        text = (
            f"use = source cannot keep the bits of {_some(members, 1)}: {reason}; give bits, or keep = true for floats"
        )
        misfits.add(rule, text, mistake=True)


def _without_effect(recipe: Recipe, rule: Rule, won: Sequence[Module], misfits: _Misfits) -> None:
    """A rule for modules that mlx cannot quantize, or a format for what the source already stores in another."""
    if rule.use == "source":
        _not_kept(won, rule, misfits)
    if not rule.match.names or not won:
        return
    typed = bool(rule.match.path) or rule.origin == SET_ORIGIN
    if not any(m.quantizable or m.prequantized for m in won):
        kinds = ", ".join(sorted({m.kind for m in won}))
        text = f"mlx has no quantized form of what it matches here ({kinds}), which stays as it is"
        if all(is_raw_router(m) for m in won):
            text = f"the routers stay at source precision anyway: {kinds} is a raw array, which mlx cannot quantize"
        misfits.add(rule, text, mistake=typed and not rule.keep)
    if rule.keep or rule.use:
        return
    wanted = rule.format(recipe.default)
    if stored := [m for m in won if m.prequantized and m.prequantized not in wanted.formats]:
        paths = _some(stored, 1)
        text = f"asks for {wanted}, but the source already stores {paths} as {stored[0].prequantized}"
        misfits.add(rule, f"{text}; what is quantized is not quantized again", mistake=True)
