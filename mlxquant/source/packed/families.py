"""The registry of packed sources: for each family of formats what is read, and of all others the name.

A family is a row of `FAMILIES`: the `quant_method` values of its configs, a function that says why certain settings
cannot be read, and one that makes the decoded tensors. What no row takes is refused by name, before anything is said
of shards. Some methods are left to mlx-lm's classes, which read them themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import SourceError
from ...words.formats import TORCH_DTYPES
from ..headers import Tensor, shown
from . import compressed_tensors, fp8, gptq, mlx_builds, modelopt
from .declared import MLX, Declared, method_of, quantization_of
from .decoded import Decoded

Settings = Mapping[str, Any]


def _undeclared(settings: Settings, names: tuple[str, ...], shape: tuple[int, ...], dtype: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Family:
    """Formats that one method of quantization writes.

    `refusal` says how people call settings that cannot be read, None where they can. `decoded` gives the tensors that
    are to be read as floats, by name: of the settings, the stored tensors, and the dtype of the model's weights (None
    where its config names none); it raises SourceError. What `decoded` leaves out is left to mlx-lm's class, except
    tensors whose names end in one of `ignored`: they are of no use where activations are floats. `declared` says what
    the settings alone tell of a Linear module: of its possible names, the shape of its weight, the dtype of floats.
    """

    methods: tuple[str, ...]
    refusal: Callable[[Settings], str | None]
    decoded: Callable[[Settings, Mapping[str, Tensor], str | None], dict[str, Decoded]]
    ignored: tuple[str, ...] = ()
    declared: Callable[[Settings, tuple[str, ...], tuple[int, ...], str], Declared | None] = _undeclared


def _readable(settings: Settings) -> str | None:
    return None


def _left_to_class(settings: Settings, tensors: Mapping[str, Tensor], dtype: str | None) -> dict[str, Decoded]:
    return {}


FAMILIES: tuple[Family, ...] = (
    Family(fp8.METHODS, _readable, fp8.scaled_tensors, fp8.IGNORED),
    Family(("mxfp4", "mxfp8", "bitnet"), _readable, _left_to_class),
    Family(
        ("compressed-tensors",),
        compressed_tensors.refusal,
        compressed_tensors.decoded,
        compressed_tensors.IGNORED,
        compressed_tensors.declared,
    ),
    Family(("modelopt",), modelopt.refusal, modelopt.decoded, modelopt.IGNORED, modelopt.declared),
    Family((MLX,), mlx_builds.refusal, mlx_builds.decoded, declared=mlx_builds.declared),
    Family(("gptq",), gptq.gptq_refusal, gptq.gptq_decoded, declared=gptq.declared),
    Family(("awq",), gptq.awq_refusal, gptq.awq_decoded, declared=gptq.declared),
)

# quant_method -> how people call it
_NAMES = {
    "bitsandbytes": "bitsandbytes",
    "quark": "Quark", "hqq": "HQQ", "aqlm": "AQLM", "eetq": "EETQ", "vptq": "VPTQ", "torchao": "torchao",
    "higgs": "HIGGS", "spqr": "SpQR", "auto-round": "AutoRound",
}  # fmt: skip

# What names of tensors give away where a config says nothing, by ending
_MARKS = {
    ".qweight": "AWQ or GPTQ", ".qzeros": "AWQ or GPTQ", ".g_idx": "GPTQ", ".weight_packed": "compressed-tensors",
    ".weight_scale_2": "NVIDIA ModelOpt (NVFP4)", ".weight_scale": "compressed-tensors or NVIDIA ModelOpt",
    ".absmax": "bitsandbytes", ".quant_map": "bitsandbytes", ".SCB": "bitsandbytes",
    ".scales": "mlx, AWQ or GPTQ",
}  # fmt: skip


def check_config(config: Mapping[str, Any], name: str) -> None:
    """Refuse sources that are quantized in a way that cannot be read. Raises SourceError."""
    settings = quantization_of(config)
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
    return family.decoded(settings, tensors, _float_dtype(config)) if family is not None and tensors else {}


def declared_storage(config: Mapping[str, Any], names: tuple[str, ...], shape: tuple[int, ...]) -> Declared | None:
    """How a Linear module is stored by the config alone, None where it is not packed or the config does not tell.

    `names` are what the checkpoint may call the module, `shape` is (…, out, in).
    """
    settings = quantization_of(config)
    family = _family(settings)
    return family.declared(settings, names, shape, _float_dtype(config) or "BF16") if family else None


def ignored_names(config: Mapping[str, Any], tensors: Iterable[str]) -> frozenset[str]:
    """Stored tensors that are of no use where activations and the KV cache are floats: their scales, for instance."""
    family = _family(quantization_of(config))
    return frozenset(t for t in tensors if t.endswith(family.ignored)) if family and family.ignored else frozenset()


def notes_of(
    config: Mapping[str, Any], decoded: Mapping[str, Decoded], tensors: Mapping[str, Tensor] | None = None
) -> tuple[str, ...]:
    """What a reader of plan and audit should know of a quantized source, of which `tensors` are what is stored.

    None in their place stands for a config alone.
    """
    settings = quantization_of(config)
    method = method_of(settings)
    if method == MLX:
        return (mlx_builds.note(settings, decoded),)
    if tensors is None:
        packed = quantizes_weights(config) and _read_as_floats(settings)
        return (_quantized_itself(f"{_said(settings)}, as config.json says"),) if packed else ()
    if not decoded:
        return ()
    counts = Counter(tensor.storage for tensor in decoded.values())
    held = ", ".join(f"{count:,} weights in {storage}" for storage, count in counts.most_common())
    unused = compressed_tensors.unused_zeros(decoded, tensors) if method == "compressed-tensors" else ()
    return (_quantized_itself(held), *unused)


def _quantized_itself(held: str) -> str:
    return (
        f"the source is quantized itself ({held}): its error against the model that it was made of stays, and the"
        " errors here are those that are added to it"
    )


def quantizes_weights(config: Mapping[str, Any]) -> bool:
    """Whether a config says that weights are quantized: not where it is the KV cache alone."""
    settings = quantization_of(config)
    return bool(settings) and not (method_of(settings) == "modelopt" and modelopt.only_cache(settings))


def _read_as_floats(settings: Settings) -> bool:
    """Whether weights are packed and read as floats, by the settings alone."""
    family = _family(settings)
    return family is not None and family.decoded is not _left_to_class and not fp8.stays_packed(settings)


def _said(settings: Settings) -> str:
    """The method of settings in a word or two."""
    method = method_of(settings)
    kind = settings.get("format") or settings.get("quant_algo")
    return "FP8" if method in fp8.METHODS else " ".join(shown(word) for word in (method, kind) if word)


def _float_dtype(config: Mapping[str, Any]) -> str | None:
    """The dtype that a config says the model's weights are in, None where it says none."""
    text = config.get("text_config")
    places = (config, text if isinstance(text, dict) else {})
    words = (str(place[key]) for place in places for key in ("torch_dtype", "dtype") if place.get(key))
    return next((TORCH_DTYPES[word] for word in words if word in TORCH_DTYPES), None)


def _family(settings: Settings) -> Family | None:
    method = method_of(settings)
    return next((family for family in FAMILIES if method in family.methods), None)


def _called(settings: Settings) -> str:
    """How people call a method that cannot be read."""
    method = method_of(settings)
    return _NAMES.get(method) or shown(method)


def _refusal(name: str, why: str) -> SourceError:
    return SourceError(
        f"{name}: {why}; sources may be bf16, f16, f32, FP8, packed by compressed-tensors, ModelOpt, GPTQ or AWQ"
        " (gemm), or MLX builds: use the original, unquantized repository"
    )
