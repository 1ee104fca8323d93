"""Which side of each record a candidate is, whatever each record calls it.

A side is found by its hashes, so that a recipe in a comparison, the build that was made by it and the server that
served that are one candidate. What a person types is one of:

    the name in a record, the build's folder (a path, or its last part), the server's name for the model
    a recipe in one word (gates-8bit:bits=4, or the path of a .toml file), or its name with some of its changes
    a hash, or the first six digits or more of one: of the build's mlxquant.json, the recipe, or config.json
    the beginning of a name, of three characters or more

Exact words come before parts of one. A word that means several candidates is refused with a list of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ..disk.files import read_regular
from ..errors import MlxquantError, UsageError
from ..plan.recipe.variation import load_variation, pairs_of, split_variation
from ..records.candidates import HASHES
from ..words.text import cut, nearest, some
from .evidence import NOISE_FLOOR, Evidence, MeasuredSide

_MANIFEST = "mlxquant.json"
_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{6,64})", re.IGNORECASE)
_SHORTEST = 3  # characters of a name's beginning
# what makes two sides one: a config.json is that of many builds
_JOINS = ("manifest_sha256", "recipe_sha256")


@dataclass(frozen=True, slots=True)
class Place:
    """A side, and the record that it is in."""

    evidence: Evidence
    side: MeasuredSide

    @property
    def described(self) -> str:
        """The side for a list to choose from: its names, its hashes, its record."""
        hashes = [f"{key.removesuffix('_sha256')} {self.side.identity[key][:12]}" for key in HASHES
                  if key in self.side.identity]  # fmt: skip
        words = [*(f"also {name}" for name in self.side.aliases), *hashes]
        return f"{self.side.name} in {self.evidence.file}" + (f" ({', '.join(words)})" if words else "")


def judged_sides(record: Evidence) -> list[MeasuredSide]:
    """The candidates of a record but the noise floor."""
    return [side for side in record.candidates if side.kind != NOISE_FLOOR]


def sides_of(word: str, evidence: Sequence[Evidence]) -> list[Place | Evidence]:
    """Find the candidate that a word means, in each record: its side, or the record itself where it has none of it.

    Raises UsageError where no record has it, or where the word means several.
    """
    places = [Place(e, side) for e in evidence for side in judged_sides(e)]
    meant = _meant(word, places)
    if not meant:
        raise UsageError(_unknown(word, places))
    return _joined(meant, evidence, places, word)


def joined_to(own: Place, evidence: Sequence[Evidence]) -> list[Place]:
    """Find a candidate of one record in others, by its hashes, else by its name. Records that lack it are left out.

    Raises UsageError where another record has it several times.
    """
    places = [Place(e, side) for e in evidence for side in judged_sides(e)]
    others = [p for p in places if p.evidence is not own.evidence]
    hashed = _linked([own], others)
    named = [p for p in others if own.side.name in p.side.names]
    files = {id(p.evidence) for p in hashed}
    meant = [own, *hashed, *(p for p in named if id(p.evidence) not in files)]
    return [p for p in _joined(meant, evidence, places, own.side.name) if isinstance(p, Place)]


def _joined(
    meant: Sequence[Place], evidence: Sequence[Evidence], places: Sequence[Place], word: str
) -> list[Place | Evidence]:
    """One side for each record: of those that are meant, or linked to these by a hash."""
    rest = [p for p in places if p not in meant]
    linked = _linked(meant, rest)
    chosen: list[Place | Evidence] = []
    for e in evidence:
        here = [p for p in meant if p.evidence is e] or [p for p in linked if p.evidence is e]
        if len(here) > 1:
            here = _closest(here, [p for p in (*meant, *linked) if p.evidence is not e])
        if len(here) > 1:
            raise UsageError(_ambiguous(word, here))
        chosen.append(here[0] if here else e)
    return chosen


def _closest(here: Sequence[Place], others: Sequence[Place]) -> list[Place]:
    """Those of several sides of a record that are the very build of another record, where some are."""
    manifests = {p.side.identity.get("manifest_sha256") for p in others} - {None}
    same = [p for p in here if p.side.identity.get("manifest_sha256") in manifests]
    return same or list(here)


def _linked(meant: Sequence[Place], rest: Sequence[Place]) -> list[Place]:
    """Sides that share a hash with one that is meant, or with one that does."""
    linked, left = list[Place](), list(rest)
    while more := [p for p in left if any(_one(p.side, other.side) for other in (*meant, *linked))]:
        linked += more
        left = [p for p in left if p not in more]
    return linked


def _one(a: MeasuredSide, b: MeasuredSide) -> bool:
    """Whether a hash says that two sides are one: a build's, or where one of them is no build its recipe's."""
    for key in _JOINS:
        if key in a.identity and key in b.identity:
            return a.identity[key] == b.identity[key]
    return False


# --- words ---


def _meant(word: str, places: Sequence[Place]) -> list[Place]:
    """The sides that a word means. Raises UsageError where it is a part of several names or hashes."""
    exact = list(_exact(word, places))
    if exact:
        return exact
    for part in (_by_recipe, _by_prefix, _by_beginning):
        if meant := list(part(word, places)):
            first = meant[0]
            if apart := [p for p in meant[1:] if not _one(first.side, p.side)]:
                raise UsageError(_ambiguous(word, [first, *apart]))
            return meant
    return []


def _exact(word: str, places: Sequence[Place]) -> Iterator[Place]:
    """In each record the sides of a name; where it has none, those of another name or of a hash."""
    key, digits = _hash_of(word)
    last = word.rstrip("/").rpartition("/")[2]
    for own in _by_record(places):
        yield from (
            [p for p in own if p.side.name == word]
            or [p for p in own if digits and digits in {p.side.identity.get(k) for k in ([key] if key else HASHES)}]
            or [p for p in own if word in p.side.names]
            or [p for p in own if last in p.side.names and not (key and key in p.side.identity)]  # it is another's
        )


def _by_record(places: Sequence[Place]) -> Iterable[list[Place]]:
    records: dict[int, list[Place]] = {}
    for place in places:
        records.setdefault(id(place.evidence), []).append(place)
    return records.values()


def _hash_of(word: str) -> tuple[str | None, str | None]:
    """The hash that a word is, or that of the build or the recipe that it names, and which hash that is, if it says."""
    if (match := _PREFIX.fullmatch(word)) and len(match[1]) == 64:
        return None, match[1].lower()
    manifest = Path(word) / _MANIFEST
    try:
        if manifest.is_file():
            return "manifest_sha256", sha256(read_regular(manifest)).hexdigest()
        name, changes = split_variation(word)
        if changes or name.endswith(".toml"):
            return "recipe_sha256", load_variation(word).sha256
    except (MlxquantError, OSError, ValueError):  # no build and no recipe: a name, then
        pass
    return None, None


def _by_recipe(word: str, places: Sequence[Place]) -> Iterator[Place]:
    """Sides of a recipe that has all the changes of the word, and perhaps more of them."""
    name, wanted = _parted(word)
    for p in places:
        if p.side.recipe == name and any(wanted <= _parted(own)[1] for own in (*p.side.names, name)):
            yield p


def _parted(word: str) -> tuple[str, set[tuple[str, str]]]:
    """A recipe's name and changes; a word that has none is a name."""
    name, _, changes = word.partition(" ")[0].rpartition(":")
    return (name, set(pairs_of(changes))) if name and "=" in changes else (word, set())


def _by_prefix(word: str, places: Sequence[Place]) -> Iterator[Place]:
    match = _PREFIX.fullmatch(word)
    digits = match[1].lower() if match else None
    if digits:
        yield from (p for p in places if any(v.startswith(digits) for k, v in p.side.identity.items() if k in HASHES))


def _by_beginning(word: str, places: Sequence[Place]) -> Iterator[Place]:
    """Sides of which a name begins with the word; the verdict says the whole name."""
    if len(word) >= _SHORTEST:
        yield from (p for p in places if any(name.startswith(word) for name in p.side.names))


# --- messages ---

_MOST = 12


def _unknown(word: str, places: Sequence[Place]) -> str:
    own = list(dict.fromkeys(p.side.name for p in places))
    near = nearest(word, [name for p in places for name in p.side.names])
    there = some(own, _MOST) or "none"
    return f"--candidate {cut(word, 80)}: no record has a candidate of this name or hash{near}; they have {there}"


def _ambiguous(word: str, places: Sequence[Place]) -> str:
    there = some(list(dict.fromkeys(p.described for p in places)), _MOST)
    return f"--candidate {cut(word, 80)}: means several candidates; give one's name or hash: {there}"


def name_for(word: str, places: Sequence[Place]) -> str:
    """What a verdict calls a candidate: the word, where it is a name for people, else its name in the first record."""
    if any(word in (*p.side.names, p.side.recipe) for p in places):
        return word
    return places[0].side.name
