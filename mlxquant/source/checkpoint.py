"""A checkpoint in the Hub's layout: its config, its tensors, and reads of their bytes.

Opening reads headers only. `Checkpoint.read_into` brings bytes by position into a caller's buffer, from any
thread, so memory is the caller's to bound. A `Reader` does it: for a folder `FolderReader`, by `preadv`; for a
repository on the Hub `hub.reader`. A lone config.json is a checkpoint without tensors.

Which tensors make which MLX array is not known here (see `layout`), nor how the Hub is asked (see `hub`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

from ..disk.files import read_regular
from ..errors import SourceError
from ..words.text import listed, some
from .foreign import described, described_folder
from .headers import DOWNLOAD_AGAIN, Tensor, header_length, load_json, parse_header, shown
from .index import INDEX, SHARDS, Gathered, gather_tensors, is_shard, read_index
from .links import open_own, own_files, own_templates, read_own, strays
from .packed import (
    MODELOPT,
    Decoded,
    check_config,
    check_names,
    decoded_tensors,
    ignored_names,
    notes_of,
    quantizes_weights,
    with_modelopt,
)
from .remote_code import refuse_model_code

# --- readers ---


class Reader(Protocol):
    """Where the bytes of a checkpoint's files come from."""

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of `file`, from any thread. Raises SourceError."""

    def listing(self) -> list[str]:
        """Names of the files that lie there, shards and all."""

    def read_whole(self, file: str) -> bytes:
        """Read a small file."""

    def stop(self) -> None:
        """Make waiting reads fail: their results are no longer needed."""

    def close(self) -> None:
        """Close what reads have opened."""


class FolderReader:
    """Reads the files of a folder by position; each is opened once, when first read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handles: dict[str, int] = {}
        self._lock = threading.Lock()

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of `file`. Raises SourceError if the file ends or fails first."""
        try:
            handle = self._open(file)
        except OSError as error:
            raise SourceError(f"{file}: cannot be read at byte {start:,} ({error.strerror})") from error
        read_at(handle, file, start, buffer)

    def listing(self) -> list[str]:
        """Names of the files that lie there, shards and all."""
        names = [*own_files(self.folder), *own_templates(self.folder)]
        return sorted(set(names) - set(too_large(_sizes(self.folder, names))))

    def read_whole(self, file: str) -> bytes:
        """Read a small file. Raises SourceError for one that is none."""
        return read_own(self.folder, file, LARGEST_SMALL)

    def stop(self) -> None:
        """Do nothing: no read waits."""

    def close(self) -> None:
        """Close the files that reads have opened."""
        with self._lock:
            for handle in self._handles.values():
                os.close(handle)
            self._handles.clear()

    def _open(self, file: str) -> int:
        handle = self._handles.get(file)
        if handle is None:
            with self._lock:
                if file not in self._handles:
                    self._handles[file] = open_own(self.folder, file)
                handle = self._handles[file]
        return handle


def read_at(handle: int, file: str, start: int, buffer: memoryview) -> None:
    """Fill `buffer` from byte `start` of an open file. Raises SourceError if it ends or fails first."""
    done = 0
    try:
        while done < len(buffer):
            got = os.preadv(handle, [buffer[done:]], start + done)
            if got == 0:
                raise SourceError(
                    f"{file}: ends at byte {start + done:,}, but {start + len(buffer):,} were there"
                    " when it was opened; it changed while it was read, start again"
                )
            done += got
    except OSError as error:
        raise SourceError(f"{file}: cannot be read at byte {start + done:,} ({error.strerror})") from error


# --- checkpoint ---


# What a build cannot do without: config, weights, and all that a tokenizer may be read from.
_NEEDED = (
    "*config.json", "*.safetensors", INDEX, "tokenizer*", "chat_template*", "vocab.*", "merges.txt", "*.model",
    "*.tiktoken", "special_tokens_map.json", "added_tokens.json", "tekken.json",
)  # fmt: skip
# What of a source may be copied into a build, by suffix: what tokenizers and chat templates are made of.
SIDE_SUFFIXES = (".json", ".jinja", ".model", ".tiktoken", ".txt", ".jsonl")
# Bytes of a file beside the weights, and of all of them that are copied.
LARGEST_SMALL, ALL_SMALL = 256 << 20, 1 << 30
# Tables within a config that readers of it expect to be tables.
_TABLES = ("text_config", "llm_config", "ffn_config", "vision_config", "linear_attn_config")


@dataclass(frozen=True)
class Checkpoint:
    """A source: `config` as mlx-lm would load it, `tensors` by name, `files` sizes by name.

    `name` is what a reader knows it by, in messages and records: a Hub id or a file's or folder's own name, no
    path of one machine. `folder` is None for a lone config.json and for what lies on the Hub; `reader` is that of
    the folder unless another is given. `decoded` are the float tensors that packed ones among `tensors` stand for,
    `hashes` the SHA-256 of files where it is known without reading them.
    """

    name: str
    folder: Path | None
    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    files: Mapping[str, int]
    revision: str | None = None
    notes: tuple[str, ...] = ()
    decoded: Mapping[str, Decoded] = field(default_factory=dict, repr=False, compare=False)
    reader: Reader | None = field(default=None, repr=False, compare=False)
    hashes: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.reader is None and self.folder is not None:
            object.__setattr__(self, "reader", FolderReader(self.folder))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, headers not counted."""
        return sum(t.nbytes for t in self.tensors.values())

    @property
    def sha256_checked(self) -> bool | None:
        """Whether every shard is held against a SHA-256 before it is used; None for a folder, which lists none."""
        return None if self.folder is not None or not self.files else self.hashes.keys() >= self.files.keys()

    @property
    def weights(self) -> dict[str, Tensor]:
        """The tensors as they are to be read: packed ones as the floats that they stand for."""
        taken = {t.name for decoded in self.decoded.values() for t in decoded.stored}
        if self.decoded or not quantizes_weights(self.config):
            taken |= ignored_names(self.config, self.tensors)
        named = {n: self.decoded.get(n, t) for n, t in self.tensors.items() if n in self.decoded or n not in taken}
        return {**named, **self.decoded}

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of `file`. Raises SourceError if the file ends or fails first."""
        assert self.reader is not None, "a config alone has no weights"
        self.reader.read_into(file, start, buffer)

    def close(self) -> None:
        """Close what reads have opened."""
        if self.reader is not None:
            self.reader.close()


def open_checkpoint(path: str | Path, *, name: str | None = None, revision: str | None = None) -> Checkpoint:
    """Open a folder in the Hub's layout, or a lone config.json.

    Raises SourceError for anything that keeps it from being a source, all faults of the shards at once.
    """
    path = Path(path)
    known = name or _known_as(path)
    if path.is_file() and path.suffix == ".json":
        config = read_config(path, None)
        if path.name == "config.json":
            config = with_modelopt(config, read_optional(path.with_name(MODELOPT)))
        check_config(config, known)
        return Checkpoint(known, None, config, {}, {}, notes=notes_of(config, {}))
    if path.is_file():
        content = described([path.name]) if not path.name.endswith(".safetensors") else None
        raise SourceError(
            f"{path}: a folder, a config.json or a Hub id expected, a file found"
            f"{f': {content}' if content else '; give its folder'}"
        )
    if not path.is_dir():
        raise SourceError(f"{path}: no such folder, config.json or Hub id (org/name)")
    _refuse_foreign(path)
    notes = refuse_strays(path)
    config = read_config(path / "config.json", path / "generation_config.json")
    config = with_modelopt(config, read_optional(path / MODELOPT))
    check_config(config, known)
    shards = read_tensors(path)
    tensors, notes = shards.tensors, (*notes, *shards.notes)
    check_names(config, tensors, known)
    decoded = decoded_tensors(config, tensors)
    notes = (*notes, *notes_of(config, decoded, tensors))
    return Checkpoint(known, path, config, tensors, shards.files, revision, notes, decoded)


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder without config.json, or without shards and index, where its names say what it is instead."""
    names = _names(folder)
    if "config.json" in names and (INDEX in names or any(map(is_shard, names))):
        return
    lacking = f"no {SHARDS} in it" if "config.json" in names else "has no config.json"
    if content := described_folder(folder):
        raise SourceError(f"{folder}: {lacking}, but {content}")


def too_large(sizes: Mapping[str, int | None]) -> dict[str, str]:
    """Files that would be copied into a build, were they not too large, and why; SourceError for a needed one.

    They are held in memory one at a time, whatever --max-memory says, so what they may take is bounded here.
    """
    left_out: dict[str, str] = {}
    total = 0
    for name, size in sorted(sizes.items(), key=lambda item: item[1] or 0):
        if Path(name).suffix not in SIDE_SUFFIXES or name.startswith("."):
            continue
        total += size or 0
        if (size or 0) <= LARGEST_SMALL and total <= ALL_SMALL:
            continue
        why = f"{size:,} bytes; files beside the weights are copied up to {LARGEST_SMALL:,}, {ALL_SMALL:,} in all"
        if is_needed(name):
            raise SourceError(f"{name}: {why}")
        left_out[name] = why
    return left_out


def _sizes(folder: Path, names: Iterable[str]) -> dict[str, int | None]:
    return {name: (folder / name).stat().st_size for name in names}


def refuse_strays(folder: Path) -> tuple[str, ...]:
    """Refuse a folder whose config, tokenizer or weights are links out of it, no files or too large.

    Raises SourceError with all of them. Gives notes that name what else is left out of a build, and why.
    """
    problems, notes = list[str](), list[str]()
    try:
        for name, why in strays(folder):
            if is_needed(name):
                problems.append(f"{shown(name)}: {why}")
            elif not name.startswith("."):
                notes.append(f"{shown(name)}: left out, {why}")
        large = too_large(_sizes(folder, [*own_files(folder), *own_templates(folder)]))
        notes += [f"{shown(name)}: left out, {why}" for name, why in large.items()]
    except OSError as error:
        raise SourceError(f"{folder}: cannot be read ({error.strerror})") from None
    if problems:
        raise SourceError(listed(problems))
    return tuple(notes)


def refuse_unloadable(folder: Path) -> None:
    """Refuse a folder for a library to load, where that would wait for a pipe or take a huge tokenizer into memory.

    Raises SourceError with all of them.
    """
    try:
        entries = sorted(folder.iterdir())
        sizes: dict[str, int | None] = {path.name: path.stat().st_size for path in entries if path.is_file()}
        others = [shown(path.name) for path in entries if path.exists() and not (path.is_file() or path.is_dir())]
    except OSError as error:
        raise SourceError(f"{folder}: cannot be read ({error.strerror})") from None
    if others:
        raise SourceError(f"{folder}: files expected, pipes, sockets or devices found: {some(others)}; remove them")
    too_large(sizes)


def is_needed(name: str) -> bool:
    """Whether a source without this file would be another: config, tokenizer, template, weights."""
    return any(fnmatchcase(name.lower(), pattern) for pattern in _NEEDED)


def _known_as(path: Path) -> str:
    """What a reader knows a path by: its last part, and the folder's for a file that is called config.json."""
    whole = path.absolute()
    return f"{whole.parent.name}/{whole.name}" if whole.name == "config.json" else whole.name


def read_config(path: Path, generation: Path | None) -> dict[str, Any]:
    """Read config.json; like mlx-lm, `eos_token_id` of generation_config.json wins.

    Raises SourceError, also where it names code that a loader would run.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise SourceError(f"{path}: a file expected, something else found; a checkpoint needs a config.json")
    try:
        config = load_json(read_regular(path, LARGEST_SMALL), path.name, duplicates=True)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); a checkpoint needs a config.json") from None
    refuse_model_code(config, str(path))
    if not isinstance(config.get("model_type"), str):
        raise SourceError(f"{path}: has no model_type; is it a model's config.json?")
    for key in _TABLES:
        if not isinstance(config.get(key), dict | None):
            raise SourceError(f"{path}: {key} is a table, not {shown(config[key])}", advice=DOWNLOAD_AGAIN)
    if generation is not None and generation.is_file():
        eos = load_json(read_regular(generation, LARGEST_SMALL), generation.name, duplicates=True).get("eos_token_id")
        if eos:
            config["eos_token_id"] = eos
    return config


def read_optional(path: Path) -> dict[str, Any] | None:
    """Read a JSON file that may be there or not. Raises SourceError."""
    try:
        return load_json(read_regular(path, LARGEST_SMALL), path.name, duplicates=True) if path.is_file() else None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from None


def read_tensors(folder: Path) -> Gathered:
    """Read the headers of a folder's shards. Raises SourceError listing every damaged or missing file."""
    index = folder / INDEX
    try:
        listing = read_index(read_regular(index, LARGEST_SMALL)) if index.is_file() else None
    except OSError as error:
        raise SourceError(f"{index}: cannot be read ({error.strerror})") from None
    return gather_tensors(str(folder), listing, _names(folder), lambda file: read_file_header(folder / file))


def _names(folder: Path) -> list[str]:
    """Names of what lies in a folder."""
    try:
        return [p.name for p in folder.iterdir()]
    except OSError as error:
        raise SourceError(f"{folder}: cannot be read ({error.strerror})") from None


def read_file_header(path: Path) -> tuple[list[Tensor], int]:
    """Read one file's header: its tensors, and the file's size."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise SourceError(f"{path.name}: a file expected, something else found", advice=DOWNLOAD_AGAIN)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = header_length(file.read(8), path.name, size)
            return parse_header(file.read(length), path.name, size)[0], size
    except OSError as error:
        raise SourceError(f"{path.name}: cannot be read ({error.strerror})", advice=DOWNLOAD_AGAIN) from None
