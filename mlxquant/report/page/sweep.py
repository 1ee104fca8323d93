"""What the page shows of a sweep: the recommendation, size against damage, where tolerances are left, candidates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...records.loading import Loaded
from ...records.measurements import measurement
from ...words.units import show_bytes
from ..common import machine_text, short_name
from ..compare import mnat, percent
from ..sweep import WORDS, line_name, missed_words, unit_of
from .candidates import Cast, legend
from .charts import Plot, Point, size_against_damage

_CLASSES = {"PASS": "pass", "FAIL": "fail"}
_SIZES = (("bytes", "size of the build"), ("active_bytes_per_token", "bytes read for a token"))


def swept(loaded: Loaded, number: int, cast: Cast) -> dict[str, Any]:
    """Lay a sweep's record out."""
    record = loaded.record
    recommendation = record["recommendation"]
    sides = record["candidates"]
    return {
        "number": number,
        "chosen": recommendation["name"],
        "title": recommendation["name"] or "",
        "why": _sentence(str(recommendation["why"])),
        "facts": list(_facts(record)),
        "refused": _refused(recommendation),
        "remarks": [str(text) for text in recommendation.get("remarks") or []],
        "rows": [_row(c, recommendation["name"]) | {"css": cast.of(c).css} for c in sides],
        "reads": any(c["active_bytes_per_token"] is not None for c in sides),
        "legend": legend(cast.named(sides), {cast.of(c).number for c in sides}),
        "grids": list(_grids(record)),
        "charts": list(_charts(record, cast)),
        "floor": mnat(record.get("noise_floor_kl_nats")) if record.get("noise_floor_kl_nats") else None,
        "warnings": [str(text) for text in record.get("warnings") or []],
        "notes": [str(text) for text in [*(record.get("notes") or []), *(record.get("caveats") or [])]],
    }


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _facts(record: Mapping[str, Any]) -> Iterator[str]:
    source, tolerances, data = record["source"], record["tolerances"], record.get("data")
    if source.get("name"):
        revision = f" at {str(source['revision'])[:12]}" if source.get("revision") else ""
        yield f"{source['name']}{revision}"
    yield f"tolerances {tolerances.get('name')} ({tolerances.get('file')}, sha256 {str(tolerances.get('sha256'))[:12]})"
    if isinstance(data, Mapping) and all(type(data.get(k)) is int for k in ("documents", "scored_tokens")):
        yield f"{data.get('name')}: {data['documents']:,} documents, {data['scored_tokens']:,} tokens scored"
    if machine := machine_text(record.get("machine")):
        yield machine


def _refused(recommendation: Mapping[str, Any]) -> dict[str, Any] | None:
    """The next smaller one, or the nearest where nothing is recommended, and what it misses."""
    candidate = (
        (recommendation.get("smaller") or [None])[0] if recommendation["name"] else recommendation.get("nearest")
    )
    if candidate is None:
        return None
    before = "The next smaller one" if recommendation["name"] else "The nearest"
    return {
        "words": f"{before}, {candidate['name']}, is not inside",
        "reasons": [str(text) for text in candidate["reasons"]],
    }


def _row(c: Mapping[str, Any], chosen: str | None) -> dict[str, Any]:
    beaten = c["dominated"].get("bytes")
    by = f"by {beaten['by']}{'' if beaten['resolved'] else ', not resolved'}" if beaten else "-"
    return {
        "name": c["name"],
        "chosen": c["name"] == chosen,
        "bytes": -1 if c["bytes"] is None else c["bytes"],
        "read_bytes": -1 if c["active_bytes_per_token"] is None else c["active_bytes_per_token"],
        "size": show_bytes(c["bytes"]) if c["bytes"] is not None else "-",
        "bpw": f"{c['bpw']:.2f}" if c["bpw"] is not None else "-",
        "read": show_bytes(c["active_bytes_per_token"]) if c["active_bytes_per_token"] is not None else "-",
        "kl": mnat(measurement(c, "kl_nats")),
        "top": percent(measurement(c, "same_top")),
        "verdict": c["verdict"],
        "status": _CLASSES.get(c["verdict"], "open"),
        "missed": missed_words(c),
        "beaten": by,
    }


def _grids(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """For each family of several bits: tolerances down, bits across, statuses in the cells."""
    for family in dict.fromkeys(c["family"] for c in record["candidates"]):
        lines = [t for t in record["thresholds"] if t["family"] == family]
        bits = list(dict.fromkeys(b for t in lines for b in t["statuses"]))
        if lines:
            yield {
                "family": family,
                "bits": bits,
                "rows": [(line_name(t), t["tolerance"] is None, [_cell(t, b) for b in bits]) for t in lines],
            }


def _cell(line: Mapping[str, Any], bits: str) -> tuple[str, str, str]:
    status = line["statuses"].get(bits)
    return (_CLASSES.get(status, "open"), WORDS[status], status) if status else ("", "", "")


def _charts(record: Mapping[str, Any], cast: Cast) -> Iterator[Plot]:
    chosen, floor = record["recommendation"]["name"], record.get("noise_floor_kl_nats")
    for kind, title in _SIZES:
        # a logarithm has no place for no damage at all
        drawn = [c for c in record["candidates"] if c[kind] is not None and _damage(c)]
        if not drawn:
            continue
        unit, one = unit_of([c[kind] for c in drawn])
        points = [_point(c, c[kind] / one, cast, chosen, show_bytes(c[kind])) for c in drawn]
        line = [
            (c[kind] / one, _damage(c) or 0.0) for name in record["frontier"][kind] for c in drawn if c["name"] == name
        ]
        words = f"KL, 10⁻³ nats, by {title}: {'; '.join(p.words for p in points)}. Recommended: {chosen or 'nothing'}."
        level = (floor or {}).get("estimate")
        yield size_against_damage(f"damage by {title}", words, points, line, level, f"{title}, {unit}")


def _point(c: Mapping[str, Any], size: float, cast: Cast, chosen: str | None, shown: str) -> Point:
    kl = measurement(c, "kl_nats") or {}
    return Point(
        candidate=cast.of(c),
        size=size,
        damage=kl["estimate"],
        low=kl["low"],
        high=kl["high"],
        label=short_name(str(c["name"]), 16),
        words=f"{c['name']} {shown}, KL {mnat(kl)}",
        inside=c["verdict"] == "PASS",
        chosen=c["name"] == chosen,
    )


def _damage(c: Mapping[str, Any]) -> float | None:
    kl = measurement(c, "kl_nats")
    return None if kl is None else kl["estimate"]
