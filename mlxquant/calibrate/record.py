"""The calibration file: mean squares of inputs and counts in a safetensors file, with a record of where they come from.

    PATH.squares   float32 (2, sets, columns)   mean squares of documents to fit, then of those held out
    PATH.rows      int64 (2, sets)              rows of each

The metadata `mlxquant.calibration` is the record as JSON: head, source (what tells its files apart), documents (hash,
count, tokens), model. A build by another checkpoint's calibration would be weighed by figures of another model, so it
is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy as st
import xxhash

from ..errors import DataError
from ..layout.layout import Layout
from ..records.head import head
from ..source.checkpoint import Checkpoint
from ..source.stamps import source_signature
from ..words.modules import Module
from .inputs import InputSums, Sums
from .weights import CalibratedColumns

SCHEMA = "mlxquant.calibration/1"
KEY = "mlxquant.calibration"


def fingerprint(source: Checkpoint) -> dict[str, Any]:
    """What tells that a calibration is of this source: sizes and samples of files, config; not names or dates."""
    signature = source_signature(source)
    files = {name: {k: v for k, v in entry.items() if k != "mtime_ns"} for name, entry in signature["files"].items()}
    return {"revision": signature["revision"], "files": files, "config": signature["config"]}


def calibration_bytes(sums: InputSums, record: Mapping[str, Any]) -> bytes:
    """The file. `record` has source, documents and whatever else a reader should know."""
    arrays: dict[str, Any] = {}
    for path, each in sums.sums.items():
        if each.rows.any():
            arrays[f"{path}.squares"] = (each.squares / np.maximum(each.rows, 1)[..., None]).astype(np.float32)
            arrays[f"{path}.rows"] = each.rows
    return st.save(arrays, {KEY: json.dumps({**head(SCHEMA), **record}, sort_keys=True)})


def as_stored(sums: Sums) -> Sums:
    """Sums as they come back from a file, whose mean squares are float32."""
    rows = np.maximum(sums.rows, 1)[..., None]
    return Sums((sums.squares / rows).astype(np.float32).astype(np.float64) * rows, sums.rows)


@dataclass(frozen=True)
class Calibration:
    """A calibration file of a source: its documents are known at once, its column weights when the modules are."""

    path: Path
    source: Checkpoint

    def documents(self) -> dict[str, Any]:
        """What it says of its documents (name, count, tokens, hashes). Raises what `read_calibration` raises."""
        documents: dict[str, Any] = _read(self.path, self.source)[1]["documents"]
        return documents

    def columns(self, layout: Layout) -> CalibratedColumns:
        """The column weights of a layout's modules. Raises what `read_calibration` raises."""
        return read_calibration(self.path, self.source, layout.modules)


def read_calibration(path: Path, source: Checkpoint, modules: Sequence[Module]) -> CalibratedColumns:
    """Read a file for a source with these modules. Raises DataError for a file that is none or another source's."""
    data, record, arrays = _read(path, source)
    rows_each = {m.path: m.shape[-2] for m in modules if len(m.shape) > 1}
    sums: dict[str, Sums] = {}
    for name in arrays:
        base, _, part = name.rpartition(".")
        if part == "squares":
            rows = arrays[f"{base}.rows"]
            sums[base] = Sums(arrays[name].astype(np.float64) * np.maximum(rows, 1)[..., None], rows)
    return CalibratedColumns(
        sums, rows_each, {"hash": xxhash.xxh3_128_hexdigest(data), "documents": record["documents"]}
    )


def _read(path: Path, source: Checkpoint) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """A file's bytes, record and arrays."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        size = int.from_bytes(data[:8], "little")
        record = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][KEY])
        arrays = st.load(data)
        schema, own, _ = record["schema"], record["source"]["fingerprint"], int(record["documents"]["count"])
    except Exception:  # noqa: BLE001 - whatever safetensors and json raise for bytes that are something else
        raise DataError(f"{path}: a file written by `mlxquant calibrate` expected, something else found") from None
    if schema != SCHEMA:
        raise DataError(f"{path}: schema {SCHEMA} expected, {schema!r} found; calibrate again")
    if own != fingerprint(source):
        raise DataError(
            f"{path}: was made from {record['source'].get('name')!r}, whose files or config differ from"
            f" {source.name}'s; run `mlxquant calibrate` on this checkpoint"
        )
    return data, record, arrays
