"""An allocation from end to end: measure groups alone, solve for each budget, check against what it has to beat.

What is asked for is judged before anything is measured: a budget that nothing meets is refused, and one that holds the
model as it is needs no measurement. `record` makes the record of it all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibrate.candidates import EncodedCandidates
from ..calibrate.compensating import Documents
from ..calibrate.record import Calibration
from ..calibrate.run import run_calibration
from ..disk import files as disk
from ..errors import OutputError, UsageError
from ..kernels import ColumnWeights
from ..layout.layout import Layout
from ..plan.plan import Plan, make_plan
from ..plan.recipe.recipe import Recipe, load_recipe, parse_recipe
from ..records.head import describe_versions
from ..source.checkpoint import Checkpoint
from ..source.stamps import source_signature
from ..stream.candidates import Candidate
from ..stream.engine import compare
from ..stream.options import CompareOptions
from ..words.formats import BY_LAYER, GPTQ, IMATRIX, RTN
from ..words.progress import Watch, unwatched
from ..words.text import printable
from ..words.units import show_bytes
from .budgets import Budget
from .contest import Contestant, Final, contestants, final, with_stand_in
from .folder import AllocateFolder
from .groups import BITS, GROUP_SIZES, GROUPS, ModuleGroup, groups_of
from .measure import KlSums, Probe, measure, outputs_only
from .recipe import contestant_text, kept_text, read_back, recipe_text
from .rounds import Solved, allocate_in_rounds
from .shares import Shares
from .solve import Allocation, Option, allocate

FINALISTS = 3  # contestants of a budget that are judged as they would ship, where that takes long


@dataclass(frozen=True, slots=True)
class AllocateOptions:
    """What is allocated, and how.

    `active` are the most bytes that a token may read of all tensors, None without bound. `method` is the encoder that
    will ship.
    """

    budgets: tuple[Budget, ...] = ()
    method: str = RTN
    bits: tuple[int, ...] = BITS
    group_sizes: tuple[int, ...] = GROUP_SIZES
    groups: int = GROUPS
    routers: bool = False
    active: int | None = None
    confidence: float = 0.95

    @property
    def measured_with(self) -> str:
        """The encoder that is measured: `method`, or rounding in its place where that needs a pass of its own."""
        return RTN if self.method in BY_LAYER else self.method

    @property
    def calibrates(self) -> bool:
        """Whether the method needs documents: in a pass beforehand, or where what ships is encoded."""
        return self.method in (IMATRIX, GPTQ)


@dataclass(frozen=True)
class Allocated:
    """One budget's outcome. `proposed` is the solver's recipe, `text` and `recipe` are of what ships.

    `final` is how the check ended, None where there was nothing to check: the budget holds the model as it is.
    """

    budget: Budget
    allocation: Allocation
    proposed: Recipe
    contestants: tuple[Contestant, ...]
    final: Final | None
    text: str
    recipe: Recipe

    @property
    def allocated(self) -> bool:
        """Whether the solver's recipe ships."""
        return self.final is None or self.final.ships == self.proposed.name


@dataclass(frozen=True)
class Outcome:
    """All that an allocation came to: groups with the damage of each choice, and every budget's recipe.

    `fixed` are the bytes that nothing decides about, `active` the most that a token may read of the rest.
    """

    groups: list[ModuleGroup]
    choices: list[list[Option]]
    fixed: int
    active: int | None
    budgets: list[Allocated]


def groups_and_plan(source: Checkpoint, layout: Layout, options: AllocateOptions) -> tuple[list[ModuleGroup], Plan]:
    """The groups that are decided, and the plan that keeps everything. Raises UsageError where there are none."""
    plan = make_plan(layout, load_recipe("none"), source)
    groups = groups_of(
        plan.modules, limit=options.groups, bits=options.bits, group_sizes=options.group_sizes, routers=options.routers
    )
    if not groups:
        raise UsageError(f"{source.name}: nothing in it can be quantized by these bits and group sizes")
    return groups, plan


def check_budgets(groups: Sequence[ModuleGroup], plan: Plan, options: AllocateOptions) -> None:
    """Raise UsageError for a budget that no recipe meets, or for so few bytes a token that none reads less."""
    fixed, fixed_active = _fixed(plan, groups)
    least = fixed + sum(min(choice.nbytes for choice in group.choices) for group in groups)
    for budget in options.budgets:
        if budget.nbytes < least:
            raise UsageError(
                f"{budget.words}: room for {show_bytes(budget.nbytes)} of tensors, and the smallest recipe of these"
                f" bits and group sizes takes {show_bytes(least)}; give more, or allow fewer bits or a shorter context"
            )
    active = fixed_active + sum(min(choice.active for choice in group.choices) for group in groups)
    if options.active is not None and options.active < active:
        raise UsageError(
            f"--min-decode: a token may read {show_bytes(options.active)}, and no recipe of these bits and group sizes"
            f" reads less than {show_bytes(active)}; ask for fewer tokens a second, or allow fewer bits"
        )


def run_allocation(
    source: Checkpoint,
    layout: Layout,
    shares: Shares,
    described: dict[str, Any],
    options: AllocateOptions,
    folder: AllocateFolder,
    *,
    passes: CompareOptions | None = None,
    calibration: Calibration | None = None,
    watch: Watch = unwatched,
) -> Outcome:
    """Allocate for every budget.

    `described` is what records say of the documents, `passes` how the model is computed. A method that weighs errors
    takes `calibration`, or else what the documents to calibrate on give. `folder` keeps what was measured, for the same
    call to go on from; it is held meanwhile. Raises UsageError for a budget that nothing meets, and what `compare`
    raises.
    """
    groups, plan = groups_and_plan(source, layout, options)
    check_budgets(groups, plan, options)
    fixed, fixed_active = _fixed(plan, groups)
    active = None if options.active is None else options.active - fixed_active
    whole = [_whole(groups, options, budget, fixed, active) for budget in options.budgets]
    passes = passes or CompareOptions()
    with folder.claimed():
        if passes.fresh:
            folder.empty()
        if all(whole):
            return Outcome(groups, [], fixed, active, [each for each in whole if each is not None])
        run = _Run(source, layout, shares, described, options, replace(passes, fresh=False), folder)
        columns = run.columns(calibration, watch)
        open_budgets = [budget for budget, outcome in zip(options.budgets, whole, strict=True) if outcome is None]
        rooms = [budget.nbytes - fixed for budget in open_budgets]
        solved = run.solved(groups, rooms, active, columns, watch)
        groups = solved.groups
        drafts = [run.draft(groups, *each, fixed) for each in zip(open_budgets, solved.allocations, strict=True)]
        outcomes = iter(run.checked(drafts, columns, _named(watch, "check")))
        budgets = [_whole(groups, options, budget, fixed, active) or next(outcomes) for budget in options.budgets]
    return Outcome(groups, solved.options, fixed, active, budgets)


@dataclass(frozen=True)
class _Draft:
    """A budget's solution as a recipe, before the check, and those that it has to beat."""

    budget: Budget
    allocation: Allocation
    text: str
    recipe: Recipe
    contestants: tuple[Contestant, ...]


@dataclass(frozen=True)
class _Run:
    """What the parts of one allocation share."""

    source: Checkpoint
    layout: Layout
    shares: Shares
    described: dict[str, Any]
    options: AllocateOptions
    passes: CompareOptions
    folder: AllocateFolder

    def columns(self, calibration: Calibration | None, watch: Watch) -> ColumnWeights | None:
        """What the measured method weighs errors by, None where it weighs none."""
        if self.options.measured_with != IMATRIX:
            return None
        return (calibration or self._calibrated(watch)).columns(self.layout)

    def _calibrated(self, watch: Watch) -> Calibration:
        """The calibration of the documents that are for it: kept by an earlier run, or made now.

        Raises OutputError where the folder holds one of other documents: what was measured with it is not lost to a
        run that would be refused by the next step.
        """
        path, described = self.folder.columns, self._described_calibration()
        calibration = Calibration(path, self.source)
        if disk.is_file(path):
            before = calibration.documents()
            if any(before.get(key) != described[key] for key in ("xxh3_128", "tokens")):
                raise OutputError(
                    f"{path}: was made from other documents, or other --max-tokens; choose another work folder, or"
                    " start over with --fresh"
                )
            return calibration
        options = replace(self.passes, work=self.folder.pass_of("calibration"))
        result = run_calibration(self.source, self.shares.calibrate, described, options, _named(watch, "calibration"))
        assert result is not None  # one rank alone
        disk.write_whole(path, result[0], replace=True)
        return calibration

    def solved(
        self, groups: Sequence[ModuleGroup], rooms: Sequence[int], active: int | None, columns: ColumnWeights | None,
        watch: Watch,
    ) -> Solved:  # fmt: skip
        """Measure what the solver needs, and solve for each of these bytes."""
        width = width_of(self.layout)

        def measured(groups: Sequence[ModuleGroup], probes: Sequence[Probe]) -> dict[str, float]:
            return measure(
                self.source, groups, self.shares.allocate, width=width, probes=probes,
                method=self.options.measured_with, columns=columns, options=self.passes, folder=self.folder,
                watch=watch,
            )  # fmt: skip

        def chosen(groups: Sequence[ModuleGroup], options: Sequence[Sequence[Option]]) -> list[Allocation]:
            return [allocate(groups, options, room, active) for room in rooms]

        return allocate_in_rounds(groups, measured, chosen)

    def draft(self, groups: Sequence[ModuleGroup], budget: Budget, allocation: Allocation, fixed: int) -> _Draft:
        """Write a budget's solution as a recipe, and find those that it has to beat."""
        options = self.options
        source, data = printable(self.source.name), printable(self.described["name"])
        revision = f"@{self.source.revision}" if self.source.revision else ""
        summary = f"bits allocated for {source} at {budget.words}, by the KL of each group quantized alone"
        reference = (
            f"mlxquant allocate: {source}{revision}, measured with {options.measured_with} on"
            f" {len(self.shares.allocate)} documents of {data} (sha256 {self.described['sha256'][:12]})"
        )
        text = recipe_text(budget.recipe_name, summary, groups, allocation, method=options.method, reference=reference)
        recipe = read_back(text, groups, allocation, self.layout, self.source, fixed + allocation.nbytes)
        entered = contestants(
            self.layout, self.source, budget.nbytes, active=options.active, method=options.method, bits=options.bits,
            group_sizes=options.group_sizes,
        )  # fmt: skip
        return _Draft(budget, allocation, text, recipe, tuple(entered))

    def checked(self, drafts: Sequence[_Draft], columns: ColumnWeights | None, watch: Watch) -> list[Allocated]:
        """Judge every budget's recipe and contestants, on documents that chose nothing.

        gptq takes long, so rounding stands in for it at first, and the best few are judged again as they will ship.
        """
        first = self._finals(drafts, [list(draft.contestants) for draft in drafts], columns, watch, stand_in=True)
        if self.checked_with != self.options.measured_with:
            best = [end.best_of(each.contestants, FINALISTS) for end, each in zip(first, drafts, strict=True)]
            last = self._finals(drafts, best, columns, watch, stand_in=False)
            first = [replace(end, stand_in=before.kl) for end, before in zip(last, first, strict=True)]
        return [_judged(draft, end) for draft, end in zip(drafts, first, strict=True)]

    @property
    def checked_with(self) -> str:
        """The encoder of the last check; gptq needs a head of its own to be encoded within a pass."""
        return checked_with(self.options, self.layout)

    def _finals(
        self, drafts: Sequence[_Draft], entered: Sequence[Sequence[Contestant]], columns: ColumnWeights | None,
        watch: Watch, *, stand_in: bool,
    ) -> list[Final]:  # fmt: skip
        """How each budget's contest ends among these contestants, all judged in one pass."""
        recipes: dict[str, Recipe] = {}
        for draft, own in zip(drafts, entered, strict=True):
            for name, recipe in ((draft.recipe.name, draft.recipe), *((each.name, each.recipe) for each in own)):
                recipes.setdefault(name, with_stand_in(recipe) if stand_in else recipe)
        encoding = None
        if not stand_in:
            documents = Documents(self.shares.calibrate, self._described_calibration())
            encoding = EncodedCandidates(documents, threads=os.cpu_count() or 1, has_columns=columns is not None)
        kl, tokens = self._sums(recipes, columns, encoding, watch)
        return [
            final(draft.recipe.name, own, kl, tokens, list(recipes), self.options.confidence, len(draft.contestants))
            for draft, own in zip(drafts, entered, strict=True)
        ]

    def _sums(
        self, recipes: Mapping[str, Recipe], columns: ColumnWeights | None, encoding: EncodedCandidates | None,
        watch: Watch,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:  # fmt: skip
        """KL and tokens (recipes, documents): kept by an earlier run, or measured now."""
        documents, options = self.shares.check, outputs_only(self.passes)
        what = json.dumps(
            [
                source_signature(self.source), {name: recipe.sha256 for name, recipe in recipes.items()},
                [[d.content_hash, len(d.tokens)] for d in documents], options.that_change_scores(), describe_versions(),
                None if columns is None else dict(columns.signature), encoding and dict(encoding.signature),
            ],
            default=str,
        )  # fmt: skip
        if (earlier := self.folder.sums(what, (len(recipes), len(documents)))) is not None:
            return earlier
        sums = KlSums(len(recipes), len(documents))
        candidates = [Candidate(name, recipe) for name, recipe in recipes.items()]
        compare(
            self.source, candidates, documents, sums, replace(options, work=self.folder.pass_of(what)), watch,
            calibration=lambda _: columns, encoding=encoding,
        )  # fmt: skip
        self.folder.keep_sums(what, sums.kl, sums.tokens_scored)
        return sums.kl, sums.tokens_scored

    def _described_calibration(self) -> dict[str, Any]:
        """What records say of the documents that calibrate."""
        documents = self.shares.calibrate
        return {
            "name": self.described["name"], "sha256": self.described["sha256"], "count": len(documents),
            "tokens": sum(len(d.tokens) for d in documents), "xxh3_128": [d.content_hash for d in documents],
        }  # fmt: skip


def width_of(layout: Layout) -> int:
    """The width of the hidden state, as the embedding has it."""
    return next(module.shape[-1] for module in layout.modules if module.role == "embedding")


def checked_with(options: AllocateOptions, layout: Layout) -> str:
    """The encoder that the last check judges: the one that ships.

    distill cannot be encoded within a pass, nor gptq where the embedding is the head, too; then what was measured
    stands in for it.
    """
    has_head = any(module.role == "lm_head" for module in layout.modules)
    return options.method if options.method == GPTQ and has_head else options.measured_with


def _judged(draft: _Draft, end: Final) -> Allocated:
    best, text, recipe = end.best, draft.text, draft.recipe
    if best is not None and end.ships != recipe.name:
        text, recipe = contestant_text(recipe.name, best), best.recipe
    return Allocated(draft.budget, draft.allocation, draft.recipe, draft.contestants, end, text, recipe)


def _whole(
    groups: Sequence[ModuleGroup], options: AllocateOptions, budget: Budget, fixed: int, active: int | None
) -> Allocated | None:
    """The outcome of a budget that holds the model as it is; None where something has to be decided."""
    keep = [Option(group.choice(None), 0.0, measured=True) for group in groups]
    allocation = Allocation(tuple(keep))
    if fixed + allocation.nbytes > budget.nbytes or (active is not None and allocation.active > active):
        return None
    text = kept_text(budget.recipe_name, budget.words)
    recipe = parse_recipe(text, where="the allocated recipe")
    return Allocated(budget, allocation, recipe, (), None, text, recipe)


def _named(watch: Watch, subject: str) -> Watch:
    return lambda progress: watch(replace(progress, subject=subject))


def _fixed(plan: Plan, groups: Sequence[ModuleGroup]) -> tuple[int, int]:
    """Bytes, and active bytes, of what is not decided."""
    free = {path for group in groups for path in group.paths}
    rest = [planned for planned in plan.modules if planned.module.path not in free]
    return sum(p.nbytes for p in rest), sum(p.active(p.nbytes) for p in rest)
