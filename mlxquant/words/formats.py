"""Number formats: the dtypes of safetensors files, and which quantizations mlx has.

Words follow mlx: `bits` per stored value, `group_size` values that share a scale, `mode`. Bits per weight
(`bpw`) counts scales and biases too. Affine with 16-bit scales costs ``bits + 32 / group_size``:
8 bits at group 64 is 8 + 32/64 = 8.5.

DTYPES is the one table of dtypes: whoever needs a dtype's size, its numpy array type, its exponent bits or its name in
config.json asks here. What mlx calls a dtype stands in `layout.views.bytes`, since mlx is not imported here. numpy is
imported inside functions, because the command line starts with this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from .text import either

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Dtype:
    """A dtype of safetensors files (https://github.com/huggingface/safetensors, dtype.rs).

    `nbytes` is the size of an element. `carrier` is the numpy dtype of arrays that hold it: numpy has no bfloat16 and
    no 8-bit floats, so unsigned integers of their size carry their bit patterns. `exponent` has the bits of the
    exponent set: a value in which all of them are set is infinite or NaN. `torch` is the name in config.json.
    """

    nbytes: int
    carrier: str
    exponent: int | None = None
    torch: str | None = None


DTYPES: dict[str, Dtype] = {
    "BOOL": Dtype(1, "bool"),
    "U8": Dtype(1, "uint8"),
    "I8": Dtype(1, "int8"),
    "F8_E4M3": Dtype(1, "uint8"),
    "F8_E5M2": Dtype(1, "uint8"),
    "F8_E8M0": Dtype(1, "uint8"),
    "U16": Dtype(2, "uint16"),
    "I16": Dtype(2, "int16"),
    "F16": Dtype(2, "float16", 0x7C00, "float16"),
    "BF16": Dtype(2, "uint16", 0x7F80, "bfloat16"),
    "U32": Dtype(4, "uint32"),
    "I32": Dtype(4, "int32"),
    "F32": Dtype(4, "float32", 0x7F800000, "float32"),
    "U64": Dtype(8, "uint64"),
    "I64": Dtype(8, "int64"),
    "F64": Dtype(8, "float64"),
    "C64": Dtype(8, "complex64"),
}

# The dtypes that weights have before they are quantized
FLOATS = tuple(name for name, dtype in DTYPES.items() if dtype.torch)

# config.json's words -> safetensors' words
TORCH_DTYPES: dict[str, str] = {dtype.torch: name for name, dtype in DTYPES.items() if dtype.torch}

# mlx.core.quantize's table of modes (mlx 0.32): mode -> (group sizes, bits)
MODES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "affine": ((32, 64, 128), (2, 3, 4, 5, 6, 8)),
    "mxfp4": ((32,), (4,)),
    "mxfp8": ((32,), (8,)),
    "nvfp4": ((16,), (4,)),
}
# Bits that mlx has too (since NEEDED) and that are taken where someone asks for them by name; no list offers them
BY_NAME: dict[str, tuple[int, ...]] = {"affine": (1,)}
NEEDED: dict[int, str] = {1: "0.32.4"}
MODE_DEFAULTS: dict[str, tuple[int, int]] = {
    "affine": (64, 4), "mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4),
}  # fmt: skip

# How values become integers, where a mode has biases: rounded to nearest as mlx does; scale and bias of each group
# searched for the least squared error; the same with errors weighed by what enters the columns (see `kernels.encoder`);
# integers that make up for each other's errors under moments of what enters (see `kernels.gptq`); these, learned then
# against what the layer gave (see `calibrate.learning`)
RTN, MSE, IMATRIX, GPTQ, DISTILL = "rtn", "mse", "imatrix", "gptq", "distill"
METHODS = (RTN, MSE, IMATRIX, GPTQ, DISTILL)
# Those that encode layer by layer on documents, in a pass of their own
BY_LAYER = (GPTQ, DISTILL)


@dataclass(frozen=True, slots=True)
class Format:
    """One way to quantize a matrix: mlx's `bits`, `group_size`, `mode`."""

    bits: int
    group_size: int
    mode: str = "affine"

    def problem(self) -> str | None:
        """Why mlx has no such quantization, or None if it has."""
        if self.mode not in MODES:
            return f"mode {self.mode!r} is unknown; mlx has {', '.join(MODES)}"
        groups, bits = MODES[self.mode]
        there = (*bits, *BY_NAME.get(self.mode, ()))
        problems = [f"{either(bits)} bits, not {self.bits}"] if self.bits not in there else []
        if self.group_size not in groups:
            problems.append(f"group size {either(groups)}, not {self.group_size}")
        return f"mode {self.mode} has {', and '.join(problems)}" if problems else None

    def as_dict(self) -> dict[str, Any]:
        """The three keys that mlx-lm's config.json takes, in its order."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Format:
        """Read what `as_dict` wrote; a missing mode is affine, as old configs mean it."""
        return cls(int(value["bits"]), int(value["group_size"]), str(value.get("mode", "affine")))

    def __str__(self) -> str:
        name = f"{self.bits}-bit" if self.mode == "affine" else self.mode
        return f"{name} g{self.group_size}"

    def tensors(self, shape: tuple[int, ...], dtype: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The arrays that mlx stores for a matrix: suffix -> (dtype, shape).

        `shape` is (..., in) with `in` divisible by the group size. Values are packed into uint32 along
        the last axis, ``in * bits / 32`` words; scales and biases are (..., in / group_size), of the
        matrix's dtype for affine, uint8 (and no biases) for the others.
        """
        *lead, width = shape
        packed = ("U32", (*lead, width * self.bits // 32))
        groups = (*lead, width // self.group_size)
        if self.mode == "affine":
            return {"weight": packed, "scales": (dtype, groups), "biases": (dtype, groups)}
        return {"weight": packed, "scales": ("U8", groups)}


@dataclass(frozen=True, slots=True)
class FormatChoice:
    """A format as a recipe asks for it: of several group sizes a module takes the first that divides its input.

    `method` is how values become integers of the format; what is stored is read the same whichever it was.
    """

    bits: int
    group_sizes: tuple[int, ...]
    mode: str = "affine"
    method: str = RTN

    @classmethod
    def of(cls, fmt: Format, method: str = RTN) -> FormatChoice:
        """The choice that leaves none: this format."""
        return cls(fmt.bits, (fmt.group_size,), fmt.mode, method)

    @property
    def formats(self) -> tuple[Format, ...]:
        """A format for each group size, the preferred first."""
        return tuple(Format(self.bits, size, self.mode) for size in self.group_sizes)

    def at(self, width: int) -> Format | None:
        """The format for rows of `width` values, None where no group size divides them.

        >>> str(FormatChoice(8, (128, 64, 32)).at(192))
        '8-bit g64'
        """
        return next((fmt for fmt in self.formats if width % fmt.group_size == 0), None)

    def problem(self) -> str | None:
        """Why mlx lacks one of its formats, or None if it has all."""
        return next((problem for fmt in self.formats if (problem := fmt.problem())), None)

    def as_dict(self) -> dict[str, Any]:
        """The keys as recipes have them: a list of group sizes only where there are several, a method unless rtn."""
        first = self.formats[0].as_dict()
        table = {**first, "group_size": list(self.group_sizes)} if len(self.group_sizes) > 1 else first
        return {**table, "method": self.method} if self.method != RTN else table

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> FormatChoice:
        """Read what `as_dict` wrote."""
        sizes = value["group_size"] if isinstance(value["group_size"], list) else [value["group_size"]]
        if not sizes:
            raise ValueError("group_size is empty")
        mode, method = str(value.get("mode", "affine")), str(value.get("method", RTN))
        return cls(int(value["bits"]), tuple(int(size) for size in sizes), mode, method)

    def __str__(self) -> str:
        text = "/".join((str(self.formats[0]), *(str(size) for size in self.group_sizes[1:])))
        return text if self.method == RTN else f"{text}, {self.method}"


def shape_formats(words: int, groups: int, scales: str) -> list[Format]:
    """The formats that rows of packed words and of scales of a dtype allow where no width is known, most bits first.

    Only ``bits · group_size = 32 · words / groups`` is certain: 16 words and 1 scale are 8-bit g64 or 4-bit g128.
    Bits that are only taken by name are among them where they alone fit, or last.
    """
    affine = scales in FLOATS
    if not affine and scales != "U8":
        return []
    return [
        Format(bits, group, mode)
        for mode, (sizes, widths) in MODES.items()
        if (mode == "affine") == affine
        for bits in (*reversed(widths), *BY_NAME.get(mode, ()))
        for group in sizes
        if bits * group * groups == 32 * words
    ]


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a dense tensor. ``nbytes("BF16", (2, 3)) == 12``."""
    return DTYPES[dtype].nbytes * prod(shape)


def carrier(dtype: str) -> np.dtype[Any]:
    """The numpy dtype of arrays that hold a dtype's values or bit patterns. ``carrier("BF16") == np.uint16``."""
    import numpy as np

    return np.dtype(DTYPES[dtype].carrier)


def widen(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Values of F32, F16, BF16 or F8_E8M0, in an array of their carrier, as float32 of the same shape; all are exact.

    A bfloat16 is the upper half of a float32. A code s of E8M0 is 2^(s - 127).
    """
    import numpy as np

    if dtype == "BF16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "F8_E8M0":
        return np.ldexp(np.float32(1), values.astype(np.int32) - 127).astype(np.float32)
    assert dtype in FLOATS, f"{dtype} is not widened here"
    return values.astype(np.float32, copy=False)


def nonfinite(values: NDArray[Any], dtype: str) -> NDArray[np.bool_]:
    """Which values are infinite or NaN, by their bits; `values` are an array of the carrier, or raw bytes (…, n bytes).

    Raw bytes of shape (rows, columns * itemsize) give (rows, columns).
    """
    exponent = DTYPES[dtype].exponent
    assert exponent is not None, f"{dtype} has no exponent"
    words = values.view(f"uint{8 * DTYPES[dtype].nbytes}")
    mask = words.dtype.type(exponent)
    result: NDArray[np.bool_] = (words & mask) == mask
    return result
