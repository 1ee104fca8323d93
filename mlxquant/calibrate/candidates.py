"""Recipes that need documents, as candidates of a comparison: encoded within its pass, layer by layer, and dropped.

`EncodedCandidates` is what the pass calls (`stream.scores.OnDocuments`). Its documents go through each layer of the
reference before those that judge; what enters the modules is kept, modules are encoded as `compensating` does for a
build, of which every candidate takes its own. So the bytes are those that `convert` writes with the same documents,
where the pass computes in float32 as that one does.

Without `propagate` all candidates share one stream of documents and what enters; with it each has its own, which goes
on through its own encoded layers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..builds.methods import methods_of, needs_columns, needs_documents
from ..errors import UsageError
from ..kernels import Encoder, ErrorSums, Quantized, Rows, measure_rows
from ..layout.layout import Layout
from ..plan.plan import Plan
from ..plan.recipe.recipe import Recipe
from ..source.checkpoint import Checkpoint
from ..stream.engine import compare
from ..stream.options import CompareOptions, HasTokens
from ..stream.ranks import Ranks
from ..stream.scores import Listener
from ..words.formats import DISTILL, GPTQ, IMATRIX
from .compensating import PROPAGATE, Compensating, Documents, check_count, made_with
from .inputs import InputSums, Sums
from .layers import Layers
from .plans import Memory, PlanLayers, compensated
from .record import as_stored
from .room import Room, rooms


class EncodedCandidates:
    """Encodes candidates of a pass on documents; see the module.

    `has_columns` says that a calibration file has the weights of recipes whose only method with inputs is imatrix.
    `tell` gets, before the pass, what encoding takes of memory. `reopen` opens the source once more, for embeddings
    that are the head as well: what enters them is known only after the last layer. Raises UsageError for too few
    documents.
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
        reopen: Callable[[], Checkpoint] | None = None,
    ) -> None:
        check_count(data)
        self.data, self.propagate = data, propagate
        self._threads, self._has_columns, self._allow = threads, has_columns, allow_nonfinite
        self._max_memory, self._tell, self._reopen = max_memory, tell, reopen
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

    def start(
        self, layout: Layout, plans: Mapping[str, Plan], early: Mapping[str, Collection[str]]
    ) -> Sequence[Listener]:
        """Prepare for candidates' plans; a listener for all of them, or for each. Raises UsageError.

        For modules in `early` documents go through all layers first, in a pass of its own.
        """
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="encode")
        groups = [{name: plan} for name, plan in plans.items()] if self.propagate else [plans]
        listeners, taken = [], []
        for group in groups:
            listener, encoders, room = self._open(layout, group, plans)
            if any(early[name] for name in group):
                self._look_ahead(layout, group, plans, encoders, early)
            listeners.append(listener)
            taken.append(room)
            self._encoders |= encoders
        self._tell(max(taken, key=lambda room: room.total))
        return listeners

    def _open(
        self, layout: Layout, group: Mapping[str, Plan], plans: Mapping[str, Plan], only: Collection[str] | None = None
    ) -> tuple[Layers, dict[str, _OfCandidate], Room]:
        """What listens for a group of candidates, their encoders, and what that takes; `only` some modules."""
        assert self._pool is not None
        tokens = sum(len(d.tokens) for d in self.documents)
        wanted = {path for plan in group.values() for path in compensated(plan) if only is None or path in only}
        room, rounds = rooms(
            [*plans.values()], wanted, tokens, self._threads, self._max_memory, propagate=self.propagate
        )
        stores = {name: Memory() for name in group}
        layers = {n: PlanLayers(plan, stores[n], allow_nonfinite=self._allow) for n, plan in group.items()}
        listener = Layers(
            layout.modules, [*layers.values()], rounds, tokens=tokens, pool=self._pool, propagate=self.propagate,
            allow_nonfinite=self._allow,
        )  # fmt: skip
        return listener, {name: _OfCandidate(layers[name], stores[name], listener) for name in group}, room

    def _look_ahead(
        self,
        layout: Layout,
        group: Mapping[str, Plan],
        plans: Mapping[str, Plan],
        encoders: Mapping[str, _OfCandidate],
        early: Mapping[str, Collection[str]],
    ) -> None:
        """Let documents go through all layers, and pin what becomes of modules that are used early. As `convert`."""
        paths = {path for name in group for path in early[name]}
        if self._reopen is None:
            raise UsageError(
                f"recipe {next(iter(group.values())).recipe}: {min(paths)} is the head, too, so it takes a pass of its"
                f' own, for which the source cannot be opened again; judge a build, or give --set "path={min(paths)}'
                ':method=mse"'
            )
        # with propagation what enters the head depends on every layer; else on the source's alone
        listener, ahead, _ = self._open(layout, group, plans, None if self.propagate else paths)
        options = CompareOptions(noise_floor=False, own=False, allow_nonfinite=self._allow)
        provider = layout.provider.name
        compare(
            self._reopen(), [], self.documents, listener, options, ranks=Ranks(None), listener=listener,
            provider=provider,
        )  # fmt: skip
        for name, encoder in encoders.items():
            encoder.pin(ahead[name], early[name])

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
        self._known: dict[str, Sums] = {}
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
            self._others = self._layers.others(self._sums, self._known)
        return self._others.encode(rows, out, errors=errors)

    def pin(self, ahead: _OfCandidate, modules: Collection[str]) -> None:
        """Take modules as an earlier pass encoded them, or summed what enters them."""
        self._held.pin(ahead._held.taken(modules))
        self._known = {path: as_stored(ahead._sums.sums[path]) for path in self._layers.weighed if path in modules}

    def forget(self) -> None:
        """Let the step go."""
        self._others = None
        self._held.forget()
