"""GPTQ and AWQ checkpoints: what their configs declare, and which tensors make a matrix.

    X.qweight, X.qzeros, X.scales, X.g_idx      GPTQ: AutoGPTQ, GPTQModel, llm-compressor's older releases
    X.qweight, X.qzeros, X.scales               AWQ: AutoAWQ, version "gemm"

GPTQ has 2, 3, 4 or 8 bits, AWQ 4. `bits` of a config are of the whole checkpoint; GPTQModel's `dynamic` gives some
modules others, so each module's are taken from its shapes: in · bits = 32 · words. How the values follow is in
`transposed`. Refused by name are the packings that runtimes make for their kernels (marlin, exllama, gemv, bitblas).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import SourceError
from ...words.formats import FLOATS, nbytes
from ...words.text import listed
from ..headers import Tensor, shown
from .declared import Declared
from .decoded import Decoded
from .transposed import Transposed

GPTQ_BITS = (2, 3, 4, 8)
_CODES = ".qweight"
_ROUTERS = ("gate", "router", "shared_expert_gate")  # modules that neither format packs
_FORMATS = {"gptq": 1, "gptq_v2": 0}  # checkpoint_format -> what stored zero points lack


def gptq_refusal(settings: Mapping[str, Any]) -> str | None:
    """What of a GPTQ config's settings cannot be read, None where all can."""
    packing = str(settings.get("checkpoint_format") or settings.get("format") or "gptq")
    if settings.get("is_marlin_format"):
        packing = "marlin"
    if packing not in _FORMATS:
        return f"GPTQ in the packing of {shown(packing)}, of which mlxquant reads gptq and gptq_v2"
    bits = settings.get("bits")
    if bits is not None and bits not in GPTQ_BITS:
        return f"GPTQ with {shown(bits)} bits"
    return None


def awq_refusal(settings: Mapping[str, Any]) -> str | None:
    """What of an AWQ config's settings cannot be read, None where all can."""
    version = str(settings.get("version") or settings.get("checkpoint_format") or "gemm").lower()
    if version != "gemm":
        return f"AWQ in the packing {shown(version)}, of which mlxquant reads gemm"
    bits = settings.get("bits", settings.get("w_bit"))
    return None if bits in (None, 4) else f"AWQ with {shown(bits)} bits"


def gptq_decoded(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: str | None) -> dict[str, Decoded]:
    """The float tensors of a GPTQ checkpoint, by name. Raises SourceError listing what cannot be read."""
    packing = str(settings.get("checkpoint_format") or settings.get("format") or "gptq")
    return _all(tensors, lambda path: _gptq(path, settings, tensors, _FORMATS[packing]))


def awq_decoded(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: str | None) -> dict[str, Decoded]:
    """The float tensors of an AWQ checkpoint, by name. Raises SourceError listing what cannot be read."""
    return _all(tensors, lambda path: _awq(path, tensors))


def declared(
    settings: Mapping[str, Any], names: tuple[str, ...], shape: tuple[int, ...], dtype: str
) -> Declared | None:
    """How a config says that a Linear module is stored: all within layers are packed but routers and what it excepts.

    None where modules have settings of their own (`dynamic`), which headers would tell.
    """
    bits, group = (
        settings.get("bits", settings.get("w_bit", 4)),
        settings.get("group_size", settings.get("q_group_size")),
    )
    excepted = settings.get("modules_to_not_convert")
    parts = [str(p) for p in excepted] if isinstance(excepted, list) else []
    within = [n for n in names if ".layers." in n and n.rpartition(".")[2] not in _ROUTERS]
    usual = bits in GPTQ_BITS and type(group) is int and (group > 0 or group == -1) and not settings.get("dynamic")
    if not usual or not within or any(part in name for part in parts for name in within):
        return None
    *lead, out, width = (1, *shape)[-3:]
    groups = 1 if group == -1 else -(-width // group)
    order = 0 if settings.get("quant_method") == "awq" else 4 * width
    return Declared(f"INT{bits}", lead[0] * (out * (width + groups) * bits // 8 + 2 * groups * out + order), None)


def _all(tensors: Mapping[str, Tensor], make: Any) -> dict[str, Decoded]:
    problems, floats = list[str](), dict[str, Decoded]()
    for name, tensor in tensors.items():
        path = name.removesuffix(_CODES)
        if path == name:
            continue
        result = make(path)
        if isinstance(result, str):
            problems.append(f"{tensor.file}: {result}")
        else:
            floats[result.name] = result
    stored = {t.name for made in floats.values() for t in made.stored}
    problems += [
        f"{tensor.file}: {name} belongs to {path}{_CODES}, which is missing; is a shard missing?"
        for name, tensor in tensors.items()
        for path, _, part in [name.rpartition(".")]
        if part in ("qzeros", "g_idx") and name not in stored and f"{path}{_CODES}" not in tensors
    ]
    if problems:
        raise SourceError(listed(problems))
    return floats


def _gptq(path: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], offset: int) -> Transposed | str:
    codes, scales = tensors[path + _CODES], tensors.get(f"{path}.scales")
    zeros, order = tensors.get(f"{path}.qzeros"), tensors.get(f"{path}.g_idx")
    seen = f"{path}: qweight {_seen(codes)}, scales {_seen(scales)}, qzeros {_seen(zeros)}, g_idx {_seen(order)}"
    if scales is None or codes.dtype not in ("I32", "U32") or len(codes.shape) != 2:
        return f"{seen}: no GPTQ matrix; is a shard missing?"
    words, out = codes.shape
    bits = settings.get("bits", 4)
    if order is not None and len(order.shape) == 1 and order.shape[0]:
        bits = 32 * words // order.shape[0]
        if bits * order.shape[0] != 32 * words:
            bits = 0
    if bits not in GPTQ_BITS:
        return f"{seen}: {32 * words} bits for each output are not 2, 3, 4 or 8 for each input"
    width = 32 * words // bits
    problem = _misfit(scales, zeros, order, (out, width), out * bits // 32)
    if problem:
        return f"{seen}: {problem}"
    return _made(path, codes, scales, zeros, order, (out, width), bits, offset)


def _awq(path: str, tensors: Mapping[str, Tensor]) -> Transposed | str:
    codes, scales, zeros = tensors[path + _CODES], tensors.get(f"{path}.scales"), tensors.get(f"{path}.qzeros")
    seen = f"{path}: qweight {_seen(codes)}, scales {_seen(scales)}, qzeros {_seen(zeros)}"
    if scales is None or codes.dtype not in ("I32", "U32") or len(codes.shape) != 2:
        return f"{seen}: no AWQ matrix; is a shard missing?"
    width, words = codes.shape
    problem = _misfit(scales, zeros, None, (8 * words, width), words)
    if problem:
        return f"{seen}: {problem}; is it AWQ's packing gemm?"
    return _made(path, codes, scales, zeros, None, (8 * words, width), 4, 0, interleaved=True)


def _made(
    path: str,
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    order: Tensor | None,
    shape: tuple[int, int],
    bits: int,
    offset: int,
    *,
    interleaved: bool = False,
) -> Transposed:
    place = (codes.file, codes.start, nbytes(scales.dtype, shape))
    return Transposed(
        f"{path}.weight", scales.dtype, shape, *place, codes, scales, zeros, order, bits, offset, interleaved
    )


def _misfit(
    scales: Tensor, zeros: Tensor | None, order: Tensor | None, shape: tuple[int, int], words: int
) -> str | None:
    """Why the parts do not make a matrix of a shape, None where they do; `words` are those of a line of zero points."""
    out, width = shape
    if scales.dtype not in FLOATS or len(scales.shape) != 2 or scales.shape[1] != out or not scales.shape[0]:
        return f"scales of floats (groups, {out}) expected"
    groups = scales.shape[0]
    if zeros is not None and (zeros.dtype not in ("I32", "U32") or zeros.shape != (groups, words)):
        return f"qzeros (groups, {words}) of I32 expected"
    if order is not None and (order.dtype != "I32" or order.shape != (width,)):
        return f"g_idx ({width},) of I32 expected"
    if order is None and width % groups:
        return f"{width} inputs are not {groups} groups of equal length"
    return None


def _seen(tensor: Tensor | None) -> str:
    return "none" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
