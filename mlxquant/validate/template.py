"""The tolerance file that `validate --init` writes: limits for what is to be measured, with what speaks for each.

`templates/` has a part for each command that measures. A part is paragraphs; one that names a place (`slice = @in@`)
gets the places that records at hand have, or those that a run without options gives, and is left out where there are
none.
No limit is taken from a record: tolerances that are set by what was measured prove nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from textwrap import wrap

from ..errors import UsageError
from ..words.text import nearest
from .evidence import Evidence, Figure

FOR = ("compare", "eval", "bench", "results", "tau2", "rollout")
# places of a run without options, where no record says what there is; a test of bench is left open then
_INSIDE = ("in:tool_call", "in:json", "in:numeric")
_PLACES: Mapping[str, Sequence[str]] = {"depth": ("1-20",)}
_FEWEST = 20  # min_clusters of the head
_MOST = 40  # places of one list


def template_text(
    kinds: Sequence[str] = ("compare",), records: Sequence[Evidence] = (), against: Sequence[str] = ()
) -> str:
    """Write limits for what these commands measure, at the places that `records` have.

    `against` are candidates of a comparison that the one to be judged must not be worse than. Raises UsageError for an
    unknown kind, and for a record of a kind that is not asked for.
    """
    for record in records:
        if record.kind not in FOR:
            raise UsageError(
                f"--from {record.file}: a record of {record.kind}, for which no limits are written; give one of"
                f" {', '.join(FOR)}"
            )
    for kind in kinds:
        if kind not in FOR:
            raise UsageError(f"--for {kind!r}: no kind of measurement{nearest(kind, FOR)}; valid: {', '.join(FOR)}")
    for record in records:
        if record.kind not in kinds:
            raise UsageError(
                f"--from {record.file}: a record of {record.kind}, which --for {','.join(kinds)} does not name"
            )
    parts = [_part("head")]
    for kind in FOR:
        if kind in kinds:
            own = [record for record in records if record.kind == kind]
            parts.append(_filled(_part(kind), _places(own) if own else _PLACES, own))
    if against:
        parts.append(_filled(_part("against"), {"against": against}, ()))
    left = [kind for kind in FOR if kind not in kinds]
    if left:
        parts.append(f"# Not in here: what {' and '.join(left)} would measure (--for {','.join(FOR)}).\n")
    return "\n".join(parts)


def _part(name: str) -> str:
    return files(__package__).joinpath("templates", f"{name}.toml").read_text(encoding="utf-8")


def _filled(text: str, places: Mapping[str, Sequence[str]], records: Sequence[Evidence]) -> str:
    """The paragraphs with their places; those without any left out, and what is too small for a limit named."""
    paragraphs = []
    for paragraph in text.rstrip("\n").split("\n\n"):
        marked = re.search(r"^\w+ = @(\w+)@\n", paragraph, re.MULTILINE)
        names = places.get(marked[1], ()) if marked else ()
        if marked and not records and marked[1] in ("decode", "prefill"):
            paragraph = paragraph.replace(marked[0], "")  # whichever tests are run
        elif marked and not records and marked[1] == "in":
            paragraph = _commented(paragraph.replace(f"@{marked[1]}@", _list(_INSIDE)))
        elif marked and not names:
            continue
        elif marked:
            paragraph = paragraph.replace(f"@{marked[1]}@", _list(names))
        paragraphs.append(paragraph)
    if small := places.get("small"):
        lines = "\n".join(f"# {line}" for line in wrap(", ".join(small), 116))
        paragraphs.insert(1, f"# In fewer than {_FEWEST} documents or tasks, so without a limit:\n{lines}")
    return "\n\n".join(paragraphs) + "\n"


def _commented(paragraph: str) -> str:
    """A paragraph that waits for data: not every chat template and set of texts has such parts."""
    lines = [line if line.startswith("#") else f"# {line}" for line in paragraph.split("\n")]
    return "\n".join(["# Take the hashes away where your data have these; --init --from RECORD does so.", *lines])


def _list(names: Sequence[str]) -> str:
    """A TOML list, on lines of 120 columns at most where names allow it."""
    words = [json.dumps(name, ensure_ascii=False) for name in names]
    text = ", ".join(words)
    return f"[{text}]" if len(text) < 100 else "[\n" + "".join(f"    {word},\n" for word in words) + "]"


def _places(records: Iterable[Evidence]) -> dict[str, list[str]]:
    """Where these records have figures, from enough clusters; the others under "small"."""
    figures = [f for record in records for side in record.candidates for f in side.figures]
    slices = _where(figures, "kl_nats", "slice")
    depths = _where(figures, "right_call", "depth")
    enough = [name for name, clusters in slices.items() if clusters >= _FEWEST]
    return {
        "in": [name for name in _INSIDE if name in enough],
        "named": [name for name in enough if not name.startswith("in:")][:_MOST],
        "depth": [name for name, clusters in depths.items() if clusters >= _FEWEST],
        "decode": list(_where(figures, "decode_tok_s", "test")),
        "prefill": list(_where(figures, "prefill_tok_s", "test")),
        "small": [name for name, clusters in {**slices, **depths}.items() if clusters < _FEWEST][:_MOST],
    }


def _where(figures: Sequence[Figure], metric: str, key: str) -> dict[str, int]:
    """The places of a metric along one key, each with the fewest clusters of a candidate."""
    places: dict[str, int] = {}
    for f in figures:
        where = dict(f.where)
        if f.metric == metric and where.keys() == {key}:
            places[where[key]] = min(places.get(where[key], f.interval.clusters), f.interval.clusters)
    return places
