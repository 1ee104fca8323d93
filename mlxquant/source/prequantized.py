"""Sources that are quantized already: which of them can be read, and why the others are refused.

What mlx-lm's `sanitize` turns into floats (FP8 with block scales) or into modules in one of mlx's own formats (MXFP4,
MXFP8, int4 of compressed-tensors) is a source like any other; the latter stay as they are. Everything else would be
quantized a second time, or its packed integers be taken for weights, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import SourceError
from .headers import shown

# quant_method -> how people call it
_NAMES = {
    "awq": "AWQ", "gptq": "GPTQ", "bitsandbytes": "bitsandbytes", "modelopt": "NVIDIA ModelOpt",
    "compressed-tensors": "compressed-tensors", "quark": "Quark", "hqq": "HQQ", "aqlm": "AQLM", "eetq": "EETQ",
    "vptq": "VPTQ", "torchao": "torchao", "higgs": "HIGGS", "spqr": "SpQR", "auto-round": "AutoRound",
    "fbgemm_fp8": "FBGEMM FP8",
}  # fmt: skip
_READ = ("fp8", "mxfp4", "mxfp8", "bitnet")
# formats of compressed-tensors that mlx-lm repacks as they are: Kimi K2's int4 and K3's MXFP4 experts
_READ_FORMATS = ("pack-quantized", "mxfp4-pack-quantized")

# What names of tensors give away where a config says nothing, by ending
_MARKS = {
    ".qweight": "AWQ or GPTQ", ".qzeros": "AWQ or GPTQ", ".g_idx": "GPTQ", ".weight_packed": "compressed-tensors",
    ".weight_scale_2": "NVIDIA ModelOpt (NVFP4)", ".weight_scale": "compressed-tensors or NVIDIA ModelOpt",
    ".absmax": "bitsandbytes", ".quant_map": "bitsandbytes", ".SCB": "bitsandbytes",
    ".scales": "mlx, AWQ or GPTQ",
}  # fmt: skip

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


def check_config(config: Mapping[str, Any], name: str, modelopt: Mapping[str, Any] | None = None) -> None:
    """Refuse sources that are quantized in a way that cannot be read. Raises SourceError.

    `modelopt` is what `hf_quant_config.json` beside the config says, where there is one.
    """
    if "quantization" in config:
        raise SourceError(
            f"{name}: its config has a `quantization` block, so it is an MLX build already;"
            " convert from the unquantized checkpoint it was made from"
        )
    settings = quantization_of(config)
    if not settings and modelopt is not None:
        inner = modelopt.get("quantization")
        settings = {**(inner if isinstance(inner, dict) else {}), "quant_method": "modelopt"}
    if not settings:
        return
    method, packing = str(settings.get("quant_method", "unknown")), str(settings.get("format"))
    if method in _READ or (method == "compressed-tensors" and packing in _READ_FORMATS):
        return
    called = _NAMES.get(method) or shown(method)
    if method == "compressed-tensors":
        called += f" ({shown(packing)})"
    elif method == "modelopt" and (algorithm := settings.get("quant_algo")):
        called += f" ({shown(algorithm)})"
    raise _refusal(name, f"quantized with {called}")


def check_names(config: Mapping[str, Any], tensors: Iterable[str], name: str) -> None:
    """Refuse a source whose tensors are quantized though its config does not say so. Raises SourceError."""
    if quantization_of(config):
        return
    for tensor in tensors:
        ending = tensor[tensor.rfind(".") :]
        if ending in _MARKS:
            raise _refusal(name, f"{shown(tensor)} shows that it is quantized ({_MARKS[ending]}), config.json does not")


def _refusal(name: str, why: str) -> SourceError:
    return SourceError(
        f"{name}: {why}; sources may be bf16, f16, f32, FP8 with block scales, or MXFP4 and int4"
        " experts that mlx-lm reads: use the original, unquantized repository"
    )
