"""What the page shows of speed: measured rates and their ratios with intervals, and what a plan predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...records.loading import Loaded
from ...words.units import show_bytes
from ..common import machine_text
from .charts import Bar, bars, intervals


def throughput(loaded: Loaded, number: int, *, draw: bool) -> dict[str, Any]:
    """Lay a bench record out; `draw` says that matplotlib is there."""
    record = loaded.record
    names = [str(build["name"]) for build in record["builds"]]
    results = list(_results(record, names))
    ratios = list(_ratios(record, names))
    tests = list(dict.fromkeys(r["test"] for r in results))
    pictures = []
    for i, test in enumerate(tests if draw else []):
        mine = [r for r in results if r["test"] == test]
        rows = [Bar(r["build"], r["name"], r["mean"], r["low"], r["high"]) for r in mine if r["mean"] is not None]
        if rows:
            figures = "; ".join(f"{r['name']} {r['rate']}" for r in mine if r["mean"] is not None)
            svg = bars(rows, "tokens per second", f"b{number}-{i}")
            pictures.append({"title": test, "svg": svg, "label": f"{test}, tokens per second: {figures}"})
    if draw and ratios:
        rows = [Bar(r["build"], f"{r['test']} · {r['name']}", r["ratio"], r["low"], r["high"]) for r in ratios]
        pictures.append(
            {
                "title": f"beside {names[ratios[0]['first']]}, round by round",
                "svg": intervals(rows, f"b{number}-ratios"),
                "label": "Paired ratios: " + "; ".join(f"{r['test']}, {r['name']}: {r['text']}" for r in ratios),
            }
        )
    return {
        "loaded": loaded,
        "builds": names,
        "results": results,
        "ratios": ratios,
        "pictures": pictures,
        "machine": machine_text(record.get("machine")),
        "notes": [str(note) for note in record.get("notes") or []],
    }


def prediction(loaded: Loaded) -> dict[str, Any]:
    """Lay a prediction out: ceilings, expected speeds and estimates by chip, and what was published beside them."""
    record = loaded.record
    builds = record["builds"]
    return {
        "loaded": loaded,
        "builds": [str(build["name"]) for build in builds],
        "rows": [*_predicted(record["chips"], len(builds)), *_published(builds)],
        "sources": list(dict.fromkeys(str(chip["source"]) for chip in record["chips"] if chip.get("source"))),
    }


def _predicted(chips: list[dict[str, Any]], builds: int) -> Iterator[tuple[str, str, list[str]]]:
    kinds = (
        ("decode_ceiling_tok_s", "decode at most, {} tokens in the cache"),
        ("decode_tok_s", "decode expected (95 % interval), {} tokens in the cache"),
        ("prefill_estimate_tok_s", "prefill of {} tokens, estimated"),
    )
    for chip in chips:
        name = ", ".join(
            f"{chip[key]}{unit}"
            for key, unit in (("chip", ""), ("gpu_cores", " GPU cores"), ("bandwidth_gbs", " GB/s"))
            if chip.get(key) is not None
        )
        for key, words in kinds:
            for at, rates in chip.get(key, {}).items():
                if len(rates) == builds and any(rate is not None for rate in rates):
                    yield name, words.format(at), [_expected(r) if isinstance(r, dict) else _rate(r) for r in rates]


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
