"""Write a blueprint to disk as the Hub has it: safetensors shards, their index, config, tokenizer.

Values are drawn by looking up random 16-bit numbers in a table of 65,536 gaussian quantiles in the tensor's own
dtype, which is about as fast as a disk. A block is in memory at a time, so that a file of any size can be written.
Bytes depend on seed, name and distribution alone. numpy is imported when something is written.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mlxquant.words.formats import DTYPES
from tests.checkpoints.blueprint import Blueprint, Tensor
from tests.checkpoints.tokenizer import write_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BLOCK = 1 << 19  # values drawn at a time: 1 MiB of bf16, which stays in the cache
_FLOAT8_MAX = 448.0  # largest E4M3 value; the codes above it are NaN


def write(folder: Path, blueprint: Blueprint, *, seed: int = 0, shards: int = 1) -> None:
    """Write config, tokenizer, shards and index into `folder`, which is made if need be.

    A single shard is model.safetensors, without an index, as on the Hub. A tensor's bytes are the same
    however many shards there are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    for name, content in {"config.json": blueprint.config, **blueprint.files}.items():
        _write_json(folder / name, content)
    parts = split(blueprint.tensors, shards)
    names = ["model.safetensors"]
    if len(parts) > 1:
        names = [f"model-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)]
        weight_map = {t.name: name for name, part in zip(names, parts, strict=True) for t in part}
        index = {"metadata": {"total_size": blueprint.nbytes}, "weight_map": dict(sorted(weight_map.items()))}
        _write_json(folder / "model.safetensors.index.json", index)
    for name, part in zip(names, parts, strict=True):
        with (folder / name).open("wb") as file:
            _write_shard(file, part, seed)


def split(tensors: Sequence[Tensor], shards: int) -> list[list[Tensor]]:
    """Divide tensors, in order, into at most `shards` parts of about equal bytes; none is empty."""
    parts: list[list[Tensor]] = [[] for _ in range(shards)]
    total, done = sum(t.nbytes for t in tensors), 0
    for tensor in tensors:
        # a tensor belongs where its middle falls
        parts[min(shards - 1, (done + tensor.nbytes // 2) * shards // total)].append(tensor)
        done += tensor.nbytes
    return [part for part in parts if part]


def _write_shard(file: IO[bytes], tensors: Sequence[Tensor], seed: int) -> None:
    # safetensors lays out wide dtypes first, then by name, which keeps every offset aligned
    ordered = sorted(tensors, key=lambda t: (-DTYPES[t.dtype].nbytes, t.name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for t in ordered:
        header[t.name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [offset, offset + t.nbytes]}
        offset += t.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for t in ordered:
        for block in _blocks(t, seed):
            file.write(block)


def _blocks(tensor: Tensor, seed: int) -> Iterator[memoryview]:
    """Draw the tensor's bytes, a block at a time. The generator's stream is fixed by seed and name."""
    import numpy as np

    bits = np.random.SFC64([seed, zlib.crc32(tensor.name.encode())])
    table = _table(tensor.dtype, tensor.mean, tensor.std, tensor.fill)
    out = np.empty(_BLOCK, table.dtype)
    left = prod(tensor.shape)
    while left:
        count = min(left, _BLOCK)
        drawn = bits.random_raw(-(-count // 4)).view("<u2")[:count]
        np.take(table, drawn, out=out[:count], mode="clip")
        yield out[:count].data
        left -= count


@lru_cache(maxsize=64)
def _table(dtype: str, mean: float, std: float, fill: str) -> NDArray[Any]:
    """The 65,536 equally likely values of a tensor, in its dtype: shape (65536,)."""
    import numpy as np

    if fill == "bytes":
        return np.arange(1 << 16).astype("u1")
    values: NDArray[np.float64] = mean + std * _quantiles()
    if dtype == "U8":
        return np.clip(np.rint(values), 0, 255).astype("u1")
    if dtype == "F8_E4M3":
        distance = np.abs(_float8_values()[:, None] - np.clip(values[::16], -_FLOAT8_MAX, _FLOAT8_MAX))
        return np.repeat(distance.argmin(0).astype("u1"), 16)
    if dtype == "BF16":
        bits = values.astype("<f4").view("<u4")
        # round half to even: add half of the last kept bit, and that bit itself
        rounded: NDArray[np.uint32] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return rounded.astype("<u2")
    return values.astype({"F16": "<f2", "F32": "<f4"}[dtype])


@lru_cache(maxsize=1)
def _quantiles() -> NDArray[np.float64]:
    """Standard normal quantiles at the middles of 65,536 equal parts; the outermost are ±4.32."""
    from statistics import NormalDist

    import numpy as np

    inverse = NormalDist().inv_cdf
    return np.array([inverse((i + 0.5) / (1 << 16)) for i in range(1 << 16)])


def _float8_values() -> NDArray[np.float64]:
    """Values of the 256 E4M3 codes (4 exponent bits, bias 7); NaN becomes infinity, nearest to nothing."""
    import numpy as np

    code = np.arange(256)
    exponent, fraction = (code >> 3) & 15, code & 7
    value = np.where(exponent == 0, fraction * 2.0**-9, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    value[(code & 127) == 127] = np.inf
    return np.where(code > 127, -value, value)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
