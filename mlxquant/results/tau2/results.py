"""What a τ²-bench or τ-bench result file says, simulation by simulation, whatever form it has.

Here are the words alone; `reading` fills them from files. What a file does not say is None, never zero: an older
τ²-bench writes no `tool_type`, so reads and writes cannot be told apart, and that is no accuracy of nought.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

INFRASTRUCTURE = "infrastructure_error"
# τ²-bench of 2026 leaves these out too (simulation.py, NON_EVALUABLE_TERMINATION_REASONS); here they are failures
CONTEXT = "context_window_exceeded"
# |reward − 1| at most this is a success: tau2-bench@26ac2bc, metrics/agent_metrics.py, is_successful
REWARD_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Simulation:
    """One trial of one task.

    `reads` and `writes` are (right, asked for) of the task's expected actions, None where the file does not tell
    reads from writes. `calls` are the agent's own tool calls, not those of a simulated user; `actions` is how many
    the task asks of the agent.
    """

    task: str
    trial: int | None
    reward: float | None
    termination: str | None = None
    id: str | None = None
    seed: int | None = None
    db_match: bool | None = None
    reads: tuple[int, int] | None = None
    writes: tuple[int, int] | None = None
    turns: int | None = None
    calls: int | None = None
    call_errors: int | None = None
    actions: int | None = None

    @property
    def success(self) -> bool:
        """Whether τ² counts it as passed; without a reward it does not."""
        return self.reward is not None and abs(self.reward - 1) <= REWARD_TOLERANCE


@dataclass(frozen=True, slots=True)
class Results:
    """A file's simulations, what it says of itself, and what is wrong with it, one line a problem."""

    name: str
    file: str
    form: str
    sha256: str
    simulations: tuple[Simulation, ...]
    problems: tuple[str, ...] = ()
    about: dict[str, str | int | None] = field(default_factory=dict)
    num_trials: int | None = None

    def evaluated(self, dropped: Collection[str] = (INFRASTRUCTURE,)) -> tuple[Simulation, ...]:
        """The simulations that count: all but those that ended for a reason in `dropped`."""
        return tuple(s for s in self.simulations if s.termination not in dropped)


def by_task(simulations: Sequence[Simulation]) -> dict[str, list[Simulation]]:
    """Group simulations by task, in the order of their first appearance."""
    tasks: dict[str, list[Simulation]] = {}
    for simulation in simulations:
        tasks.setdefault(simulation.task, []).append(simulation)
    return tasks
