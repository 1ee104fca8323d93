"""What a rollout is, and what its logs say, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..words.text import filled, printable

_SHOWN = 40


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
        yield f"{len(edits)} lines differ from what rollout wrote (- taken out, + put in):"
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
