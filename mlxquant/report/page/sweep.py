"""What the page shows of a sweep: the recommendation, size against damage, where tolerances are left, candidates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...records.loading import Loaded
from ...records.measurements import measurement
from ...words.units import show_bytes
from ..common import machine_text
from ..compare import mnat, percent
from ..sweep import WORDS, line_name, missed_words, unit_of
from .charts import Point, available, size_against_damage

_CLASSES = {"PASS": "pass", "FAIL": "fail"}
_SIZES = (("bytes", "size of the build"), ("active_bytes_per_token", "bytes read for a token"))


def swept(loaded: Loaded, number: int, *, draw: bool) -> dict[str, Any]:
    """Lay a sweep's record out; `draw` says that matplotlib is there."""
    record = loaded.record
    recommendation = record["recommendation"]
    families = list(dict.fromkeys(c["family"] for c in record["candidates"]))
    return {
        "number": number,
        "chosen": recommendation["name"],
        "title": recommendation["name"] or "nothing recommended",
        "why": _sentence(str(recommendation["why"])),
        "facts": list(_facts(record)),
        "refused": _refused(recommendation),
        "remarks": [str(text) for text in recommendation.get("remarks") or []],
        "families": families,
        "rows": [_row(c, families, recommendation["name"]) for c in record["candidates"]],
        "grids": list(_grids(record, families)),
        "pictures": list(_pictures(record, families, number)) if draw and available() else [],
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


def _row(c: Mapping[str, Any], families: Sequence[str], chosen: str | None) -> dict[str, Any]:
    beaten = c["dominated"].get("bytes")
    by = f"by {beaten['by']}{'' if beaten['resolved'] else ', not resolved'}" if beaten else "-"
    return {
        "name": c["name"],
        "series": families.index(c["family"]) % 6,
        "chosen": c["name"] == chosen,
        "size": show_bytes(c["bytes"]) if c["bytes"] is not None else "-",
        "bpw": f"{c['bpw']:.2f}" if c["bpw"] is not None else "-",
        "read": show_bytes(c["active_bytes_per_token"]) if c["active_bytes_per_token"] is not None else "-",
        "kl": mnat(measurement(c, "kl_nats")),
        "top": percent(measurement(c, "same_top")),
        "verdict": c["verdict"],
        "css": _CLASSES.get(c["verdict"], "open"),
        "missed": missed_words(c),
        "beaten": by,
    }


def _grids(record: Mapping[str, Any], families: Sequence[str]) -> Iterator[dict[str, Any]]:
    """For each family of several bits: tolerances down, bits across, statuses in the cells."""
    for family in families:
        lines = [t for t in record["thresholds"] if t["family"] == family]
        bits = list(dict.fromkeys(b for t in lines for b in t["statuses"]))
        if lines:
            yield {
                "family": family,
                "series": families.index(family) % 6,
                "bits": bits,
                "rows": [(line_name(t), t["tolerance"] is None, [_cell(t, b) for b in bits]) for t in lines],
            }


def _cell(line: Mapping[str, Any], bits: str) -> tuple[str, str, str]:
    status = line["statuses"].get(bits)
    return (_CLASSES.get(status, "open"), WORDS[status], status) if status else ("", "", "")


def _pictures(record: Mapping[str, Any], families: Sequence[str], number: int) -> Iterator[dict[str, str]]:
    chosen, floor = record["recommendation"]["name"], record.get("noise_floor_kl_nats")
    for i, (kind, title) in enumerate(_SIZES):
        placed = [c for c in record["candidates"] if c[kind] is not None and _damage(c) is not None]
        drawn = [c for c in placed if _damage(c)]  # a logarithm has no place for none at all
        if not drawn:
            continue
        unit, one = unit_of([c[kind] for c in drawn])
        points = [_point(c, c[kind] / one, families, chosen) for c in drawn]
        line = [
            (c[kind] / one, _damage(c) or 0.0) for name in record["frontier"][kind] for c in drawn if c["name"] == name
        ]
        words = "; ".join(f"{c['name']} {show_bytes(c[kind])}, KL {mnat(measurement(c, 'kl_nats'))}" for c in drawn)
        yield {
            "title": f"damage by {title}",
            "svg": size_against_damage(
                points, line, (floor or {}).get("estimate"), f"{title}, {unit}", f"w{number}-{i}"
            ),
            "label": f"KL, 10⁻³ nats, by {title}: {words}. Recommended: {chosen or 'none'}.",
        }


def _point(c: Mapping[str, Any], size: float, families: Sequence[str], chosen: str | None) -> Point:
    kl = measurement(c, "kl_nats") or {}
    return Point(
        series=families.index(c["family"]),
        size=size,
        damage=kl["estimate"],
        low=kl["low"],
        high=kl["high"],
        label="" if c["bits"] is None else str(c["bits"]),
        inside=c["verdict"] == "PASS",
        chosen=c["name"] == chosen,
    )


def _damage(c: Mapping[str, Any]) -> float | None:
    kl = measurement(c, "kl_nats")
    return None if kl is None else kl["estimate"]
