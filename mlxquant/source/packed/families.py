"""The registry of packed sources: for each family of formats what is read, and of all others the name.

A family is a row of `FAMILIES`: the `quant_method` values of its configs, a function that says why certain settings
cannot be read, and one that makes the decoded tensors. What no row takes is refused by name, before anything is said
of shards. Some methods are left to mlx-lm's classes, which read them themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import SourceError
from ..headers import Tensor, shown
from . import fp8
from .declared import method_of, quantization_of, with_modelopt
from .decoded import Decoded

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """Formats that one method of quantization writes.

    `refusal` says how people call settings that cannot be read, None where they can; `decoded` gives the tensors that
    are to be read as floats, by name, of a checkpoint's settings and tensors, and raises SourceError. What `decoded`
    leaves out is left to mlx-lm's class.
    """

    methods: tuple[str, ...]
    refusal: Callable[[Settings], str | None]
    decoded: Callable[[Settings, Mapping[str, Tensor]], dict[str, Decoded]]


def _readable(settings: Settings) -> str | None:
    return None


def _left_to_class(settings: Settings, tensors: Mapping[str, Tensor]) -> dict[str, Decoded]:
    return {}


def _compressed_tensors_refusal(settings: Settings) -> str | None:
    # formats that mlx-lm repacks as they are: Kimi K2's int4 and K3's MXFP4 experts
    packing = str(settings.get("format"))
    return None if packing in ("pack-quantized", "mxfp4-pack-quantized") else f"compressed-tensors ({shown(packing)})"


FAMILIES: tuple[Family, ...] = (
    Family(("fp8",), _readable, fp8.scaled_tensors),
    Family(("mxfp4", "mxfp8", "bitnet"), _readable, _left_to_class),
    Family(("compressed-tensors",), _compressed_tensors_refusal, _left_to_class),
)

# quant_method -> how people call it
_NAMES = {
    "awq": "AWQ", "gptq": "GPTQ", "bitsandbytes": "bitsandbytes", "modelopt": "NVIDIA ModelOpt",
    "quark": "Quark", "hqq": "HQQ", "aqlm": "AQLM", "eetq": "EETQ", "vptq": "VPTQ", "torchao": "torchao",
    "higgs": "HIGGS", "spqr": "SpQR", "auto-round": "AutoRound", "fbgemm_fp8": "FBGEMM FP8",
}  # fmt: skip

# What names of tensors give away where a config says nothing, by ending
_MARKS = {
    ".qweight": "AWQ or GPTQ", ".qzeros": "AWQ or GPTQ", ".g_idx": "GPTQ", ".weight_packed": "compressed-tensors",
    ".weight_scale_2": "NVIDIA ModelOpt (NVFP4)", ".weight_scale": "compressed-tensors or NVIDIA ModelOpt",
    ".absmax": "bitsandbytes", ".quant_map": "bitsandbytes", ".SCB": "bitsandbytes",
    ".scales": "mlx, AWQ or GPTQ",
}  # fmt: skip


def check_config(config: Mapping[str, Any], name: str, modelopt: Mapping[str, Any] | None = None) -> None:
    """Refuse sources that are quantized in a way that cannot be read. Raises SourceError.

    `modelopt` is what `hf_quant_config.json` beside the config says, where there is one.
    """
    if "quantization" in config:
        raise SourceError(
            f"{name}: its config has a `quantization` block, so it is an MLX build already;"
            " convert from the unquantized checkpoint it was made from"
        )
    settings = with_modelopt(config, modelopt)
    if not settings:
        return
    family = _family(settings)
    called = _called(settings) if family is None else family.refusal(settings)
    if called is not None:
        raise _refusal(name, f"quantized with {called}")


def check_names(config: Mapping[str, Any], tensors: Iterable[str], name: str) -> None:
    """Refuse a source whose tensors are quantized though its config does not say so. Raises SourceError."""
    if quantization_of(config):
        return
    for tensor in tensors:
        ending = tensor[tensor.rfind(".") :]
        if ending in _MARKS:
            raise _refusal(name, f"{shown(tensor)} shows that it is quantized ({_MARKS[ending]}), config.json does not")


def decoded_tensors(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Decoded]:
    """The float tensors that a checkpoint's packed tensors stand for, by name; those that stay packed are not here.

    Raises SourceError listing what is lacking, and for FP8 tensors under a config that does not say what they are.
    """
    settings = quantization_of(config)
    codes = [t for t in tensors.values() if t.dtype in fp8.CODES]
    if codes and not settings:
        raise SourceError(
            f"{codes[0].file}: tensor {codes[0].name} is FP8 ({codes[0].dtype}), but config.json has no"
            " quantization_config to say how it is scaled; take config.json from the repository that the shards come"
            " from"
        )
    family = _family(settings)
    return family.decoded(settings, tensors) if family is not None and tensors else {}


def _family(settings: Settings) -> Family | None:
    method = method_of(settings)
    return next((family for family in FAMILIES if method in family.methods), None)


def _called(settings: Settings) -> str:
    """How people call a method that cannot be read."""
    method = method_of(settings)
    algorithm = settings.get("quant_algo") if method == "modelopt" else None
    return (_NAMES.get(method) or shown(method)) + (f" ({shown(algorithm)})" if algorithm else "")


def _refusal(name: str, why: str) -> SourceError:
    return SourceError(
        f"{name}: {why}; sources may be bf16, f16, f32, FP8 with block scales, or MXFP4 and int4"
        " experts that mlx-lm reads: use the original, unquantized repository"
    )
