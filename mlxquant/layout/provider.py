"""Which library's model classes a checkpoint is laid out with: one interface, and the choice among those that have it.

mlx-lm is the first choice: its text models are what `mlx_lm.generate`, its server and LM Studio load. mlx-vlm has
models that mlx-lm lacks, vision models whole, and is taken where mlx-lm has no class for a `model_type`, or where it is
asked for by name. It is an optional dependency, and is not imported before it is needed. Neither ever runs a file of a
checkpoint's own.

What a provider is asked for are facts of its classes: the model, what its `sanitize` makes of tensors, and what its
converter would quantize. How arrays are grouped into modules, and all that follows, is the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..errors import LayoutError, UsageError
from ..source.headers import shown
from . import mlx_lm, mlx_vlm

# What a class or a converter says of a module: whether to quantize it, or in which format.
Rule = Callable[[str, Any], Any]


class Provider(Protocol):
    """A library with model classes, and a converter whose bytes a build has.

    `name` is that of its distribution, `whole` says that its classes hold vision and audio towers themselves.
    """

    name: str
    whole: bool

    def version(self) -> str:
        """The installed version. Nothing is imported for it."""

    def knows(self, config: Mapping[str, Any]) -> bool:
        """Whether it is installed and has a class for the config's `model_type`. Nothing is imported for it."""

    def prepared(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A checkpoint's config as the library's loader hands it to the class."""

    def import_class(self, config: Mapping[str, Any]) -> None:
        """Import the class for a config's `model_type`. Raises LayoutError where there is none, or it cannot be."""

    def build_model(self, config: Mapping[str, Any]) -> Any:
        """Build the model for a prepared config; nothing is allocated. Raises LayoutError."""

    def sanitize(self, model: Any, config: Mapping[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
        """What the library makes of a checkpoint's tensors when it loads it: array name -> array."""

    def rule(self, model: Any) -> Rule | None:
        """What its converter asks of each module where the user gives no rule; None if it quantizes all that it can."""

    def is_tower(self, path: str) -> bool:
        """Whether a module is part of a vision or audio tower, which its converter leaves alone."""

    def new_cache(self, model: Any) -> list[Any]:
        """Fresh caches for a text, as the library makes them for generation."""

    def forward(self, model: Any, tokens: Any, cache: list[Any] | None = None) -> Any:
        """Logits (batch, n, vocabulary) of the model's own forward on tokens (batch, n) of text."""

    def load(self, folder: Path, config: Mapping[str, Any]) -> Any:
        """Load a build for text: called with tokens (batch, n) and `cache`, it gives logits.

        No file of the folder's is run. What the library raises is passed on.
        """


class MlxLm:
    """mlx-lm: text models, each a class with a `sanitize` of its own."""

    name, whole = "mlx-lm", False

    def version(self) -> str:
        return mlx_lm.mlx_lm_version()

    def knows(self, config: Mapping[str, Any]) -> bool:
        return mlx_lm.has_module(config)

    def prepared(self, config: Mapping[str, Any]) -> dict[str, Any]:
        decoded: dict[str, Any] = mlx_lm.decode_floats(dict(config))
        return decoded

    def import_class(self, config: Mapping[str, Any]) -> None:
        mlx_lm.model_classes(config)

    def build_model(self, config: Mapping[str, Any]) -> Any:
        return mlx_lm.build_model(config)

    def sanitize(self, model: Any, config: Mapping[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
        return dict(model.sanitize(weights)) if hasattr(model, "sanitize") else weights

    def rule(self, model: Any) -> Rule | None:
        rule: Rule | None = getattr(model, "quant_predicate", None)
        return rule

    def is_tower(self, path: str) -> bool:
        return False  # its converter knows no towers

    def new_cache(self, model: Any) -> list[Any]:
        return list(mlx_lm.mlx_lm_module("cache").make_prompt_cache(model))

    def forward(self, model: Any, tokens: Any, cache: list[Any] | None = None) -> Any:
        return model(tokens) if cache is None else model(tokens, cache=cache)

    def load(self, folder: Path, config: Mapping[str, Any]) -> Any:
        # the oldest versions run the file that this key names
        return mlx_lm.mlx_lm_utils().load_model(folder, model_config={"model_file": None})[0]


MLX_LM: Provider = MlxLm()
MLX_VLM: Provider = mlx_vlm.MlxVlm()
PROVIDERS: Mapping[str, Provider] = {each.name: each for each in (MLX_LM, MLX_VLM)}


def provider_of(config: Mapping[str, Any], name: str | None = None) -> Provider:
    """Choose the provider for a config: the one named, else the first that has a class for its `model_type`.

    Where none has, it is mlx-lm, whose error says so. Raises LayoutError where mlx-vlm is named or needed and is not
    installed, or has no such class; UsageError for a name that is none.
    """
    if name is None:
        if MLX_LM.knows(config):
            return MLX_LM
        if MLX_VLM.knows(config):
            return MLX_VLM
        if mlx_vlm.is_listed(config) and not mlx_vlm.is_installed():
            raise LayoutError(
                f"config.json: mlx-lm {MLX_LM.version()} has no model_type {shown(config['model_type'])!r},"
                f" mlx-vlm has it; {mlx_vlm.INSTALL}"
            )
        return MLX_LM
    if name not in PROVIDERS:
        raise UsageError(f"provider {name!r}: {' or '.join(PROVIDERS)} expected")
    if name == MLX_VLM.name:
        mlx_vlm.require(config)
    return PROVIDERS[name]


def stated_in_record(provider: Provider) -> dict[str, Any]:
    """What a record's `source` says of its provider: nothing for mlx-lm, whose version stands elsewhere."""
    return {} if provider is MLX_LM else {"provider": {"name": provider.name, "version": provider.version()}}


def provider_stated(source: Mapping[str, Any]) -> Provider:
    """The provider that a record's `source` states; mlx-lm where it states none that is known."""
    stated = source.get("provider")
    name = stated.get("name") if isinstance(stated, Mapping) else None
    return PROVIDERS.get(str(name), MLX_LM)
