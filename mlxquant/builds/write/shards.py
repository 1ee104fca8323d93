"""Placing a build's arrays in safetensors files, down to the byte, before the first is written.

As mlx-lm does: arrays in the model's order, a new file when the next one would pass 5 GiB, a larger array in
a file of its own; `model.safetensors`, or `model-00001-of-0000N.safetensors`. The header of a file is known
from names, dtypes and shapes alone, so files can be filled in any order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ...plan.plan import OutputArray

SHARD_BYTES = 5 << 30


@dataclass(frozen=True, slots=True)
class Placed:
    """An array and where its first byte lies in its file."""

    array: OutputArray
    start: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the build: its header's bytes and the arrays behind it, in order, without gaps."""

    name: str
    header: bytes
    arrays: tuple[Placed, ...]

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(p.array.nbytes for p in self.arrays)


def place(arrays: Sequence[OutputArray], limit: int = SHARD_BYTES) -> list[Shard]:
    """Assign arrays to files, in order, each file at most `limit` bytes of tensors."""
    groups: list[list[OutputArray]] = []
    size = 0
    for array in arrays:
        if not groups or size + array.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(array)
        size += array.nbytes
    count = len(groups)
    names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    return [_shard(n, g) for n, g in zip(names if count > 1 else ["model.safetensors"], groups, strict=True)]


def place_apart(name: str, arrays: Sequence[OutputArray]) -> list[Shard]:
    """One file of its own, which the index does not name; none where there are no arrays.

    Its tensors are as the Hub has them, and it says so by the Hub's format: mlx-vlm takes "mlx" for done already.
    """
    return [_shard(name, arrays, "pt")] if arrays else []


def index(shards: Sequence[Shard], parameters: int) -> bytes:
    """The text of model.safetensors.index.json: which file holds which array, names sorted."""
    files = {p.array.name: s.name for s in shards for p in s.arrays}
    total = sum(p.array.nbytes for s in shards for p in s.arrays)
    table = {
        "metadata": {"total_size": total, "total_parameters": parameters},
        "weight_map": dict(sorted(files.items())),
    }
    return json.dumps(table, indent=4).encode()


def _shard(name: str, arrays: Sequence[OutputArray], form: str = "mlx") -> Shard:
    table: dict[str, object] = {"__metadata__": {"format": form}}
    at = 0
    for a in arrays:
        table[a.name] = {"dtype": a.dtype, "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # safetensors keeps the data 8-byte aligned
    header = len(text).to_bytes(8, "little") + text
    starts, at = [], len(header)
    for a in arrays:
        starts.append(at)
        at += a.nbytes
    return Shard(name, header, tuple(Placed(a, s) for a, s in zip(arrays, starts, strict=True)))
