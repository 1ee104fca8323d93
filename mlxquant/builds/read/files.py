"""The files of a build as mlx-lm would find them: config, headers of the shards, index; and what the config claims.

Where a source is refused (see `source.checkpoint`), a build is examined: whatever of it can be read is read, and what
does not fit is one sentence in `disagreements`. Only what leaves nothing to examine is an error: no readable
config.json, no shard, a shard whose header is damaged.

A config's claims are its `quantization`: `group_size`, `bits`, `mode` at the top level, and entries ``path: {…}`` or
``path: false``. An entry decides for its module. A module without one is inferred from shapes by mlx-lm 0.32, and
taken for the top level by the version that LM Studio pins; so both must fit. `quantization_config` is the same again,
for the Hub. What the shards hold is for `layout` to say; here the two are only compared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...disk.files import read_regular
from ...errors import BuildError, SourceError
from ...source.checkpoint import LARGEST_SMALL, Checkpoint, read_config, read_file_header
from ...source.headers import Tensor, load_json
from ...source.index import INDEX, plain_name
from ...words.formats import MODE_DEFAULTS, Format
from ...words.text import counted, cut, listed, some

# --- files ---


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
        notes.append(f"{INDEX}: missing; mlx-lm loads the build without it, other tools may not")
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
            header, sizes[name] = read_file_header(folder / name)
        except SourceError as error:
            problems.append(str(error))
            continue
        for tensor in header:
            if tensor.name in tensors:
                where = tensors[tensor.name].file
                disagreements.append(
                    f"{tensor.name}: stands in {where} and in {name}; which one is loaded is undefined"
                )
            tensors[tensor.name] = tensor
    if problems:
        raise BuildError(listed(problems))
    return tensors, sizes


def _read_index(folder: Path, disagreements: list[str]) -> Mapping[str, Any] | None:
    try:
        index = load_json(read_regular(folder / INDEX, LARGEST_SMALL), INDEX)
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
    """Where the shards contradict the index."""
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


# --- claims ---


@dataclass(frozen=True, slots=True)
class Claims:
    """A config's `quantization`: `top` for what no entry names, `entries` (None is `false`), what is malformed."""

    present: bool
    top: Format | None
    entries: Mapping[str, Format | None]
    problems: tuple[str, ...]

    def of(self, path: str) -> Format | None:
        """The format that the config gives a module, if it is quantized."""
        return self.entries.get(path, self.top)


def read_claims(config: Mapping[str, Any]) -> Claims:
    """Read a config's claims; what cannot be read is a sentence in `problems`."""
    problems: list[str] = []
    block, twin = config.get("quantization"), config.get("quantization_config")
    if block is None:
        if not isinstance(twin, dict) or "bits" not in twin or "quant_method" in twin:
            return Claims(False, None, {}, ())
        problems.append(
            "config.json: has quantization_config, but no quantization, which mlx-lm reads; it cannot load the build"
        )
        block = twin
    if not isinstance(block, dict):
        problems.append(f"config.json: quantization is a table, not {_short(block)}")
        return Claims(True, None, {}, tuple(problems))
    if twin is not None and twin != block:
        problems.append(f"config.json: quantization and quantization_config differ: {_difference(block, twin)}")
    top = _format(block, "quantization", problems) if {"bits", "group_size"} <= block.keys() else None
    if top is None:
        problems.append("config.json: quantization gives no bits and group_size for the build, which mlx-lm asks for")
    entries: dict[str, Format | None] = {}
    for path, value in block.items():
        if value is False:
            entries[path] = None
        elif value is True and top is not None:
            entries[path] = top
        elif isinstance(value, dict) and (fmt := _format(value, f"quantization: {path}", problems)) is not None:
            entries[path] = fmt
    return Claims(True, top, entries, tuple(problems))


def against_shards(
    claims: Claims,
    formats: Mapping[str, Format | None],
    unclear: frozenset[str],
    unplaced: frozenset[str],
    origins: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    """Where the shards contradict the config, alike cases in one sentence.

    `formats` are what the shards hold, by module path; `unclear` are paths whose format is not certain, `unplaced`
    those that mlx-lm's class does not have. `origins` has the paths of the tensors that a module is made of at each
    load, where these are of an older layout; a config of that time has its entries under those names.
    """
    if not claims.present:
        held = [p for p, f in formats.items() if f is not None and p not in unplaced]
        if held:
            yield f"config.json: has no quantization, so mlx-lm cannot load what is packed: {_some(held)}"
        return
    if not any(formats.values()) and not unclear:
        yield f"config.json: says {claims.top}, but nothing in the shards is quantized"
    wrong: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for path, actual in formats.items():
        entry = next((p for p in (path, *origins.get(path, ())) if p in claims.entries), path)
        entered = entry in claims.entries
        if path in unclear or (path in unplaced and not entered):
            continue
        claim = claims.of(entry)
        if claim != actual and (entered or actual is not None) and not (claim is None and not entered):
            wrong[_name(claim), _name(actual), entered].append(path)
    for (claim_name, actual_name, entered), paths in wrong.items():
        if entered:
            yield f"config.json: lists as {claim_name} what the shards hold as {actual_name}: {_some(paths)}"
        else:
            yield (
                f"config.json: says {claim_name} at the top level and lists no other, the shards hold {actual_name}:"
                f" {_some(paths)}"
            )
    yield from _entries_for_nothing(claims, {*formats, *(o for group in origins.values() for o in group)})


def _entries_for_nothing(claims: Claims, paths: Collection[str]) -> Iterator[str]:
    ancestors = {".".join(parts[:n]) for p in paths for parts in [p.split(".")] for n in range(1, len(parts))}
    absent = [p for p in claims.entries if p not in paths and (p not in ancestors or claims.entries[p])]
    if absent:
        yield f"config.json: quantization has entries for modules that are not there: {_some(absent)}"


def _format(value: Mapping[str, Any], where: str, problems: list[str]) -> Format | None:
    """One claim as mlx reads it: what it leaves out is the mode's default."""
    mode = value.get("mode", "affine")
    if not isinstance(mode, str) or mode not in MODE_DEFAULTS:
        problems.append(f"config.json: {where}: mode {_short(mode)} is unknown; mlx has {', '.join(MODE_DEFAULTS)}")
        return None
    group, bits = MODE_DEFAULTS[mode]
    bits, group = value.get("bits", bits), value.get("group_size", group)
    if type(bits) is not int or type(group) is not int:
        problems.append(f"config.json: {where}: bits and group_size are numbers, not {_short(value)}")
        return None
    fmt = Format(bits, group, mode)
    if problem := fmt.problem():
        problems.append(f"config.json: {where}: {problem}")
    return fmt


def _difference(block: Mapping[str, Any], twin: Any) -> str:
    """The first key in which two blocks differ."""
    if not isinstance(twin, dict):
        return f"the second is {_short(twin)}"
    missing = object()
    for key in (*block, *(k for k in twin if k not in block)):
        one, other = block.get(key, missing), twin.get(key, missing)
        if one != other:
            return f"{key} is {_short(one) if one is not missing else 'absent'}" + (
                f" and {_short(other) if other is not missing else 'absent'}"
            )
    return "in the order of their keys"


def _name(fmt: Format | None) -> str:
    return str(fmt) if fmt else "unquantized"


def _some(paths: Sequence[str], limit: int = 6) -> str:
    return f"{counted(len(paths), 'module')} ({some(paths, limit)})"


def _short(value: Any, limit: int = 60) -> str:
    return cut(repr(value), limit, at="end")
