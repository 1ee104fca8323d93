"""A sweep's record for a terminal of 80 columns: the answer first, then candidates by size, bits by tolerance, why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..records.measurements import measurement
from ..words.text import WIDTH, cut, filled, narrow_table
from .common import short_name
from .compare import mnat, percent
from .verdict import place

_NAME, _REASONS, _LEAST = 20, 6, 12
_HEADS = ("first tolerance missed", "first missed", "missed")
_KL = "KL: KL(reference ‖ candidate) a token in thousandths of a nat, ± half its interval."
_READ = (
    "top: per cent of tokens with the same one most likely. * recommended; - another is no larger and no worse; ~"
    " so it seems, but that may be chance. open: not settled; few: too few documents; no: not measured."
)
# status -> how a cell says it
WORDS = {"PASS": "pass", "FAIL": "FAIL", "INCONCLUSIVE": "open", "TOO FEW": "few", "MISSING": "-"}


def sweep_text(record: Mapping[str, Any]) -> str:
    """Write a sweep's record for a reader."""
    parts = (_head(record), _table_of_candidates(record), *_grids(record), _why(record), _remarks(record))
    return "\n\n".join(part for part in parts if part)


def answer(record: Mapping[str, Any]) -> str:
    """The recommendation in a sentence."""
    recommendation = record["recommendation"]
    if recommendation["name"] is not None:
        return f"{recommendation['name']}, {recommendation['why']}"
    near = recommendation.get("nearest")
    return f"nothing: {recommendation['why']}" + (f"; nearest is {near['name']}" if near else "")


def unit_of(sizes: Sequence[int]) -> tuple[str, int]:
    """The binary unit in which all sizes can be read, and its bytes."""
    largest = max(sizes, default=0)
    return next(((unit, 1024**p) for unit, p in (("GiB", 3), ("MiB", 2), ("KiB", 1)) if largest >= 1024**p), ("B", 1))


def missed_words(candidate: Mapping[str, Any]) -> str:
    """The first tolerance that a candidate misses: ``"FAIL json kl_nats"``; nothing for one inside all."""
    first = candidate["first_missed"]
    if first is None:
        return "-"
    where = place(first)
    at = "" if where == "overall" else where.removeprefix("slice ") + " "
    return f"{WORDS[first['status']].replace('-', 'no')} {at}{first['metric']}"


def _head(record: Mapping[str, Any]) -> str:
    source, data, tolerances = record["source"], record.get("data") or {}, record["tolerances"]
    revision = f" at {str(source['revision'])[:12]}" if source.get("revision") else ""
    machine, versions = record["machine"], record["versions"]
    chip = ", ".join(str(machine[k]) + after for k, after in (("chip", ""), ("cores", " cores")) if machine.get(k))
    lines = [
        filled("recommended", answer(record), 13),
        filled("source", f"{source.get('name', 'not known')}{revision}", 13),
        filled("tolerances", f"{tolerances['name']} ({tolerances['file']}, sha256 {tolerances['sha256'][:12]})", 13),
    ]
    if data:
        counts = f"{data.get('documents', 0):,} documents, {data.get('scored_tokens', 0):,} tokens scored"
        lines.append(filled("data", f"{data.get('name')}, {counts}", 13))
    if chip:
        lines.append(filled("machine", f"{chip}; mlx {versions.get('mlx', 'of several versions')}", 13))
    return "\n".join(lines)


def _table_of_candidates(record: Mapping[str, Any]) -> str:
    chosen, candidates = record["recommendation"]["name"], record["candidates"]
    unit, one = unit_of([c["bytes"] for c in candidates if c["bytes"]])
    read_unit, read_one = unit_of([c["active_bytes_per_token"] for c in candidates if c["active_bytes_per_token"]])
    heads = ["", "candidate", unit, "bpw", f"{read_unit}/tok", "KL, mnat", "top", ""]
    rows = [
        [
            _mark(c, chosen),
            short_name(c["name"], _NAME),
            _scaled(c["bytes"], one),
            f"{c['bpw']:.2f}" if c["bpw"] else "-",
            _scaled(c["active_bytes_per_token"], read_one),
            mnat(measurement(c, "kl_nats")),
            percent(measurement(c, "same_top")),
            missed_words(c),
        ]
        for c in candidates
    ]
    fixed = sum(max(len(row[i]) for row in (heads, *rows)) for i in range(7)) + 2 * 7
    room = max(WIDTH - fixed, _LEAST)
    heads[-1] = next((h for h in _HEADS if len(h) <= room), _HEADS[-1])
    for row in rows:
        row[-1] = cut(row[-1], room, at="end")
    names = [c["name"] for c in candidates if len(c["name"]) > _NAME]
    shortened = [filled("name", f"{short_name(name, _NAME)} is {name}", 13) for name in names]
    floor = record.get("noise_floor_kl_nats")
    noise = f" Of the bf16 noise floor: {mnat(floor)}." if floor else ""
    read = f"{_KL}{noise} {read_unit}/tok: read for a token. {_READ}"
    return "\n".join(
        [narrow_table(heads, rows, "llrrrrrl"), *([""] if shortened else []), *shortened, "", filled("read", read, 13)]
    )


def _mark(c: Mapping[str, Any], chosen: str | None) -> str:
    beaten = c["dominated"].get("bytes")
    if c["name"] == chosen:
        return "*"
    return "" if beaten is None else "-" if beaten["resolved"] else "~"


def _grids(record: Mapping[str, Any]) -> Iterator[str]:
    """For each family, tolerances down and bits across."""
    for family in dict.fromkeys(t["family"] for t in record["thresholds"]):
        lines = [t for t in record["thresholds"] if t["family"] == family]
        bits = list(dict.fromkeys(b for t in lines for b in t["statuses"]))
        cells = [[WORDS[t["statuses"][b]] if b in t["statuses"] else "" for b in bits] for t in lines]
        room = max(WIDTH - sum(2 + len(f"{b} bit") for b in bits), _LEAST)
        rows = [[cut(line_name(t), room, at="end"), *words] for t, words in zip(lines, cells, strict=True)]
        yield narrow_table([cut(family, room, at="end"), *(f"{b} bit" for b in bits)], rows, "l" + "r" * len(bits))


def line_name(line: Mapping[str, Any]) -> str:
    """What a threshold's line is of: ``"kl_nats, slice json ≤ 0.04"``."""
    if line["tolerance"] is None:
        return "all of them"
    where = place(line)
    return f"{line['metric']}{'' if where == 'overall' else f', {where}'} {line['limit']}"


def _why(record: Mapping[str, Any]) -> str:
    """Why nothing smaller is recommended; where nothing is, what the nearest one misses."""
    recommendation = record["recommendation"]
    lines = []
    if recommendation["name"] is None:
        if near := recommendation.get("nearest"):
            lines += [filled("nearest", near["name"], 13), *_reasons(near, _REASONS)]
        return "\n".join(lines)
    for i, smaller in enumerate(recommendation["smaller"]):
        if i == 0:
            lines += [filled("not smaller", f"{smaller['name']}, the next smaller one:", 13)]
            lines += _reasons(smaller, _REASONS)
        elif smaller["verdict"] != "FAIL":  # more documents may let it in; why the others are out, the table says
            lines += [filled("still open", f"{smaller['name']}, smaller yet:", 13), *_reasons(smaller, _REASONS)]
    if not recommendation["smaller"]:
        lines.append(filled("not smaller", "nothing smaller was tried", 13))
    return "\n".join([*lines, *(filled("beware", text, 13) for text in recommendation["remarks"])])


def _reasons(refused: Mapping[str, Any], most: int) -> Iterator[str]:
    for text in refused["reasons"][:most]:
        yield filled("", text, 13)
    if more := _more(refused["reasons"], most):
        yield filled("", more.lstrip(", "), 13)


def _more(reasons: Sequence[str], shown: int) -> str:
    return f", and {len(reasons) - shown} more" if len(reasons) > shown else ""


def _remarks(record: Mapping[str, Any]) -> str:
    lines = [filled("WARNING", text, 13) for text in record["warnings"]]
    lines += [filled("note", text, 13) for text in (*record["notes"], *record["caveats"])]
    return "\n".join(lines)


def _scaled(size: int | None, one: int) -> str:
    return "-" if size is None else f"{size / one:,.2f}" if size < 100 * one else f"{size / one:,.1f}"
