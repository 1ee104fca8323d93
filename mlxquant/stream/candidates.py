"""The models that take part in a pass, each with the weights of one step at a time: reference, recipes, builds.

A step is the embedding, a layer, or the head. Which arrays outside the layers belong to the embedding and which to the
head follows from the reference's forward (`model.Forward`). Every candidate has a model of its own, which holds nothing
between steps, with the modules quantized that its recipe or build quantizes. What is computed with them is in `steps`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx

from ..builds.facts import identity_of
from ..builds.manifest import read_manifest
from ..builds.methods import methods_of
from ..builds.read.build import read_build
from ..errors import BuildError
from ..layout.arrays import parameters_of, sanitized, tensors_of
from ..layout.layout import Layout
from ..layout.provider import MLX_LM, provider_stated
from ..layout.roles import layer_paths
from ..layout.views.bytes import MLX_DTYPES
from ..plan.decide import Decision
from ..plan.plan import Plan, PlannedModule, make_plan
from ..plan.recipe.recipe import Recipe
from ..source.checkpoint import Checkpoint
from ..source.stamps import source_signature
from ..words.formats import RTN, Format
from ..words.modules import Module
from ..words.text import listed
from .model import Forward, Streamed
from .probe import find_forward
from .scores import OnDocuments
from .weights import ON_INPUTS, Arrays, OwnEncoder, Quantizer, Raw, Views, reference_arrays, stored_arrays

Step = int | Literal["embedding", "head"]


@dataclass(frozen=True)
class Candidate:
    """What is judged, by the name under which records know it: a recipe, or a build on disk."""

    name: str
    recipe: Recipe | None = None
    build: Path | None = None


class Source:
    """The source's arrays, read once: what the reference and every recipe are made of.

    `raws` are those of the step at hand, as bytes; `streamed` is the reference's model, `paths` its layers'.
    """

    def __init__(self, source: Checkpoint, layout: Layout, computing: str | None) -> None:
        self.checkpoint, self.layout = source, layout
        self.views = Views(source, layout.views, computing)
        self.dtype = MLX_DTYPES[computing or layout.dtype or "BF16"]
        model = new_model(source, layout)
        self.paths = layer_paths(model, dict(model.named_modules()))
        stored = {m.path: m.prequantized for m in layout.modules if m.prequantized}
        self.streamed = Streamed(model, self.paths, stored, self.dtype, source.name, layout.provider)
        self.forward: Forward = find_forward(self.streamed)
        self.raws: dict[str, Raw] = {}
        self._tied: dict[str, Raw] = {}
        self._planned = [PlannedModule(m, Decision(m.prequantized, False, ""), (1, 1)) for m in layout.modules]
        self._kept: list[PlannedModule] = []

    def also(self, planned: Iterable[PlannedModule]) -> None:
        """Read for a candidate what the reference does not need: modules that keep the bits that the source has."""
        self._kept += [p for p in planned if p.decision.kept]

    def steps(self) -> list[Step]:
        """All steps, in order."""
        return ["embedding", *range(len(self.paths)), "head"]

    def read(self, step: Step) -> Arrays:
        """Read a step's arrays, and give the reference's. What the embedding shares with the head is kept for it."""
        names, shared = self._names(step), set[str]()
        if step == "embedding":  # a tied head is made of the same tensors, and is due only after the last layer
            stored = self.tensors(step)
            shared = {n for n in self._names("head") if stored & set(tensors_of(self.layout.views[n]))}
        held = {n: self._tied.pop(n) for n in names if n in self._tied}
        # read together: a tensor that two arrays are made of is dropped from memory with the last of them
        self.raws = {**held, **self.views.read(dict.fromkeys([n for n in names if n not in held] + sorted(shared)))}
        self._tied |= {n: self.raws[n] for n in shared}
        return reference_arrays(self.views, self.raws, self.of_step(self._planned, step))

    def _names(self, step: Step) -> list[str]:
        """Names of the views that a step's arrays are made of."""
        modules = [*self.of_step(self._planned, step), *self.of_step(self._kept, step)]
        return list(dict.fromkeys(out.source for module in modules for out in module.arrays()))

    def forget(self) -> None:
        """Let a step's arrays go."""
        self.raws = {}

    def of_step(self, planned: Iterable[PlannedModule], step: Step) -> list[PlannedModule]:
        """The modules whose arrays a step uses."""
        if isinstance(step, int):
            return [p for p in planned if p.module.layer == step]
        used = self.forward.before if step == "embedding" else self.forward.after
        return [p for p in planned if p.module.layer is None and _any_of(p.module, used)]

    def tensors(self, step: Step) -> set[str]:
        """Names of the stored tensors that a step's arrays are made of."""
        return {t for n in self._names(step) for t in tensors_of(self.layout.views[n])}

    def expected_bytes(self) -> int:
        """Bytes of the tensors that the pass has to read: each once."""
        needed = {t for step in self.steps() for t in self.tensors(step)}
        return sum(self.checkpoint.tensors[t].nbytes for t in needed)

    def files(self, step: Step) -> frozenset[str]:
        """The shards that a step reads; none for the head's share of a tied embedding, which is held."""
        held = self.tensors("embedding") if step == "head" else set()
        return frozenset(self.checkpoint.tensors[t].file for t in self.tensors(step) - held)


class RecipeCandidate:
    """A recipe as a model, its arrays quantized from the source's as they come.

    `later` are the recipes after it, which may want the same arrays in the same format.
    """

    def __init__(
        self, name: str, recipe: Recipe, source: Source, quantizer: Quantizer, encoding: OnDocuments | None = None
    ) -> None:
        self.name, self._source, self._quantizer = name, source, quantizer
        self.plan: Plan = make_plan(source.layout, recipe, source.checkpoint)
        source.also(self.plan.modules)
        self._formats = {p.module.path: p.format for p in self.plan.modules if p.format}
        self._methods = methods_of(self.plan.modules)
        self.on_documents = encoding is not None and encoding.wants(self.plan)
        self.own: OwnEncoder | None = None
        if not self.on_documents:
            quantizer.check(self.plan)
        model = new_model(source.checkpoint, source.layout)
        self.streamed = Streamed(model, source.paths, self._formats, source.dtype, name, source.layout.provider)
        self.later: Sequence[RecipeCandidate] = ()
        self.first_step = self._first_step()

    def _first_step(self) -> int:
        """Number of the first step in which its arrays are not all the reference's; how many there are if none is."""
        steps = self._source.steps()
        for number, step in enumerate(steps):
            planned = self._source.of_step(self.plan.modules, step)
            if {out.name for module in planned for out in module.arrays()} - self.shares(step):
                return number
            # a build stores these in another dtype than the source, which rounds what the reference does not
            if any(array.source_dtype != array.dtype for p in planned for array in p.module.arrays):
                return number
        return len(steps)

    def shares(self, step: Step) -> set[str]:
        """Names of the arrays that it may share with the reference."""
        planned = self._source.of_step(self.plan.modules, step)
        arrays = (out for module in planned for out in module.arrays())
        return {out.name for out in arrays if out.format is None and out.source == out.name}

    def arrays(self, step: Step, reference: Arrays) -> Arrays:
        """The step's arrays as `convert` would write them, floats cast to the computing dtype."""
        planned = self._source.of_step(self.plan.modules, step)
        return self._quantizer.arrays(planned, self._source.raws, reference, self._is_wanted_later, self.own)

    def format_of(self, path: str) -> Format | None:
        """How a module is quantized."""
        return self._formats.get(path)

    def entry(self) -> dict[str, Any]:
        """What a record says of it: size, recipe, warnings."""
        totals, recipe = self.plan.totals, self.plan.recipe
        return {
            "name": self.name,
            "bytes": int(totals["bytes"]),
            "bpw": float(totals["bpw"]),
            "active_bytes_per_token": totals["active_bytes_per_token"],
            "recipe": {"name": recipe.name, "sha256": recipe.sha256, "overrides": list(recipe.overrides)},
            "warnings": list(self.plan.warnings),
            "routers_kept": all(p.format is None for p in self.plan.modules if p.module.role == "router"),
        }

    def signature(self) -> dict[str, Any]:
        """What its scores depend on, beside the source."""
        recipe = self.plan.recipe
        return {"recipe": recipe.sha256, "overrides": list(recipe.overrides)}

    def method_of(self, path: str) -> str:
        """How a module's values become integers."""
        return self._methods.get(path, RTN)

    def _is_wanted_later(self, name: str, fmt: Format, method: str) -> bool:
        path = name.rpartition(".")[0]
        alike = [c for c in self.later if method not in ON_INPUTS or c.origin == self.origin]
        return any(c.format_of(path) == fmt and c.method_of(path) == method for c in alike)

    @property
    def origin(self) -> str:
        """What is equal for recipes whose modules that need documents are encoded alike."""
        return "" if self.own is None else self.own.origin

    def early(self) -> set[str]:
        """Modules that are used before what they are encoded on is known: embeddings that are the head as well."""
        paths = [{p.module.path for p in self._source.of_step(self.plan.modules, s)} for s in ("embedding", "head")]
        return {path for path in paths[0] & paths[1] if self.method_of(path) in ON_INPUTS}


def stated_provider(candidates: Sequence[Candidate]) -> str | None:
    """The provider that a build's manifest states, for the source to be laid out likewise; None if it is mlx-lm."""
    for candidate in candidates:
        if candidate.build is not None:
            with suppress(BuildError):  # a damaged manifest is named when the build is read
                provider = provider_stated((read_manifest(candidate.build) or {}).get("source", {}))
                if provider is not MLX_LM:
                    return provider.name
    return None


class BuildCandidate:
    """A build on disk as a model, read layer by layer as mlx-lm would load it."""

    first_step = 0  # none of its arrays is the source's

    def __init__(self, name: str, folder: Path, source: Source) -> None:
        self.name, self._source = name, source
        build = read_build(folder)
        # its own config and tensors: a build may store arrays in another form than the source
        provider = build.provider
        config = provider.prepared(build.checkpoint.config)
        model = provider.build_model(config)
        views = sanitized(model, build.checkpoint, provider, config)
        if provider is not source.layout.provider:
            raise BuildError(
                f"{folder}: made with {provider.name}'s class, {source.checkpoint.name} is laid out with"
                f" {source.layout.provider.name}'s here; compare builds of one provider at a time"
            )
        _check_same_model(folder, model, source)
        if build.disagreements:
            raise BuildError(f"{folder}: its files disagree, so it is not compared:\n{listed(build.disagreements, 5)}")
        if build.config.get("quantize_activations"):
            raise BuildError(f"{folder}: quantizes activations too, which `compare` does not; use `eval`")
        formats = {path: fmt for path, fmt in build.formats.items() if fmt and build.stored[path].placed}
        self.checkpoint, self._identity = build.checkpoint, identity_of(build)
        self.views = Views(build.checkpoint, views, source.views.computing)
        self.streamed = Streamed(model, source.paths, formats, source.dtype, name, provider)
        placed = [s for s in build.stored.values() if s.placed]
        self.nbytes, self._parameters = sum(s.nbytes for s in placed), sum(s.module.parameters for s in placed)

    def shares(self, step: Step) -> set[str]:
        """None: all of it is read."""
        return set()

    def arrays(self, step: Step, reference: Arrays) -> Arrays:
        """The step's arrays as they are stored, floats cast to the computing dtype."""
        return stored_arrays(self.views, self.views.read(self._names(step)))

    def entry(self) -> dict[str, Any]:
        """What a record says of it: size, folder, and what tells it from other builds."""
        bpw = 8 * self.nbytes / self._parameters
        return {
            "name": self.name, "bytes": self.nbytes, "bpw": bpw, "build": self.checkpoint.name, **self._identity,
        }  # fmt: skip

    def signature(self) -> dict[str, Any]:
        """What its scores depend on, beside the source."""
        return {"build": source_signature(self.checkpoint)["files"]}

    def _names(self, step: Step) -> list[str]:
        if isinstance(step, int):
            return self.streamed.names[step]
        forward = self._source.forward
        # by module, not by array: a quantized one has scales and biases that the reference's forward does not name
        used = {n.rpartition(".")[0] for n in (forward.before if step == "embedding" else forward.after)}
        return [n for n in self.streamed.names[None] if n.rpartition(".")[0] in used]


StreamedCandidate = RecipeCandidate | BuildCandidate


def new_model(source: Checkpoint, layout: Layout) -> Any:
    """Build the provider's model for a source anew, with the arrays that the model of its layout has."""
    provider = layout.provider
    config = provider.prepared(layout.config)
    model = provider.build_model(config)
    # few classes change the model in `sanitize` (gemma3_text drops a head that is tied); only these run it again
    if parameters_of(model) != parameters_of(layout.model):
        sanitized(model, source, provider, config)
    return model


def _any_of(module: Module, names: Iterable[str]) -> bool:
    return any(n == module.path or n.startswith(module.path + ".") for n in names)


def _check_same_model(folder: Path, model: Any, source: Source) -> None:
    """Refuse a build of another model. Raises BuildError with the first differences."""
    shapes, expected = parameters_of(model), parameters_of(source.layout.model)
    problems = [
        f"{name}: {list(expected[name]) if name in expected else 'nothing'} in the source,"
        f" {list(shapes[name]) if name in shapes else 'nothing'} in the build"
        for name in dict.fromkeys([*expected, *shapes])
        if expected.get(name) != shapes.get(name)
    ]
    if problems:
        raise BuildError(
            f"{folder}: is a build of another model than {source.checkpoint.name};"
            f" {len(problems):,} arrays differ, the first:\n{listed(problems, 3)}"
        )


def open_candidates(
    candidates: Sequence[Candidate], source: Source, quantizer: Quantizer, encoding: OnDocuments | None = None
) -> list[StreamedCandidate]:
    """Make every candidate's model; `encoding` is for recipes that are encoded on documents within the pass.

    Raises PlanError, BuildError or LayoutError with what is wrong with a candidate.
    """
    streamed: list[StreamedCandidate] = []
    for c in candidates:
        if c.recipe is not None:
            streamed.append(RecipeCandidate(c.name, c.recipe, source, quantizer, encoding))
        elif c.build is not None:
            streamed.append(BuildCandidate(c.name, c.build, source))
    recipes = [c for c in streamed if isinstance(c, RecipeCandidate)]
    for i, recipe in enumerate(recipes):
        recipe.later = recipes[i + 1 :]
    return streamed


def nbytes_of(arrays: Mapping[str, mx.array]) -> int:
    """Bytes of arrays."""
    return sum(a.nbytes for a in arrays.values())
