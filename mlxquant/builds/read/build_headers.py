"""The files of a build as mlx-lm would find them: config, headers of the shards, and what the index says of them.

Where a source is refused (see `checkpoint`), a build is examined: whatever of it can be read is read, and what
does not fit is one sentence in `disagreements`. Only what leaves nothing to examine is an error: no readable
config.json, no shard, a shard whose header is damaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import BuildError, SourceError, listed
from ...source.checkpoint import INDEX, Checkpoint, plain_name, read_config, read_file_header
from ...source.headers import Tensor, load_json


@dataclass(frozen=True)
class Files:
    """A build's folder: its checkpoint (config, tensors), the index's own totals, and what does not fit."""

    checkpoint: Checkpoint
    index: Mapping[str, Any] | None
    disagreements: tuple[str, ...]
    notes: tuple[str, ...]


def read_files(folder: Path) -> Files:
    """Read a build's config and headers. Raises BuildError, naming every file that cannot be read."""
    if not folder.is_dir():
        raise BuildError(f"{folder}: no such folder; a build is a folder with config.json and model*.safetensors")
    try:
        config = read_config(folder / "config.json", folder / "generation_config.json")
    except SourceError as error:
        raise BuildError(str(error)) from None
    names = sorted(p.name for p in folder.glob("model*.safetensors"))  # as mlx-lm looks for them
    if not names:
        others = len(list(folder.glob("*.safetensors")))
        more = f" ({others} *.safetensors of other names, which mlx-lm does not load)" if others else ""
        raise BuildError(f"{folder}: no model*.safetensors in it{more}; is it a build's folder?")
    disagreements: list[str] = []
    tensors, sizes = _read_shards(folder, names, disagreements)
    index, notes = None, list[str]()
    if (folder / INDEX).is_file():
        index = _read_index(folder, disagreements)
    else:
        notes.append(f"{INDEX}: not there; mlx-lm does without, other tools may not")
    if index is not None:
        disagreements += _against_index(index, tensors, set(names))
    checkpoint = Checkpoint(folder.name or str(folder), folder, config, tensors, sizes)
    return Files(checkpoint, index, tuple(disagreements), tuple(notes))


def _read_shards(folder: Path, names: list[str], disagreements: list[str]) -> tuple[dict[str, Tensor], dict[str, int]]:
    tensors: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    problems: list[str] = []
    for name in names:
        try:
            found, sizes[name] = read_file_header(folder / name)
        except SourceError as error:
            problems.append(str(error))
            continue
        for tensor in found:
            if tensor.name in tensors:
                where = tensors[tensor.name].file
                disagreements.append(f"{tensor.name}: stands in {where} and in {name}; which one loads is chance")
            tensors[tensor.name] = tensor
    if problems:
        raise BuildError(listed(problems))
    return tensors, sizes


def _read_index(folder: Path, disagreements: list[str]) -> Mapping[str, Any] | None:
    try:
        index = load_json((folder / INDEX).read_bytes(), INDEX)
    except (SourceError, OSError) as error:
        disagreements.append(str(error))
        return None
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        disagreements.append(f"{INDEX}: has no weight_map, which says which file holds which tensor")
        return None
    outside = sorted({str(f)[:80] for f in weight_map.values() if not plain_name(f)})
    if outside:
        disagreements.append(f"{INDEX}: points outside its folder: {', '.join(outside[:3])}")
    return index


def _against_index(index: Mapping[str, Any], tensors: Mapping[str, Tensor], names: set[str]) -> Iterator[str]:
    """What the index says that the shards do not bear out."""
    weight_map = {n: f for n, f in index["weight_map"].items() if plain_name(f)}
    held = Counter(weight_map.values())
    for file in sorted(held.keys() - names):
        yield f"{file}: named by the index with {held[file]:,} tensors, but not in the folder"
    for file in sorted(names - held.keys()):
        yield f"{file}: not in the index, yet mlx-lm loads it"
    for name, file in weight_map.items():
        if file in names and name not in tensors:
            yield f"{name}: the index says it is in {file}; no shard holds it"
        elif name in tensors and tensors[name].file != file:
            yield f"{name}: the index says it is in {file}; it is in {tensors[name].file}"
    for name, tensor in tensors.items():
        if name not in weight_map and tensor.file in held:
            yield f"{name}: in {tensor.file}, but not in the index"
    total = sum(t.nbytes for t in tensors.values())
    stated = _metadata(index).get("total_size")
    if stated is not None and stated != total:
        yield f"{INDEX}: total_size says {_number(stated)} bytes, the tensors have {total:,}"


def parameters_stated(index: Mapping[str, Any] | None) -> Any:
    """What the index says the build's parameters are, or None."""
    return _metadata(index).get("total_parameters") if index is not None else None


def _metadata(index: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = index.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else repr(value)[:40]
