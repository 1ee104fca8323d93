"""What the page shows of a comparison: candidates, KL by slice, depth and turn, flips and errors by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...records.loading import Loaded
from ...records.measurements import Figures, Measured, figures_of
from ...records.metrics import CAVEAT
from ...words.units import show_bytes
from ..common import machine_text, short_name
from ..compare import mnat, percent, with_half
from ..sweep import unit_of
from .candidates import Candidate, Cast, legend, shown_first
from .charts import Line, Plot, Point, Tracks, by_layer, frontier, plain, ranges, shares, size_against_damage

_SLICES = 18  # more than this stand in the table alone
_ENDS = ("estimate", "low", "high")
_KINDS = (("slice", "KL by slice, the worst first"), ("depth", "KL by position"), ("turn", "KL by turn"))
_LAYERS = (
    ("expert_set_changed", None, "experts changed, accumulated"),
    ("expert_set_changed", "own", "experts changed, own"),
    ("expert_set_changed", "router", "experts changed, router alone"),
    ("hidden_error_out", None, "hidden-state error leaving, accumulated"),
    ("hidden_error_out", "own", "hidden-state error leaving, own"),
    ("flips_weighted", None, "change of the block's output at flipped tokens"),
)


def quality(loaded: Loaded, number: int, cast: Cast) -> dict[str, Any]:
    """Lay a comparison's record out."""
    record = loaded.record
    candidates = list(figures_of(record))
    sides = record["candidates"]
    who = [cast.of(side) for side in sides]
    return {
        "number": number,
        "title": str(record["source"].get("name") or loaded.name),
        "facts": list(_facts(record)),
        "confidence": f"{record['confidence']:.0%}",
        "margin": f"{record['margin_nats'] * 1000:g}",
        "caveat": CAVEAT[0].upper() + CAVEAT[1:] + ".",
        "split": any(f.get("kl_through_routing_nats") for f in candidates),
        "rows": [_row(c, f) | {"css": w.css} for c, f, w in zip(sides, candidates, who, strict=True)],
        "legend": legend(cast.named(sides), shown_first(sides, cast, "kl_nats")),
        "charts": list(_charts(sides, candidates, who)),
        "tables": list(_tables(candidates, who)),
        "notes": [str(note) for note in record.get("notes") or []],
    }


def _facts(record: Mapping[str, Any]) -> Iterator[str]:
    data, done = record["data"], record["pass"]
    if all(type(data.get(k)) is int for k in ("documents", "scored_tokens")):
        yield f"{data.get('name')}: {data['documents']:,} documents, {data['scored_tokens']:,} tokens scored"
    if type(done.get("seconds")) in (int, float) and type(done.get("layers")) is int:
        yield f"{done['layers']} layers in one pass, {done['seconds']:,.0f} s"
    if done.get("compute_reason"):
        yield str(done["compute_reason"])
    machine = machine_text(record.get("machine"))
    if machine:
        yield machine


def _row(candidate: Mapping[str, Any], figures: Figures) -> dict[str, str]:
    worst = figures.worst_slice()
    size, bpw = candidate.get("bytes"), candidate.get("bpw")
    verdict = candidate.get("verdict")
    return {
        "name": figures.name,
        "bytes": str(size) if type(size) is int else "-1",
        "size": show_bytes(size, 1) if type(size) is int else "-",
        "bpw": f"{bpw:.2f}" if type(bpw) in (int, float) else "-",
        "kl": mnat(figures.get("kl_nats")),
        "ratio": with_half(figures.get("perplexity_ratio")),
        "top": _share(figures.get("same_top")),
        "flips": _share(figures.get("expert_set_changed")),
        "weights": mnat(figures.get("kl_nats", case="teacher-forced")),
        "routing": mnat(figures.get("kl_through_routing_nats")),
        "worst": f"{worst['slice']}: {mnat(worst)}" if worst else "-",
        "verdict": str(verdict.get("verdict")).removesuffix(" the noise floor")
        if isinstance(verdict, Mapping)
        else "-",
    }


def _share(figure: Measured | None) -> str:
    text = percent(figure)
    return text if text == "-" else f"{text} %"


def _tables(candidates: Sequence[Figures], who: Sequence[Candidate]) -> Iterator[dict[str, Any]]:
    """A table a kind of group, and one a figure by layer; a row a group, a column a candidate."""
    names = [(f.name, w.css) for f, w in zip(candidates, who, strict=True)]
    for kind, title in _KINDS:
        groups = _groups(candidates, who, kind)
        rows = [
            (g, _documents(candidates, kind, g), _mean_text(candidates, who, kind, g),
             [mnat(f.get("kl_nats", **{kind: g})) for f in candidates])
            for g in groups
        ]  # fmt: skip
        if rows:
            title = f"{title}, 10⁻³ nats"
            yield {"title": title, "kind": kind, "names": names, "rows": rows, "open": kind == "slice"}
    for metric, case, title in _LAYERS:
        layers = sorted({layer for f in candidates for layer in f.names("layer", metric, case)})
        cells = [(n, "", "", [_share(f.get(metric, layer=n, case=case)) for f in candidates]) for n in layers]
        if cells:
            yield {"title": f"By layer: {title}", "kind": "layer", "names": names, "rows": cells, "open": False}


def _groups(candidates: Sequence[Figures], who: Sequence[Candidate], kind: str) -> list[str]:
    """Names of the groups; slices by their mean KL, those without an interval, too small to tell, last."""
    names = list(dict.fromkeys(name for f in candidates for name in f.names(kind)))
    if kind != "slice":
        return names

    def rank(name: str) -> tuple[bool, float]:
        figures = [m for f in candidates if (m := f.get("kl_nats", slice=name))]
        return all(m["low"] is None for m in figures), -_mean(candidates, who, kind, name)

    return sorted(names, key=rank)


def _mean(candidates: Sequence[Figures], who: Sequence[Candidate], kind: str, group: str) -> float:
    """Geometric mean of the candidates' KL: each counts alike, the near-lossless as much as the broken."""
    figures = [f.get("kl_nats", **{kind: group}) for f, w in zip(candidates, who, strict=True) if not w.floor]
    logs = [math.log(m["estimate"]) for m in figures if m and m["estimate"] and m["estimate"] > 0]
    return math.exp(math.fsum(logs) / len(logs)) if logs else 0.0


def _mean_text(candidates: Sequence[Figures], who: Sequence[Candidate], kind: str, group: str) -> str:
    return f"{1000 * _mean(candidates, who, kind, group):.3g}" if kind == "slice" and len(candidates) > 1 else ""


def _documents(candidates: Sequence[Figures], kind: str, group: str) -> str:
    measured = next((m for f in candidates if (m := f.get("kl_nats", **{kind: group}))), None)
    return f"{measured['clusters']:,}" if measured else "-"


def _charts(
    sides: Sequence[Mapping[str, Any]], candidates: Sequence[Figures], who: Sequence[Candidate]
) -> Iterator[Tracks | Plot]:
    yield from _by_size(sides, candidates, who)
    yield from _through_routing(candidates, who)
    for kind, title in _KINDS:
        groups = [*([None] if kind == "slice" else []), *_groups(candidates, who, kind)[:_SLICES]]
        rows = [(group or "all tokens", _lines(candidates, who, kind, group)) for group in groups]
        rows = [(group, lines) for group, lines in rows if lines]
        if rows:
            words = "; ".join(f"{group}: {', '.join(line.words for line in lines)}" for group, lines in rows)
            yield ranges(title, f"{title}, 10⁻³ nats: {words}", rows, _thousandths, "10⁻³ nats")
    for metric, case, title in _LAYERS:
        series = [(w, list(_by_layer(f, metric, case))) for f, w in zip(candidates, who, strict=True)]
        if len({layer for _, points in series for layer, _ in points}) > 1:
            words = "; ".join(_worst(candidates, [points for _, points in series]))
            yield by_layer(title, f"{title}, by layer: {words}", series, _limits(candidates, metric))


def _by_size(
    sides: Sequence[Mapping[str, Any]], candidates: Sequence[Figures], who: Sequence[Candidate]
) -> Iterator[Plot]:
    """KL against bytes, the floor dashed; nothing where fewer than two candidates have a size."""
    points, floor = [], None
    unit, one = unit_of([side["bytes"] for side in sides if type(side.get("bytes")) is int])
    for side, figures, candidate in zip(sides, candidates, who, strict=True):
        kl = figures.get("kl_nats")
        if kl is None or not kl["estimate"] or kl["estimate"] <= 0:
            continue
        if candidate.floor:
            floor = kl["estimate"]
        elif type(size := side.get("bytes")) is int:
            words = f"{figures.name} {show_bytes(size)}, KL {mnat(kl)}"
            label = short_name(figures.name, 16)
            points.append(
                Point(candidate, size / one, kl["estimate"], kl["low"], kl["high"], label, words, True, False)
            )
    if len(points) > 1:
        line = frontier([(p.size, p.damage) for p in points])
        words = f"KL, 10⁻³ nats, by size of the build: {'; '.join(p.words for p in points)}."
        yield size_against_damage("KL by size of the build", words, points, line, floor, f"size of the build, {unit}")


def _through_routing(candidates: Sequence[Figures], who: Sequence[Candidate]) -> Iterator[Tracks]:
    """The share of KL that is gone with the reference's routing; its interval is that of the difference, over KL."""
    lines = []
    for figures, candidate in zip(candidates, who, strict=True):
        through, kl = figures.get("kl_through_routing_nats"), figures.get("kl_nats")
        if through and kl and not candidate.floor and kl["estimate"] and kl["estimate"] > 0:
            value, low, high = (None if through[k] is None else through[k] / kl["estimate"] for k in _ENDS)
            if value is not None:
                lines.append(Line(candidate, value, low, high, f"{figures.name} {100 * value:.0f} %"))
    if lines:
        title = "share of KL through routing"
        yield shares(title, f"{title}: {', '.join(line.words for line in lines)}", [("", lines)])


def _thousandths(value: float) -> str:
    return plain(1000 * value)


def _lines(candidates: Sequence[Figures], who: Sequence[Candidate], kind: str, group: str | None) -> list[Line]:
    """A line for each candidate whose KL is above zero; an end that is not is drawn at a tenth of the estimate."""
    lines = []
    for figures, candidate in zip(candidates, who, strict=True):
        figure = figures.get("kl_nats", **({kind: group} if group else {}))
        if figure is not None and figure["estimate"] and figure["estimate"] > 0:
            value = figure["estimate"]
            low, high = (value if figure[end] is None else figure[end] for end in ("low", "high"))
            lines.append(Line(candidate, value, max(low, value / 10), high, f"{figures.name} {mnat(figure)}"))
    return lines


def _by_layer(figures: Figures, metric: str, case: str | None) -> Iterator[tuple[int, float]]:
    for layer in figures.names("layer", metric, case):
        figure = figures.get(metric, layer=layer, case=case)
        if figure is not None and figure["estimate"] and figure["estimate"] > 0:
            yield layer, figure["estimate"]


def _limits(candidates: Sequence[Figures], metric: str) -> tuple[float, float]:
    """One scale for a metric's cases, so that own and accumulated can be compared by eye."""
    cases = [case for name, case, _ in _LAYERS if name == metric]
    values = [value for f in candidates for case in cases for _, value in _by_layer(f, metric, case)]
    return min(values), max(values)


def _worst(candidates: Sequence[Figures], points: Sequence[Sequence[tuple[int, float]]]) -> Iterator[str]:
    for figures, series in zip(candidates, points, strict=True):
        if series:
            layer, value = max(series, key=lambda p: p[1])
            yield f"{figures.name} at most {100 * value:.2g} % (layer {layer})"
