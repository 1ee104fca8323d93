"""What a build's bytes depend on, so that nobody goes on with another's work: source, recipe, options, versions.

A source of gigabytes is not read to see whether it is still the same. A Hub revision says so; of a folder, sizes,
times of change, and checksums of each shard's header and of `SAMPLES` blocks spread over it do. Small files
(config, tokenizer) are hashed whole. What allows nothing but an error to go away, or changes speed alone, is not here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import xxhash

from ...errors import SourceError
from ...plan.plan import Plan
from ...records.head import describe_machine, describe_versions
from ...source.checkpoint import Checkpoint

# Blocks of a shard that are looked at, and how long they are: 64 KiB of each file.
SAMPLES, SAMPLE_BYTES = 16, 4096

# size, time of change in ns, inode: what differs once a file was written to or replaced
Stamp = tuple[int, int, int]


def make_signature(
    source: Checkpoint, plan: Plan, options: Mapping[str, Any], sides: Mapping[str, bytes]
) -> dict[str, Any]:
    """Everything that changes a byte of the build. `sides` are the source's small files that it copies."""
    return {
        "source": source_signature(source, sides),
        "recipe": {"name": str(plan.recipe), "sha256": plan.recipe.sha256, "record": _hash(plan.recipe.as_dict())},
        "options": dict(options),
        "versions": describe_versions(),
        "architecture": describe_machine()["architecture"],
    }


def source_signature(source: Checkpoint, sides: Mapping[str, bytes] = MappingProxyType({})) -> dict[str, Any]:
    """What tells that a source, or a build, is the one it was."""
    config = json.dumps(source.config, sort_keys=True).encode()
    headers = dict.fromkeys(source.files, 0)
    for tensor in source.tensors.values():
        headers[tensor.file] = min(headers[tensor.file] or tensor.start, tensor.start)
    return {
        "name": source.name,
        "revision": source.revision,
        "files": {name: _fingerprint(source, name, headers[name]) for name in sorted(source.files)},
        "copied": {name: xxhash.xxh3_64_hexdigest(data) for name, data in sorted(sides.items())},
        "config": xxhash.xxh3_64_hexdigest(config),
    }


def _fingerprint(source: Checkpoint, name: str, header: int) -> dict[str, Any]:
    """One shard's entry; its first `header` bytes are its header."""
    size = source.files[name]
    if source.revision is not None or source.folder is None:
        return {"bytes": size}
    stamp = stamp_of(source.folder, name)
    seen = xxhash.xxh3_64()
    last = max(0, size - SAMPLE_BYTES)
    for start, length in [(0, header), *((last * i // (SAMPLES - 1), SAMPLE_BYTES) for i in range(SAMPLES))]:
        buffer = bytearray(min(length, size - start))
        source.read_into(name, start, memoryview(buffer))
        seen.update(buffer)
    return {"bytes": stamp[0], "mtime_ns": stamp[1], "sample": seen.hexdigest()}


def stamp_of(folder: Path, name: str) -> Stamp:
    """What tells that a file is the one it was. Raises SourceError where it cannot be looked at."""
    try:
        found = (folder / name).stat()
    except OSError as error:
        raise SourceError(f"{name}: cannot be read ({error.strerror}); is the source still there?") from None
    return found.st_size, found.st_mtime_ns, found.st_ino


class Watched:
    """A source's shards as they were when the conversion began, to be asked now and then whether they still are."""

    def __init__(self, source: Checkpoint) -> None:
        self._folder = source.folder
        self._stamps = {n: stamp_of(source.folder, n) for n in source.files} if source.folder is not None else {}

    def check(self) -> None:
        """Raise SourceError naming the first file that was written to, replaced or taken away since."""
        for name, before in self._stamps.items():
            assert self._folder is not None
            if stamp_of(self._folder, name) != before:
                raise SourceError(
                    f"{name}: changed while it was read; nothing was published:"
                    " restore it and run the same command again, or start over with --fresh"
                )


def _hash(record: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(record, sort_keys=True).encode())
