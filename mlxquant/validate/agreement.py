"""Which candidate a verdict is about, and whether the records given are all about it.

A verdict on figures of two builds, two sources or two machines would be a verdict on none. Records that say what they
measured are held against each other, and any difference is refused with the files and both values; what a record does
not say cannot be held against it and becomes a warning. What a build computes hangs on the chip, so chip and
architecture must agree in all measurements; what it serves hangs on all of the machine, so the rest of it must agree
where speeds are measured, in bench and eval. Sizes, from plan and audit, hang on neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import MlxquantError, UsageError, listed
from .evidence import IDENTITY, NOISE_FLOOR, Evidence, Side

# of a machine's description, what makes it another one: for all that is computed, and for speeds
_COMPUTES = ("chip", "architecture")
_SERVES = ("cores", "memory_bytes", "os", "gpu_cores", "gpu", "device", "power_mode")
_TIMED = ("bench", "eval")
_VERSIONS = ("mlxquant", "mlx", "mlx-lm")
_SIZES = ("plan", "audit")


class MixedRecordsError(MlxquantError):
    """Records of different builds, sources or machines. Exit code 2: nothing was judged."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Chosen:
    """A candidate: its name, its side in each record, and what should be known about the choice."""

    name: str
    sides: tuple[tuple[Evidence, Side], ...]
    warnings: tuple[str, ...] = ()


def choose(evidence: Sequence[Evidence], wanted: Sequence[str] = ()) -> list[Chosen]:
    """Find each wanted candidate in every record; without names, the only one, or all of records that list several.

    Raises UsageError where a record lacks it or a name is needed, MixedRecordsError where records disagree.
    """
    names = list(wanted) or _only_names(evidence)
    return [_agreeing(name, evidence) for name in dict.fromkeys(names)]


def _judged(record: Evidence) -> list[Side]:
    return [side for side in record.candidates if side.kind != NOISE_FLOOR]


def _only_names(evidence: Sequence[Evidence]) -> list[str]:
    """The names to judge where none was given."""
    if all(len(_judged(e)) == 1 for e in evidence):
        return [_judged(evidence[0])[0].name]
    several = [[side.name for side in _judged(e)] for e in evidence if len(_judged(e)) != 1]
    if len(several) == len(evidence) and all(names and set(names) == set(several[0]) for names in several):
        return several[0]
    known = dict.fromkeys(side.name for e in evidence for side in _judged(e))
    raise UsageError(f"several candidates in these records; give --candidate with one of {', '.join(known)}")


def _agreeing(name: str, evidence: Sequence[Evidence]) -> Chosen:
    sides, warnings = [], list[str]()
    for e in evidence:
        side = _side_named(name, e)
        if side.name != name and side.pointer.get("recipe", {}).get("name") != name:
            warnings.append(f"{e.file} calls it {side.name!r}; taken to be {name!r}, since it is the only one there")
        sides.append((e, side))
    problems = disagreements(sides)
    if problems:
        raise MixedRecordsError(
            listed(["records of different builds or sources have no common verdict:", *problems], limit=12)
        )
    nameless = [e.file for e, side in sides if not side.identity.keys() & set(IDENTITY)]
    if len(sides) > 1 and nameless:
        warnings.append(
            f"nothing in {', '.join(nameless)} says which build it measured; that it is this one is your word"
        )
    return Chosen(name, tuple(sides), tuple(warnings))


def disagreements(sides: Sequence[tuple[Evidence, Side]]) -> list[str]:
    """Where records that should be of one candidate measured different builds or sources."""
    return [*_other_builds(sides), *_other_sources(sides)]


def _side_named(name: str, e: Evidence) -> Side:
    sides = _judged(e)
    for side in sides:
        if side.name == name:
            return side
    by_recipe = [side for side in sides if side.pointer.get("recipe", {}).get("name") == name]
    if len(by_recipe) == 1:
        return by_recipe[0]
    if len(sides) == 1:
        return sides[0]
    there = ", ".join(side.name for side in sides) or "none"
    raise UsageError(f"{e.file}: no candidate {name!r}; it has {there}")


def _other_builds(sides: Sequence[tuple[Evidence, Side]]) -> Iterator[str]:
    for key in IDENTITY:
        yield from _differing(key, [(e.file, side.identity.get(key)) for e, side in sides])


def _other_sources(sides: Sequence[tuple[Evidence, Side]]) -> Iterator[str]:
    """By the source's name (without its organisation, which a folder lacks), its revision, its kind of model."""
    names = [(e.file, str(e.source["name"]).rstrip("/").rpartition("/")[2]) for e, _ in sides if e.source.get("name")]
    yield from _differing("source", names)
    yield from _differing("source's revision", [(e.file, e.source.get("revision")) for e, _ in sides])
    kinds = [(e.file, side.identity.get("model_type") or e.source.get("model_type")) for e, side in sides]
    yield from _differing("model_type", kinds)


def machine_problems(evidence: Sequence[Evidence]) -> list[str]:
    """Where records were made on different machines, as far as they say."""
    measured = [e for e in evidence if e.kind not in _SIZES and e.machine and not e.machine.get("unknown")]
    timed = [e for e in measured if e.kind in _TIMED]
    asked = [(key, measured) for key in _COMPUTES] + [(key, timed) for key in _SERVES]
    return [p for key, es in asked for p in _differing(f"machine's {key}", [(e.file, e.machine.get(key)) for e in es])]


def machine_warnings(evidence: Sequence[Evidence]) -> list[str]:
    """What records do not say of their machine, and versions that differ."""
    measured = [e for e in evidence if e.kind not in _SIZES]
    found = [
        f"{e.file} does not say on which machine it was measured ({e.machine.get('unknown') or 'no machine in it'})"
        for e in measured
        if not e.machine or e.machine.get("unknown")
    ]
    told = [e for e in measured if not e.machine.get("unknown")]
    found += [
        p for key in _VERSIONS for p in _differing(f"version of {key}", [(e.file, e.versions.get(key)) for e in told])
    ]
    return found


def check_machines(evidence: Sequence[Evidence], *, mixed: bool) -> list[str]:
    """Warnings about machines. Raises MixedRecordsError where they differ, unless `mixed` allows it."""
    problems = machine_problems(evidence)
    if problems and not mixed:
        raise MixedRecordsError(
            listed(
                [
                    "records of different machines have no common verdict (--mixed-machines judges them all the same):",
                    *problems,
                ],
                limit=12,
            )
        )
    return [*(f"judged although {problem}" for problem in problems), *machine_warnings(evidence)]


def common(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all of these say alike; keys on which they differ, or that only some have, are left out."""
    first = tables[0] if tables else {}
    return {key: value for key, value in first.items() if all(table.get(key) == value for table in tables)}


def _differing(what: str, told: Sequence[tuple[str, Any]]) -> Iterator[str]:
    """One line where files that say something say different things."""
    values: dict[Any, list[str]] = {}
    for file, value in told:
        if value is not None:
            values.setdefault(value, []).append(file)
    if len(values) > 1:
        yield f"{what} differs: " + "; ".join(f"{_short(value)} in {', '.join(f)}" for value, f in values.items())


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
