"""What a config says of the quantization of its checkpoint, in one form wherever it stands.

It stands in `quantization_config` of config.json, there or in `text_config`, and with NVIDIA ModelOpt in a file of its
own beside a config.json that says nothing. What the settings mean is for each family of formats (see `families`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...words.formats import Format


@dataclass(frozen=True, slots=True)
class Declared:
    """How a config says that a module's weight is stored: a word for it, its bytes with scales and zero points.

    `format` is the one of mlx that its bits are, None where there is none.
    """

    storage: str
    nbytes: int
    format: Format | None


# NVIDIA ModelOpt writes this beside a config.json that says nothing.
MODELOPT = "hf_quant_config.json"


# The `quant_method` that stands for mlx's own block, which names none
MLX = "mlx"


def quantization_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's `quantization_config`, where mlx-lm looks for it: at the top, else in `text_config`.

    Always with a `quant_method`: ModelOpt's older releases wrote only an algorithm and a producer, and MLX builds have
    a block `quantization` without one (MLX).
    """
    if (block := _mlx_block(config)) is not None:
        return {**block, "quant_method": MLX}
    text = config.get("text_config")
    settings = config.get("quantization_config") or (
        text.get("quantization_config") if isinstance(text, dict) else None
    )
    if settings is not None and not isinstance(settings, dict):
        return {"quant_method": type(settings).__name__}
    if not settings:
        return {}
    inner = settings.get("quantization")
    flat = {**settings, **inner} if isinstance(inner, dict) else dict(settings)
    producer = flat.get("producer")
    by = producer.get("name") if isinstance(producer, dict) else producer
    if "quant_method" not in flat and (by == "modelopt" or "quant_algo" in flat):
        flat["quant_method"] = "modelopt"
    return flat


def with_modelopt(config: dict[str, Any], modelopt: Mapping[str, Any] | None) -> dict[str, Any]:
    """The config, with what `hf_quant_config.json` beside it says (`modelopt`) where it says nothing itself.

    mlx-lm does the same (utils.py@0.32.2, load_model).
    """
    if modelopt is None or quantization_of(config):
        return config
    return {**config, "quantization_config": {**modelopt, "quant_method": "modelopt"}}


def method_of(settings: Mapping[str, Any]) -> str:
    """The `quant_method` of settings, "unknown" where they name none."""
    return str(settings.get("quant_method", "unknown"))


def _mlx_block(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The block of an MLX build: `quantization`, or where that is lacking, `quantization_config` if it is mlx's."""
    block, twin = config.get("quantization"), config.get("quantization_config")
    if isinstance(block, dict):
        return block
    if isinstance(twin, dict) and {"bits", "group_size"} <= twin.keys() and "quant_method" not in twin:
        return twin
    return None
