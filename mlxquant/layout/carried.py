"""What a checkpoint has besides the model that mlx-lm builds, and how a build may carry it along.

mlx-lm reads text models: its `sanitize` drops a vision tower and a next-token head by name. Both can be carried along:

- a vision tower goes into the build's shards under the names that mlx-vlm gives it, convolutions turned the way mlx
  has them, so that mlx-vlm loads the build and mlx-lm drops the tower once more;
- a next-token head (MTP) goes into `mtp.safetensors` as the Hub has it, outside the index: inside the shards it would
  make mlx-lm up to 0.31.3 shift every norm by one. mlx-vlm from 0.7 finds it there when the build is given as its own
  draft model, and makes of it what it makes of the checkpoint's. mlx-lm (0.32.2) has no use for a head.

Neither is quantized. `TOWERS` holds what mlx-vlm's classes do to names and shapes in their `sanitize`: for each, a
whole build was compared with what mlx_vlm.convert 0.6.12 and 0.7.10 write, byte for byte. A model_type that is not in
it is refused; for minimax_m3_vl mlx-vlm lays even the text model out in another way than mlx-lm.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from ..errors import LayoutError, UsageError
from ..source.checkpoint import Checkpoint
from ..source.headers import Tensor
from ..words.formats import FLOATS
from ..words.modules import CARRIED, Array, Module
from ..words.text import listed
from .arrays import source_dtype
from .views.bytes import SAFETENSORS_DTYPES
from .views.view import View, source_view

VISION, MTP = "vision", "mtp"
MTP_FILE = "mtp.safetensors"

_SEEING = re.compile(r"(^|\.)(visual|vision|audio|image|embed_audio|multi_modal|mm_)|(^|\.)embed_vision")
_CONV2D, _CONV3D = (0, 2, 3, 1), (0, 2, 3, 4, 1)  # (out, in, …) as PyTorch has it to mlx's (out, …, in)


@dataclass(frozen=True, slots=True)
class Tower:
    """How the Hub's names of a vision tower become mlx-vlm's.

    `names` maps beginnings to beginnings, the first that fits wins; `turned` maps endings to the new order of axes.
    `rope` are defaults of transformers for the text model's rope_parameters that mlx-vlm needs to be stated.
    """

    names: Mapping[str, str]
    turned: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    rope: Mapping[str, Any] = field(default_factory=dict)

    def place(self, name: str) -> str | None:
        """The name in the build, or None for a tensor that is no part of the tower."""
        return next((new + name.removeprefix(old) for old, new in self.names.items() if name.startswith(old)), None)

    def turn(self, name: str, view: View) -> View:
        """The tensor with its axes where mlx has them."""
        axes = next((axes for ending, axes in self.turned.items() if name.endswith(ending)), None)
        return view if axes is None else view.transpose(*axes)


_QWEN_NAMES = {"model.visual.": "vision_tower.", "visual.": "vision_tower."}
_QWEN = Tower(_QWEN_NAMES, {"patch_embed.proj.weight": _CONV3D})
# transformers@5.23, modeling_qwen3_5.py: config.rope_parameters.get("mrope_section", [11, 11, 10])
_QWEN3_5 = replace(_QWEN, rope={"mrope_section": [11, 11, 10]})
_PROJECTOR = {
    "model.multi_modal_projector.": "multi_modal_projector.",
    "multi_modal_projector.": "multi_modal_projector.",
}
_PIXTRAL = {"model.vision_tower.": "vision_tower.vision_model.", "vision_tower.": "vision_tower.vision_model."}

TOWERS: dict[str, Tower] = {
    "qwen3_5": _QWEN3_5,
    "qwen3_5_moe": _QWEN3_5,
    "qwen3_vl": _QWEN,
    "qwen3_vl_moe": _QWEN,
    "mistral3": Tower({**_PIXTRAL, **_PROJECTOR}, {"patch_conv.weight": _CONV2D}),
    "gemma4": Tower({"model.vision_tower.": "vision_tower.", "model.embed_vision.": "embed_vision."}),
}


@dataclass(frozen=True, slots=True)
class Carried:
    """What is carried along: modules in the build's shards, modules in a file apart, and the views that fill them."""

    in_shards: tuple[Module, ...] = ()
    apart: tuple[Module, ...] = ()
    views: Mapping[str, View] = field(default_factory=dict)


def carry(
    source: Checkpoint,
    keep: Collection[str],
    dropped: Collection[str],
    *,
    n_layers: int,
    dtype: str | None,
    head_dtype: str | None = None,
    whole: bool = False,
) -> Carried:
    """Find what `keep` ("vision", "mtp") asks for among the tensors that the model's class drops.

    A tower's floats are cast to `dtype` as the rest of the build is; a head's stay as they are, since its router's bias
    may be float32 for a reason, unless `head_dtype` is asked for. A class that is `whole` has the tower itself, so that
    "vision" asks for nothing more. Raises UsageError for what a source does not have,
    LayoutError for a vision tower of which mlx-vlm's names are not known.
    """
    if not keep:
        return Carried()
    if not source.tensors:
        raise UsageError(
            f"{source.name}: a config alone does not tell the tensors that --keep-{sorted(keep)[0]} asks for;"
            " give the checkpoint's folder or its Hub id"
        )
    tower = _vision_views(source, dropped) if VISION in keep and not whole else {}
    if VISION in keep and whole and not any(kind_of(name, 1 << 62) == VISION for name in source.tensors):
        raise UsageError(f"{source.name}: has no vision tower; leave --keep-vision out")
    head = _mtp_views(source, dropped, n_layers) if MTP in keep else {}
    return Carried(
        in_shards=tuple(_modules(tower, VISION, dtype)),
        apart=tuple(_modules(head, MTP, head_dtype)),
        views={**tower, **head},
    )


def spelled_out(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the defaults of transformers stated that mlx-vlm does not load without."""
    text, tower = config.get("text_config"), TOWERS.get(str(config.get("model_type")))
    rope = text.get("rope_parameters") if isinstance(text, dict) else None
    if tower is None or not isinstance(rope, dict) or not isinstance(text, dict):
        return dict(config)
    return {**config, "text_config": {**text, "rope_parameters": {**tower.rope, **rope}}}


def kind_of(name: str, n_layers: int) -> str:
    """What a tensor that mlx-lm drops is: "vision" (or audio), "mtp", or "other"."""
    if _SEEING.search(name):
        return VISION
    layer = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    parts = name.split(".")
    if any(p == "mtp" or p.startswith(("mtp_", "nextn")) for p in parts) or (layer and int(layer[1]) >= n_layers):
        return MTP
    return "other"


def _vision_views(source: Checkpoint, dropped: Collection[str]) -> dict[str, View]:
    weights = _carried_tensors(source, dropped)
    seeing = [name for name in weights if kind_of(name, 1 << 62) == VISION]
    model_type = source.config["model_type"]
    if not seeing:
        raise UsageError(f"{source.name}: has no vision tower; leave --keep-vision out")
    tower = TOWERS.get(model_type)
    if tower is None:
        raise LayoutError(
            f"{source.name}: --keep-vision does not know what mlx-vlm calls the vision tower of a {model_type};"
            f" it does for {', '.join(sorted(TOWERS))}. Leave it out for a text-only build, or use mlx_vlm.convert"
        )
    views: dict[str, View] = {}
    strangers = []
    for name in seeing:
        placed = tower.place(name)
        if placed is None:
            strangers.append(f"{weights[name].file}: {name}: mlx-vlm's {model_type} has no known place for it")
        else:
            views[placed] = tower.turn(placed, source_view(weights[name]))
    if strangers:
        raise LayoutError(listed([f"{source.name}: --keep-vision cannot carry its tower along:", *strangers]))
    return views


def _carried_tensors(source: Checkpoint, dropped: Collection[str]) -> dict[str, Tensor]:
    """What mlx-lm drops, as it is to be read: packed tensors as floats."""
    return {n: t for n, t in source.weights.items() if any(part.name in dropped for part in t.stored)}


def _mtp_views(source: Checkpoint, dropped: Collection[str], n_layers: int) -> dict[str, View]:
    weights = _carried_tensors(source, dropped)
    views = {n: source_view(t) for n, t in weights.items() if kind_of(n, n_layers) == MTP}
    if not views:
        raise UsageError(f"{source.name}: has no next-token head that mlx-lm drops; leave --keep-mtp out")
    return views


def _modules(views: Mapping[str, View], role: str, dtype: str | None) -> Iterable[Module]:
    """Group arrays into modules: those that share all but a last `weight` or `bias`."""
    for path, names in groupby(views, _module_path):
        arrays = tuple(_array(name.removeprefix(path).lstrip("."), views[name], dtype) for name in names)
        yield Module(path, CARRIED, role, None, None, arrays, quantizable=False)


def _module_path(name: str) -> str:
    path, _, last = name.rpartition(".")
    return path if path and last in ("weight", "bias") else name


def _array(suffix: str, view: View, dtype: str | None) -> Array:
    stored = SAFETENSORS_DTYPES[view.dtype]
    return Array(suffix, view.shape, source_dtype(view), dtype if dtype and stored in FLOATS else stored)
