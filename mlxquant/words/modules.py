"""The words for what a model is made of: roles, arrays, modules.

A *module* is what mlx quantizes or leaves alone as one: a Linear, an Embedding, a switched (stacked) expert
projection, a norm; or a single array that a larger module holds directly, such as `A_log`. `layout` makes
these from a model class, `recipe` matches rules against them, `plan` decides on each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from .formats import Format, nbytes
from .text import either

ROLES = (
    "embedding", "lm_head", "router", "shared_expert_gate", "expert", "shared_expert", "mlp",
    "attention", "linear_attention", "norm", "vision", "mtp", "other",
)  # fmt: skip

# `hybrid` layers mix tokens both ways, side by side; `mlp` and `moe` layers do not mix them at all
LAYER_TYPES = (
    "full_attention", "sliding_attention", "chunked_attention", "linear_attention", "hybrid", "mlp", "moe",
)  # fmt: skip

# What configs and people call a layer -> the word of LAYER_TYPES
LAYER_TYPE_WORDS: dict[str, str] = {
    **{word: word for word in LAYER_TYPES},
    "attention": "full_attention", "full": "full_attention", "global": "full_attention",
    "global_attention": "full_attention", "dense": "full_attention", "*": "full_attention",
    "sliding_window": "sliding_attention", "sliding": "sliding_attention", "local": "sliding_attention",
    "local_attention": "sliding_attention", "swa": "sliding_attention",
    "chunked": "chunked_attention",
    "linear": "linear_attention", "mamba": "linear_attention", "mamba2": "linear_attention", "ssm": "linear_attention",
    "recurrent": "linear_attention", "gated_deltanet": "linear_attention", "conv": "linear_attention",
    "short_conv": "linear_attention", "rwkv": "linear_attention", "M": "linear_attention",
    "-": "mlp", "E": "moe",
}  # fmt: skip

# The kind of a module that mlx-lm has no class for: it is carried along for other readers (see `layout.carried`).
CARRIED = "carried"
# The kind of arrays of a build whose packing is not one of mlx's: nothing says how many values they hold.
UNREAD = "unread"


@dataclass(frozen=True, slots=True)
class Array:
    """One array of a module: its suffix (`weight`, `bias`, …), logical shape, dtype in source and build.

    `stored_nbytes` are the bytes that the source stores of it where shape and dtype do not tell: packed codes, their
    scales and zero points.
    """

    name: str
    shape: tuple[int, ...]
    source_dtype: str
    dtype: str
    stored_nbytes: int | None = None

    @property
    def source_nbytes(self) -> int:
        """Bytes that the source stores of it."""
        return nbytes(self.source_dtype, self.shape) if self.stored_nbytes is None else self.stored_nbytes

    @property
    def nbytes(self) -> int:
        """Bytes when stored unquantized in the build's dtype."""
        return nbytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class Module:
    """One module of the MLX model, as its class defines it and the source fills it.

    `shape` is that of the weight: (out, in), or (n_experts, out, in) for switched experts. `model_rule` is
    what the class's own quant_predicate answers: True (the default format), False (keep), a Format, or
    None where the class has no predicate. `quantizable` says that mlx can quantize it (`to_quantized`);
    `prequantized` is the format in which the source already stores it (gpt-oss MXFP4), else None. `tower` says that it
    is part of a vision or audio tower that its library's converter leaves alone. `kept` is the
    format of mlx that the bits of a packed source are, though it is read as floats; `not_kept` says why there is none.
    """

    path: str
    kind: str
    role: str
    layer: int | None
    layer_type: str | None
    arrays: tuple[Array, ...]
    quantizable: bool
    model_rule: Format | bool | None = None
    prequantized: Format | None = None
    tower: bool = False
    kept: Format | None = None
    not_kept: str = ""

    @property
    def weight(self) -> Array:
        """The array that gives the module its shape: `weight` where there is one, else the first."""
        return next((a for a in self.arrays if a.name in ("weight", "")), self.arrays[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape of the weight."""
        return self.weight.shape

    @property
    def parameters(self) -> int:
        """Number of values in all its arrays, before quantization; 0 where nothing tells it (UNREAD)."""
        return 0 if self.kind == UNREAD else sum(prod(a.shape) for a in self.arrays)

    def facts(self) -> dict[str, Any]:
        """What plan and audit records alike say of a module, whatever becomes of it."""
        return {
            "path": self.path,
            "kind": self.kind,
            "role": self.role,
            "layer": self.layer,
            "layer_type": self.layer_type,
            "shape": list(self.shape),
            "parameters": self.parameters,
        }


def stored_as(fmt: Format | None, dtype: str) -> str:
    """How values are stored: in a format, or in a dtype. ``"8-bit g64"`` or ``"bf16"``."""
    return str(fmt) if fmt else dtype.lower()


def is_raw_router(module: Module) -> bool:
    """Whether this is a router whose matrix is a raw array, which mlx has no quantized form of."""
    raw = not module.quantizable and module.prequantized is None and module.kind != CARRIED
    return raw and module.role == "router" and len(module.shape) > 1


def unaligned_reason(group_sizes: Sequence[int], width: int) -> str:
    """Why a module whose input dimension no group size divides stays as it is."""
    return f"left unquantized: group size {either(group_sizes)} does not divide its input dimension {width}"
