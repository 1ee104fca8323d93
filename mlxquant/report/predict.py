"""A prediction's record as text of 80 columns: ceilings and expected speeds of each chip, and what was published."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..words.text import WIDTH, cut, table
from ..words.units import show_bytes


def prediction_text(record: dict[str, Any]) -> str:
    """Write a prediction for a reader."""
    parts = (
        _traffictable(record),
        *(_decodetable(record, depth) for depth in map(str, record["settings"]["depths"])),
        *(_expectedtable(record, depth) for depth in map(str, record["settings"]["depths"])),
        "\n".join(calibration_lines(record["chips"])),
        *(_prefilltable(record, n) for n in map(str, record["settings"]["prompts"])),
        "\n".join(_published_lines(record)),
        "\n".join(_remarks(record)),
    )
    return "\n\n".join(part for part in parts if part)


def speed_text(speed: Mapping[str, Any], name: str) -> str:
    """Write the speeds that a plan's record holds: ceilings and what to expect, for each depth."""
    record = {**speed, "builds": [{"name": name}]}
    depths = [str(depth) for depth in record["settings"]["depths"]]
    tables = [part for depth in depths for part in (_decodetable(record, depth), _expectedtable(record, depth))]
    return "\n\n".join(part for part in (*tables, "\n".join(calibration_lines(record["chips"]))) if part)


_TIER = "another chip's points"  # as bench.calibration names it
_ROUGH = 0.15  # worse than this, a chip's points fit badly


def _traffictable(record: dict[str, Any]) -> str:
    builds = record["builds"]
    rows = [
        _amounts("bytes of all weights", [b["bytes"] for b in builds], _bytes),
        _amounts("weights that a token reads", [b["active_bytes_per_token"] for b in builds], _bytes),
    ]
    for depth in map(str, record["settings"]["depths"]):
        rows.append(_amounts(f"cache that it reads at d{depth}", [b["cache_bytes"][depth] for b in builds], _bytes))
    for fmt in dict.fromkeys(fmt for b in builds for fmt in b["prefill_flops_per_token"]):
        flops = [b["prefill_flops_per_token"].get(fmt, 0) for b in builds]
        rows.append(_amounts(f"GFLOP a prompt token, {fmt}", flops, _gflop))
    flops = [sum(b["prefill_flops_per_token"].values()) for b in builds]
    rows.append(_amounts("GFLOP a prompt token, in all", flops, _gflop))
    heads = ("", *(_short(b["name"], _room(record)) for b in builds))
    return table((*heads, "change") if len(builds) == 2 else heads, rows)


def _amounts(label: str, values: Sequence[int | None], shown: Callable[[int | None], str]) -> tuple[str, ...]:
    """A row: the amount in each build and, of two builds, the change from the first to the second."""
    return (label, *(shown(value) for value in values), *((_change(*values),) if len(values) == 2 else ()))


def _change(first: int | None, second: int | None) -> str:
    """The second amount against the first, where both are of one size."""
    if not first or second is None or not 0.5 < second / first < 2:
        return "-"
    return f"{100 * (second / first - 1):+.1f} %"


def _decodetable(record: dict[str, Any], depth: str) -> str:
    rows = []
    for chip in record["chips"]:
        ceilings = chip["decode_ceiling_tok_s"][depth]
        rows.append((_title(chip), f"{chip['bandwidth_gbs']:g}", *(f"{c:.1f}" for c in ceilings), *_ratio(ceilings)))
    at = f" at depth {int(depth):,}" if int(depth) else ""
    batch = record["settings"]["batch"]
    many = f", {batch} sequences" if batch > 1 else ""
    return f"Decode ceiling in tok/s{at}{many}: bandwidth over bytes read\n" + table(_heads(record, "GB/s"), rows)


def _expectedtable(record: dict[str, Any], depth: str) -> str:
    """The speeds to expect; nothing for a record of version 1, and where no chip has points."""
    rows = []
    for chip in record["chips"]:
        speeds = chip.get("decode_tok_s", {}).get(depth, [])
        if any(speeds):
            rates = [f"{s['tok_s']:.1f}" if s else "-" for s in speeds]
            rows.append((_title(chip).replace(" GPU ", " "), interval_text([s for s in speeds if s]), *rates))
    if not rows:
        return ""
    names = [_short(b["name"], _room(record)) for b in record["builds"]]
    at = f" at depth {int(depth):,}" if int(depth) else ""
    batch = record["settings"]["batch"]
    many = f", {batch} sequences" if batch > 1 else ""
    title = f"Decode expected in tok/s{at}{many}, and its 95 % interval"
    return "\n".join([title, table(("chip", "95 %", *names), rows), *extrapolation_lines(record["chips"], depth)])


def extrapolation_lines(chips: Sequence[dict[str, Any]], depth: str) -> Iterator[str]:
    """In what builds lie outside of the points that their speed is predicted from, chips alike in one line."""
    chips_by_text: dict[str, list[str]] = {}
    for chip in chips:
        for speed in chip["decode_tok_s"].get(depth, []):
            for words in speed["extrapolates"] if speed else ():
                names = chips_by_text.setdefault(words, [])
                names += [] if chip["chip"] in names else [chip["chip"]]
    for words, names in chips_by_text.items():
        yield textwrap.fill(f"outside the points of {', '.join(names)}: {words}", WIDTH)


def interval_text(speeds: Sequence[Mapping[str, Any]]) -> str:
    """The widest interval of some speeds, in per cent of each. ``"-9 +10 %"``."""
    low, high = min(s["low"] / s["tok_s"] for s in speeds), max(s["high"] / s["tok_s"] for s in speeds)
    return f"-{100 * (1 - low):.0f} +{100 * (high - 1):.0f} %"


def calibration_lines(chips: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Where the expected speeds of these chips come from, and how well they predict, chips alike in one sentence."""
    chips_by_text: dict[str, list[str]] = {}
    for chip in chips:
        if "calibration" in chip:
            names = chips_by_text.setdefault(calibration_text(chip["calibration"]), [])
            names += [] if chip["chip"] in names else [chip["chip"]]
    for words, names in chips_by_text.items():
        yield textwrap.fill(f"{', '.join(names)}: {words}", WIDTH)


def calibration_text(calibration: Mapping[str, Any] | None) -> str:
    """Where a chip's numbers come from, and how well they predict its points."""
    if calibration is None:
        return "no points, so the ceiling alone"
    left, note = calibration["left_out"], calibration["note"]
    if calibration["method"] == _TIER or not left["points"]:
        return str(note)
    fitted = f"{calibration['points']} points" if note else f"{calibration['points']} published points"
    within = f"predicted from the others, {left['points']} of them are within {100 * left['worst']:.1f} %"
    words = f"{fitted}; {within}, the median is {100 * left['median']:.1f} %"
    if left["worst"] > _ROUGH:
        words += ". Its points fit worse than those of other chips"
    return words + (f" ({note})" if note else "")


def _prefilltable(record: dict[str, Any], n: str) -> str:
    rows = []
    for chip in record["chips"]:
        estimates = chip["prefill_estimate_tok_s"][n]
        if None in estimates:
            continue
        rows.append((_title(chip), f"{chip['tflops_fp32']:g}", *(f"{e:.0f}" for e in estimates), *_ratio(estimates)))
    if not rows:
        return ""
    title = f"Prefill of {int(n):,} tokens in tok/s: an estimate from FP32 teraflops, no ceiling"
    return f"{title}\n{table(_heads(record, 'TFLOPS'), rows)}"


def _heads(record: dict[str, Any], unit: str) -> tuple[str, ...]:
    names = [_short(b["name"], _room(record)) for b in record["builds"]]
    return ("chip", unit, *names, "ratio") if len(names) == 2 else ("chip", unit, *names)


def _ratio(values: Sequence[float]) -> tuple[str, ...]:
    return (f"{values[1] / values[0]:.3f}",) if len(values) == 2 else ()


def _published_lines(record: dict[str, Any]) -> Iterator[str]:
    """Predicted beside published, for the builds of which something was published on a chip of the table."""
    sizes = {c["chip"]: c for c in record["chips"]}  # of one name the largest
    published = [(i, b, b["published"]) for i, b in enumerate(record["builds"]) if b["published"]]
    published = [(i, build, p) for i, build, p in published if p["chip"] in sizes]
    if not published:
        return
    chip = sizes[published[0][2]["chip"]]
    depth, ceilings = next(iter(chip["decode_ceiling_tok_s"].items()))
    speeds = chip.get("decode_tok_s", {}).get(depth) or [None] * len(record["builds"])
    expected = [None if speed is None else speed["tok_s"] for speed in speeds]
    estimates = next(iter(chip["prefill_estimate_tok_s"].values()), [None] * len(record["builds"]))
    at = f" at depth {int(depth):,}"
    yield textwrap.fill(f"Predicted{at} beside published ({published[0][2]['where']}), in tok/s", WIDTH)
    rows = [
        (
            f"{_short(build['name'], 20)} ({p['label']})",
            f"{ceilings[i]:.1f}",
            "-" if expected[i] is None else f"{expected[i]:.1f}",
            f"{p['decode_tok_s']:.1f}",
            "-" if estimates[i] is None else f"{estimates[i]:.0f}",
            f"{p['prefill_tok_s']:.1f}",
        )
        for i, build, p in published
    ]
    yield table(("build", "ceiling", "expected", "decode", "estimate", "prefill"), rows)
    if len(published) == 2:
        pair = [i for i, _, _ in published]
        both = [published[0][2], published[1][2]]
        yield _compared(*both, *([figures[i] for i in pair] for figures in (ceilings, expected, estimates)))


def _compared(
    a: dict[str, Any],
    b: dict[str, Any],
    ceilings: Sequence[Any],
    expected: Sequence[Any],
    estimates: Sequence[Any],
) -> str:
    """Say what the step from one build to the other costs, predicted and published."""

    def change(first: float, second: float) -> str:
        return f"{100 * (second / first - 1):+.1f} %"

    likely = f" {change(*known)} expected," if len(known := [e for e in expected if e is not None]) == 2 else ""
    text = (
        f"From {a['label']} to {b['label']}: decode {change(*ceilings)} by bytes,{likely}"
        f" {change(a['decode_tok_s'], b['decode_tok_s'])} published"
    )
    first, second = estimates
    if first is not None and second is not None:
        text += (
            f"; prefill {change(first, second)} by arithmetic, {change(a['prefill_tok_s'], b['prefill_tok_s'])}"
            " published. Neither bytes nor arithmetic account for the published prefill, in size or in change:"
            " measure it (pp512, pp2048) before building on it"
        )
    return textwrap.fill(text + ".", WIDTH)


def _remarks(record: dict[str, Any]) -> Iterator[str]:
    for build in record["builds"]:
        if build["cache_note"]:
            yield textwrap.fill(f"{build['name']}: {build['cache_note']}", WIDTH)
    yield textwrap.fill(
        "Nothing here was run on Apple hardware by us: bandwidths are Apple's figures, the points are others', each"
        " with its page in the package's throughput.json.",
        WIDTH,
    )


def _title(chip: dict[str, Any]) -> str:
    return f"{chip['chip']}, {chip['gpu_cores']} GPU cores" if chip["gpu_cores"] else str(chip["chip"])


def _room(record: dict[str, Any]) -> int:
    return max(8, 36 // max(1, len(record["builds"])))


def _short(name: str, width: int) -> str:
    return cut(name, width, at="start")


def _bytes(n: int | None) -> str:
    return "-" if n is None else show_bytes(n)


def _gflop(n: int | None) -> str:
    return "-" if n is None else f"{n / 1e9:.3f}"
