"""What a layer's router chose, seen from outside the model, whatever the architecture.

Experts that are stacked sit in a module that is called with the tokens and the experts' indices (mlx-lm's SwitchGLU
and its kin), so the indices are seen there. The router is the module that `roles` found to be one: what it returns are
logits, one for each expert, or indices and scores already. The block is the smallest module that holds both; its input
and output are seen too. While a layer runs, each of them writes down what passes; it can also be made to give another
model's answer, which is what teacher forcing is.

Left out, with the reason in `absent`: layers whose experts are separate modules (nobody calls them with indices), or
that hold more than one set of experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..layout.arrays import module_at
from ..words.modules import Module
from ..words.text import common_prefix, some
from .model import Call, hook
from .scores import Routing


@dataclass(frozen=True, slots=True)
class Places:
    """Paths of one layer's switched experts, of its router and of the block that holds both; None where unseen."""

    switch: str
    router: str | None
    block: str | None


def find_places(
    model: Any, modules: Sequence[Module], layer_paths: Sequence[str]
) -> tuple[dict[int, Places], list[str]]:
    """Where routing can be seen, by layer; notes say why it cannot in the other layers that have experts."""
    places: dict[int, Places] = {}
    absent: dict[str, list[int]] = {}
    for i, path in enumerate(layer_paths):
        experts = sorted({m.path.rpartition(".")[0] for m in modules if m.layer == i and m.role == "expert"})
        if not experts:
            continue
        if len(experts) > 1 or not callable(module_at(model, experts[0])):
            alone = any(p.rpartition(".")[2].isdigit() for p in experts)
            why = "its experts are separate modules" if alone else "it has several sets of experts"
            absent.setdefault(why, []).append(i)
            continue
        routers = [
            m.path for m in modules if m.layer == i and m.role == "router" and m.kind != "array" and len(m.shape) == 2
        ]
        router = routers[0] if len(routers) == 1 else None
        block = _common(experts[0], router) if router else experts[0].rpartition(".")[0]
        places[i] = Places(experts[0], router, block if len(block) > len(path) else None)
    return places, [f"routing is not seen in layer {some(layers, 4)}: {why}" for why, layers in absent.items()]


def _common(a: str, b: str) -> str:
    """The path of what holds both."""
    parts = a.split(".")
    return ".".join(parts[: common_prefix(parts, b.split("."))])


@dataclass
class Seen:
    """What passed while one document went through one layer, a part for each chunk; nothing is evaluated here."""

    indices: list[mx.array] = field(default_factory=list)  # (n, k)
    router: list[Any] = field(default_factory=list)  # what the router returned
    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)  # the block's arguments
    outputs: list[mx.array] = field(default_factory=list)  # the block's, (1, n, hidden)

    def arrays(self) -> list[mx.array]:
        """Everything that has to be evaluated to be kept."""
        return [a for a in _arrays([self.indices, self.router, self.inputs, self.outputs]) if isinstance(a, mx.array)]


class _Chosen(Exception):
    """Leaves a block whose choice alone is asked for."""


class Taps:
    """Sees the routing of one model's layers; `seen` is what passed since `begin`. Made before the first layer runs."""

    def __init__(self, model: Any, places: Mapping[int, Places]) -> None:
        self.seen = Seen()
        self._forced: list[Any] | None = None
        self._chooses_only = False
        self._blocks = {i: module_at(model, p.block) for i, p in places.items() if p.block}
        for place in places.values():
            hook(module_at(model, place.switch), self._switch)
            if place.router:
                hook(module_at(model, place.router), self._router)
            if place.block:
                hook(module_at(model, place.block), self._block)

    def begin(self, forced: Sequence[Any] | None = None) -> Seen:
        """Start a document afresh; with `forced`, the router's answers are those, one for each chunk."""
        self.seen = Seen()
        self._forced = list(forced) if forced is not None else None
        return self.seen

    def replay(self, layer: int, inputs: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> Seen | None:
        """What the layer's router chooses on another model's block inputs; None where the block is not seen.

        The block is called and left at its experts, so none computes.
        """
        if layer not in self._blocks:
            return None
        seen, self._chooses_only = self.begin(), True
        try:
            for args, kwargs in inputs:
                with suppress(_Chosen):
                    self._blocks[layer](*args, **kwargs)
        finally:
            self._chooses_only = False
        seen.inputs, seen.outputs = [], []
        return seen

    def _switch(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for a in (*args[1:], *kwargs.values()):
            if isinstance(a, mx.array) and mx.issubdtype(a.dtype, mx.integer):
                self.seen.indices.append(a.reshape(-1, a.shape[-1]))
                break
        if self._chooses_only:
            raise _Chosen
        return call(*args, **kwargs)

    def _router(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = self._forced[len(self.seen.router)] if self._forced is not None else call(*args, **kwargs)
        self.seen.router.append(out)
        return out

    def _block(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = call(*args, **kwargs)
        self.seen.inputs.append((args, kwargs))
        if isinstance(out, mx.array):
            self.seen.outputs.append(out)
        return out


@dataclass(frozen=True)
class RouterChoice:
    """One document's routing at one layer as numbers, for n tokens that go to k experts each."""

    experts: NDArray[np.int32]  # (n, k) the chosen ones, sorted
    first: NDArray[np.int32] | None  # (n,) the one of the highest score; None where no scores were seen
    margin: NDArray[np.float32] | None  # (n,) the k-th logit less that of the best not chosen; None where unseen


def choice_of(seen: Seen) -> RouterChoice | None:
    """Read what was seen of one document, its chunks joined; None where no indices passed."""
    if not seen.indices:
        return None
    indices = np.concatenate([np.asarray(a).astype(np.int32) for a in seen.indices])
    first, margin = None, None
    if len(seen.router) == len(seen.indices):
        first, margin = _scored(indices, [_scores(r, indices.shape[1]) for r in seen.router])
    return RouterChoice(np.sort(indices, axis=1), first, margin)


def compare_choices(
    choice: RouterChoice | None, reference: RouterChoice | None, change: NDArray[np.float32] | None = None
) -> Routing | None:
    """A candidate's choice beside the reference's on the same n tokens; `change` (n,) is that of the block's output.

    None where either is unknown, or they are of different shapes.
    """
    if choice is None or reference is None or choice.experts.shape != reference.experts.shape:
        return None
    first = None if choice.first is None or reference.first is None else choice.first != reference.first
    return Routing(
        set_changed=(choice.experts != reference.experts).any(axis=1),
        first_changed=first,
        block_change=change,
        margin=reference.margin,
    )


def _scores(router: Any, k: int) -> tuple[NDArray[np.float32], NDArray[np.int32] | None] | None:
    """What a router returned: logits (n, experts) alone, or scores (n, k) with the indices that they belong to."""
    if isinstance(router, mx.array):
        return _rows(router).astype(np.float32), None
    if isinstance(router, tuple | list):
        whole = [a for a in router if isinstance(a, mx.array) and mx.issubdtype(a.dtype, mx.integer)]
        real = [a for a in router if isinstance(a, mx.array) and mx.issubdtype(a.dtype, mx.floating)]
        real = [a for a in real if a.shape[-1] == k]
        if len(whole) == 1 and len(real) == 1:
            return _rows(real[0]).astype(np.float32), _rows(whole[0]).astype(np.int32)
    return None


def _scored(
    indices: NDArray[np.int32], parts: Sequence[tuple[NDArray[np.float32], NDArray[np.int32] | None] | None]
) -> tuple[NDArray[np.int32] | None, NDArray[np.float32] | None]:
    """The expert of the highest score among the chosen (n,), and the logits' margin at the boundary (n,).

    `indices` (n, k) are the chosen experts; `parts` are what `_scores` gives of each chunk, n rows in all.
    """
    known = [p for p in parts if p is not None]
    if len(known) != len(parts):
        return None, None
    scores = np.concatenate([s for s, _ in known])
    at = np.arange(len(indices))
    if len(scores) != len(indices):
        return None, None
    if all(i is not None for _, i in known):
        listed = np.concatenate([i for _, i in known if i is not None])
        return listed[at, scores.argmax(axis=1)], None
    if int(indices.max(initial=0)) >= scores.shape[1]:
        return None, None
    chosen = np.take_along_axis(scores, indices, axis=1)
    first = indices[at, chosen.argmax(axis=1)]
    others = scores.copy()  # the experts that were not chosen: the chosen ones are struck out
    np.put_along_axis(others, indices, -np.inf, axis=1)
    margin = chosen.min(axis=1) - others.max(axis=1)
    # below 0 something else than these logits decided: a bias on the choice, or groups of experts
    visible = bool((margin >= 0).all()) and bool(np.isfinite(margin).all())
    return first, margin.astype(np.float32) if visible else None


def _rows(a: mx.array) -> NDArray[Any]:
    if a.dtype == mx.bfloat16:
        a = a.astype(mx.float32)
    return np.asarray(a.reshape(-1, a.shape[-1]))


def _arrays(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [a for v in value.values() for a in _arrays(v)]
    if isinstance(value, list | tuple):
        return [a for v in value for a in _arrays(v)]
    return [value]
