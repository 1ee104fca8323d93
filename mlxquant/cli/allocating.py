"""What `allocate` and `build` both take: a budget, a method, texts, and what may be chosen from; and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from .chips import chips_named_by
from .options import _Function, parse_numbers

if TYPE_CHECKING:
    from ..allocate.run import AllocateOptions
    from ..layout.layout import Layout
    from ..plan.plan import Plan


@dataclass(frozen=True, kw_only=True)
class AllocationArguments:
    """The part of a command line that says what is allocated, and on which texts."""

    budgets: str | None
    bpw: str | None
    method: str
    data: str
    judge: Path | None
    context: str | None
    chip: str | None
    min_decode: float | None
    bits: str | None
    group_size: str | None
    groups: int | None
    with_routers: bool
    max_tokens: int | None
    dtype: str | None

    def words(self, command: str) -> list[str]:
        """The budgets as they were typed. Raises UsageError for options of `command` that do not go together."""
        from ..stream.ranks import launched
        from ..words.formats import DISTILL, GPTQ

        if self.method == DISTILL:
            raise UsageError(
                f"--method {DISTILL}: what it learns is judged as a build; {command} with --method {GPTQ}, then convert"
                f" the recipe with --method {DISTILL}"
            )
        if (self.budgets is None) == (self.bpw is None):
            raise UsageError("give --budget SIZE, such as 96GB, or --bpw X, such as 4.25, one of the two")
        if (self.chip is None) != (self.min_decode is None):
            raise UsageError("--chip and --min-decode go together: the speed is that of a chip")
        if self.bpw is not None and self.context is not None and self.chip is None:
            raise UsageError("--context goes with --budget or --min-decode: bits per weight are the same at any")
        if self.min_decode is not None and not self.min_decode > 0:
            raise UsageError(f"--min-decode {self.min_decode:g}: tokens a second such as 30 expected")
        if launched():
            raise UsageError(f"{command} runs in one process; start it without mlx.launch")
        return self._budgets()

    def _budgets(self) -> list[str]:
        """The budgets, without spaces: files are named by them, so each is read before it is in a name."""
        from ..allocate.budgets import parse_bpw
        from ..words.units import parse_memory

        sized = self.budgets is not None
        typed = self.budgets if sized else self.bpw
        words = ["".join(word.split()) for word in str(typed).split(",") if word.strip()]
        if not words:
            raise UsageError(
                "--budget: a size such as 96GB expected" if sized else "--bpw: a number such as 4.2 expected"
            )
        for word in words:
            parse_memory(word) if sized else parse_bpw(word)
        return words


def allocation_options(function: _Function) -> _Function:
    """Add the options of `AllocationArguments`, all but the dtype."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


_OPTIONS = (
    click.option(
        "--budget", "budgets", metavar="SIZE,…", help="Memory of the machine, as plan --fits counts it: 96GB."
    ),
    click.option("--bpw", metavar="X,…", help="Bits per weight of the build, never exceeded: 4.2."),
    click.option(
        "--method",
        default="rtn",
        show_default=True,
        help="How values become integers: rtn, mse, imatrix, gptq.",
    ),
    click.option(
        "--data", default="builtin", show_default=True, metavar="FILE", help="Texts: JSONL, or the built-in set."
    ),
    click.option(
        "--judge",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Texts for the final check; else a share of --data.",
    ),
    click.option("--context", metavar="TOKENS", help="Keep room for this context.  [32k, or the longest]"),
    click.option("--chip", metavar="NAME", help='With --min-decode: the chip, such as "M3 Ultra".'),
    click.option("--min-decode", type=float, metavar="TOK/S", help="The least decode speed at the context."),
    click.option("--bits", metavar="N,…", help="Bits to choose from.  [2,3,4,5,6,8]"),
    click.option("--group-size", metavar="N,…", help="Group sizes to choose from.  [32,64,128]"),
    click.option(
        "--groups", type=click.IntRange(1), metavar="N", help="Most groups at first, but one a kind of module.  [64]"
    ),
    click.option("--with-routers", is_flag=True, help="Let routers be quantized, too."),
    click.option("--max-tokens", type=click.IntRange(2), metavar="N", help="Cut longer documents to N tokens."),
)


def options_of(arguments: AllocationArguments) -> AllocateOptions:
    """What is allocated, as far as the command line alone tells. Raises UsageError."""
    from ..allocate.groups import BITS, GROUP_SIZES, GROUPS
    from ..allocate.run import AllocateOptions
    from ..words.formats import DISTILL, METHODS, MODES

    if arguments.method not in METHODS:
        raise UsageError(
            f"--method {arguments.method}: one of {', '.join(m for m in METHODS if m != DISTILL)} expected"
        )
    bits = BITS if arguments.bits is None else parse_numbers(arguments.bits, "--bits", "3,4,6")
    sizes: tuple[int, ...] = GROUP_SIZES
    if arguments.group_size is not None:
        sizes = parse_numbers(arguments.group_size, "--group-size", "32,64")
    all_sizes, all_bits = MODES["affine"]
    for name, values, valid in (("--bits", bits, all_bits), ("--group-size", sizes, all_sizes)):
        if wrong := [n for n in values if n not in valid]:
            raise UsageError(f"{name} {wrong[0]}: one of {', '.join(map(str, valid))} expected")
    return AllocateOptions(
        method=arguments.method,
        bits=tuple(sorted(set(bits))),
        group_sizes=tuple(sorted(set(sizes))),
        groups=arguments.groups or GROUPS,
        routers=arguments.with_routers,
    )


def with_budgets(
    options: AllocateOptions, words: Sequence[str], arguments: AllocationArguments, plan: Plan, layout: Layout
) -> AllocateOptions:
    """The options with the bytes of every budget, and those that a token may read. Raises UsageError."""
    from ..allocate.budgets import LeastSpeed, active_bytes_for, budgets_of
    from ..words.units import parse_tokens

    context = None if arguments.context is None else parse_tokens(arguments.context)
    budgets = budgets_of(words, plan, layout, bpw=arguments.bpw is not None, context=context)
    options = replace(options, budgets=tuple(budgets))
    if arguments.chip is not None and arguments.min_decode is not None:
        least = LeastSpeed(chips_named_by((arguments.chip,))[-1], arguments.min_decode)
        options = replace(options, active=active_bytes_for(least, plan, layout, context))
    return options
