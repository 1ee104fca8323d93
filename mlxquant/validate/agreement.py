"""Which candidate a verdict is about, and whether the records given are all about it.

A verdict on figures of two builds, two sources or two machines would be a verdict on none. Records that say what they
measured are held against each other, and any difference is refused with the files and both values; what a record does
not say cannot be held against it and becomes a warning. What a build computes depends on the chip, so chip and
architecture must agree in all measurements; what it serves depends on all of the machine, so the rest of it must agree
where speeds are measured, in bench and eval. Sizes, from plan and audit, depend on neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import MlxquantError, UsageError
from ..words.text import listed
from .evidence import IDENTITY, NOISE_FLOOR, Evidence, MeasuredSide

# of a machine's description, what makes it another one: for all that is computed, and for speeds
_COMPUTES = ("chip", "architecture")
_SERVES = ("cores", "memory_bytes", "os", "gpu_cores", "gpu", "device", "power_mode")
_TIMED = ("bench", "eval")
_VERSIONS = ("mlxquant", "mlx", "mlx-lm")
_SIZES = ("plan", "audit")
# what an evaluation's record says instead of the address of a server that is not on this machine
ELSEWHERE = "another machine"


class MixedRecordsError(MlxquantError):
    """Records of different builds, sources or machines. Exit code 2: nothing was judged."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Chosen:
    """A candidate: its name, its side in each record, and what should be known about the choice."""

    name: str
    sides: tuple[tuple[Evidence, MeasuredSide], ...]
    warnings: tuple[str, ...] = ()


def choose(evidence: Sequence[Evidence], wanted: Sequence[str] = ()) -> list[Chosen]:
    """Find each wanted candidate in every record; without names, the only one, or all of records that list several.

    Raises UsageError where a record lacks it or a name is needed, MixedRecordsError where records disagree.
    """
    known = dict.fromkeys(name for e in evidence for side in _judged(e) for name in _names_of(side))
    if unknown := [name for name in wanted if name not in known]:
        listed_names = ", ".join(known) or "none"
        raise UsageError(f"--candidate {unknown[0]}: no record has a candidate of this name; they have {listed_names}")
    names = list(wanted) or _only_names(evidence)
    return [_agreeing(name, evidence) for name in dict.fromkeys(names)]


def _judged(record: Evidence) -> list[MeasuredSide]:
    return [side for side in record.candidates if side.kind != NOISE_FLOOR]


def _only_names(evidence: Sequence[Evidence]) -> list[str]:
    """The names to judge where none was given."""
    if all(len(_judged(e)) == 1 for e in evidence):
        return [_judged(evidence[0])[0].name]
    several = [[side.name for side in _judged(e)] for e in evidence if len(_judged(e)) != 1]
    if len(several) == len(evidence) and all(names and set(names) == set(several[0]) for names in several):
        return several[0]
    known = dict.fromkeys(side.name for e in evidence for side in _judged(e))
    if not known:
        raise UsageError(f"{evidence[0].file}: no candidate but the noise floor; give records of recipes or builds")
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
        warnings.append(f"nothing in {', '.join(nameless)} says which build it measured; assumed to be this build")
    return Chosen(name, tuple(sides), tuple(warnings))


def same_builds(chosen: Chosen) -> tuple[list[str], list[str]]:
    """Where a candidate is its own baseline, and where it may be: (certain, likely), a line each.

    A gate that holds a build against itself passes whatever the build is. One manifest, one recipe, or one model of
    one server on both sides is certain; manifests that differ are two conversions, which one recipe makes likely.
    """
    certain, likely = list[str](), list[str]()
    for e, side in chosen.sides:
        if e.baseline is None:
            continue
        of = f"{e.file}: candidate {side.name!r} and baseline {e.baseline.name!r}"
        if same := side.pointer.get("same_as_baseline"):
            certain.append(f"{of} are one {same}, as the record says")
            continue
        manifests = [x.identity.get("manifest_sha256") for x in (side, e.baseline)]
        if None not in manifests and manifests[0] == manifests[1]:
            certain.append(f"{of} are one build (manifest_sha256 {_short(manifests[0])})")
            continue
        (certain if None in manifests else likely).extend(f"{of} are {what}" for what in _in_common(side, e.baseline))
        likely += [f"{of} are {what}" for what in _perhaps_in_common(side, e.baseline)]
    return certain, likely


def check_other_than_baseline(chosen: Chosen, *, allowed: bool) -> list[str]:
    """Warnings where a candidate is, or may be, its own baseline. Raises UsageError where it is, unless `allowed`."""
    certain, likely = same_builds(chosen)
    if certain and not allowed:
        raise UsageError(
            f"{'; '.join(certain)}; a build held against itself passes whatever it is: give records of another"
            " candidate, or --allow-same where the run was meant to measure noise"
        )
    return [
        *(f"{line}: the verdict is on noise, not on a quantization (--allow-same)" for line in certain),
        *(f"{line}: they may be the same, and then nothing was compared" for line in likely),
    ]


def _in_common(a: MeasuredSide, b: MeasuredSide) -> Iterator[str]:
    """What makes two sides one, where no manifest parts them."""
    recipe = a.identity.get("recipe_sha256")
    if recipe is not None and recipe == b.identity.get("recipe_sha256"):
        yield f"of one recipe (sha256 {_short(recipe)})"
    server = [(x.pointer.get("endpoint"), x.pointer.get("model")) for x in (a, b)]
    if server[0] == server[1] and server[0][0] not in (None, ELSEWHERE):
        yield f"one model of one server ({server[0][1]} at {server[0][0]})"


def _perhaps_in_common(a: MeasuredSide, b: MeasuredSide) -> Iterator[str]:
    """What two builds can have in common and yet differ."""
    server = [(x.pointer.get("endpoint"), x.pointer.get("model")) for x in (a, b)]
    if server[0] == server[1] and server[0][0] == ELSEWHERE:
        yield f"of one model name ({server[0][1]}), on servers of other machines, whose addresses records do not keep"
    config = a.identity.get("config_sha256")
    if config is not None and config == b.identity.get("config_sha256") and "recipe_sha256" not in a.identity:
        yield f"of one config.json (sha256 {_short(config)})"


def disagreements(sides: Sequence[tuple[Evidence, MeasuredSide]]) -> list[str]:
    """Where records that should be of one candidate measured different builds or sources."""
    return [*_other_builds(sides), *_other_sources(sides)]


def _names_of(side: MeasuredSide) -> list[str]:
    """What a candidate may be called: its name in the record, and its recipe's."""
    recipe = side.pointer.get("recipe", {}).get("name")
    return [side.name, *([str(recipe)] if recipe else [])]


def _side_named(name: str, e: Evidence) -> MeasuredSide:
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


def _other_builds(sides: Sequence[tuple[Evidence, MeasuredSide]]) -> Iterator[str]:
    for key in IDENTITY:
        yield from _differing(key, [(e.file, side.identity.get(key)) for e, side in sides])


def _other_sources(sides: Sequence[tuple[Evidence, MeasuredSide]]) -> Iterator[str]:
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
    fields = [(key, measured) for key in _COMPUTES] + [(key, timed) for key in _SERVES]
    return [p for key, es in fields for p in _differing(f"machine's {key}", [(e.file, e.machine.get(key)) for e in es])]


def machine_warnings(evidence: Sequence[Evidence]) -> list[str]:
    """What records do not say of their machine, and versions that differ."""
    measured = [e for e in evidence if e.kind not in _SIZES]
    warnings = [
        f"{e.file} does not say on which machine it was measured ({e.machine.get('unknown') or 'no machine in it'})"
        for e in measured
        if not e.machine or e.machine.get("unknown")
    ]
    records = [e for e in measured if not e.machine.get("unknown")]
    warnings += [
        p
        for key in _VERSIONS
        for p in _differing(f"version of {key}", [(e.file, e.versions.get(key)) for e in records])
    ]
    return warnings


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


def _differing(what: str, entries: Sequence[tuple[str, Any]]) -> Iterator[str]:
    """One line where files that say something say different things."""
    values: dict[Any, list[str]] = {}
    for file, value in entries:
        if value is not None:
            values.setdefault(value, []).append(file)
    if len(values) > 1:
        yield f"{what} differs: " + "; ".join(f"{_short(value)} in {', '.join(f)}" for value, f in values.items())


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
