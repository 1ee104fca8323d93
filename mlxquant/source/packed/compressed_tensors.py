"""compressed-tensors: what llm-compressor writes, and Kimi's int4 experts.

A config names groups of modules (`config_groups`), each with a scheme: number of bits, integers or floats, what shares
a scale (tensor, channel, group, block), symmetric or with zero points. The format says how it is stored:

    pack-quantized          X.weight_packed, int32 words along the row; weight_scale; with zero points weight_zero_point
    int-quantized           X.weight as I8, weight_scale, weight_zero_point
    float-quantized         X.weight as F8_E4M3, weight_scale
    naive-quantized         either of these
    mxfp8-quantized         X.weight as F8_E4M3, weight_scale a power of two for each 32 values
    nvfp4-pack-quantized    X.weight_packed, two E2M1 values a byte; weight_scale in E4M3 for each 16 values, divided by
                            weight_global_scale
    mxfp4-pack-quantized    X.weight_packed likewise; weight_scale a power of two for each 32 values
    mixed-precision         each group names its own

Values are computed as the library does (0.20.1, quantization/lifecycle/forward_helpers.py, `_dequantize`): in the dtype
of the scales, for 4-bit floats in bfloat16. Scales of activations and of the KV cache are of no use here.

Not read, and refused by name: other bits, sparse formats (marlin-24, sparse-24-bitmask), MXFP6, rotations that are
applied while the model runs (`transform_config`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import SourceError
from ...words.formats import DTYPES, FLOATS, Format
from ...words.text import listed, some
from ..headers import Tensor, shown
from .declared import Declared
from .decoded import Decoded
from .grouped import GlobalScale, Grouped, Scales, ZeroPoints
from .shapes import grid, packed_width, tensor_of

INTEGER = ("pack-quantized", "int-quantized")
FORMATS = (
    "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mxfp8-quantized",
    "nvfp4-pack-quantized", "mxfp4-pack-quantized",
)  # fmt: skip
PACKED_BITS = (2, 4, 8)
STRATEGIES = ("tensor", "channel", "group", "tensor_group", "block")

_REPETITIONS = 4

# What beside a weight is of no use where activations and the KV cache are floats, by the end of its name
IGNORED = (
    ".weight_shape", ".input_scale", ".input_zero_point", ".input_global_scale", ".output_scale", ".output_zero_point",
    ".k_scale", ".v_scale", ".q_scale", ".kv_scale", ".k_zero_point", ".v_zero_point", ".q_zero_point",
    ".k_global_scale", ".v_global_scale", ".weight_zero_point", ".weight_g_idx",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the weights of a group of modules are stored: `group` values, or a `block` of (rows, columns), share a scale.

    `group` is None where a row or the whole tensor shares one. `ordered` means that groups need not be side by side.
    """

    packing: str
    bits: int
    kind: str
    strategy: str
    group: int | None
    block: tuple[int, int] | None
    symmetric: bool
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Targets:
    """A scheme and the modules that it is of: names, `re:` patterns, or names of classes."""

    names: tuple[str, ...]
    scheme: Scheme


# --- what a config declares ---


def refusal(settings: Mapping[str, Any]) -> str | None:
    """What of the settings cannot be read, None where all can."""
    try:
        schemes(settings)
    except ValueError as error:
        return f"compressed-tensors ({error})"
    return None


def schemes(settings: Mapping[str, Any]) -> list[Targets]:
    """The schemes that a config declares. Raises ValueError with what cannot be read."""
    packing = str(settings.get("format"))
    if packing not in (*FORMATS, "mixed-precision"):
        raise ValueError(shown(packing))
    sparsity = settings.get("sparsity_config")
    sparse = sparsity.get("format") if isinstance(sparsity, dict) else sparsity
    if sparse not in (None, "dense"):
        raise ValueError(f"{shown(packing)}, sparse: {shown(sparse)}")
    if settings.get("transform_config"):
        raise ValueError(f"{shown(packing)}, rotated while it runs: transform_config")
    status = settings.get("quantization_status", "compressed")
    if status != "compressed":
        raise ValueError(f"{shown(packing)}, quantization_status {shown(status)}")
    groups = settings.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise ValueError(f"{shown(packing)} without config_groups")
    return [_targets(name, group, packing) for name, group in groups.items()]


def _targets(name: str, group: object, packing: str) -> Targets:
    if not isinstance(group, dict) or not isinstance(weights := group.get("weights"), dict):
        raise ValueError(f"{shown(packing)}, config_groups {shown(name)} says nothing of weights")
    targets = group.get("targets")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise ValueError(f"{shown(packing)}, config_groups {shown(name)} names no targets")
    own = group.get("format")
    chosen = packing if packing != "mixed-precision" else str(own)
    return Targets(tuple(targets), scheme_of(weights, chosen if own is None else str(own)))


def scheme_of(weights: Mapping[str, Any], packing: str) -> Scheme:
    """The scheme of one group's `weights` in a format. Raises ValueError with what cannot be read."""
    if packing not in FORMATS:
        raise ValueError(f"mixed-precision with {shown(packing)}" if packing != "None" else "mixed-precision, unnamed")
    bits, kind = weights.get("num_bits", 8), str(weights.get("type", "int")).lower()
    group, block = weights.get("group_size"), weights.get("block_structure")
    given = weights.get("strategy")
    strategy = str(given).lower() if given is not None else _inferred(group)
    what = f"{shown(packing)}, {shown(bits)} bits"
    if packing.startswith(("nvfp4", "mxfp4")):
        right = bits == 4 and kind == "float"
    elif packing == "pack-quantized":
        right = kind == "int" and bits in PACKED_BITS
    else:
        right = bits == 8 and kind in (("int",) if packing == "int-quantized" else ("float", "int"))
        right = right and not (packing in ("float-quantized", "mxfp8-quantized") and kind != "float")
    if not right:
        raise ValueError(f"{what} of type {shown(kind)}")
    if strategy not in STRATEGIES:
        raise ValueError(f"{what}, strategy {shown(strategy)}")
    grouped = strategy in ("group", "tensor_group")
    if grouped and not (type(group) is int and group > 0):
        raise ValueError(f"{what}, strategy {strategy}, group_size {shown(group)}")
    fixed = {"nvfp4-pack-quantized": 16, "mxfp4-pack-quantized": 32, "mxfp8-quantized": 32}.get(packing)
    if fixed and (not grouped or group != fixed):
        raise ValueError(f"{what}, strategy {strategy}, group_size {shown(group)}; groups of {fixed} expected")
    pair = _pair(block) if strategy == "block" else None
    if strategy == "block" and pair is None:
        raise ValueError(f"{what}, strategy block, block_structure {shown(block)}")
    symmetric = weights.get("symmetric", True) is not False
    if not symmetric and kind != "int":
        raise ValueError(f"{what} of type {kind}, not symmetric")
    if not symmetric and packing == "pack-quantized" and strategy not in ("group", "channel"):
        raise ValueError(f"{what}, not symmetric, strategy {strategy}")
    size = int(group) if grouped and group else None
    ordered = str(weights.get("actorder")).lower() in ("group", "true")
    return Scheme(packing, int(bits), kind, strategy, size, pair, symmetric, ordered)


def _inferred(group: object) -> str:
    """The strategy that a group size means where none is named, as the library infers it."""
    if group is None:
        return "tensor"
    return "channel" if group == -1 else "group"


def _pair(block: object) -> tuple[int, int] | None:
    if isinstance(block, str):
        block = [int(part) if part.isdigit() else None for part in block.split("x")]
    if isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block):
        return block[0], block[1]
    return None


class Matching:
    """Finds the scheme of a module: names win over patterns, patterns over names of classes."""

    def __init__(self, targets: list[Targets]) -> None:
        self._schemes = {t.scheme for t in targets}
        self._names: dict[str, set[Scheme]] = {}
        for t in targets:
            for name in t.names:
                self._names.setdefault(name, set()).add(t.scheme)
        self._patterns = [(name, chosen) for name, chosen in self._names.items() if name.startswith("re:")]
        self._classes = {scheme for name, chosen in self._names.items() if _is_class(name) for scheme in chosen}

    def scheme(self, module: str) -> Scheme | None:
        """The scheme of a module that is packed; None where no group names it, or several do."""
        if len(self._schemes) == 1:
            return next(iter(self._schemes))
        return self.targeted(module)

    def targeted(self, module: str) -> Scheme | None:
        """The scheme of a module that a group names; None where none does, or several do."""
        matching = {s for pattern, chosen in self._patterns if _is_pattern(module, pattern) for s in chosen}
        for chosen in (self._names.get(module, set()), matching, self._classes):
            if chosen:
                return next(iter(chosen)) if len(chosen) == 1 else None
        return None


def _is_pattern(module: str, target: str) -> bool:
    return target.startswith("re:") and matches_pattern(target[3:], module)


def _is_class(target: str) -> bool:
    return target.isidentifier()  # which class a module is of, shards do not say; it is a Linear wherever it is packed


def matches_pattern(pattern: str, module: str) -> bool:
    """Whether a stranger's regular expression matches the beginning of a name; False for one that is none.

    One that could be matched in too many ways is not tried: a group repeated, or more than four repetitions.
    """
    if len(pattern) > 500 or re.search(r"\)[*+{]", pattern) or len(re.findall(r"[*+{]", pattern)) > _REPETITIONS:
        return False
    try:
        return re.match(pattern, module) is not None
    except (re.error, RecursionError):
        return False


# --- the tensors ---


def decoded(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: str | None) -> dict[str, Decoded]:
    """The float tensors that packed ones stand for, by name, in `dtype`, or in that of their scales where it is None.

    Raises SourceError listing what is lacking or contradicts the config.
    """
    groups, problems = Matching(schemes(settings)), list[str]()
    result: dict[str, Decoded] = {}
    for name in tensors:
        base, mark, _ = name.rpartition("weight_scale")
        if mark != "weight_scale" or not name.endswith("weight_scale") or base.endswith("_"):
            continue
        try:
            module = base.rstrip(".")
            scheme = groups.scheme(module)
            if scheme is None:
                raise SourceError(
                    f"config.json: config_groups: one group expected for {module}, none or several match;"
                    " take config.json from the repository that the shards come from"
                )
            tensor = _decoded(base, scheme, tensors, dtype)
        except SourceError as error:
            problems.append(str(error))
        else:
            result[tensor.name] = tensor
    problems += _without_scales(tensors, result)
    if problems:
        raise SourceError(listed(problems))
    return result


def unused_zeros(decoded: Mapping[str, Decoded], tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A note on zero points that are stored though the config says symmetric; they take no part in the values."""
    read = {stored.name for tensor in decoded.values() for stored in tensor.stored}
    unused = [f"{name}_zero_point" for name in decoded if f"{name}_zero_point" in tensors.keys() - read]
    if not unused:
        return ()
    size = sum(tensors[name].nbytes for name in unused)
    return (
        f"config.json says that weights are symmetric, yet {len(unused):,} have zero points ({some(unused, 1)};"
        f" {size:,} bytes): these are not used, so if they are not all 0, the config is another checkpoint's",
    )


def _without_scales(tensors: Mapping[str, Tensor], result: Mapping[str, Decoded]) -> Iterator[str]:
    for name, t in tensors.items():
        base = name.removesuffix("_packed")
        if name.endswith("_scale"):
            continue
        if base not in result and (base != name or t.dtype in ("F8_E4M3", "F8_E5M2")):
            yield f"{t.file}: tensor {name} is packed and {base}_scale is missing; is a shard missing?"


def _decoded(base: str, scheme: Scheme, tensors: Mapping[str, Tensor], dtype: str | None) -> Decoded:
    packed = scheme.packing.endswith("pack-quantized")
    scale = tensors[f"{base}weight_scale"]
    codes = tensor_of(tensors, f"{base}weight_packed" if packed else f"{base}weight", scale.name)
    if scheme.packing.startswith(("nvfp4", "mxfp4")):
        return _four_bit_float(base, scheme, codes, scale, tensors, dtype)
    coding, stored = _coding(scheme)
    _expect(codes, stored, scheme)
    width = packed_width(codes, scheme.bits) if packed else codes.shape[-1]
    exponents = scheme.packing == "mxfp8-quantized"
    _expect(scale, ("U8", "F8_E8M0") if exponents else FLOATS, scheme)
    if packed and scheme.group is not None and scale.shape and width - scale.shape[-1] * scheme.group < 32:
        width = min(width, scale.shape[-1] * scheme.group)  # the last word may be filled up
    shape = (*codes.shape[:-1], width)
    table, block = grid(scale, shape, _block(scheme), codes)
    computed = "BF16" if exponents else scale.dtype
    return Grouped.of(
        f"{base}weight",
        dtype or computed,
        shape,
        codes,
        coding,
        Scales(table, block, "e8m0" if exponents else None),
        computed,
        zeros=None if scheme.symmetric else _zeros(base, scheme, table, shape, tensors),
        order=_order(base, shape, tensors),
        shape_tensor=tensors.get(f"{base}weight_shape") if packed else None,
    )


def _coding(scheme: Scheme) -> tuple[str, tuple[str, ...]]:
    """How codes are read, and the dtypes that they are stored in."""
    if scheme.packing == "pack-quantized":
        return f"int{scheme.bits}", ("I32", "U32")
    return ("i8", ("I8",)) if scheme.kind == "int" else ("e4m3", ("F8_E4M3",))


def _block(scheme: Scheme) -> tuple[int, int] | None:
    """Rows and columns that share a scale; None where the scales' own shape says it."""
    if scheme.block is not None:
        return scheme.block
    return None if scheme.group is None else (1, scheme.group)


def _four_bit_float(
    base: str, scheme: Scheme, codes: Tensor, scale: Tensor, tensors: Mapping[str, Tensor], dtype: str | None
) -> Decoded:
    nvidia = scheme.packing.startswith("nvfp4")
    _expect(codes, ("U8",), scheme)
    _expect(scale, ("F8_E4M3",) if nvidia else ("U8", "F8_E8M0"), scheme)
    shape = (*codes.shape[:-1], 2 * codes.shape[-1])
    table, block = grid(scale, shape, _block(scheme), codes)
    whole = None
    if nvidia:
        tensor = tensor_of(tensors, f"{base}weight_global_scale", codes.name)
        _expect(tensor, FLOATS, scheme)
        # as torch promotes: a scale without an axis leaves the product in bfloat16
        whole = GlobalScale(tensor, inverse=True, dtype="F32" if tensor.shape else "BF16")
    return Grouped.of(
        f"{base}weight",
        dtype or "BF16",
        shape,
        codes,
        "e2m1",
        Scales(table, block, "e4m3" if nvidia else "e8m0"),
        "BF16",
        global_scale=whole,
    )


def _zeros(
    base: str, scheme: Scheme, table: Tensor, shape: tuple[int, ...], tensors: Mapping[str, Tensor]
) -> ZeroPoints:
    tensor = tensor_of(tensors, f"{base}weight_zero_point", f"{base}weight_scale")
    if scheme.packing != "pack-quantized":
        _expect(tensor, ("I8",), scheme)
        return ZeroPoints(grid(tensor, shape, _block(scheme), tensor)[0])
    _expect(tensor, ("I32", "U32"), scheme)
    words = -(-shape[-2] * scheme.bits // 32)
    expected = (*((shape[0],) if len(shape) == 3 else ()), words, table.shape[-1])
    if tensor.shape != expected:
        raise SourceError(
            f"{tensor.file}: tensor {tensor.name}: shape {list(expected)} expected, {list(tensor.shape)} found;"
            " config.json describes another checkpoint"
        )
    return ZeroPoints(_with_shape(tensor, (1, *expected)[-3:]), scheme.bits)


def _order(base: str, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> Tensor | None:
    order = tensors.get(f"{base}weight_g_idx")
    if order is None:
        return None
    if order.dtype != "I32" or order.shape != shape[-1:]:
        raise SourceError(
            f"{order.file}: tensor {order.name}: I32 {list(shape[-1:])} expected, {order.dtype} {list(order.shape)}"
            " found; config.json describes another checkpoint"
        )
    return order


def _with_shape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return Tensor(tensor.name, tensor.dtype, shape, tensor.file, tensor.start, tensor.nbytes)


def _expect(tensor: Tensor, dtypes: tuple[str, ...], scheme: Scheme) -> None:
    if tensor.dtype not in dtypes:
        raise SourceError(
            f"{tensor.file}: tensor {tensor.name}: {' or '.join(dtypes)} expected for {scheme.packing},"
            f" {tensor.dtype} found; config.json describes another checkpoint"
        )


# --- by the config alone ---


def declared(
    settings: Mapping[str, Any], names: tuple[str, ...], shape: tuple[int, ...], dtype: str
) -> Declared | None:
    """How a Linear module is stored; None where `ignore` names it, or no group or several do."""
    ignore = settings.get("ignore")
    left = [str(pattern) for pattern in ignore] if isinstance(ignore, list) else []
    if any(name == each or _is_pattern(name, each) or each == "Linear" for name in names for each in left):
        return None
    groups = Matching(schemes(settings))
    scheme = next((s for name in names if (s := groups.targeted(name))), None)
    if scheme is None:
        return None
    return Declared(_storage(scheme), stored_bytes(scheme, shape, dtype), _format(scheme, shape[-1]))


def _storage(scheme: Scheme) -> str:
    if scheme.packing.startswith(("nvfp4", "mxfp4")):
        return "FP4"
    if scheme.kind == "float":
        return "F8_E4M3"
    return f"INT{scheme.bits}" if scheme.packing == "pack-quantized" else "I8"


def _format(scheme: Scheme, width: int) -> Format | None:
    """The format of mlx that the bits are (see `as_stored`)."""
    if scheme.packing == "mxfp4-pack-quantized":
        return Format(4, 32, "mxfp4")
    if scheme.packing == "mxfp8-quantized":
        return Format(8, 32, "mxfp8")
    if (
        scheme.packing != "pack-quantized"
        or not scheme.symmetric
        or scheme.ordered
        or scheme.strategy not in ("group", "channel")
    ):
        return None
    form = Format(scheme.bits, scheme.group or width)
    return None if form.problem() or width % form.group_size else form


def stored_bytes(scheme: Scheme, shape: tuple[int, ...], dtype: str) -> int:
    """Bytes that a weight of a logical shape (…, out, in) takes in the scheme, with scales and zero points.

    Scales of `dtype`. ``stored_bytes(int4 in groups of 32, (8, 64), "BF16") == 8 * 64 // 2 + 8 * 2 * 2 + 16``: codes,
    scales, and the two int64 of `weight_shape`.
    """
    *lead, rows, width = (1, *shape)[-3:]
    across = 1 if scheme.group is None else -(-width // scheme.group)
    groups = rows * across if scheme.strategy != "tensor" else 1
    if scheme.block is not None:
        groups = -(-rows // scheme.block[0]) * -(-width // scheme.block[1])
    if scheme.packing.startswith(("nvfp4", "mxfp4")):
        return lead[0] * (rows * width // 2 + groups + (4 if scheme.packing.startswith("nvfp4") else 0))
    size = 1 if scheme.packing == "mxfp8-quantized" else DTYPES[dtype].nbytes
    if scheme.packing != "pack-quantized":
        return lead[0] * (rows * width + groups * (size + (0 if scheme.symmetric else 1)))
    zeros = 0 if scheme.symmetric else -(-rows * scheme.bits // 32) * 4 * across
    return lead[0] * (rows * -(-width * scheme.bits // 32) * 4 + groups * size + zeros + 16)
