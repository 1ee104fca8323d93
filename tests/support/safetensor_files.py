"""Writing safetensors files byte by byte, sound or damaged, for the tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxquant.words.formats import DTYPES

SAFETENSORS = {
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "float16": "F16",
    "float32": "F32",
    "int32": "I32",
}


def header(entries: Mapping[str, tuple[str, list[int]]]) -> dict[str, Any]:
    """A sound header for tensors (dtype, shape), one after another."""
    table: dict[str, Any] = {}
    at = 0
    for name, (dtype, shape) in entries.items():
        size = int(np.prod(shape, dtype=object)) * DTYPES[dtype].nbytes
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return table


def encoded(table: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A whole file: the header as JSON (or as the text given), its length (or a false one), the data."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def write_shard(path: Path, arrays: Mapping[str, NDArray[Any]], *, dtypes: Mapping[str, str] | None = None) -> None:
    """Write arrays as a shard; `dtypes` names those that numpy lacks (BF16 as uint16)."""
    named = {n: ((dtypes or {}).get(n) or SAFETENSORS[str(a.dtype)], list(a.shape)) for n, a in arrays.items()}
    path.write_bytes(encoded(header(named), b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values())))


def rewrite_header(path: Path, change: Any) -> None:
    """Rewrite a shard's header by a function of its table, the data as they are."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    path.write_bytes(encoded(change(table) or table, data[8 + length :]))
