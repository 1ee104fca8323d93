"""How a model's forward treats its layers: what has to be known to run them one at a time (found by `probe`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..errors import LayoutError


@dataclass(frozen=True)
class Shape:
    """How a model's forward treats its layers, found by running it over nothing.

    `places` is where each layer takes the hidden state: a position or a keyword. `before` and `after` are the arrays
    outside the layers that are used before the first and after the last one.
    """

    places: tuple[int | str, ...]
    before: frozenset[str]
    after: frozenset[str]
    needs_cache: bool

    def hidden(self, i: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The hidden state among a layer's arguments."""
        place = self.places[i]
        return args[place] if isinstance(place, int) else kwargs[place]

    def with_hidden(
        self, i: int, args: tuple[Any, ...], kwargs: dict[str, Any], hidden: mx.array
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A layer's arguments with another hidden state."""
        place = self.places[i]
        if isinstance(place, int):
            return (*args[:place], hidden, *args[place + 1 :]), kwargs
        return args, {**kwargs, place: hidden}


def refusal(model: Any, why: str) -> LayoutError:
    """The error for a model that cannot be run layer by layer."""
    kind = getattr(model, "model_type", type(model).__module__.rpartition(".")[2])
    return LayoutError(f"{kind} cannot be streamed layer by layer: {why}; compare builds of it with `eval` instead")
