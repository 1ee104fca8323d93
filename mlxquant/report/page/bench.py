"""What the page shows of speed: measured rates and their ratios with intervals, and what a plan predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...records.loading import Loaded
from ...words.text import some
from ...words.units import show_bytes
from ..common import machine_text
from .candidates import Cast, legend
from .charts import Line, Tracks, bars, ratios


def throughput(loaded: Loaded, cast: Cast) -> dict[str, Any]:
    """Lay a bench record out."""
    record = loaded.record
    sides = record["builds"]
    names = [str(build["name"]) for build in sides]
    results = list(_results(record, names))
    paired = list(_ratios(record, names))
    return {
        "loaded": loaded,
        "title": some(names),
        "builds": names,
        "css": [cast.of(side).css for side in sides],
        "results": results,
        "ratios": paired,
        "legend": legend(cast.named(sides), {cast.of(side).number for side in sides}),
        "charts": list(_charts(sides, results, paired, cast)),
        "machine": machine_text(record.get("machine")),
        "notes": [str(note) for note in record.get("notes") or []],
    }


def _charts(
    sides: Sequence[Mapping[str, Any]], results: list[dict[str, Any]], paired: list[dict[str, Any]], cast: Cast
) -> Iterator[Tracks]:
    rates: dict[str, list[Line]] = {}
    for r in results:
        if r["mean"] is not None:
            who = cast.of(sides[r["build"]])
            line = Line(who, r["mean"], r["low"], r["high"], f"{r['name']} {r['rate']}")
            rates.setdefault(r["test"], []).append(line)
    if rates:
        words = "; ".join(f"{test}: {', '.join(line.words for line in lines)}" for test, lines in rates.items())
        title = "tokens per second, by test"
        yield bars(title, f"{title}: {words}", list(rates.items()), "")
    changes: dict[str, list[Line]] = {}
    for r in paired:
        line = Line(cast.of(sides[r["build"]]), r["ratio"], r["low"], r["high"], f"{r['name']} {r['text']}")
        changes.setdefault(r["test"], []).append(line)
    if changes:
        words = "; ".join(f"{test}: {', '.join(line.words for line in lines)}" for test, lines in changes.items())
        title = f"ratio of tokens per second to {sides[paired[0]['first']]['name']}, round by round"
        yield ratios(title, f"{title}: {words}", list(changes.items()))


def prediction(loaded: Loaded) -> dict[str, Any]:
    """Lay a prediction out: ceilings, expected speeds and estimates by chip, and what was published beside them.

    A chip whose largest machine cannot hold a build shows none of its speeds; one that holds none is named apart.
    """
    record = loaded.record
    builds, chips = record["builds"], record["chips"]
    small = [chip for chip in chips if not any(_fits(chip, len(builds)))]
    return {
        "loaded": loaded,
        "builds": [str(build["name"]) for build in builds],
        "rows": [*_predicted([c for c in chips if c not in small], len(builds)), *_published(builds)],
        "small": "; ".join(_chip_name(chip) for chip in small),
        "unknown": sorted({str(c.get("chip", "?")) for c in chips if c.get("memory_gib") is None and c not in small}),
        "sources": list(dict.fromkeys(str(chip["source"]) for chip in chips if chip.get("source"))),
    }


def _fits(chip: Mapping[str, Any], builds: int) -> list[bool]:
    """Whether the chip holds each build; records of earlier versions do not say, and all are shown."""
    fits = chip.get("fits") or []
    return [bool(fit) for fit in fits] if len(fits) == builds else [True] * builds


def _chip_name(chip: Mapping[str, Any]) -> str:
    parts = (("chip", ""), ("gpu_cores", " GPU cores"), ("memory_gib", " GB"))
    return ", ".join(f"{chip[key]}{unit}" for key, unit in parts if chip.get(key) is not None)


def _predicted(chips: list[dict[str, Any]], builds: int) -> Iterator[tuple[str, str, list[str]]]:
    kinds = (
        ("decode_ceiling_tok_s", "decode at most, {} tokens in the cache"),
        ("decode_tok_s", "decode expected (95 % interval), {} tokens in the cache"),
        ("prefill_estimate_tok_s", "prefill of {} tokens, estimated"),
    )
    for chip in chips:
        bandwidth = f", {chip['bandwidth_gbs']} GB/s" if chip.get("bandwidth_gbs") is not None else ""
        fits = _fits(chip, builds)
        for key, words in kinds:
            for at, rates in chip.get(key, {}).items():
                if len(rates) == builds and any(rate is not None for rate in rates):
                    cells = [_expected(r) if isinstance(r, dict) else _rate(r) for r in rates]
                    shown = [cell if fit else "does not fit" for cell, fit in zip(cells, fits, strict=True)]
                    yield f"{_chip_name(chip)}{bandwidth}", words.format(at), shown


def _expected(speed: dict[str, Any]) -> str:
    return f"{_rate(speed['tok_s'])} ({_rate(speed['low'])} to {_rate(speed['high'])})"


def _published(builds: list[dict[str, Any]]) -> Iterator[tuple[str, str, list[str]]]:
    published = [build.get("published") or {} for build in builds]
    where = "; ".join(dict.fromkeys(p["where"] for p in published if p.get("where")))
    for key, what in (("decode_tok_s", "decode"), ("prefill_tok_s", "prefill")):
        rates = [p.get(key) for p in published]
        if any(rate is not None for rate in rates):
            yield f"published: {where}", what, [_rate(rate) for rate in rates]


def _results(record: Mapping[str, Any], names: list[str]) -> Iterator[dict[str, Any]]:
    for result in record["results"]:
        rates, ttft = result.get("tok_s"), result.get("ttft_s")
        sd = rates.get("sd") if rates else None
        low, high = (rates["mean"] - sd, rates["mean"] + sd) if rates and sd is not None else (None, None)
        peak = result.get("peak_memory_bytes")
        yield {
            "build": result["build"],
            "name": names[result["build"]],
            "test": result["test"],
            "mean": rates["mean"] if rates else None,
            "low": low,
            "high": high,
            "rate": _plus_minus(rates["mean"], sd) if rates else "-",
            "range": f"{rates['min']:,.4g} – {rates['max']:,.4g}" if rates else "-",
            "n": rates.get("n") if rates else 0,
            "ttft": f"{ttft['mean']:,.3g} s" if ttft else "-",
            "peak": show_bytes(peak) if peak is not None else "-",
            "failures": result.get("failures", []),
        }


def _ratios(record: Mapping[str, Any], names: list[str]) -> Iterator[dict[str, Any]]:
    for ratio in record.get("ratios", []):
        low, high = ratio["low"], ratio["high"]
        text = f"{ratio['ratio']:.4f}" + (f" [{low:.4f}, {high:.4f}]" if low is not None and high is not None else "")
        yield {
            "first": ratio["a"],
            "build": ratio["b"],
            "name": names[ratio["b"]],
            "test": ratio["test"],
            "ratio": ratio["ratio"],
            "low": low,
            "high": high,
            "text": text,
            "percent": f"{100 * (ratio['ratio'] - 1):+.1f} %".replace("-", "−"),
            "verdict": "resolved" if ratio.get("resolved") else str(ratio.get("reason") or "not resolved"),
        }


def _plus_minus(mean: float, sd: float | None) -> str:
    return f"{mean:,.4g}" if sd is None else f"{mean:,.4g} ± {sd:.2g}"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
