"""The build's own account of where it comes from: `mlxquant.json`.

Everything in it but the `run` section is determined by the source, the recipe, the options and the versions,
so two runs of the same conversion write the same bytes. It holds no user name, host name or path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .checkpoint import Checkpoint
from .errors import BuildError
from .headers import load_json
from .machine import describe_machine, describe_versions
from .plan import Plan
from .shards import Shard

SCHEMA = "mlxquant.manifest/1"
MANIFEST = "mlxquant.json"


def make_manifest(
    plan: Plan,
    source: Checkpoint,
    options: Mapping[str, Any],
    shards: Sequence[Shard],
    array_hashes: Mapping[str, str],
    files: Mapping[str, tuple[int, str | None]],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Put the record together. `files` maps each file of the build to its size and SHA-256 (or None)."""
    return {
        "schema": SCHEMA,
        "versions": describe_versions(),
        "machine": describe_machine(),
        "source": {**plan.source, "files": {n: {"bytes": s} for n, s in sorted(source.files.items())}},
        "recipe": plan.recipe.as_dict(),
        "options": dict(options),
        "totals": plan.totals,
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
    """The manifest as it stands in the build: two levels indented, one tensor a line."""
    lines = []
    for key, value in manifest.items():
        if key == "tensors":
            rows = ",\n".join(f"    {json.dumps(n)}: {json.dumps(v)}" for n, v in value.items())
            lines.append(f'  "tensors": {{\n{rows}\n  }}')
        else:
            text = json.dumps(value, indent=2).replace("\n", "\n  ")
            lines.append(f"  {json.dumps(key)}: {text}")
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def read_manifest(build: Path) -> dict[str, Any] | None:
    """A build's manifest, or None where another tool made the build. Raises BuildError if it is damaged."""
    path = build / MANIFEST
    if not path.is_file():
        return None
    manifest = load_json(path.read_bytes(), MANIFEST)
    if manifest.get("schema") != SCHEMA:
        raise BuildError(f"{path}: schema {SCHEMA} expected, {manifest.get('schema')!r} found; made by another version?")
    return manifest
