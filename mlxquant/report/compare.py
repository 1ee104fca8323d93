"""A comparison's record as text for a terminal of 80 columns. Nothing is worked out here but half of a width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..records.measurements import Figures, Measured, figures_of
from ..records.metrics import ABOVE, CAVEAT, LLAMA_NAMES, OPEN, WITHIN
from ..words.text import WIDTH, counted, cut, ends, labelled, narrow_table, plus_minus
from ..words.units import show_bytes
from .common import short_name
from .verdict import plan_words

_SHORTEST = 12  # columns that a candidate's name has at least
_WORDS = {WITHIN: "within", ABOVE: "above", OPEN: "open"}
VIEWS = ("recipe", "slice", "depth", "turn", "layer", "pair", "statistic")


def compare_text(record: Mapping[str, Any], by: str = "recipe") -> str:
    """Write a record for a reader: what was judged on what, the table of candidates, how to read it, notes.

    `by` is one of VIEWS: candidates in rows, or for each candidate its slices, depths, turns, layers, its difference
    from each other one, or llama.cpp's statistics.
    """
    view = {"recipe": _candidates, "layer": _layers, "pair": _pairs, "statistic": _statistics}.get(by)
    table = view(record) if view else _groups(record, by)
    parts = (_head(record), table, _reading(record, by), _remarks(record))
    return "\n\n".join(part for part in parts if part)


def mnat(figure: Measured | None) -> str:
    """A figure in thousandths of a nat, with half the width of its interval: ``1.23±0.04``."""
    return with_half(figure, 1000.0)


def percent(figure: Measured | None, digits: int = 2) -> str:
    """A share in per cent, with as many decimals; "-" where it was not measured."""
    if figure is None or figure["estimate"] is None:
        return "-"
    return f"{100 * figure['estimate']:.{digits}f}"


def with_half(figure: Measured | None, scale: float = 1.0) -> str:
    """A figure and half the width of its interval, to two digits of the latter; without it where there is none."""
    if figure is None or figure["estimate"] is None:
        return "-"
    low, high = figure["low"], figure["high"]
    half = None if low is None or high is None else (high - low) / 2 * scale
    return plus_minus(figure["estimate"] * scale, half)


def interval(figure: Measured, scale: float = 1.0) -> str:
    """An interval's ends, or why there are none."""
    if figure["low"] is None or figure["high"] is None:
        return str(figure.get("reason") or "no interval")
    return ends(figure["low"] * scale, figure["high"] * scale)


def _head(record: Mapping[str, Any]) -> str:
    source, data, done, machine = record["source"], record["data"], record["pass"], record["machine"]
    revision = f" at {str(source['revision'])[:12]}" if source.get("revision") else ""
    size, times = show_bytes(done["source_bytes"]), done["bytes_read"] / max(done["source_bytes"], 1)
    lines = [
        f"source: {source.get('name')}{revision}, {size} read {'once' if times == 1 else f'{times:.3g} times'}",
        f"data: {data.get('name')}, {data['documents']:,} documents, {data['scored_tokens']:,} tokens scored",
        *_calibrated(record),
        f"machine: {machine.get('chip')}, {machine.get('cores')} cores; mlx {record['versions'].get('mlx')};"
        f" {record.get('date')}",
        f"computed: {done.get('compute_reason')}",
        f"took: {done['seconds']:,.0f} s, {show_bytes(done['peak_memory_bytes'])} at most"
        + (f", {done['ranks']} ranks" if done["ranks"] > 1 else ""),
    ]
    return "\n".join(labelled(line) for line in lines)


def _calibrated(record: Mapping[str, Any]) -> Iterator[str]:
    """What recipes were encoded on, a line for all that share it; nothing for builds, which say so themselves."""
    shared: dict[tuple[str, int, int], list[str]] = {}
    for candidate in record["candidates"]:
        calibration = candidate.get("calibration") or {}
        if "methods" in calibration and "tokens" in calibration:
            key = str(calibration.get("name")), calibration["documents"], calibration["tokens"]
            shared.setdefault(key, []).extend(calibration["methods"])
    for (name, documents, tokens), methods in shared.items():
        used = " and ".join(dict.fromkeys(methods))
        yield f"encoded: by {used} on {name}, {counted(documents, 'document')}, {tokens:,} tokens"


def _candidates(record: Mapping[str, Any]) -> str:
    rows = []
    for candidate, figures in zip(record["candidates"], figures_of(record), strict=True):
        size = show_bytes(candidate["bytes"], 1) if candidate.get("bytes") else "-"
        bpw = f"{candidate['bpw']:.2f}" if candidate.get("bpw") else "-"
        worst = figures.worst_slice()
        verdict = _WORDS.get(candidate.get("verdict", {}).get("verdict"), "-")
        top, flips = figures.get("same_top"), figures.get("expert_set_changed")
        cells = (size, bpw, mnat(figures.get("kl_nats")), percent(top), percent(flips))
        rows.append((figures.name, *cells, cut(worst["slice"], 11) if worst else "-", verdict))
    heads = ("candidate", "bytes", "bpw", "KL, mnat", "top", "flips", "worst slice", "floor")
    return narrow_table(heads, _named(heads, rows), "lrrrrrll")


def _groups(record: Mapping[str, Any], kind: str) -> str:
    """For each candidate, a row a slice (the worst first), depth or turn."""
    tables = []
    for figures in figures_of(record):
        worst_first = figures.slices_worst_first() if kind == "slice" else None
        names = [m["slice"] for m in worst_first] if worst_first is not None else figures.names(kind)
        rows = []
        for name in names:
            over = {kind: name}
            kl, top = figures.get("kl_nats", **over), figures.get("same_top", **over)
            flips, ratio = figures.get("expert_set_changed", **over), figures.get("perplexity_ratio", **over)
            if kl is not None:
                counts = (f"{kl['clusters']:,}", f"{kl['n']:,}")
                rows.append((cut(name, 22), *counts, mnat(kl), with_half(ratio), percent(top), percent(flips)))
        heads = (kind, "docs", "tokens", "KL, mnat", "PPL ratio", "top", "flips")
        tables.append(
            f"{figures.name}\n{narrow_table(heads, rows, 'lrrrrrr')}" if rows else f"{figures.name}: no {kind}"
        )
    return "\n\n".join(tables)


def _layers(record: Mapping[str, Any]) -> str:
    """For each candidate, a row a layer: flips by case, and the hidden state's error entering and leaving."""
    tables = []
    for figures in figures_of(record):
        rows = []
        for layer in figures.names("layer", "hidden_error_out"):
            flips = [percent(figures.get("expert_set_changed", layer=layer, case=c)) for c in ("router", "own", None)]
            first, weighted = (figures.get(m, layer=layer) for m in ("first_expert_changed", "flips_weighted"))
            errors = [percent(figures.get(f"hidden_error_{side}", layer=layer), 3) for side in ("in", "out")]
            own = percent(figures.get("hidden_error_out", layer=layer, case="own"), 3)
            rows.append((str(layer), *flips, percent(first), percent(weighted, 3), *errors, own))
        heads = ("layer", "router", "own", "flips", "first", "weighted", "in", "out", "own out")
        tables.append(f"{figures.name}\n{narrow_table(heads, rows, 'r' * len(heads))}")
    return "\n\n".join(tables)


def _pairs(record: Mapping[str, Any]) -> str:
    rows = [
        (short_name(c["name"], 22), v["verdict"], short_name(v["against"], 22),
         with_half(v["kl_nats_difference"], 1000.0),
         f"{plan['least']:,} to {plan['most']:,}" if (plan := v.get("plan")) else "")
        for c in record["candidates"]
        for v in c.get("beside", ())
    ]  # fmt: skip
    if not rows:
        return "One candidate alone: nothing to compare it with."
    return narrow_table(("candidate", "is", "than/as", "KL, mnat", "documents if alike"), rows, "lllrr")


def _statistics(record: Mapping[str, Any]) -> str:
    """llama.cpp's statistics under its names, with both errors: clustered, and as if tokens were independent."""
    reference = Figures(record["baseline"]).get("perplexity")
    tables = []
    for figures in figures_of(record):
        rows = []
        for metric, name in LLAMA_NAMES.items():
            figure = reference if metric == "perplexity_reference" else figures.get(metric)
            if figure is not None and figure["estimate"] is not None:
                scale, unit = (100.0, ", %") if "Δp" in name or metric == "same_top" else (1.0, "")
                errors = (f"{v * scale:.2g}" if v is not None else "-" for v in (figure["se"], figure.get("se_iid")))
                bounds = interval(figure, scale) if figure["low"] is not None else "none"
                rows.append((name + unit, f"{figure['estimate'] * scale:.3g}", *errors, bounds))
        tables.append(
            f"{figures.name}\n{narrow_table(('statistic', 'value', '± se', '± iid', 'interval'), rows, 'lrrrl')}"
        )
    return "\n\n".join(tables)


def _reading(record: Mapping[str, Any], by: str) -> str:
    """How to read the table."""
    confidence = f"{record['confidence']:.0%}"
    lines = []
    if by in ("recipe", "slice", "depth", "turn"):
        lines.append(
            f"KL: KL(reference ‖ candidate) a token in thousandths of a nat, ± half its {confidence} interval, which"
            " takes documents as independent. top: per cent of tokens at which both hold the same one most likely."
            " flips: per cent for which a layer chose other experts."
        )
    if by == "recipe":
        names = [str(c["name"]) for c in record["candidates"]]
        if any(len(name) > _SHORTEST and "=" in name for name in names):
            lines.append("b, g: bits and group size of a recipe's variation.")
        margin = record["margin_nats"] * 1000
        lines.append(
            f"floor: against the reference in bf16, which serving in bf16 costs anyway: within a margin of {margin:g}"
            " mnat of it, above it, or open (not resolved); paired by document."
        )
    if by == "layer":
        lines.append(
            "In per cent. Tokens whose experts changed, router: the candidate's router alone on the reference's input;"
            " own: its whole layer on the reference's hidden state; flips: on its own, and first: the first expert"
            " changed. weighted: change of the block's output at flipped tokens, over all tokens. in, out: error of the"
            " hidden state entering and leaving; own out: of the layer on the reference's."
        )
    if by == "pair":
        lines.append(f"Paired by document, against a margin of {record['margin_nats'] * 1000:g} mnat.")
    if by == "statistic":
        lines.append("± se: clustered by document. ± iid: llama.cpp's, as if tokens were independent. KLD in nats."
                     " Extremes have no interval, nor have percentiles that too few values lie beyond.")  # fmt: skip
    return "\n".join(textwrap.fill(line, WIDTH) for line in lines)


def _remarks(record: Mapping[str, Any]) -> str:
    lines = []
    for candidate in record["candidates"]:
        verdict = candidate.get("verdict", {})
        if verdict.get("verdict") == OPEN:
            lines.append(f"open: {candidate['name']}: {_why_open(verdict)}")
        lines += [f"warning: {candidate['name']}: {w}" for w in candidate.get("warnings") or ()]
    lines += [f"note: {note}" for note in (*(record.get("notes") or ()), CAVEAT)]
    return "\n".join(labelled(line) for line in lines)


def _why_open(verdict: Mapping[str, Any]) -> str:
    difference, margin = verdict["kl_nats_difference"], verdict["margin_nats"] * 1000
    if difference["low"] is None:
        return str(difference.get("reason"))
    more = f"; {words}" if (words := plan_words(verdict.get("plan"), "documents", "candidate and floor alike")) else ""
    return f"{interval(difference, 1000.0)} mnat beyond the floor includes the margin of {margin:g}: undecided{more}"


def _named(heads: Sequence[str], rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Cut the names in the first column to what the others leave of 80 columns."""
    taken = sum(max(len(line[i]) for line in (heads, *rows)) + 2 for i in range(1, len(heads)))
    return [(short_name(row[0], max(WIDTH - taken, _SHORTEST)), *row[1:]) for row in rows]
