"""A measurement's record as text for a terminal of 80 columns, and as Markdown. Nothing is worked out here."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from ..stats.interval import CONFIDENCE
from ..words.text import WIDTH, cut, figure, labelled, markdown, markdown_table, table
from ..words.units import show_bytes, show_count

_NAME = 14


def bench_text(record: Mapping[str, Any]) -> str:
    """Write a record for a reader: machine, builds, speeds, latencies, ratios, what failed, notes."""
    parts = (
        head_text(record),
        _builds(record),
        _speeds(record),
        _latencies(record),
        _ratios(record),
        _ceilings(record),
        _remarks(record),
    )
    return "\n\n".join(part for part in parts if part)


def bench_markdown(record: Mapping[str, Any]) -> str:
    """Write the table of speeds with llama-bench's columns, the ratios, and what it was measured on."""
    builds = record["builds"]
    header = ("model", "size", "params", "backend", "test", "t/s", "median", "min", "max")
    rows = []
    for r in record["results"]:
        build = builds[r["build"]]
        size = show_bytes(build["bytes"]) if build.get("bytes") else "-"
        params = show_count(build["parameters"]) if build.get("parameters") else "-"
        backend = "MLX" if build.get("kind") == "build" else build.get("kind", "-")
        rows.append((markdown(build["name"]), size, params, backend, r["test"], *_speed_cells(r)))
    parts = [markdown_table(header, rows, "lrrllrrrr")]
    if record["ratios"]:
        cells = [(r["test"], markdown(_named(record, r)), *_ratio_cells(r)) for r in record["ratios"]]
        parts.append(markdown_table(("test", "ratio of", "ratio", f"{CONFIDENCE:.0%} interval", ""), cells, "llrll"))
    parts.append("\n".join(f"- {markdown(line)}" for line in (*_facts(record), *_failures(record), *record["notes"])))
    return "\n\n".join(parts)


def head_text(record: Mapping[str, Any]) -> str:
    """The lines that say where, when, with what and how."""
    return "\n".join(labelled(line) for line in _facts(record))


def _facts(record: Mapping[str, Any]) -> Iterator[str]:
    m, s, v = record["machine"], record["settings"], record["versions"]
    if m.get("unknown"):
        yield f"machine: {m['unknown']}"
    else:
        memory = show_bytes(m["memory_bytes"], 0) if m.get("memory_bytes") else "memory unknown"
        gpu = f", {m['gpu_cores']}-core GPU" if m.get("gpu_cores") else ""
        mode = m.get("power_mode") or "power mode unknown"
        device = f"; on the {m['device'].upper()}" if m.get("device") else ""
        yield f"machine: {m.get('chip')}, {m.get('cores')} cores{gpu}, {memory}, {m.get('os')}, {mode}{device}"
    names = ("mlxquant", "mlx", "mlx-lm", "python")
    yield f"versions: {', '.join(f'{n} {v[n]}' for n in names if v.get(n))}; {record['date']}"
    turns = "in turn, order drawn anew each round" if len(record["builds"]) > 1 else "one build"
    prompt = s.get("prompt", "prompts not told")
    prompt = {"text": "real text", "random": "random tokens", "file": "a file's text"}.get(prompt, prompt)
    loading = "" if s.get("resident", True) or len(record["builds"]) == 1 else ", loaded anew each round"
    served = any(b.get("kind") == "endpoint" for b in record["builds"])
    alone = f"batch {s.get('batch', '?')}, prefill step {figure(s.get('prefill_step_size'))}"
    how = "by streaming from a server" if served else alone
    rounds, warmups = s.get("repetitions", "?"), s.get("warmups", "?")
    yield f"settings: {rounds} rounds, {turns}{loading}; {warmups} warm-up, {how}, {prompt}"


def _builds(record: Mapping[str, Any]) -> str:
    rows = []
    for b in record["builds"]:
        load = f"{min(b['load_s']):.2f} s" if b["load_s"] else "-"
        size = show_bytes(b["bytes"]) if b.get("bytes") else "-"
        bpw = f"{b['bpw']:.4f}" if b.get("bpw") else "-"
        digest = (b.get("manifest_sha256") or "-")[:12]
        rows.append((cut(b["name"], _NAME), b.get("format") or b.get("kind"), size, bpw, load, digest))
    return table(("build", "format", "size", "bpw", "load", "manifest"), rows, "llrrrl")


def _speeds(record: Mapping[str, Any]) -> str:
    rows = [(cut(_name(record, r), _NAME), r["test"], *_speed_cells(r)) for r in record["results"]]
    return table(("build", "test", "tok/s", "median", "min", "max"), rows, "llrrrr")


def _speed_cells(result: Mapping[str, Any]) -> tuple[str, str, str, str]:
    s = result["tok_s"]
    if s is None:
        return "not measured", "-", "-", "-"
    spread = _rate(s["mean"]) + (f" ± {_rate(s['sd'])}" if s["sd"] is not None else "")
    return spread, _rate(s["median"]), _rate(s["min"]), _rate(s["max"])


def _rate(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _latencies(record: Mapping[str, Any]) -> str:
    rows = []
    for r in record["results"]:
        if r["tok_s"] is None:
            continue
        ttft = f"{r['ttft_s']['median']:.4f}" if r["ttft_s"] else "-"
        gaps = r["inter_token_ms"] or {}
        times = (f"{gaps[p]:.2f}" if p in gaps else "-" for p in ("p50", "p90", "p99"))
        peak = show_bytes(r["peak_memory_bytes"]) if r["peak_memory_bytes"] is not None else "-"
        rows.append((cut(_name(record, r), _NAME), r["test"], ttft, *times, peak))
    if not rows:
        return ""
    title = "Seconds to the first token (median), milliseconds from token to token, memory"
    return f"{title}\n" + table(("build", "test", "ttft_s", "p50", "p90", "p99", "peak"), rows, "llrrrrr")


def _ratios(record: Mapping[str, Any]) -> str:
    ratios, builds = record["ratios"], record["builds"]
    if not ratios:
        return ""
    several = len(builds) > 2
    rows = [
        (*((cut(builds[r["b"]]["name"], _NAME),) if several else ()), r["test"], str(r["n"]), *_ratio_cells(r))
        for r in ratios
    ]
    over = builds[ratios[0]["a"]]["name"]
    what = "Each" if several else builds[ratios[0]["b"]]["name"]
    title = textwrap.fill(f"{what} over {over}: tok/s in the same round, interval by Student's t over rounds", WIDTH)
    heads = (*(("build",) if several else ()), "test", "rounds", "ratio", f"{CONFIDENCE:.0%} interval", "reading")
    return f"{title}\n{table(heads, rows, 'l' * (len(heads) - 4) + 'rrll')}"


def _ratio_cells(ratio: Mapping[str, Any]) -> tuple[str, str, str]:
    change = 100 * (ratio["ratio"] - 1)
    if ratio["low"] is None:
        return f"{ratio['ratio']:.3f}", "-", "too few rounds"
    interval = f"{_end(ratio['low'])} … {_end(ratio['high'])}"
    faster = f"{abs(change):.1f} % {'faster' if change > 0 else 'slower'}"
    return f"{ratio['ratio']:.3f}", interval, faster if ratio["resolved"] else "not resolved"


def _end(value: float) -> str:
    """An interval's end; with more places where three would put it on 1, on which side it lies being the point."""
    return f"{value:.5f}" if value != 1 and round(value, 3) == 1 else f"{value:.3f}"


def _ceilings(record: Mapping[str, Any]) -> str:
    rows = [
        (
            cut(_name(record, r), _NAME),
            r["test"],
            _rate(r["tok_s"]["mean"]),
            _rate(r["ceiling_tok_s"]),
            f"{100 * r['ceiling_share']:.1f} %",
        )
        for r in record["results"]
        if r.get("ceiling_share") is not None
    ]
    if not rows:
        return ""
    machine = record["machine"]
    limits = table(("build", "test", "tok/s", "ceiling", "reached"), rows, "llrrr")
    source = machine.get("bandwidth_source")
    note = f"Ceiling: {machine['bandwidth_gbs']:g} GB/s ({source}) over the bytes that a token reads."
    return limits + "\n" + textwrap.fill(note, WIDTH)


def _failures(record: Mapping[str, Any]) -> Iterator[str]:
    for r in record["results"]:
        for failure in r["failures"]:
            yield f"not measured: {_name(record, r)}, {r['test']}: {failure}"


def _remarks(record: Mapping[str, Any]) -> str:
    lines = [*_failures(record), *(f"note: {n}" for n in record["notes"])]
    lines += [
        f"energy: {_name(record, r)}, {r['test']}: {r['energy_j']:.1f} J a run, the whole processor's"
        for r in record["results"]
        if r["energy_j"] is not None
    ]
    lines += [f"unreadable: {why}" for why in record.get("unreadable", ())]
    return "\n".join(labelled(line, 14) for line in lines)


def _name(record: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    return str(record["builds"][result["build"]]["name"])


def _named(record: Mapping[str, Any], ratio: Mapping[str, Any]) -> str:
    a, b = (record["builds"][ratio[k]]["name"] for k in ("a", "b"))
    return f"{b} / {a}"
