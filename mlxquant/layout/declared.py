"""What a config alone tells of a packed checkpoint: which modules are stored in which format, and in how many bytes.

A config names modules as the checkpoint does, and its rules are held against those names. Which of the formats a class
of mlx-lm keeps as they are, its own source says. Without shards nothing here can be checked against them. Alone in its
module because nothing else works without shards.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from ..source.packed import MLX, Declared, declared_storage, quantization_of
from .expert_stacks import STACKED

# Linear layers of mlx-lm that transformers holds as bare parameters, which no quantizer of Linear layers packs.
_BARE: Mapping[str, tuple[str, ...]] = {"mistral4": (".mlp.gate",)}


def declared_formats(model: Any, config: Mapping[str, Any]) -> dict[str, Declared]:
    """How Linear modules are stored by a packed checkpoint's config alone, by path; of an MLX build embeddings too."""
    built = quantization_of(config).get("quant_method") == MLX
    kinds = ("Linear", "Embedding") if built else ("Linear",)
    owners = {type(m).__module__.rpartition(".")[2] for _, m in model.named_modules()}
    bare = () if built else tuple(end for owner in owners for end in _BARE.get(owner, ()))
    packable = [(p, m) for p, m in model.named_modules() if hasattr(m, "to_quantized")]
    linear = [(p, m) for p, m in packable if any(k in type(m).__name__ for k in kinds) and not p.endswith(bare)]
    stated = ((p, declared_storage(config, source_names(p), tuple(m.weight.shape))) for p, m in linear)
    return {path: d for path, d in stated if d is not None}


def source_names(path: str) -> tuple[str, ...]:
    """What a checkpoint may call a module of mlx-lm: one expert for a stack, with each usual prefix."""
    name = path.replace(f".{STACKED}.", ".experts.0.")
    bare = name.removeprefix("language_model.").removeprefix("model.")
    return tuple(dict.fromkeys([name, bare, f"model.{bare}", f"model.language_model.{bare}", f"language_model.{name}"]))


def repacked_mode(model: Any) -> str | None:
    """The mode of mlx in which the model's class keeps packed weights of compressed-tensors, None where it takes none.

    Its module names their tensors: int4 has a `weight_shape` (deepseek_v3), MXFP4 has none (kimi_k3). A class may call
    the `sanitize` of one that its module imports (kimi_k25 that of deepseek_v3).
    """
    own = {type(m).__module__ for _, m in model.named_modules() if hasattr(m, "sanitize")}
    classes = [c for name in own for c in vars(sys.modules[name]).values() if isinstance(c, type)]
    owners = own | {c.__module__ for c in classes if hasattr(c, "sanitize")}
    texts = [inspect.getsource(sys.modules[name]) for name in owners]
    taking = [text for text in texts if "weight_packed" in text]
    if not taking:
        return None
    return "affine" if any("weight_shape" in text for text in taking) else "mxfp4"
