"""The suites that `eval` knows, by name, each made when it is asked for; a path is a suite of the user's own.

Alone in its module because it imports every suite, and none of them may import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import UsageError
from ..items import Suite
from . import contracts as contract
from .own import read_suite
from .tool_loop import WORLDS, ToolLoop


@dataclass(frozen=True, slots=True)
class Choice:
    """What the command line says of suites: lengths and number of loops, where seeds begin, tokens of an answer."""

    calls: tuple[int, ...] = (5, 10, 20)
    tasks: int = 10
    first_seed: int | None = None
    max_tokens: int | None = None


def _tool_loop(name: str) -> Callable[[Choice], Suite]:
    def suite(choice: Choice) -> Suite:
        options = {"first_seed": choice.first_seed, "max_tokens": choice.max_tokens}
        return ToolLoop(choice.calls, choice.tasks, name=name, **{k: v for k, v in options.items() if v is not None})

    return suite


def _contracts(name: str) -> Callable[[Choice], Suite]:
    return lambda choice: contract.contracts(name, max_tokens=choice.max_tokens)


KNOWN: Mapping[str, Callable[[Choice], Suite]] = {
    **{name: _tool_loop(name) for name in WORLDS},
    **{name: _contracts(name) for name in (contract.NAME, *contract.KINDS)},
}


def open_suites(names: Sequence[str], choice: Choice) -> list[Suite]:
    """Make the named suites, read those given as files. Raises UsageError for an unknown or repeated one, DataError."""
    unknown = [name for name in names if name not in KNOWN and not _is_file(name)]
    if unknown:
        raise UsageError(f"--suite {unknown[0]}: none of {', '.join(KNOWN)}, and no file of questions (JSONL)")
    suites = [
        KNOWN[name](choice) if name in KNOWN else read_suite(Path(name), max_tokens=choice.max_tokens) for name in names
    ]
    called = [suite.name for suite in suites]
    if twice := [name for i, name in enumerate(called) if name in called[:i]]:
        raise UsageError(f"--suite {twice[0]}: given twice")
    return suites


def _is_file(name: str) -> bool:
    return Path(name).suffix in (".jsonl", ".json") or Path(name).is_file()
