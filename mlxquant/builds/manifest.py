"""The manifest of a build, mlxquant.json: what it was made from and by what, and the hash of every file in it.

Everything in it but the `run` section is determined by the source, the recipe, the options, the versions and the
machine, so two runs of the same conversion write the same bytes. It holds no user name, host name or path. It has
the hash of every other file, and in `run` its own: `manifest_sha256` is the SHA-256 of the file as it would be with
zeros in place of those 64 digits. So one flipped bit anywhere in a build shows; `check.verify` looks for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..disk.files import read_regular
from ..errors import BuildError, MlxquantError, RecordError
from ..plan.plan import Plan
from ..records.files import parse_record
from ..records.head import describe_machine, describe_versions
from ..records.schemas import check
from ..source.checkpoint import Checkpoint
from ..source.headers import shown
from ..source.index import build_name
from .side_files import hashed_files
from .write.shards import Shard

SCHEMA = "mlxquant.manifest/1"
MANIFEST = "mlxquant.json"

_SEAL = b'"manifest_sha256": "'
_OPEN = b"0" * 64
# What says where a build comes from; a build of the same origin is the same build, made on whatever machine.
_ORIGIN = ("schema", "versions", "source", "recipe", "options", "totals")


def describe_origin(
    plan: Plan, source: Checkpoint, sides: Mapping[str, bytes], options: Mapping[str, Any], read: Collection[str]
) -> dict[str, Any]:
    """The part of the manifest that is known before a weight is read.

    `sides` are the files that are copied, `read` the shards of which more than the header is read.
    """
    files = {n: _shard_entry(source, n, read=n in read) for n in source.files} | hashed_files(source, sides)
    smaller = {m.module.path: m.format.group_size for m in plan.modules if m.decision.preferred and m.format}
    return {
        "schema": SCHEMA,
        "versions": describe_versions(),
        "machine": describe_machine(),
        "source": {**plan.source, "files": dict(sorted(files.items()))},
        "recipe": plan.recipe.as_dict(),
        "options": dict(options),
        "totals": plan.totals,
        **({"smaller_group_sizes": smaller} if smaller else {}),
    }


def _shard_entry(source: Checkpoint, name: str, *, read: bool) -> dict[str, Any]:
    """A shard as it is listed; of one on the Hub, whether its bytes are held against the SHA-256 of the listing."""
    listed = {"sha256": source.hashes[name]} if name in source.hashes else {}
    checked = {} if source.sha256_checked is None else {"sha256_checked": read and name in source.hashes}
    return {"bytes": source.files[name], **listed, **checked}


def make_manifest(
    origin: Mapping[str, Any],
    shards: Sequence[Shard],
    array_hashes: Mapping[str, str],
    files: Mapping[str, tuple[int, str | None]],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Put the record together. `files` maps each file of the build to its size and SHA-256 (or None)."""
    return {
        **origin,
        "files": {n: {"bytes": s, "sha256": h} for n, (s, h) in sorted(files.items())},
        "tensors": {
            p.array.name: {
                "file": shard.name,
                "dtype": p.array.dtype,
                "shape": list(p.array.shape),
                "xxh3_64": array_hashes.get(p.array.name),
            }
            for shard in shards
            for p in shard.arrays
        },
        "run": dict(run),
    }


def manifest_text(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as it stands in the build, sealed: two levels indented, one tensor a line, `run` last."""
    lines = []
    for key, value in {**manifest, "run": {**manifest["run"], "manifest_sha256": _OPEN.decode()}}.items():
        if key == "tensors":
            rows = ",\n".join(f"    {json.dumps(n)}: {json.dumps(v)}" for n, v in value.items())
            lines.append(f'  "tensors": {{\n{rows}\n  }}')
        else:
            text = json.dumps(value, indent=2).replace("\n", "\n  ")
            lines.append(f"  {json.dumps(key)}: {text}")
    whole = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
    before, _, after = whole.rpartition(_SEAL + _OPEN)
    return before + _SEAL + hashlib.sha256(whole).hexdigest().encode() + after


def seal_holds(text: bytes) -> bool:
    """Whether a manifest's bytes are the ones that it was written with."""
    before, _, rest = text.rpartition(_SEAL)
    return hashlib.sha256(before + _SEAL + _OPEN + rest[64:]).hexdigest().encode() == rest[:64]


def read_manifest(build: Path) -> dict[str, Any] | None:
    """A build's manifest, or None where another tool made the build. Raises BuildError if it is damaged."""
    path = build / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = parse_record(read_regular(path), MANIFEST)
        check(manifest, MANIFEST, kinds=("manifest",))
    except OSError as error:
        raise BuildError(f"{MANIFEST}: cannot be read ({error.strerror})") from None
    except RecordError as error:
        raise BuildError(str(error)) from None
    if outside := [name for name in manifest["files"] if not build_name(name)]:
        raise BuildError(f"{MANIFEST}: files: {shown(outside[0])} lies outside the folder")
    return manifest


def is_build_of(folder: Path, origin: Mapping[str, Any]) -> bool:
    """Whether a folder is a build of the same source, recipe, options and versions, with all its files there."""
    try:
        manifest = read_manifest(folder)
    except MlxquantError:
        return False
    if manifest is None:
        return False
    wanted = json.loads(json.dumps(origin))
    present = all(
        (folder / name).is_file() and (folder / name).stat().st_size == entry["bytes"]
        for name, entry in manifest["files"].items()
    )
    return present and all(manifest[key] == wanted[key] for key in _ORIGIN)
