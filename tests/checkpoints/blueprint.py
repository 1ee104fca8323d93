"""A checkpoint before it has values: its config, and the names, shapes and distributions of its tensors.

An architecture is a function from a `Size` to a `Blueprint`; `files.write` draws the values. The spreads are chosen
so that activations keep their scale through any number of layers and logits spread over a few units: a model made
here runs, in any precision, without overflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from mlxquant.words.formats import TORCH_DTYPES, nbytes

HEAD = 64  # width of an attention head, and of a linear-attention key or value head


@dataclass(frozen=True, slots=True)
class Size:
    """How large a model is. The defaults make about 5 MB; every width is a multiple of 128.

    The benchmark's 3.3 GB: ``Size(layers=8, hidden=1024, experts=128, experts_per_token=8, inner=512)``.
    """

    layers: int = 4
    hidden: int = 128
    experts: int = 8
    experts_per_token: int = 2
    inner: int = 128  # width of one expert
    vocab: int = 512
    dtype: str = "bfloat16"  # as config.json says it

    @property
    def heads(self) -> int:
        """Attention heads: together as wide as the model, but at least 4."""
        return max(4, self.hidden // HEAD)

    @property
    def stored(self) -> str:
        """The dtype in safetensors' words."""
        return TORCH_DTYPES[self.dtype]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor to be written: gaussian with `mean` and `std`, or any bytes (`fill="bytes"`).

    `dtype` is safetensors' word. For U8 the gaussian is rounded and clipped to 0…255.
    """

    name: str
    shape: tuple[int, ...]
    std: float
    mean: float = 0.0
    dtype: str = "BF16"
    fill: Literal["normal", "bytes"] = "normal"

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return nbytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """config.json, the tensors in the Hub's names, and further JSON files by name."""

    config: dict[str, Any]
    tensors: list[Tensor]
    files: dict[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for t in self.tensors)


def matrix(name: str, *shape: int, dtype: str, gain: float = 1.0) -> Tensor:
    """Plan a matrix of shape (..., out, in) that keeps its input's scale: ``std = gain / sqrt(in)``."""
    return Tensor(name, shape, gain * shape[-1] ** -0.5, dtype=dtype)


def vector(name: str, *shape: int, dtype: str, mean: float = 0.0, std: float = 0.05) -> Tensor:
    """Plan a norm's weight, a bias or the like."""
    return Tensor(name, shape, std, mean, dtype)


def norm(path: str, width: int, dtype: str, mean: float = 1.0) -> Tensor:
    """Plan a norm's weight, around 1 unless the model adds 1 itself."""
    return vector(f"{path}.weight", width, dtype=dtype, mean=mean)


def linear(path: str, out: int, into: int, dtype: str, *, bias: bool = False, gain: float = 1.0) -> Iterator[Tensor]:
    """Plan a linear layer: weight (out, in) and perhaps a bias (out,)."""
    yield matrix(f"{path}.weight", out, into, dtype=dtype, gain=gain)
    if bias:
        yield vector(f"{path}.bias", out, dtype=dtype)


def embedding(path: str, size: Size, *, tied: bool = False) -> Tensor:
    """Plan the token embedding (vocab, hidden), of unit spread, or that of `head` where it serves as such."""
    return head(path, size) if tied else Tensor(f"{path}.weight", (size.vocab, size.hidden), 1.0, dtype=size.stored)


def head(path: str, size: Size) -> Tensor:
    """Plan the output head (vocab, hidden); logits then have a spread of 2."""
    return matrix(f"{path}.weight", size.vocab, size.hidden, dtype=size.stored, gain=2.0)


def attention(path: str, size: Size, *, width: int | None = None, bias: bool = False) -> Iterator[Tensor]:
    """Plan grouped-query attention's four projections, with two heads of keys and values.

    `width` is that of all query heads together, where it is not `size.heads` of them.
    """
    width, dtype = width or size.heads * HEAD, size.stored
    yield from linear(f"{path}.q_proj", width, size.hidden, dtype, bias=bias)
    yield from linear(f"{path}.k_proj", 2 * HEAD, size.hidden, dtype, bias=bias)
    yield from linear(f"{path}.v_proj", 2 * HEAD, size.hidden, dtype, bias=bias)
    yield from linear(f"{path}.o_proj", size.hidden, width, dtype, bias=bias)


def swiglu(path: str, inner: int, size: Size, names: tuple[str, str, str] | None = None) -> Iterator[Tensor]:
    """Plan a gated MLP; `names` are those of its gate, up and down projections."""
    gate, up, down = names or ("gate_proj", "up_proj", "down_proj")
    yield from linear(f"{path}.{gate}", inner, size.hidden, size.stored)
    yield from linear(f"{path}.{up}", inner, size.hidden, size.stored)
    yield from linear(f"{path}.{down}", size.hidden, inner, size.stored)


def block_norms(path: str, size: Size, mean: float = 1.0) -> Iterator[Tensor]:
    """Plan the two norms of a transformer block."""
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield norm(f"{path}.{name}", size.hidden, size.stored, mean)


def mamba2(path: str, size: Size, *, head_dim: int, states: int, kernel: int) -> Iterator[Tensor]:
    """Plan a Mamba-2 mixer, twice as wide as the model, with one group of states."""
    width, dtype = 2 * size.hidden, size.stored
    heads, mixed = width // head_dim, width + 2 * states
    yield from linear(f"{path}.in_proj", width + mixed + heads, size.hidden, dtype)
    yield matrix(f"{path}.conv1d.weight", mixed, 1, kernel, dtype=dtype)
    yield vector(f"{path}.conv1d.bias", mixed, dtype=dtype)
    yield vector(f"{path}.dt_bias", heads, mean=-3.0, std=0.5, dtype=dtype)
    yield vector(f"{path}.A_log", heads, mean=1.5, std=0.5, dtype="F32")
    yield vector(f"{path}.D", heads, mean=1.0, dtype=dtype)
    yield norm(f"{path}.norm", width, dtype)
    yield from linear(f"{path}.out_proj", size.hidden, width, dtype)
