"""What every JSON record of mlxquant holds, and whether one makes sense."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...errors import RecordError

_SCHEMA = re.compile(r"mlxquant\.([a-z0-9]+)/([0-9]+)")
# kind of record -> its versions that are read
VERSIONS: dict[str, tuple[int, ...]] = {
    "plan": (1,), "audit": (1,), "compare": (1,), "eval": (1,), "bench": (1,), "tau2": (1,),
}  # fmt: skip


def kind_of(schema: str, where: str, kinds: Sequence[str], purpose: str) -> str:
    """The kind of record that a schema names: ``"eval"`` of mlxquant.eval/1.

    `kinds` are those that the reader can use, `purpose` says for what. Raises RecordError for any other, and for a
    version that is not read.
    """
    found = _SCHEMA.fullmatch(schema)
    if found is None or found[1] not in kinds:
        raise RecordError(f"{where}: {schema[:60]} is nothing {purpose}; give records of {', '.join(sorted(kinds))}")
    kind, read = found[1], VERSIONS[found[1]]
    if int(found[2]) not in read:
        known = ", ".join(f"mlxquant.{kind}/{version}" for version in read)
        raise RecordError(
            f"{where}: schema {schema[:60]} found, but this version of mlxquant reads {known}; use the version that"
            " wrote it"
        )
    return kind
