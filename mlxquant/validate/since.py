"""What must be measured again after mlx, mlx-lm, the system or the chip changed.

`revalidate` knows what figures hang on; here that is held against what a build was made on (its manifest) and what
records were measured on, and told by command and by tolerance. A build's bytes hang on none of it: `verify` says
whether they still are what they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RecordError
from ..records.files import read_record
from ..records.head import describe_machine, describe_versions, head
from ..records.metrics import metric_named
from ..records.schemas import check
from ..report.verdict import name
from .revalidate import DEPENDS, Change, changes
from .tolerances import read_tolerances

SCHEMA = "mlxquant.since/1"
_MANIFEST = "mlxquant.json"
# beginnings of schemas -> what such a record's figures are
_KINDS: dict[str, tuple[str, ...]] = {
    "mlxquant.bench/": ("speed",),
    "mlxquant.eval/": ("quality", "speed"),
    "mlxquant.compare/": ("quality",),
    "mlxquant.tau2/": ("quality",),
}
_COMMANDS = {
    "quality": ("mlxquant compare", "mlxquant eval", "τ²-bench, then mlxquant tau2"),
    "speed": ("mlxquant bench", "mlxquant eval (its serving figures)"),
}
_FAMILIES = {"compare": "quality", "eval": "quality", "tau2": "quality", "bench": "speed", "serving": "speed"}


def since(manifest: Path, records: Sequence[Path] = (), tolerances: Path | None = None) -> dict[str, Any]:
    """List what no longer holds, by kind, by record and by tolerance; `again` is empty where all holds.

    `manifest` is a build's folder, its mlxquant.json, or any record that says what it was made on. Raises RecordError.
    """
    made = _stack(manifest / _MANIFEST if manifest.is_dir() else manifest)
    by_kind = {kind: changes(made, keys) for kind, keys in DEPENDS.items()}
    checked = [_checked(path) for path in records]
    stale = {kind for kind, found in by_kind.items() if found and not records}
    stale |= {kind for entry in checked for kind in entry["again"]}
    return {
        **head(SCHEMA),
        "since": manifest.name or str(manifest),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "changes": [_change(c) for c in changes(made)],
        "again": [
            {
                "figures": kind,
                "because": [str(c) for c in by_kind[kind]] or ["see the records"],
                "commands": list(_COMMANDS[kind]),
            }
            for kind in DEPENDS
            if kind in stale
        ],
        "records": checked,
        "tolerances": [] if tolerances is None else _tolerances(tolerances, stale),
    }


def _stack(path: Path) -> Mapping[str, Any]:
    record = read_record(path)
    if not isinstance(record.get("versions"), dict) or not isinstance(record.get("machine"), dict):
        raise RecordError(f"{path}: does not say what it was made on: no machine or versions in it")
    check(record, str(path), only=("machine", "versions"))
    return record


def _checked(path: Path) -> dict[str, Any]:
    """One record: which of its figures no longer hold, and since what changed."""
    record = _stack(path)
    schema = str(record["schema"])
    kinds = next((kinds for start, kinds in _KINDS.items() if schema.startswith(start)), tuple(DEPENDS))
    if why := record["machine"].get("unknown"):
        unknown = f"machine unknown ({why})"
        return {"file": path.name, "schema": schema, "again": list(kinds), "because": [unknown]}
    found = {kind: changes(record, DEPENDS[kind]) for kind in kinds}
    because = dict.fromkeys(str(c) for kind in kinds for c in found[kind])
    again = [kind for kind in kinds if found[kind]]
    return {"file": path.name, "schema": schema, "again": again, "because": list(because)}


def _tolerances(path: Path, stale: set[str]) -> list[dict[str, Any]]:
    """Each tolerance that rests on figures which no longer hold."""
    found = []
    for t in read_tolerances(path, None).tolerances:
        metric = metric_named(t.metric)
        kind = _FAMILIES.get(metric.family) if metric else "quality"
        if kind in stale:
            found.append(
                {"tolerance": t.number, "metric": t.metric, **dict(t.where), "limit": t.limit, "figures": kind}
            )
    return found


def _change(change: Change) -> dict[str, Any]:
    return {"what": change.what, "then": change.then, "now": change.now}


def since_text(record: Mapping[str, Any]) -> str:
    """Write the list for a reader."""
    from ..words.text import filled

    changed = [f"{c['what']} {c['then']} → {c['now']}" for c in record["changes"]]
    lines = [filled("changed", f"since {record['since']}: {', '.join(changed) or 'nothing of machine and versions'}")]
    for entry in record["again"]:
        lines.append(filled("again", f"{entry['figures']}: {', '.join(entry['commands'])}"))
        lines.append(filled("", f"because of {', '.join(entry['because'])}"))
    for entry in record["records"]:
        state = f"no longer holds ({', '.join(entry['again'])}): {', '.join(entry['because'])}"
        lines.append(filled("record", f"{entry['file']}: {state if entry['again'] else 'holds'}"))
    for t in record["tolerances"]:
        lines.append(filled("tolerance", f"{t['tolerance']}: {name(t)} rests on {t['figures']}"))
    if not record["again"]:
        lines.append(filled("holds", "nothing must be measured again"))
    lines.append(filled("note", "a build's bytes and the errors in its audit hang on none of this; mlxquant verify"))
    return "\n".join(lines)
