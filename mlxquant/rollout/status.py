"""Which stage a configuration is in, what was edited in it, and the same file at another stage.

A file of `rollout` holds its plan in a comment, so what it should be is written again and compared line by line;
comments and empty lines do not count. A line that somebody added (a key's limits, another model) is no fault, but is
named, for the file no longer is what its plan says. To change the stage, the one line is replaced and all else stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import Any

from ..disk.files import read_regular
from ..errors import RecordError, UsageError
from ..words.strict_json import read_json
from ..words.text import printable
from .configuration import HEADER, STAGE_KEY, configuration_text, stage_line
from .deployments import STAGES, RolloutPlan, Side, check_plan

_MOST_BYTES = 4 << 20
_STAGE_LINE = re.compile(rf"^{STAGE_KEY}:[ \t]*\*([A-Za-z0-9_-]+)[ \t]*(?:#[^\r\n]*)?(?=\r?$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Status:
    """A configuration as it was found: `stage` None where its last line names none, `edits` as lines of a diff."""

    plan: RolloutPlan
    stage: str | None
    edits: tuple[str, ...]
    text: str


def read_status(path: Path) -> Status:
    """Read a configuration of `rollout`. Raises RecordError where it cannot be read or is none."""
    try:
        data = read_regular(path, _MOST_BYTES)
        text = data.decode("utf-8")
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise RecordError(f"{path}: a configuration in UTF-8 expected") from None
    return status_of(text, str(path))


def status_of(text: str, where: str) -> Status:
    """The stage and the edits of a configuration's text. Raises RecordError, naming `where`."""
    headers = [line for line in text.splitlines() if line.startswith(HEADER)]
    if len(headers) != 1:
        what = "has none" if not headers else f"has {len(headers)}"
        raise RecordError(
            f"{where}: no configuration of mlxquant rollout: one line that begins {HEADER.strip()!r} expected, the file"
            f" {what}; write one: mlxquant rollout --baseline URL --candidate URL --model NAME -o FILE"
        )
    plan = _plan(headers[0].removeprefix(HEADER), where)
    named = _STAGE_LINE.findall(text)
    stage = named[0] if len(named) == 1 and named[0] in STAGES else None
    return Status(plan, stage, tuple(_edits(text, configuration_text(plan, stage or STAGES[0]), stage)), text)


def with_stage(status: Status, stage: str, where: str) -> str:
    """The file's text at another stage; what else was edited stays. Raises UsageError, RecordError."""
    if stage not in STAGES:
        raise UsageError(f"--stage {stage[:80]!r}: {', '.join(STAGES)} expected")
    lines = _STAGE_LINE.findall(status.text)
    if len(lines) != 1:
        raise RecordError(
            f"{where}: one line {stage_line('STAGE')!r} expected, {len(lines)} found; write the file anew, or mend it"
        )
    text = _STAGE_LINE.sub(stage_line(stage), status.text)
    anchor = re.compile(rf"^[ \t]+{stage}:[ \t]*&{stage}[ \t\r]*$", re.MULTILINE)
    if not anchor.search(text):
        raise RecordError(f"{where}: its stage {stage} is gone (no line '{stage}: &{stage}'); write the file anew")
    return text


def _edits(text: str, expected: str, stage: str | None) -> list[str]:
    """Lines that were taken out ("- …") and put in ("+ …"); the stage's line only where it names none."""
    ours, theirs = (
        [line.rstrip() for line in each.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        for each in (expected, text)
    )
    if stage is None:
        ours = [line for line in ours if not _STAGE_LINE.match(line)]
    lines = list(unified_diff(ours, theirs, n=0, lineterm=""))[2:]  # without the names of the files
    return [printable(f"{line[0]} {line[1:]}") for line in lines if not line.startswith("@@")]


def _plan(text: str, where: str) -> RolloutPlan:
    """Read the plan that a header holds, which anybody may have written."""
    fault = f"{where}: the plan in its header"
    try:
        table = read_json(text)
    except ValueError as error:
        raise RecordError(f"{fault} is no JSON ({error}); write the file anew") from None
    try:
        plan = RolloutPlan(
            name=_of(table, "name", str),
            baseline=_side(_of(table, "baseline", dict)),
            candidate=_side(_of(table, "candidate", dict)),
            mirror=float(_of(table, "mirror", (int, float))),
            serve=float(_of(table, "serve", (int, float))),
            cohorts=tuple((_text(tag), _text(role)) for tag, role in _of(table, "cohorts", list)),
            timeout_s=float(_of(table, "timeout_s", (int, float))),
        )
        check_plan(plan)
    except (UsageError, ValueError, TypeError) as error:
        raise RecordError(f"{fault} is not one that rollout writes: {error}; write the file anew") from None
    return plan


def _side(table: Mapping[str, Any]) -> Side:
    key_env = table.get("key_env")
    return Side(
        urls=tuple(map(_text, _of(table, "urls", list))),
        model=_of(table, "model", str),
        key_env=None if key_env is None else _text(key_env),
        variant=_of(table, "variant", str),
        build={_text(key): _text(value) for key, value in _of(table, "build", dict).items()},
    )


def _of(table: Any, key: str, kind: type | tuple[type, ...]) -> Any:
    value = table.get(key) if isinstance(table, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{key} is missing or of another type")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a text expected, {str(value)[:40]!r} found")
    return value
