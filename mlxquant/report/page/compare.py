"""What the page shows of a comparison: candidates, KL by slice, depth and turn, flips and errors by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...records.loading import Loaded
from ...records.measurements import Figures, Measured, figures_of
from ...records.metrics import CAVEAT
from ...words.units import show_bytes
from ..common import machine_text
from ..compare import mnat, percent, with_half
from .charts import error_by_layer, error_ranges, most_telling

_SLICES = 14  # more than this stand in the table alone
_KINDS = (("slice", "KL by slice, the worst first"), ("depth", "KL by position"), ("turn", "KL by turn"))
_LAYERS = (
    ("expert_set_changed", None, "experts changed, accumulated"),
    ("expert_set_changed", "own", "experts changed, own"),
    ("expert_set_changed", "router", "experts changed, router alone"),
    ("hidden_error_out", None, "hidden-state error leaving, accumulated"),
    ("hidden_error_out", "own", "hidden-state error leaving, own"),
    ("flips_weighted", None, "change of the block's output at flipped tokens"),
)


def quality(loaded: Loaded, number: int, *, draw: bool) -> dict[str, Any]:
    """Lay a comparison's record out; `draw` says that matplotlib is there."""
    record = loaded.record
    candidates = list(figures_of(record))
    damages = [kl["estimate"] if (kl := figures.get("kl_nats")) else None for figures in candidates]
    drawn = [candidates[i] for i in most_telling(damages)]
    return {
        "number": number,
        "title": str(record["source"].get("name") or loaded.name),
        "facts": list(_facts(record)),
        "confidence": f"{record['confidence']:.0%}",
        "margin": f"{record['margin_nats'] * 1000:g}",
        "caveat": CAVEAT[0].upper() + CAVEAT[1:] + ".",
        "split": any(f.get("kl_through_routing_nats") for f in candidates),
        "rows": [_row(c, f) for c, f in zip(record["candidates"], candidates, strict=True)],
        "drawn": [f.name for f in drawn],
        "left_out": len(candidates) - len(drawn),
        "pictures": list(_pictures(drawn, number)) if draw else [],
        "tables": list(_tables(candidates)),
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


def _tables(candidates: Sequence[Figures]) -> Iterator[dict[str, Any]]:
    """A table a kind of group, and one a figure by layer; a row a group, a column a candidate."""
    names = [f.name for f in candidates]
    for kind, title in _KINDS:
        groups = _groups(candidates, kind)
        rows = [
            (g, _documents(candidates, kind, g), [mnat(f.get("kl_nats", **{kind: g})) for f in candidates])
            for g in groups
        ]
        if rows:
            title = f"{title}, 10⁻³ nats"
            yield {"title": title, "kind": kind, "names": names, "rows": rows, "open": kind == "slice"}
    for metric, case, title in _LAYERS:
        layers = sorted({layer for f in candidates for layer in f.names("layer", metric, case)})
        cells = [(n, "", [_share(f.get(metric, layer=n, case=case)) for f in candidates]) for n in layers]
        if cells:
            yield {"title": f"By layer: {title}", "kind": "layer", "names": names, "rows": cells, "open": False}


def _groups(candidates: Sequence[Figures], kind: str) -> list[str]:
    """Names of the groups; slices by the largest KL that any recipe has there."""
    if kind != "slice":
        return list(dict.fromkeys(name for f in candidates for name in f.names(kind)))
    worst: dict[str, tuple[bool, float]] = {}
    for figures in candidates:
        for m in figures.slices_worst_first():
            rank = (m["low"] is None, -(m["estimate"] or 0.0))
            worst[m["slice"]] = min(worst.get(m["slice"], rank), rank)
    return sorted(worst, key=lambda name: worst[name])


def _documents(candidates: Sequence[Figures], kind: str, group: str) -> str:
    measured = next((m for f in candidates if (m := f.get("kl_nats", **{kind: group}))), None)
    return f"{measured['clusters']:,}" if measured else "-"


def _pictures(candidates: Sequence[Figures], number: int) -> Iterator[dict[str, str]]:
    everything = [("all tokens", [_spread(f.get("kl_nats")) for f in candidates])]
    for kind, title in _KINDS:
        groups = _groups(candidates, kind)[:_SLICES]
        rows = [(g, [_spread(f.get("kl_nats", **{kind: g})) for f in candidates]) for g in groups]
        rows = [(g, spreads) for g, spreads in (everything + rows if kind == "slice" else rows) if any(spreads)]
        if rows:
            yield {
                "title": f"{title}, 10⁻³ nats",
                "svg": error_ranges(rows, f"q{number}-{kind}", lambda value: f"{1000 * value:g}"),
                "label": f"{title}: " + "; ".join(_spread_words(candidates, group, spreads) for group, spreads in rows),
            }
    for i, (metric, case, title) in enumerate(_LAYERS):
        points = [list(_by_layer(f, metric, case)) for f in candidates]
        if len({layer for series in points for layer, _ in series}) > 1:
            yield {
                "title": f"{title}, by layer",
                "svg": error_by_layer(points, _limits(candidates, metric), f"q{number}-layer-{i}"),
                "label": f"{title}, by layer: " + "; ".join(_worst(candidates, points)),
            }


def _spread(figure: Measured | None) -> tuple[float, float, float] | None:
    """Ends and estimate of what is above zero; an end that is not is drawn at a tenth of the estimate."""
    if figure is None or not figure["estimate"] or figure["estimate"] <= 0:
        return None
    value = figure["estimate"]
    low, high = (value if figure[end] is None else figure[end] for end in ("low", "high"))
    return max(low, value / 10), value, high


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


def _spread_words(
    candidates: Sequence[Figures], group: str, spreads: Sequence[tuple[float, float, float] | None]
) -> str:
    parts = [f"{f.name} {1000 * s[1]:.3g}" for f, s in zip(candidates, spreads, strict=True) if s]
    return f"{group}: {', '.join(parts)}"


def _worst(candidates: Sequence[Figures], points: Sequence[Sequence[tuple[int, float]]]) -> Iterator[str]:
    for figures, series in zip(candidates, points, strict=True):
        if series:
            layer, value = max(series, key=lambda p: p[1])
            yield f"{figures.name} at most {100 * value:.2g} % (layer {layer})"
