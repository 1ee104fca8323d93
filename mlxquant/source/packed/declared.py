"""What a config says of the quantization of its checkpoint, in one form wherever it stands.

It stands in `quantization_config` of config.json, there or in `text_config`, and with NVIDIA ModelOpt in a file of its
own beside a config.json that says nothing. What the settings mean is for each family of formats (see `families`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# NVIDIA ModelOpt writes this beside a config.json that says nothing.
MODELOPT = "hf_quant_config.json"


def quantization_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's `quantization_config`, where mlx-lm looks for it: at the top, else in `text_config`."""
    text = config.get("text_config")
    settings = config.get("quantization_config") or (
        text.get("quantization_config") if isinstance(text, dict) else None
    )
    if settings is not None and not isinstance(settings, dict):
        return {"quant_method": type(settings).__name__}
    return settings or {}


def with_modelopt(config: Mapping[str, Any], modelopt: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of a config, or those of `hf_quant_config.json` beside it (`modelopt`) where the config has none."""
    settings = quantization_of(config)
    if not settings and modelopt is not None:
        inner = modelopt.get("quantization")
        settings = {**(inner if isinstance(inner, dict) else {}), "quant_method": "modelopt"}
    return settings


def method_of(settings: Mapping[str, Any]) -> str:
    """The `quant_method` of settings, "unknown" where they name none."""
    return str(settings.get("quant_method", "unknown"))
