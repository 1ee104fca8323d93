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
from ..records.candidates import HASHES
from ..words.text import listed
from .evidence import Evidence, MeasuredSide
from .joining import Place, joined_to, judged_sides, name_for, sides_of

# of a machine's description, what makes it another one: for all that is computed, and for speeds
_COMPUTES = ("chip", "architecture")
_SERVES = ("cores", "memory_bytes", "os", "gpu_cores", "gpu", "device", "power_mode")
_TIMED = ("bench", "eval")
_VERSIONS = ("mlxquant", "mlx", "mlx-lm")
_SIZES = ("plan", "audit")
# what an evaluation's record says instead of the address of a server that is not on this machine
ELSEWHERE = "another machine"
_RECORDED = "--candidate-build records it, of bench --build"


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
    """Find each wanted candidate in every record; without words, the only one, or all of records that list several.

    Raises UsageError where a record lacks it or a word is needed, MixedRecordsError where records disagree.
    """
    if wanted:
        chosen = [_agreeing(word, sides_of(word, evidence)) for word in dict.fromkeys(wanted)]
        return [c for i, c in enumerate(chosen) if all(c.sides != other.sides for other in chosen[:i])]
    if not any(judged_sides(e) for e in evidence):
        raise UsageError(f"{evidence[0].file}: no candidate but the noise floor; give records of recipes or builds")
    if all(len(judged_sides(e)) == 1 for e in evidence):
        own = Place(evidence[0], judged_sides(evidence[0])[0])
        joined = {id(place.evidence): place for place in joined_to(own, evidence)}
        return [_agreeing(own.side.name, [joined.get(id(e), e) for e in evidence])]
    return _all_of(evidence)


def _all_of(evidence: Sequence[Evidence]) -> list[Chosen]:
    """Every candidate, where all records have the same ones. Raises UsageError where they do not."""
    first = max(evidence, key=lambda e: len(judged_sides(e)))
    joined = [joined_to(Place(first, side), evidence) for side in judged_sides(first)]
    if any(len(judged_sides(e)) != len(joined) for e in evidence) or any(len(j) != len(evidence) for j in joined):
        places = [Place(e, side) for e in evidence for side in judged_sides(e)]
        names = ", ".join(dict.fromkeys(p.side.name for p in places))
        raise UsageError(f"several candidates in these records; give --candidate with one of {names}")
    return [_agreeing(next(p.side.name for p in j if p.evidence is first), j) for j in joined]


def _agreeing(word: str, places: Sequence[Place | Evidence]) -> Chosen:
    """The candidate of these sides; a record that does not name it gives its only one.

    Raises UsageError, MixedRecordsError.
    """
    joined = [p for p in places if isinstance(p, Place)]
    name = name_for(word, joined)
    sides, warnings = [], list[str]()
    for place in places:
        if isinstance(place, Place):
            sides.append((place.evidence, place.side))
            continue
        only = _only_side(name, place)
        warnings.append(f"{place.file} calls it {only.name!r}; taken to be {name!r}, since it is the only one there")
        sides.append((place, only))
    if problems := disagreements(sides):
        raise MixedRecordsError(
            listed(["records of different builds or sources have no common verdict:", *problems], limit=12)
        )
    nameless = [e.file for e, side in sides if not side.identity.keys() & set(HASHES)]
    if len(sides) > 1 and nameless:
        warnings.append(
            f"nothing in {', '.join(nameless)} says which build it measured; assumed to be this build ({_RECORDED})"
        )
    return Chosen(name, tuple(sides), tuple(warnings))


def _only_side(name: str, e: Evidence) -> MeasuredSide:
    sides = judged_sides(e)
    if len(sides) == 1:
        return sides[0]
    there = ", ".join(side.name for side in sides) or "none"
    raise UsageError(f"{e.file}: no candidate {name!r}; it has {there}")


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


def _other_builds(sides: Sequence[tuple[Evidence, MeasuredSide]]) -> Iterator[str]:
    for key in HASHES:
        yield from _differing(key, [(e.file, side.identity.get(key)) for e, side in sides])


def _other_sources(sides: Sequence[tuple[Evidence, MeasuredSide]]) -> Iterator[str]:
    """By the source's name (without its organisation, which a folder lacks), its revision, its kind of model."""
    sources = [(e.file, e.source or side.source) for e, side in sides]
    names = [(file, str(s["name"]).rstrip("/").rpartition("/")[2]) for file, s in sources if s.get("name")]
    yield from _differing("source", names)
    yield from _differing("source's revision", [(file, s.get("revision")) for file, s in sources])
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
