"""What a rollout is, and what its logs say, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..words.text import counted, cut, filled, printable, table

_SHOWN = 40
_SLICES = 12
_NAME = 18
# metrics of the first table, in order, as it names them; in percent but for those in `_PLAIN`
_LABELS = {
    "same_tool": "same tool", "same_arguments": "same arguments", "unexpected_call": "call for none",
    "same_finish": "same ending", "same_language": "same language", "valid_call": "call readable",
    "valid_json": "arguments JSON", "valid_schema": "fits schema", "refused": "refused", "cut_off": "cut off",
    "infrastructure_errors": "errors", "timeouts": "timeouts", "thumbs_up": "thumbs up", "retried": "sent again",
    "output_tokens": "tokens",
    **{f"{name}_p{q}": f"{label} p{q}" for name, label in (("request_s", "seconds"), ("ttft_s", "first token"))
       for q in (50, 90, 99)},
}  # fmt: skip
_PLAIN = ("output_tokens", "request_s", "ttft_s")
SERVED = "served"


def status_text(file: str, plan: Mapping[str, Any], stage: str | None, edits: Sequence[str]) -> str:
    """Which stage a configuration is in, who serves whom in it, and what was edited."""
    return "\n".join(_status(file, plan, stage, edits))


def _status(file: str, plan: Mapping[str, Any], stage: str | None, edits: Sequence[str]) -> Iterator[str]:
    if stage is None:
        yield f"{file}: no stage: its last line names none that there is"
    else:
        yield f"{file}: stage {stage}{', edited' if edits else ''}"
        yield filled("", who_serves(plan, stage), 2)
    for role in ("baseline", "candidate"):
        side = plan[role]
        known = ", ".join(str(side["build"][key]) for key in ("format", "recipe") if key in side["build"])
        hashed = side["build"].get("manifest_sha256")
        yield filled(
            role,
            printable(
                f"{side['variant']} at {', '.join(side['urls'])}{f'; {known}' if known else ''}"
                f"{f', manifest {hashed[:12]}' if hashed else ''}"
            ),
        )
    if edits:
        yield f"{counted(len(edits), 'difference')} from what rollout wrote (- taken out, + put in):"
        yield from (f"  {line}" for line in edits[:_SHOWN])
        if len(edits) > _SHOWN:
            yield f"  … and {len(edits) - _SHOWN:,} more"


def who_serves(plan: Mapping[str, Any], stage: str) -> str:
    """Who serves whom in a stage, in one sentence."""
    cohorts = {side: [tag for tag, role in plan["cohorts"] if role == side] for side in ("baseline", "candidate")}
    chosen, kept = (", ".join(cohorts[side]) for side in ("candidate", "baseline"))
    mirrored = f"; {plan['mirror']:g}% of its requests are mirrored" if plan["mirror"] else ""
    for_cohorts = f"the candidate serves {chosen}" if chosen else "no cohort is the candidate's"
    texts = {
        "mirror": f"the baseline serves everybody{mirrored}",
        "cohorts": f"{for_cohorts}; the baseline serves all others{mirrored}",
        "part": f"{for_cohorts}, and {plan['serve']:g}% of the others; the baseline serves the rest{mirrored}",
        "all": f"the candidate serves everybody{f' but {kept}' if kept else ''}",
        "back": "the baseline serves everybody; the candidate is asked nothing",
    }
    return texts[stage]


# --- logs ---


def rollout_text(record: Mapping[str, Any]) -> str:
    """A record for a reader: what the logs hold, pairs, what users waited for, the worst slices, notes."""
    baseline, candidate, confidence = record["baseline"], record["candidates"][0], record["confidence"]
    parts = ["\n".join(filled(title, text) for title, text in facts_of(record))]
    ends = f"{confidence:.0%} intervals by conversation; in %, tokens and seconds plain"
    for title, where in (
        ("Mirrored pairs, the same requests", None),
        ("What users waited for, other requests", SERVED),
    ):
        if rows := list(figures_beside(baseline, candidate, where)):
            heads = ("", cut(baseline["name"], _NAME), cut(candidate["name"], _NAME), "difference")
            parts.append(f"{title}\n{ends}\n" + table(heads, rows, "llll"))
    parts += [_worst(candidate)]
    notes = [filled("note", note) for note in record["notes"]]
    notes += [filled("PROBLEM", problem) for problem in record["problems"]]
    return "\n\n".join(part for part in [*parts, "\n".join(notes)] if part)


def facts_of(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Who served, what the logs hold, and how many requests there were: titles and texts."""
    counts = record["counts"]
    for side in (record["baseline"], *record["candidates"]):
        known = [str(side[key]) for key in ("format",) if side.get(key)]
        known += [side["recipe"]["name"]] if side.get("recipe") else []
        known += [f"manifest {side['manifest_sha256'][:12]}"] if side.get("manifest_sha256") else []
        yield side["role"], ", ".join([side["name"], *known])
    yield "logs", f"{counts['payloads']:,} entries from {record['first']} to {record['last']}"
    fallback = (
        f", {counts['answered_by_fallback']:,} answered by the fallback" if counts["answered_by_fallback"] else ""
    )
    yield (
        "requests",
        f"{counts['served_baseline']:,} to the baseline, {counts['served_candidate']:,} to the candidate{fallback};"
        f" {counts['mirrors']:,} mirrored, {counts['pairs']:,} of them with their request",
    )


def figures_beside(
    baseline: Mapping[str, Any], candidate: Mapping[str, Any], where: str | None
) -> Iterator[tuple[str, str, str, str]]:
    """Each metric of a slice (None: all mirrored pairs) in words: its label, both sides' figures, the difference."""
    first, second = (
        {m["metric"]: m for m in side["measurements"] if m.get("slice") == where} for side in (baseline, candidate)
    )
    for metric, label in _LABELS.items():
        a, b = first.get(metric), second.get(metric)
        if a is not None or b is not None:
            yield label, _cell(a, metric), _cell(b, metric), _cell(second.get(f"{metric}_difference"), metric, "+")


def _cell(m: Mapping[str, Any] | None, metric: str, sign: str = "") -> str:
    if m is None or m["estimate"] is None:
        return "-"
    factor, digits = (1, 2) if metric.startswith(_PLAIN) else (100, 1)
    if metric == "output_tokens":
        digits = 1
    values = [m["estimate"], *([m["low"], m["high"]] if m["low"] is not None else [])]
    shown = [f"{factor * value:{sign}.{digits}f}".replace("-", "−") for value in values]
    return shown[0] if len(shown) == 1 else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def slices_of(candidate: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Slices of the mirrored pairs with their agreement in tools and arguments and their pairs, the least first."""
    by_slice = {
        m["slice"]: m for m in candidate["measurements"]
        if m["metric"] == "same_arguments" and m.get("slice") and not m["slice"].startswith(SERVED)
    }  # fmt: skip
    worst = sorted(by_slice.items(), key=lambda pair: pair[1]["estimate"])
    return [(name, _cell(m, "same_arguments"), f"{m['n']:,}") for name, m in worst]


def _worst(candidate: Mapping[str, Any]) -> str:
    """Agreement by slice, the least first."""
    slices = slices_of(candidate)
    if not slices:
        return ""
    rows = [(cut(name, 40), share, n) for name, share, n in slices[:_SLICES]]
    more = f"\n… and {len(slices) - _SLICES} more slices in the record" if len(slices) > _SLICES else ""
    return (
        "Same tools and arguments as the baseline, the worst slice first\n"
        + table(("slice", "share", "pairs"), rows, "llr")
        + more
    )
