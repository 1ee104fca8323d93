"""The signature of a conversion: all that a build's bytes depend on, so that no run goes on with another's work.

Source (see `source.stamps`), recipe, options, encoder, versions and architecture. What only lets an error pass, or only
changes speed, is not in it. Alone in its module because `convert` writes it and nothing else may.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import xxhash

from ...plan.plan import Plan
from ...records.head import describe_machine, describe_versions
from ...source.checkpoint import Checkpoint
from ...source.stamps import source_signature


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
        **{key: value for key, value in plan.source.items() if key == "provider"},
    }


def _hash(record: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(record, sort_keys=True).encode())
