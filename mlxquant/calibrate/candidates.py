"""Recipes that need documents, as candidates of a comparison: encoded within its pass, layer by layer, and dropped.

`EncodedCandidates` is what the pass calls (`stream.scores.OnDocuments`). Its documents go through each layer of the
reference before those that judge; what enters the modules is kept, modules are encoded as `compensating` does for a
build, of which every candidate takes its own. So the bytes are those that `convert` writes with the same documents,
where the pass computes in float32 as that one does.

Without `propagate` all candidates share one stream of documents and what enters; with it each has its own, which goes
on through its own encoded layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..builds.methods import methods_of, needs_columns, needs_documents
from ..kernels import Encoder, ErrorSums, Quantized, Rows, measure_rows
from ..layout.layout import Layout
from ..plan.plan import Plan
from ..plan.recipe.recipe import Recipe
from ..source.checkpoint import Checkpoint
from ..stream.options import HasTokens
from ..stream.scores import Listener
from ..words.formats import DISTILL, GPTQ, IMATRIX
from .compensating import PROPAGATE, Compensating, Documents, check_count, made_with
from .inputs import InputSums
from .layers import Layers
from .plans import Memory, PlanLayers, compensated
from .room import Room, rooms


class EncodedCandidates:
    """Encodes candidates of a pass on documents; see the module.

    `has_columns` says that a calibration file has the weights of recipes whose only method with inputs is imatrix.
    `tell` gets, before anything is read, what the pass takes of memory. Raises UsageError for too few documents.
    """

    def __init__(
        self,
        data: Documents,
        *,
        threads: int,
        propagate: bool = PROPAGATE,
        has_columns: bool = False,
        allow_nonfinite: bool = False,
        max_memory: int | None = None,
        tell: Callable[[Room], None] = lambda _: None,
    ) -> None:
        check_count(data)
        self.data, self.propagate = data, propagate
        self._threads, self._has_columns, self._allow = threads, has_columns, allow_nonfinite
        self._max_memory, self._tell = max_memory, tell
        self._pool: ThreadPoolExecutor | None = None
        self._encoders: dict[str, _OfCandidate] = {}

    @property
    def documents(self) -> Sequence[HasTokens]:
        """The documents."""
        return self.data.documents

    @property
    def signature(self) -> Mapping[str, Any]:
        """All that encoded layers depend on, beside source and recipe."""
        return made_with(self.data, propagate=self.propagate)

    def wants(self, plan: Plan) -> bool:
        """Whether a plan has modules that are encoded on documents here; what is learned is judged as a build."""
        if DISTILL in methods_of(plan.modules).values():
            return False
        return needs_documents(plan) or (needs_columns(plan) and not self._has_columns)

    def wants_recipe(self, recipe: Recipe) -> bool:
        """The same of a recipe, before it is laid over a model."""
        return needs_data(recipe, has_columns=self._has_columns)

    def for_build(self, source: Checkpoint, layout: Layout, plan: Plan, *, dtype: str | None) -> Compensating:
        """The encoder of a build of a plan on the same documents; reads `source` by itself."""
        return Compensating(
            source, layout, plan, self.data, propagate=self.propagate, threads=self._threads, dtype=dtype,
            allow_nonfinite=self._allow, max_memory=self._max_memory,
        )  # fmt: skip

    def start(self, layout: Layout, plans: Mapping[str, Plan]) -> Sequence[Listener]:
        """Prepare for candidates' plans; a listener for all of them, or for each. Raises UsageError."""
        tokens = sum(len(d.tokens) for d in self.documents)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="encode")
        groups = [{name: plan} for name, plan in plans.items()] if self.propagate else [plans]
        listeners, taken = [], []
        for group in groups:
            wanted = {path for plan in group.values() for path in compensated(plan)}
            room, rounds = rooms(
                [*plans.values()], wanted, tokens, self._threads, self._max_memory, propagate=self.propagate
            )
            taken.append(room)
            stores = {name: Memory() for name in group}
            layers = {n: PlanLayers(plan, stores[n], allow_nonfinite=self._allow) for n, plan in group.items()}
            listener = Layers(
                layout.modules, [*layers.values()], rounds, tokens=tokens, pool=self._pool,
                propagate=self.propagate, allow_nonfinite=self._allow,
            )  # fmt: skip
            listeners.append(listener)
            self._encoders |= {name: _OfCandidate(layers[name], stores[name], listener) for name in group}
        self._tell(max(taken, key=lambda room: room.total))
        return listeners

    def encoder(self, name: str) -> Encoder:
        """The encoder of a candidate's modules that need documents, for the step at hand."""
        return self._encoders[name]

    def origin(self, name: str) -> str:
        """What is equal for candidates whose modules are encoded alike: all that share what enters."""
        return f"documents of {name}" if self.propagate else "documents"

    def forget(self) -> None:
        """Let go of what was encoded for the step at hand."""
        for encoder in self._encoders.values():
            encoder.forget()

    def close(self) -> None:
        """Let the threads go."""
        if self._pool is not None:
            self._pool.shutdown()


def needs_data(recipe: Recipe, *, has_columns: bool) -> bool:
    """Whether a recipe is encoded on documents that no calibration file stands for."""
    methods = set(recipe.methods)
    return GPTQ in methods or (IMATRIX in methods and not has_columns)


class _OfCandidate:
    """Gives rows as the step at hand left them in memory, or encodes those of modules that are not there."""

    def __init__(self, layers: PlanLayers, held: Memory, sums: InputSums) -> None:
        self._layers, self._held, self._sums = layers, held, sums
        self._others: Encoder | None = None

    @property
    def signature(self) -> Mapping[str, Any]:
        """Nothing of its own: the pass's signature has it."""
        return {}

    def encode(self, rows: Rows, out: Quantized, *, errors: bool) -> ErrorSums | None:
        """Give rows."""
        if self._held.has_module(rows.module):
            self._held.copy(rows.module, slice(rows.first_row, rows.first_row + len(rows.values)), out)
            return measure_rows(rows.values, rows.dtype, out, rows.format) if errors else None
        if self._others is None:  # threads may both make it: the same
            self._others = self._layers.others(self._sums)
        return self._others.encode(rows, out, errors=errors)

    def forget(self) -> None:
        """Let the step go."""
        self._others = None
        self._held.forget()
