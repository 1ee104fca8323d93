"""A build of mlx-vlm's as mlx-lm's generation calls a model: tokens and caches in, logits out.

Alone in its module because it derives from mlx's class, while `mlx_vlm` itself is imported without mlx.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn


class Runs(Protocol):
    """What is asked here of a provider (see `provider.Provider`)."""

    def prepared(self, config: Mapping[str, Any]) -> dict[str, Any]: ...
    def build_model(self, config: Mapping[str, Any]) -> Any: ...
    def sanitize(self, model: Any, config: Mapping[str, Any], weights: dict[str, Any]) -> dict[str, Any]: ...
    def new_cache(self, model: Any) -> list[Any]: ...
    def forward(self, model: Any, tokens: Any, cache: list[Any] | None = None) -> Any: ...


class TextModel(nn.Module):
    """A model of another provider than mlx-lm; images are not passed to it."""

    def __init__(self, model: Any, provider: Runs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self._provider = provider

    def __call__(self, tokens: mx.array, cache: Any = None) -> Any:
        return self._provider.forward(self.model, tokens, cache)

    @property
    def layers(self) -> Any:
        """The decoder layers."""
        return self.model.layers

    def make_cache(self) -> list[Any]:
        """Fresh caches, one a layer."""
        return self._provider.new_cache(self.model)


def load_with_mlx_vlm(folder: Path, config: Mapping[str, Any], provider: Runs) -> TextModel:
    """Load a build as `mlx_vlm.utils.load_model` does, which would run a `model_file`: sanitized, with strict names."""
    prepared = provider.prepared(config)
    model = provider.build_model(prepared)
    weights: dict[str, Any] = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        arrays: Any = mx.load(str(shard))
        weights |= arrays
    weights = provider.sanitize(model, prepared, weights)
    utils = importlib.import_module("mlx_vlm.utils")
    model = utils.load_model_weights(model, prepared, weights, folder, lazy=True, declared_keys=set(weights))
    return TextModel(model, provider)
