"""Sources that are quantized already: which of them can be read, and why the others are refused.

What mlx-lm's `sanitize` turns into floats (FP8 with block scales) or into modules in one of mlx's own formats (MXFP4,
MXFP8, int4 of compressed-tensors) is a source like any other; the latter stay as they are. Everything else would be
quantized a second time, or its packed integers be taken for weights, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from .errors import SourceError
from .headers import shown

# quant_method -> how people call it
_NAMES = {
    "awq": "AWQ", "gptq": "GPTQ", "bitsandbytes": "bitsandbytes", "modelopt": "NVIDIA ModelOpt (NVFP4)",
    "compressed-tensors": "compressed-tensors", "quark": "Quark", "hqq": "HQQ", "aqlm": "AQLM", "eetq": "EETQ",
    "vptq": "VPTQ", "torchao": "torchao", "higgs": "HIGGS", "spqr": "SpQR", "auto-round": "AutoRound",
    "fbgemm_fp8": "FBGEMM FP8",
}  # fmt: skip
_READ = ("fp8", "mxfp4", "mxfp8", "bitnet")
# formats of compressed-tensors that mlx-lm repacks as they are: Kimi K2's int4 and K3's MXFP4 experts
_READ_FORMATS = ("pack-quantized", "mxfp4-pack-quantized")

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


def check_config(config: Mapping[str, Any], name: str, files: Container[str] = ()) -> None:
    """Refuse sources that are quantized in a way that cannot be read; `files` lie beside the config.

    Raises SourceError.
    """
    if "quantization" in config:
        raise SourceError(
            f"{name}: its config has a `quantization` block, so it is an MLX build already;"
            " convert from the unquantized checkpoint it was made from"
        )
    if config.get("model_file") is not None:
        raise SourceError(f"{name}: needs its own code ({shown(config['model_file'])}), which is not run here")
    settings = quantization_of(config) or ({"quant_method": "modelopt"} if MODELOPT in files else None)
    if not settings:
        return
    method, packing = str(settings.get("quant_method", "unknown")), str(settings.get("format"))
    if method in _READ or (method == "compressed-tensors" and packing in _READ_FORMATS):
        return
    called = _NAMES.get(method) or shown(method)
    if method == "compressed-tensors":
        called += f" ({shown(packing)})"
    raise SourceError(
        f"{name}: quantized with {called}; sources may be bf16, f16, f32, FP8 with block scales, or MXFP4 and int4"
        " experts that mlx-lm reads: use the original, unquantized repository"
    )
