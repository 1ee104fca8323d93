"""What every JSON record of mlxquant holds: a JSON Schema a kind of record, and the check of a record by its schema.

The schemas (`*.json` beside this file, JSON Schema draft 2020-12) are written to be read: every field has its meaning
and unit. A record may have fields that a schema does not name, for a later version may write more; what a schema names
has the type that it says. `check` holds a record against its schema, and then asks `sense` for what no schema can say.

    check(record, "bench.json")                     # everything that its schema promises
    check(record, "a.json", kinds=("plan", "audit"))  # and nothing but one of these kinds
    check(record, "c.json", whole=True)             # and what those count on that show all of it
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from ...errors import RecordError
from ...words.text import listed
from .sense import senseless

# kind of record -> the versions of its schema that are read
VERSIONS: dict[str, tuple[int, ...]] = dict.fromkeys(
    (
        "plan", "audit", "fits", "manifest", "verify", "check_load", "diff", "bench", "predict", "compare", "eval",
        "tau2", "results", "validate", "since", "allocate", "sweep", "rollout", "build",
    ),
    (1,),
) | {"predict": (1, 2), "fits": (1, 2)}  # fmt: skip
# what those count on that show all of a record, beyond what its schema asks for (paths as of `validation.missing`)
WHOLE: dict[str, tuple[str, ...]] = {
    "bench": ("results",),
    "compare": ("source", "data", "pass", "machine", "versions", "margin_nats", "confidence", "baseline"),
    "eval": (
        "settings", "suites", "survival", "notes", "trials", "confidence", "machine", "versions", "date",
        "baseline.serving", "candidates[].serving", "candidates[].paired",
    ),
    "rollout": ("confidence", "counts", "notes", "problems", "first", "last"),
    "tau2": ("confidence", "baseline?.counts", "candidates[].counts"),
    "results": ("confidence", "harness", "baseline?.counts", "candidates[].counts"),
}  # fmt: skip
_SCHEMA = re.compile(r"mlxquant\.([a-z0-9_]+)/([0-9]{1,9})")
_SHOWN, _COUNTED = 5, 10_000


def check(
    record: Mapping[str, Any],
    where: str,
    *,
    kinds: Sequence[str] | None = None,
    whole: bool = False,
    only: Sequence[str] = (),
) -> str:
    """Check a record by its schema and by sense, and tell its kind: ``"eval"`` of mlxquant.eval/1.

    `where` is the file, for messages; `kinds` are those that the reader can use; a `whole` record has also what a
    schema leaves open, for a gate needs figures and names alone; with `only`, nothing but these top-level fields is
    needed and checked. Raises RecordError with the first faults: where, what was expected, what was found.
    """
    kind = kind_of(str(record.get("schema")), where, kinds)
    from .validation import faults, missing

    problems = list(islice(faults(kind, record, only), _COUNTED))
    if whole and not problems:
        problems = [fault for path in WHOLE.get(kind, ()) for fault in missing(record, path)]
    if not problems and not only:
        problems = list(islice(senseless(kind, record), _COUNTED))
    if problems:
        raise RecordError(listed([f"{where}: {fault}" for fault in problems], limit=_SHOWN))
    return kind


def kind_of(schema: str, where: str, kinds: Sequence[str] | None = None) -> str:
    """The kind of record that a schema names, one of `kinds` if they are given.

    Raises RecordError for any other, and for a version that this version of mlxquant does not read.
    """
    named = _SCHEMA.fullmatch(schema)
    if named is None or named[1] not in (VERSIONS if kinds is None else kinds):
        known = ", ".join(sorted(VERSIONS if kinds is None else kinds))
        raise RecordError(f"{where}: a record of {known} expected, schema {schema[:60]!r} found")
    kind, read = named[1], VERSIONS[named[1]]
    if int(named[2]) not in read:
        known = ", ".join(f"mlxquant.{kind}/{version}" for version in read)
        raise RecordError(
            f"{where}: schema {schema[:60]} found, but this version of mlxquant reads {known}; use the version that"
            " wrote it"
        )
    return kind


def is_known(schema: str) -> bool:
    """Whether a schema names a kind of record that has one here, of whatever version."""
    named = _SCHEMA.fullmatch(schema)
    return named is not None and named[1] in VERSIONS


__all__ = ["sense"]
