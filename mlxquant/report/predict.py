"""A prediction's record as text of 80 columns: ceilings for each chip, arithmetic, and what was published."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..words.text import WIDTH, cut, table
from ..words.units import show_bytes


def prediction_text(record: dict[str, Any]) -> str:
    """Write a prediction for a reader."""
    parts = (
        _traffictable(record),
        *(_decodetable(record, depth) for depth in map(str, record["settings"]["depths"])),
        *(_prefilltable(record, n) for n in map(str, record["settings"]["prompts"])),
        "\n".join(_published_lines(record)),
        "\n".join(_remarks(record)),
    )
    return "\n\n".join(part for part in parts if part)


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
    estimates = next(iter(chip["prefill_estimate_tok_s"].values()), [None] * len(record["builds"]))
    yield textwrap.fill(f"Predicted beside published ({published[0][2]['where']}), in tok/s", WIDTH)
    rows = [
        (
            f"{_short(build['name'], 20)} ({p['label']})",
            f"{ceilings[i]:.1f}",
            f"{p['decode_tok_s']:.1f}",
            f"{100 * p['decode_tok_s'] / ceilings[i]:.0f} %",
            "-" if estimates[i] is None else f"{estimates[i]:.0f}",
            f"{p['prefill_tok_s']:.1f}",
        )
        for i, build, p in published
    ]
    yield table(("build", f"ceiling d{depth}", "decode", "share", "estimate", "prefill"), rows)
    if len(published) == 2:
        pair = [i for i, _, _ in published]
        yield _compared(published[0][2], published[1][2], [ceilings[i] for i in pair], [estimates[i] for i in pair])


def _compared(
    a: dict[str, Any], b: dict[str, Any], ceilings: Sequence[float], estimates: Sequence[float | None]
) -> str:
    """Say what the step from one build to the other costs, predicted and published."""

    def change(first: float, second: float) -> str:
        return f"{100 * (second / first - 1):+.1f} %"

    text = (
        f"From {a['label']} to {b['label']}: decode {change(*ceilings)} by bytes,"
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
        "Nothing here was run on Apple hardware: bandwidths are Apple's figures, sources in --json; real kernels"
        " reach less.",
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
