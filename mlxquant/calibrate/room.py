"""What a pass of the methods gptq and distill takes of memory, and in how many rounds a layer's inputs are kept.

At once in memory are one layer, as the source and as float32 has it and encoded, the inputs of its modules, and what
each worker takes for one matrix; then, with distill, what learning a layer takes. Where a limit leaves no room for all
inputs of a layer, its documents go through it in rounds, each of which keeps the inputs of some modules, or of some
experts. A layer is learned as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..builds.methods import methods_of
from ..builds.write.work import BASE_MEMORY
from ..errors import UsageError
from ..plan.plan import Plan, PlannedModule
from ..stream.options import CompareOptions
from ..words.formats import BY_LAYER, DISTILL, GPTQ
from ..words.units import show_bytes

Step = int | str
# Tokens that a plan reckons with, before there are documents
ASSUMED_TOKENS = 10_000
# float32 numbers for each weight that is learned: its place, v and its two means, ŵ, gradients and what is made of
# them; and for each value that enters or leaves a module on the way forward and back
_LEARNED, _ACTIVATIONS = 10, 6


def step_of(planned: PlannedModule) -> Step:
    """The step at which a module's inputs are seen: its layer, or the head for what lies outside of them."""
    return "head" if planned.module.layer is None else planned.module.layer


@dataclass(frozen=True)
class Room:
    """What a pass takes of memory, in bytes: a layer, its inputs in so many `rounds`, and all workers' matrices.

    `learning` is what a layer takes to be learned, once inputs and matrices are gone.
    """

    layer: int
    inputs: int
    workers: int
    rounds: int
    learning: int = 0

    @property
    def total(self) -> int:
        """All of it, with what the process takes before."""
        return BASE_MEMORY + self.layer + max(self.inputs + self.workers, self.learning)


Round = Mapping[str, range]


def rooms(
    plans: Sequence[Plan],
    paths: Collection[str],
    tokens: int,
    threads: int,
    max_memory: int | None,
    *,
    propagate: bool = False,
    learned: tuple[Sequence[str], int] = ((), 0),
) -> tuple[Room, Mapping[Step, Sequence[Round]]]:
    """What a pass takes of memory, and for each step the rounds in which its modules' inputs are kept.

    `plans` are of one model, encoded together: their layer's source is in memory once. With `propagate` a layer is
    there as encoded, too. `learned` are modules that are learned, and the most tokens of a document. A round has the
    modules by path, each with the experts that it takes. Raises UsageError where `max_memory` does not suffice for the
    smallest round.
    """
    wanted = set(paths)
    steps: dict[Step, list[PlannedModule]] = {}
    for p in plans[0].modules:
        steps.setdefault(step_of(p), []).append(p)
    encoded: Counter[Step] = Counter()
    for plan in plans:
        for p in plan.modules:
            encoded[step_of(p)] += p.nbytes if p.format else 0
    layer = max((_layer_bytes(m, encoded[step], propagate) for step, m in steps.items()), default=0)
    own = {step: [p for p in modules if p.module.path in wanted] for step, modules in steps.items()}
    workers = threads * max((_matrix_bytes(p) for modules in own.values() for p in modules), default=0)
    budget = None if max_memory is None else max_memory - BASE_MEMORY - layer - workers
    rounds = {step: _rounds(modules, tokens, budget) for step, modules in own.items() if modules}
    sizes = [sum(_input_bytes(p, tokens, part[p.module.path]) for p in own[step] if p.module.path in part)
             for step, parts in rounds.items() for part in parts]  # fmt: skip
    most = max((len(parts) for parts in rounds.values()), default=1)
    room = Room(layer, max(sizes, default=0), workers, most, _learning_bytes(steps, *learned))
    if max_memory is not None and room.total > max_memory:
        method = DISTILL if learned[0] else GPTQ
        raise UsageError(
            f"--max-memory: {show_bytes(room.total)} are needed for the method {method} on this model with {threads}"
            f" workers and {tokens:,} tokens, {show_bytes(max_memory)} given; give more, fewer --jobs or shorter --data"
        )
    return room, rounds


def room_of_plan(plan: Plan, threads: int) -> dict[str, Any] | None:
    """What a plan's pass takes of memory with `ASSUMED_TOKENS`, for its record; None where no module needs one."""
    methods = methods_of(plan.modules)
    paths = [path for path, method in methods.items() if method in BY_LAYER]
    if not paths:
        return None
    learned = [path for path, method in methods.items() if method == DISTILL]
    room, _ = rooms([plan], paths, ASSUMED_TOKENS, threads, None, learned=(learned, CompareOptions().chunk))
    return {
        "method": DISTILL if learned else GPTQ,
        "tokens": ASSUMED_TOKENS,
        "workers": threads,
        "memory_bytes": room.total,
        "layer_bytes": room.layer,
        "inputs_bytes": room.inputs,
        "workers_bytes": room.workers,
        **({"learning_bytes": room.learning} if learned else {}),
    }


def _layer_bytes(modules: Sequence[PlannedModule], encoded: int, propagate: bool) -> int:
    """A step's arrays as the source has them, as float32 (also those that take their place), and as `encoded` bytes."""
    values = sum(p.module.parameters for p in modules)
    return sum(p.source_nbytes for p in modules) + 4 * values * (1 + propagate) + 2 * encoded


def _learning_bytes(steps: Mapping[Step, Sequence[PlannedModule]], paths: Sequence[str], tokens: int) -> int:
    """What learning a layer takes: its parameters and what goes with them, and a document's values on its way."""
    wanted = set(paths)
    sizes = [0]
    for step, modules in steps.items():
        if isinstance(step, int):
            own = sum(p.module.parameters for p in modules if p.module.path in wanted)
            values = sum(sum(p.module.shape[-2:]) * (p.share[0] if p.module.role == "expert" else 1) for p in modules)
            sizes.append(_LEARNED * 4 * own + (_ACTIVATIONS * 4 * tokens * values if own else 0))
    return max(sizes)


def _matrix_bytes(p: PlannedModule) -> int:
    """What a worker takes to encode a matrix: moments, damped, factored and turned, and some copies of its rows."""
    rows, columns = p.module.shape[-2:]
    return 4 * 4 * columns * columns + 10 * min(16 << 20, 4 * rows * columns)


def _input_bytes(p: PlannedModule, tokens: int, sets: range) -> int:
    """Bytes of a module's inputs: a row a token, or one for each expert that a token is sent to."""
    columns, count = p.module.shape[-1], (p.module.shape[0] if len(p.module.shape) == 3 else 1)
    k = p.share[0] if p.module.role == "expert" else count
    per_token = k * len(sets) / count if count > 1 else 1
    return int(tokens * (4 * columns + 16) * per_token)


def _rounds(modules: Sequence[PlannedModule], tokens: int, budget: int | None) -> list[dict[str, range]]:
    """Modules and experts put together as far as their inputs fit `budget`."""
    rounds: list[dict[str, range]] = [{}]
    used = 0
    for p in modules:
        count = p.module.shape[0] if len(p.module.shape) == 3 else 1
        at = 0
        while at < count:
            left = range(at, count)
            if budget is not None:
                each = max(1, _input_bytes(p, tokens, range(count)) // count)
                fit = max(0, budget - used) // each
                if fit < 1 and rounds[-1]:
                    rounds.append({})
                    used = 0
                    continue
                left = range(at, min(count, at + max(1, fit)))
            rounds[-1][p.module.path] = left
            used += _input_bytes(p, tokens, left)
            at = left.stop
            if at < count:
                rounds.append({})
                used = 0
    return rounds
