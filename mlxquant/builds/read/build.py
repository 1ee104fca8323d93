"""A build on disk, read from its bytes alone: ours, another tool's, whole or damaged.

`read_build` puts together what the files are and what the config claims of them (`files`), and what their tensors are
(`layout`). No weight is read, and nothing that a build says of itself is believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import BuildError
from ...layout.layout import Layout, read_layout
from ...layout.provider import MLX_LM, Provider, provider_stated
from ...source.checkpoint import Checkpoint
from ...source.index import INDEX
from ...words.formats import Format
from ...words.modules import Module
from ..manifest import read_manifest
from .files import Claims, Files, against_shards, parameters_stated, read_claims, read_files
from .formats import Stored
from .layout import BuildLayout, lay_out_build


@dataclass(frozen=True)
class Build:
    """A build: `modules` in the model's order, their `formats` by path (None is unquantized), what does not fit.

    `stored` has each module's bytes by path. `known` says that the `provider` has a class for the model; without one
    roles go by names. `manifest` is mlxquant's own, None where another tool made the build. `absent` are
    modules of the class of which the shards hold nothing.
    """

    name: str
    folder: Path
    checkpoint: Checkpoint
    claims: Claims
    stored: Mapping[str, Stored]
    n_layers: int
    known: bool
    disagreements: tuple[str, ...]
    notes: tuple[str, ...]
    manifest: dict[str, Any] | None
    absent: tuple[Module, ...] = ()
    provider: Provider = MLX_LM

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json."""
        return self.checkpoint.config

    @property
    def modules(self) -> list[Module]:
        """Its modules; tensors that mlx-lm's class has no place for come last, under their own names."""
        return [s.module for s in self.stored.values()]

    @property
    def formats(self) -> dict[str, Format | None]:
        """What each module really is, by path."""
        return {path: s.format for path, s in self.stored.items()}


def bare_config(build: Build) -> dict[str, Any]:
    """A build's config.json without what it says of quantization: that of the model before it was quantized."""
    return {k: v for k, v in build.config.items() if k not in ("quantization", "quantization_config")}


def bare_layout(build: Build) -> Layout:
    """The layout of the model that a build was made of, from its config alone: modules and shares, no tensors.

    Raises LayoutError where mlx-lm has no class for the model (`build.known` is False then).
    """
    bare = Checkpoint(build.name, None, bare_config(build), {}, {})
    return read_layout(bare, provider=build.provider.name, as_it_is=True)


def read_build(path: str | Path) -> Build:
    """Read an MLX build's headers and config.

    Raises BuildError for what is no build (no folder, no shards, headers that cannot be read, a checkpoint in the
    Hub's layout or quantized by other means). Everything else that is wrong with it stands in `disagreements`.
    """
    folder = Path(path).expanduser()
    files = read_files(folder)
    claims = read_claims(files.checkpoint.config)
    manifest, damage = _manifest(folder)
    laid = lay_out_build(files.checkpoint, claims, provider_stated(manifest["source"]).name if manifest else None)
    stored = {s.module.path: s for s in laid.stored}
    _refuse_checkpoints(folder, files.checkpoint.config, laid, claims)
    unclear = frozenset(p for p, s in stored.items() if s.trouble)
    unplaced = frozenset(p for p, s in stored.items() if not s.placed)
    disagreements = [
        *files.disagreements,
        *laid.disagreements,
        *claims.problems,
        *_left_over(files.checkpoint.config, claims),
        *against_shards(
            claims,
            {p: s.format for p, s in stored.items()},
            unclear,
            unplaced,
            {p: s.origins for p, s in stored.items() if s.origins},
        ),
        *_parameter_count(files, laid),
        *damage,
    ]
    return Build(
        name=files.checkpoint.name,
        folder=folder,
        checkpoint=files.checkpoint,
        claims=claims,
        stored=stored,
        n_layers=laid.n_layers,
        known=laid.known,
        disagreements=tuple(disagreements),
        notes=(*files.notes, *laid.notes, *_unclear_notes(laid)),
        manifest=manifest,
        absent=laid.absent,
        provider=laid.provider,
    )


def _manifest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """A build's manifest, if it has one, and what is wrong with it."""
    try:
        return read_manifest(folder), []
    except BuildError as error:
        return None, [str(error)]


def _refuse_checkpoints(folder: Path, config: Mapping[str, Any], laid: BuildLayout, claims: Claims) -> None:
    """Refuse what is no build: unquantized in the Hub's layout, or quantized by other means than mlx's."""
    method = other_method(config)
    if not claims.present and (laid.moved or (method and laid.disagreements)):
        what = f"quantized with {method}" if method else "in the Hub's layout, and none of it quantized by mlx"
        raise BuildError(
            f"{folder}: its tensors are {what}: a checkpoint, not an MLX build;"
            " `mlxquant plan` reads checkpoints, `mlxquant convert` makes builds of them"
        )


def other_method(config: Mapping[str, Any]) -> str | None:
    """The method other than mlx's by which a config says that its tensors are quantized."""
    text = config.get("text_config")
    for table in (config, text if isinstance(text, dict) else {}):
        settings = table.get("quantization_config")
        if isinstance(settings, dict) and "quant_method" in settings:
            return str(settings["quant_method"])
    return None


def _left_over(config: Mapping[str, Any], claims: Claims) -> Iterator[str]:
    """A source's quantization that a build no longer has."""
    if not claims.present and (method := other_method(config)):
        yield f"config.json: quantization_config says {method}, but nothing in the shards is quantized that way"


def _parameter_count(files: Files, laid: BuildLayout) -> Iterator[str]:
    """Hold the index's total_parameters against the modules.

    mlx-lm counts modules without children and so leaves out arrays that larger ones hold; both counts are right.
    """
    stated = parameters_stated(files.index)
    placed = [*(s.module for s in laid.stored if s.placed), *laid.absent]
    counts = [
        sum(m.parameters for m in placed),
        sum(m.parameters for m in placed if m.kind != "array"),
        sum(s.module.parameters for s in laid.stored),
    ]
    if stated is not None and laid.known and stated not in counts:
        yield f"{INDEX}: total_parameters says {stated!r}, the modules have {counts[0]:,}"


def _unclear_notes(laid: BuildLayout) -> list[str]:
    """Say where shapes leave a format open; for modules of the model that is a disagreement already."""
    open_ = [s for s in laid.stored if s.trouble and not s.placed and s.format is None and "scales" in s.views]
    open_ = [s for s in open_ if "weight" in s.views]
    if not open_:
        return []
    return [
        f"{len(open_):,} modules are packed in a way that shapes alone leave open, and the config does not help"
        f" ({open_[0].module.path}: {open_[0].trouble})"
    ]
