"""The audit of a build: what every module is, why, and what quantizing it cost, as a record (`builds.audit_record`).

What modules are comes from the bytes on disk (`builds.read`). Why they are so, and the errors that `convert` summed,
stand in the audit.json of mlxquant's own builds, and are taken from there for modules that the shards confirm. For
other builds the reason is inferred from the config and from the rule of mlx-lm's class. Given the source, errors are
measured anew. Whether bytes are as they were written is for `verify` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..builds.audit_record import Entry, make_record
from ..builds.read.build import Build
from ..builds.read.formats import Stored
from ..disk.files import read_regular
from ..errors import RecordError
from ..kernels import ErrorSums
from ..plan.decide import Decision, unquantizable
from ..records.files import parse_record
from ..records.modules import nonfinite_note, not_a_number
from ..records.schemas import check
from ..words.formats import METHODS, RTN, Format
from ..words.modules import CARRIED, Module, unaligned_reason
from .against_source import Comparison

__all__ = ["audit_build"]

RECORD = "audit.json"
_UNKNOWN = "kept; the build does not say why"


def audit_build(build: Build, against: Comparison | None = None) -> dict[str, Any]:
    """Draw up a build's record. `against` is the comparison with its source, which replaces the errors on record."""
    disagreements = list(build.disagreements)
    own = _own_record(build, disagreements)
    confirmed = _confirmed(build, own, disagreements)
    entries = [_entry(build, s, confirmed.get(path), against) for path, s in build.stored.items()]
    missing = not_a_number(own.get("modules", ()))
    counted = nonfinite_note(missing) if missing else None  # `make_record` counts such modules anew
    notes = [n for n in own.get("notes", ()) if n != counted]
    notes += [n for n in build.notes if n not in notes]
    if not own and not any(s.format for s in build.stored.values()):
        notes.append("nothing is quantized: a full-precision build, or a checkpoint whose layout is MLX's own")
    if against is not None:
        disagreements += against.disagreements
        notes.append(
            f"held against {against.source['name']}: {len(against.errors):,} quantized modules measured,"
            f" {against.equal:,} other arrays equal byte for byte"
        )
        notes += [n for n in against.notes if n not in notes]
    return make_record(
        entries,
        source=own.get("source"),
        recipe=own.get("recipe"),
        disagreements=disagreements,
        notes=notes,
    )


def _own_record(build: Build, disagreements: list[str]) -> dict[str, Any]:
    """The build's audit.json where it is one of ours; empty otherwise."""
    path = build.folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = parse_record(read_regular(path), RECORD)
        check(record, RECORD, kinds=("audit",))
    except OSError as error:
        disagreements.append(f"{RECORD}: cannot be read ({error.strerror}); it is left aside")
        return {}
    except RecordError as error:
        disagreements.append(f"{str(error).splitlines()[0]}; it is left aside")
        return {}
    return record


def _confirmed(build: Build, own: Mapping[str, Any], disagreements: list[str]) -> dict[str, dict[str, Any]]:
    """The entries of the build's own record that its shards confirm, by path; others are disagreements."""
    confirmed: dict[str, dict[str, Any]] = {}
    if not own:
        return confirmed
    for entry in own["modules"]:
        path = entry["path"]
        stored = build.stored.get(path)
        if stored is None:
            disagreements.append(f"{path}: in the build's {RECORD}, but not in its shards")
        elif _facts(stored) != {key: entry.get(key) for key in _facts(stored)}:
            disagreements.append(
                f"{path}: {RECORD} says {_format_text(entry.get('format'))}, {entry.get('bytes')} bytes;"
                f" the shards hold {stored.format or stored.dtype}, {stored.nbytes} bytes"
            )
        else:
            confirmed[path] = entry
    listed = {entry["path"] for entry in own["modules"]}
    disagreements += [f"{p}: in the shards, but not in the build's {RECORD}" for p in build.stored if p not in listed]
    return confirmed


def _facts(stored: Stored) -> dict[str, Any]:
    return {
        "format": stored.format.as_dict() if stored.format else None,
        "shape": list(stored.module.shape),
        "dtype": stored.dtype,
        "bytes": stored.nbytes,
    }


def _format_text(value: Any) -> str:
    try:
        return str(Format.from_dict(value)) if value else "unquantized"
    except (KeyError, TypeError, ValueError):
        return repr(value)[:60]


def _entry(build: Build, stored: Stored, own: Mapping[str, Any] | None, against: Comparison | None) -> Entry:
    """One module; `own` is its confirmed entry of the build's own record."""
    errors = against.errors.get(stored.module.path) if against else _errors(own)
    if own is not None:
        protected = own.get("protected") is True
        unaligned, preferred = own.get("unaligned"), own.get("preferred_group_size")
        method = own["method"] if own.get("method") in METHODS else RTN
        decision = Decision(stored.format, protected, own["reason"], own["rule"], unaligned, preferred, method=method)
    else:
        decision = _inferred(build, stored)
    return Entry(
        stored.module,
        stored.format,
        stored.dtype,
        stored.nbytes,
        decision.protected,
        decision.reason,
        decision.rule,
        errors,
        decision.unaligned,
        decision.preferred,
        decision.method,
        own.get("inputs") if own is not None else None,
    )


def _errors(own: Mapping[str, Any] | None) -> ErrorSums | None:
    table = own.get("errors") if own else None
    try:
        return ErrorSums.from_dict(table) if table else None
    except (KeyError, TypeError, ValueError):
        return None


def _unplaced(build: Build, module: Module) -> str:
    """Why a tensor that mlx-lm's class does not have is not quantized."""
    if module.kind == CARRIED:
        return unquantizable(module)
    return "mlx-lm's class has no place for it" if build.known else "mlx-lm has no class for this model"


def _inferred(build: Build, stored: Stored) -> Decision:
    """The decision on a module of another tool's build, as far as config and class tell why it is as it is."""
    group = build.claims.top.group_size if build.claims.top else 32
    if not (reason := _why_not_kept(build, stored)):
        if stored.module.shape[-1] % group:
            return Decision(None, False, unaligned_reason((group,), stored.module.shape[-1]), unaligned=group)
        by_class = stored.module.model_rule is False
        reason = "the rule of mlx-lm's own class for this model keeps it" if by_class else _UNKNOWN
        return Decision(None, True, reason)
    return Decision(stored.format, False, reason)


def _why_not_kept(build: Build, stored: Stored) -> str:
    """Why a module is as it is, where no rule chose to keep it; empty where it could have been quantized and is not."""
    module, claims = stored.module, build.claims
    rule = module.model_rule
    if stored.trouble:
        return f"cannot be told: {stored.trouble}"
    if not stored.placed and stored.format is None:
        return _unplaced(build, module)
    if stored.format is not None:
        if rule is not None and rule == stored.format:
            return f"as the rule of mlx-lm's own class for this model asks: {rule}"
        if stored.format == claims.top:
            return f"the build's default, {claims.top}"
        return "config.json lists it" if module.path in claims.entries else "as found; no reason is given"
    if not module.quantizable:
        return unquantizable(module)
    return "" if any(s.format for s in build.stored.values()) else "nothing in this build is quantized"
