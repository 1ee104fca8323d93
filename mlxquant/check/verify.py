"""Whether a build is what it was when it was made: every byte against the manifest, its files against each other.

Only what is read counts. The manifest holds the SHA-256 of each other file, the checksum of each tensor and, over its
own bytes, a seal, so a single flipped bit shows wherever it is; where a shard's hash differs, the tensors' checksums
say which of them. Headers, index and config are compared with each other by `builds.read`, also where there is no
manifest. Whether the bytes were right from the start is for `remake` to say.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from ..builds.manifest import MANIFEST, read_manifest, seal_holds
from ..builds.read.build import read_build
from ..builds.write.workers import ordered_map
from ..disk.files import names_below, read_regular
from ..errors import BuildError, MlxquantError, RecipeError, SourceError
from ..plan.recipe.recipe import Recipe
from ..records.head import head
from ..source.checkpoint import read_file_header
from ..source.headers import Tensor, shown
from ..source.links import TEMPLATES, is_template, strays
from ..words.progress import Progress, Watch, unwatched

SCHEMA = "mlxquant.verify/1"
READ = 4 << 20

# What others put beside a build and no loader reads: worth a note, no difference.
_BESIDE = ("README.md", ".gitattributes", ".gitignore", ".DS_Store", ".cache", ".git", "LICENSE")


@dataclass(frozen=True, slots=True)
class RemadeSample:
    """What of a build was made again from its source: pieces and bytes, of how many, chosen by which seed."""

    source: str
    pieces: int
    all_pieces: int
    nbytes: int
    all_bytes: int
    seed: int

    @property
    def share(self) -> float:
        """The checked part of the tensors' bytes."""
        return self.nbytes / self.all_bytes if self.all_bytes else 1.0

    def as_dict(self) -> dict[str, Any]:
        """The sample for a record."""
        return {
            "source": self.source,
            "pieces": self.pieces,
            "all_pieces": self.all_pieces,
            "bytes": self.nbytes,
            "all_bytes": self.all_bytes,
            "share": self.share,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class Verified:
    """What verifying a build gave. `differences` each begin with the file or tensor; none of them means whole.

    `files`, `tensors`, `nbytes` are what was read and held against the manifest; 0 where there is none.
    """

    name: str
    manifest: bool
    files: int
    tensors: int
    nbytes: int
    differences: tuple[str, ...]
    notes: tuple[str, ...]
    sample: RemadeSample | None = None

    def as_dict(self) -> dict[str, Any]:
        """The record."""
        return {
            **head(SCHEMA),
            "build": self.name,
            "manifest": self.manifest,
            "checked": {"files": self.files, "tensors": self.tensors, "bytes": self.nbytes},
            "sample": self.sample.as_dict() if self.sample else None,
            "whole": not self.differences,
            "differences": list(self.differences),
            "notes": list(self.notes),
        }


def verify(folder: Path, *, threads: int | None = None, watch: Watch = unwatched) -> Verified:
    """Read a build through. Raises BuildError only where there is no build at all to read."""
    if not folder.is_dir():
        raise BuildError(f"{folder}: no such folder; a build is a folder with config.json and model*.safetensors")
    differences, notes = list[str](), list[str]()
    manifest = _manifest(folder, differences, notes)
    files, tensors, nbytes = 0, 0, 0
    if manifest is not None:
        differences += _recipe(manifest)
        differences += _listing(folder, manifest, notes)
        hashed = [n for n, entry in manifest["files"].items() if (folder / n).is_file()]
        reader = _Reader(folder, manifest, watch)
        for _, problems in ordered_map(lambda name, _: reader.check(name), hashed, threads or os.cpu_count() or 1):
            differences += problems
        notes += reader.notes()
        files, tensors, nbytes = len(hashed) + 1, reader.tensors, reader.done
    differences += _against_each_other(folder, notes)
    name = folder.resolve().name
    return Verified(name, manifest is not None, files, tensors, nbytes, tuple(dict.fromkeys(differences)), tuple(notes))


def _manifest(folder: Path, differences: list[str], notes: list[str]) -> dict[str, Any] | None:
    try:
        manifest = read_manifest(folder)
    except BuildError as error:
        differences.append(str(error))
        return None
    if manifest is None and (folder / "audit.json").exists():
        differences.append(f"{MANIFEST}: missing, yet audit.json says that mlxquant made this build")
    elif manifest is None:
        notes.append(
            f"no {MANIFEST}: another tool made this build, or it was lost; only --source can show"
            " whether the files are whole"
        )
    elif not seal_holds(read_regular(folder / MANIFEST)):
        differences.append(f"{MANIFEST}: its own checksum (run.manifest_sha256) does not match it; it was changed")
    return manifest


def _recipe(manifest: Mapping[str, Any]) -> Iterator[str]:
    try:
        Recipe.from_dict(manifest["recipe"])
    except RecipeError as error:
        yield f"{MANIFEST}: {error}"


def _listing(folder: Path, manifest: Mapping[str, Any], notes: list[str]) -> Iterator[str]:
    """Files that are missing, and what is there besides."""
    outside = dict(strays(folder))
    notes += [f"{shown(name)}: {why}; upload refuses it" for name, why in outside.items() if (folder / name).is_file()]
    for name in manifest["files"]:
        if not (folder / name).is_file():
            yield f"{name}: {outside.get(name, 'missing')}"
    for path in sorted(folder.iterdir()):
        if path.name in manifest["files"] or path.name == MANIFEST:
            continue
        if path.name == TEMPLATES and path.is_dir() and any(map(is_template, manifest["files"])):
            others = [f"{TEMPLATES}/{name}" for name in names_below(path)]
            yield from (f"{n}: not part of the build; move it away" for n in others if n not in manifest["files"])
            continue
        if path.name in _BESIDE:
            notes.append(f"{path.name}: not part of the build; no loader reads it")
        else:
            yield f"{path.name}: not part of the build, yet in its folder; move it away"


class _Reader:
    """Reads files once each, from several threads, and compares them with the manifest."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], watch: Watch) -> None:
        self.tensors = self.done = 0
        self._folder, self._files, self._tensors = folder, manifest["files"], manifest["tensors"]
        self._watch, self._lock = watch, threading.Lock()
        self._total = sum(entry["bytes"] for entry in self._files.values())
        self._unhashed: list[str] = []
        self._by_file: dict[str, dict[str, Mapping[str, Any]]] = {}
        for name, entry in self._tensors.items():
            self._by_file.setdefault(entry["file"], {})[name] = entry

    def check(self, name: str) -> list[str]:
        """What differs in one file."""
        expected = self._files[name]
        try:
            size = (self._folder / name).stat().st_size
            if size != expected["bytes"]:
                return [f"{name}: {expected['bytes']:,} bytes expected, {size:,} found"]
            if name in self._by_file:
                return self._check_shard(name, expected["sha256"])
            digest = self._hash(name, 0, size, hashlib.sha256()).hexdigest()
        except OSError as error:
            return [f"{name}: cannot be read ({error.strerror}); is the disk failing?"]
        except SourceError as error:
            return [error.problem]
        return self._compare(name, expected["sha256"], digest)

    def notes(self) -> list[str]:
        """What could not be checked."""
        if not self._unhashed:
            return []
        names = ", ".join(sorted(self._unhashed))
        return [f"{names}: made with --no-hash, so only sizes, names and shapes were checked"]

    def _compare(self, name: str, expected: str | None, digest: str) -> list[str]:
        if expected is None:
            self._unhashed.append(name)
            return []
        return [] if digest == expected else [f"{name}: sha256 {expected[:16]}… expected, {digest[:16]}… found"]

    def _check_shard(self, name: str, expected: str | None) -> list[str]:
        """Hash a shard and each tensor in it, in one pass."""
        wanted = self._by_file[name]
        whole = hashlib.sha256()
        try:
            tensors, size = read_file_header(self._folder / name)
        except SourceError as error:
            return [error.problem]
        tensors.sort(key=lambda t: t.start)
        self._hash(name, 0, tensors[0].start if tensors else size, whole)
        differences = [f"{tensor}: missing from {name}" for tensor in wanted.keys() - {t.name for t in tensors}]
        for tensor in tensors:
            one = self._hash(name, tensor.start, tensor.nbytes, whole, xxhash.xxh3_64())
            differences += _tensor_differences(tensor, wanted.get(tensor.name), one.hexdigest())
        with self._lock:
            self.tensors += len(tensors)
        file_differs = self._compare(name, expected, whole.hexdigest())
        if file_differs and not differences:
            differences = [f"{file_differs[0]}; all tensors are as they were, so its header is not"]
        return differences

    def _hash(self, name: str, start: int, nbytes: int, whole: Any, one: Any = None) -> Any:
        """Feed a stretch of a file to `whole`, and to `one` if given; gives the last of them."""
        buffer = memoryview(bytearray(min(READ, max(nbytes, 1))))
        with (self._folder / name).open("rb", buffering=0) as file:
            file.seek(start)
            left = nbytes
            while left:
                count = file.readinto(buffer[:left])
                if not count:
                    raise SourceError(f"{name}: ends early; it changed while it was read")
                whole.update(buffer[:count])
                if one is not None:
                    one.update(buffer[:count])
                left -= count
        with self._lock:
            self.done += nbytes
            self._watch(Progress(self.done, self._total, name))
        return whole if one is None else one


def _tensor_differences(tensor: Tensor, expected: Mapping[str, Any] | None, checksum: str) -> Iterator[str]:
    where = f"{tensor.name} ({tensor.file})"
    if expected is None:
        yield f"{where}: not in {MANIFEST}"
        return
    was, is_ = f"{expected['dtype']} {expected['shape']}", f"{tensor.dtype} {list(tensor.shape)}"
    if was != is_:
        yield f"{where}: {was} expected, {is_} found"
    elif expected["xxh3_64"] not in (None, checksum):
        yield f"{where}: its bytes changed: checksum {expected['xxh3_64']} expected, {checksum} found"


def _against_each_other(folder: Path, notes: list[str]) -> list[str]:
    """Where config, index and headers contradict each other."""
    try:
        build = read_build(folder)
    except MlxquantError as error:
        return str(error).splitlines()
    notes += build.notes
    return list(build.disagreements)
