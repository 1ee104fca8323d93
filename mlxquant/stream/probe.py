"""Whether a model can be run layer by layer, found by following its own forward over nothing.

The forward is called once without and twice with caches, on arrays that hold NaN and are never evaluated, so this costs
milliseconds whatever the model. Every layer gives back the hidden state it was given. Refused by name is whatever a
pass from layer to layer would get wrong: something computed between the layers, more than one state, a cache that
layers share, layers called out of order or more than once. Noted is which arrays outside the layers are looked at
before the first layer and after the last one, since only then are they read.

What remains to be trusted is that a layer keeps nothing to itself that a later one takes up; where one did, its NaN
would show. The tests hold every architecture of mlx-lm that has a checkpoint at hand against its ordinary forward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import MODEL_ERRORS, LayoutError
from ..layout.arrays import module_at
from .model import Call, Forward, Streamed, Tokens, advance, refusal


def find_forward(streamed: Streamed) -> Forward:
    """Run the forward over nothing, with and without caches. Raises LayoutError naming why it cannot be streamed."""
    probe = _Probe(streamed)
    tokens = np.zeros(5, np.int32)
    needs_cache = False
    try:
        probe.run(tokens, None)
    except MODEL_ERRORS as error:
        if isinstance(error, LayoutError):
            raise
        needs_cache = True
    caches = streamed.caches()
    try:
        probe.run(tokens, caches)
        for cache in caches:
            advance(cache, len(tokens))
        probe.run(tokens[:3], caches)
    except MODEL_ERRORS as error:
        reason = str(error).partition("\n")[0]
        raise refusal(
            streamed.model, f"its forward cannot do with one hidden state from layer to layer ({reason})"
        ) from error
    return Forward(tuple(probe.places), frozenset(probe.before), frozenset(probe.after), needs_cache)


class _Probe:
    """Follows one forward, layer by layer."""

    def __init__(self, streamed: Streamed) -> None:
        self.streamed = streamed
        self.places: list[int | str] = []
        self.before: set[str] = set()
        self.after: set[str] = set()
        self._seen = self.before
        self._outside = set(streamed.names[None])
        watch(streamed.model, self._outside, lambda name: self._seen.add(name))

    def run(self, tokens: Tokens, caches: Sequence[Any] | None) -> None:
        self.places, self._seen = [], self.before
        self._handed: Any = None
        self._caches: dict[int, int] = {}
        self._known = {id(c) for c in caches or ()}
        self._length = len(tokens)
        self.streamed.forward(tokens, caches, self._visit)
        if len(self.places) != len(self.streamed.paths):
            raise self._no(f"its forward calls {len(self.places)} of its {len(self.streamed.paths)} layers")

    def _visit(self, i: int, _: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if i != len(self.places):
            raise self._no(f"its forward calls layer {i} where layer {len(self.places)} is due")
        states: list[int | str] = [p for p, a in enumerate(args) if self._is_state(a)]
        states += [p for p, a in kwargs.items() if self._is_state(a)]
        if len(states) != 1:
            raise self._no(f"layer {i} is given {len(states)} hidden states; one is expected")
        place = states[0]
        hidden = args[place] if isinstance(place, int) else kwargs[place]
        if hidden.ndim != 3:
            raise self._no(f"layer {i} is given a hidden state of {hidden.ndim} axes; three are expected")
        if i and hidden is not self._handed:
            raise self._no(f"its forward computes something between layers {i - 1} and {i}")
        for a in (*args, *kwargs.values()):
            if id(a) in self._known and self._caches.setdefault(id(a), i) != i:
                raise self._no(f"layers {self._caches[id(a)]} and {i} share a cache")
        self.places.append(place)
        self._handed = hidden
        self._seen = self.after if i == len(self.streamed.paths) - 1 else set()
        return hidden

    def _is_state(self, a: Any) -> bool:
        return (
            isinstance(a, mx.array)
            and a.ndim >= 3
            and a.shape[:2] == (1, self._length)
            and mx.issubdtype(a.dtype, mx.floating)
        )

    def _no(self, why: str) -> LayoutError:
        return refusal(self.streamed.model, why)


def watch(model: Any, names: set[str], see: Callable[[str], None]) -> None:
    """Have `see(name)` called whenever one of the arrays `names` is looked at through the module that holds it."""
    holders: dict[str, dict[str, str]] = {}
    for name in names:
        owner, _, key = name.rpartition(".")
        holders.setdefault(owner, {})[key] = name
    for path, keys in holders.items():
        module = module_at(model, path)
        if isinstance(module, nn.Module):
            _watch_module(module, keys, see)


def _watch_module(module: Any, keys: Mapping[str, str], see: Callable[[str], None]) -> None:
    kind = type(module)

    def look(key: str) -> None:
        if key in keys:
            for name in keys.values():  # a module is filled as a whole
                see(name)

    def getattr_(self: Any, key: str) -> Any:
        look(key)
        return kind.__getattr__(self, key)

    def getitem(self: Any, key: str) -> Any:
        look(key)
        return kind.__getitem__(self, key)

    methods = {"__getattr__": getattr_, "__getitem__": getitem}
    object.__setattr__(module, "__class__", type(kind.__name__, (kind,), methods))
