"""The suites that `eval` knows, by name, each made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import UsageError
from .items import Suite
from .loop import NAME as TOOL_LOOP
from .loop import ToolLoop


@dataclass(frozen=True, slots=True)
class Choice:
    """What the command line says of suites: lengths and number of loops, where seeds begin, tokens of an answer."""

    calls: tuple[int, ...] = (5, 10, 20)
    tasks: int = 10
    first_seed: int | None = None
    max_tokens: int | None = None


def _tool_loop(choice: Choice) -> Suite:
    given = {"first_seed": choice.first_seed, "max_tokens": choice.max_tokens}
    return ToolLoop(choice.calls, choice.tasks, **{k: v for k, v in given.items() if v is not None})


KNOWN: Mapping[str, Callable[[Choice], Suite]] = {TOOL_LOOP: _tool_loop}


def open_suites(names: Sequence[str], choice: Choice) -> list[Suite]:
    """Make the named suites. Raises UsageError for one that is not known, or given twice."""
    unknown = [name for name in names if name not in KNOWN]
    if unknown:
        raise UsageError(f"--suite {unknown[0]}: none of {', '.join(KNOWN)}")
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise UsageError(f"--suite {twice[0]}: given twice")
    return [KNOWN[name](choice) for name in names]
