"""From what a person asks for to bytes: a machine's memory or bits per weight, and tokens a second.

A size is the memory of a machine, as `plan --fits` counts it: what the GPU may wire, less the caches at a context.
Bits per weight are the plan's `totals.bpw`. Both give the bytes of all tensors of the build, which is not exceeded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..bench.calibration import calibrate
from ..bench.chips import Chip
from ..bench.predict import decode_ceiling, decode_speed
from ..builds.facts import traffic_of_plan
from ..errors import UsageError
from ..layout.context import check_context, context_cost, longest_context
from ..layout.layout import Layout
from ..plan.fits import Memory
from ..plan.plan import Plan
from ..words.units import parse_memory, show_bytes

USUAL_CONTEXT = 32 * 1024


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of all tensors of a build, and in which words they were asked for: ``96GB`` or ``4.2bpw``."""

    words: str
    nbytes: int

    @property
    def recipe_name(self) -> str:
        """How the recipe of the budget is called: ``allocated-4.2bpw``."""
        return f"allocated-{self.words.replace(' ', '').lower()}"


@dataclass(frozen=True, slots=True)
class LeastSpeed:
    """The least decode speed, in tokens a second, that a chip shall reach at the context."""

    chip: Chip
    tok_s: float


def budgets_of(
    words: Sequence[str], plan: Plan, layout: Layout, *, bpw: bool, context: int | None = None
) -> list[Budget]:
    """The bytes of every budget: sizes of memory, or with `bpw` bits per weight; `context` in tokens.

    Without a context there is room for 32k tokens, or for the longest that the model was made for. `plan` is the one
    that keeps everything. Raises UsageError for what is no budget, or what no caches fit in.
    """
    if bpw:
        budgets = [_of_bpw(word, plan.totals["parameters"]) for word in words]
    else:
        tokens = tokens_of(layout, context, str(plan.source["name"]))
        cache = context_cost(layout.config, layout.modules, layout.provider).at(tokens)
        budgets = [_of_memory(word, cache) for word in words]
    if not budgets or len({budget.nbytes for budget in budgets}) < len(budgets):
        raise UsageError(f"{','.join(words)}: different budgets expected, such as 64GB,96GB")
    return budgets


def tokens_of(layout: Layout, context: int | None, name: str) -> int:
    """The context that room is kept for, in tokens. Raises UsageError for more than the model was made for."""
    tokens = context or min(USUAL_CONTEXT, longest_context(layout.config) or USUAL_CONTEXT)
    check_context(layout.config, tokens, name)
    return tokens


def _of_memory(word: str, cache: int) -> Budget:
    memory = Memory(parse_memory(word))
    room = memory.usable - cache
    if room <= 0:
        raise UsageError(
            f"--budget {word}: the GPU may wire {show_bytes(memory.usable)} of it, and the caches at this context take"
            f" {show_bytes(cache)}; give a shorter --context or more memory"
        )
    return Budget(word, room)


def parse_bpw(word: str) -> float:
    """Read bits per weight, such as `4.2`. Raises UsageError."""
    try:
        bpw = float(word)
    except ValueError:
        bpw = 0.0
    if not 0 < bpw <= 32:
        raise UsageError(f"--bpw {word}: bits per weight such as 4.2 expected")
    return bpw


def _of_bpw(word: str, parameters: int) -> Budget:
    bpw = parse_bpw(word)
    return Budget(f"{bpw:g}bpw", int(bpw * parameters / 8))


def active_bytes_for(speed: LeastSpeed, plan: Plan, layout: Layout, context: int | None = None) -> int:
    """The most bytes that a token may read of all tensors if decoding is to be as fast as `speed` at the context.

    Raises UsageError where reading nothing would not be fast enough.
    """
    tokens = tokens_of(layout, context, str(plan.source["name"]))
    traffic = traffic_of_plan(plan, None, cost=context_cost(layout.config, layout.modules, layout.provider))
    points = calibrate(speed.chip)

    def reached(active: int) -> float:
        build = replace(traffic, active_bytes=active, experts=())
        expected = decode_speed(build, speed.chip, points, tokens)
        return decode_ceiling(build, speed.chip.bandwidth, tokens) if expected is None else expected.tok_s

    return most_active_bytes(reached, speed.tok_s, plan.totals["active_bytes_per_token"])


def most_active_bytes(speed: Callable[[int], float], least: float, total: int) -> int:
    """The most bytes that a token may read if `speed`, tokens a second by those bytes, is to be at least `least`.

    Raises UsageError where reading nothing would not be fast enough.
    """
    if speed(1) < least:
        raise UsageError(
            f"--min-decode {least:g}: the chip reaches {speed(1):.1f} tok/s at this context with no weights at all;"
            " ask for less, or for a shorter --context"
        )
    low, high = 1, total
    if speed(high) >= least:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if speed(middle) >= least else (low, middle)
    return low
