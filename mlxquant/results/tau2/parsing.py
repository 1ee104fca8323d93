"""What a τ²-bench or τ-bench (v1) result file says, simulation by simulation, whatever form it has.

JSON is read as if a stranger had written it. Fields: tau2-bench@143a213 data_model/simulation.py (SimulationRun,
RewardInfo), tau-bench types.py (EnvRunResult). Whatever is odd about a simulation becomes a line in `problems`; one
that cannot be told from others (no task) or is no table at all comes out as None, any other as far as it goes. What a
file does not say is None, never zero: an older τ²-bench writes no `tool_type`, so reads and writes cannot be told
apart, and that is no accuracy of 0. `reading` finds the simulations in files.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# --- what a file holds ---


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
    the task asks of the agent. `voice` says that the dialogue is in ticks, which are not read.
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
    voice: bool = False

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


# --- from JSON ---


# what τ-bench's ReAct and Act agents put before a tool's answer, which they hand over as the user's
_API_OUTPUT = "API output:"


def parse_tau2(entry: Any, place: str, problems: list[str], actions: Mapping[str, int]) -> Simulation | None:
    """Read a simulation of τ²-bench; `actions` are each task's expected actions of the agent."""
    if (task := _task_of(entry, place, problems)) is None:
        return None
    termination = _text(entry, "termination_reason", place, problems)
    scored = entry.get("reward_info")
    if scored is not None and not isinstance(scored, Mapping):
        problems.append(f"{place}: reward_info is {_kind(scored)}, a table expected; counted as a failure")
        scored = None
    elif scored is None and termination != INFRASTRUCTURE:
        problems.append(f"{place}: no reward_info, so it was never scored; counted as a failure, as τ² counts it")
    scored = scored or {}
    reads, writes = _checked_actions(scored.get("action_checks"), place, problems)
    voice = bool(entry.get("ticks")) and not entry.get("messages")
    turns, calls, errors = _dialogue(None if voice else entry.get("messages"), place, problems)
    return Simulation(
        task=task,
        trial=_whole(entry, "trial", place, problems),
        reward=_reward(scored, place, problems) if scored else None,
        termination=termination,
        id=_text(entry, "id", place, problems),
        seed=_whole(entry, "seed", place, problems),
        db_match=_db_match(scored.get("db_check"), place, problems),
        reads=reads,
        writes=writes,
        turns=turns,
        calls=calls,
        call_errors=errors,
        actions=actions.get(task),
        voice=voice,
    )


def parse_tau1(entry: Any, place: str, problems: list[str]) -> Simulation | None:
    """Read an entry of τ-bench's list: {task_id, reward, info, traj, trial}.

    An entry with an error and an empty trajectory is what its runner writes when anything raised; τ-bench gives it
    reward 0, here it is an infrastructure error. The database was compared alone where `r_actions` stands; where the
    task also asks for outputs, their result overwrote it.
    """
    if (task := _task_of(entry, place, problems)) is None:
        return None
    info = entry.get("info")
    info = info if isinstance(info, Mapping) else {}
    failed = isinstance(info.get("error"), str) and not entry.get("traj")
    result = info.get("reward_info")
    inner = result.get("info") if isinstance(result, Mapping) else None
    matched = inner.get("r_actions") if isinstance(inner, Mapping) else None
    due = info.get("task")
    expected = due.get("actions") if isinstance(due, Mapping) else None
    turns, calls, errors = (None, None, None) if failed else _dialogue(entry.get("traj"), place, problems)
    return Simulation(
        task=task,
        trial=_whole(entry, "trial", place, problems),
        reward=_reward(entry, place, problems),
        termination=INFRASTRUCTURE if failed else None,
        db_match=None if matched is None else bool(matched),
        turns=turns,
        calls=calls,
        call_errors=errors,
        actions=len(expected) if isinstance(expected, list) else None,
    )


def expected_actions(tasks: Any, problems: list[str], place: str) -> dict[str, int]:
    """How many actions each τ² task asks of the agent; those asked of the simulated user are not the agent's."""
    counts: dict[str, int] = {}
    if tasks is not None and not isinstance(tasks, list):
        problems.append(f"{place}: tasks is {_kind(tasks)}, a list expected; nothing known of what tasks ask for")
        return counts
    for task in tasks or []:
        if not isinstance(task, Mapping) or type(task.get("id")) not in (str, int):
            continue
        criteria = task.get("evaluation_criteria")
        actions = criteria.get("actions") if isinstance(criteria, Mapping) else None
        if isinstance(actions, list):
            own = [a for a in actions if isinstance(a, Mapping) and a.get("requestor", "assistant") == "assistant"]
            counts[str(task["id"])] = len(own)
    return counts


def _task_of(entry: Any, place: str, problems: list[str]) -> str | None:
    if not isinstance(entry, Mapping):
        problems.append(f"{place}: {_kind(entry)} found where a simulation's table is expected; left out")
        return None
    task = entry.get("task_id")
    if type(task) not in (str, int):
        problems.append(f"{place}: task_id is {_shown(task)}, a text or a number expected; left out")
        return None
    return str(task)


def _reward(table: Mapping[str, Any], place: str, problems: list[str]) -> float | None:
    reward = table.get("reward")
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
        problems.append(f"{place}: reward is {_shown(reward)}, a number expected; counted as a failure")
        return None
    if not -1e-6 <= reward <= 1 + 1e-6:
        problems.append(f"{place}: reward is {reward:g}, between 0 and 1 expected; taken as it is")
    return float(reward)


def _db_match(check: Any, place: str, problems: list[str]) -> bool | None:
    if check is None:
        return None
    matched = check.get("db_match") if isinstance(check, Mapping) else check
    if type(matched) is not bool:
        problems.append(f"{place}: db_check says {_shown(matched)}, true or false expected; taken as not checked")
        return None
    return matched


def _checked_actions(
    checks: Any, place: str, problems: list[str]
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """(right, asked for) of reads and of writes; None for a kind that no check names."""
    if checks is None:
        return None, None
    if not isinstance(checks, list) or not all(isinstance(check, Mapping) for check in checks):
        problems.append(f"{place}: action_checks is no list of tables; actions taken as not checked")
        return None, None

    def counted(kind: str) -> tuple[int, int] | None:
        mine = [check for check in checks if check.get("tool_type") == kind]
        return (sum(check.get("action_match") is True for check in mine), len(mine)) if mine else None

    return counted("read"), counted("write")


def _dialogue(messages: Any, place: str, problems: list[str]) -> tuple[int | None, int | None, int | None]:
    """(the user's turns, the agent's tool calls, those answered by an error); None where no dialogue was kept."""
    if messages is None:
        return None, None, None
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        problems.append(f"{place}: the dialogue is no list of messages; its depth is not known")
        return None, None, None
    turns = calls = errors = 0
    for message in messages:
        role, content, requests = message.get("role"), message.get("content"), message.get("tool_calls")
        if role == "assistant" and isinstance(requests, list):
            calls += len(requests)
        elif role == "user" and isinstance(content, str) and content.startswith(_API_OUTPUT):
            calls += 1
        elif role == "user" and content:
            turns += 1
        elif role == "tool":
            errors += message.get("error") is True and message.get("requestor", "assistant") == "assistant"
    return turns, calls, errors


def _whole(table: Mapping[str, Any], key: str, place: str, problems: list[str]) -> int | None:
    value = table.get(key)
    if value is not None and type(value) is not int:
        problems.append(f"{place}: {key} is {_shown(value)}, a whole number expected; taken as not recorded")
        return None
    return value


def _text(table: Mapping[str, Any], key: str, place: str, problems: list[str]) -> str | None:
    value = table.get(key)
    if value is not None and type(value) is not str:
        problems.append(f"{place}: {key} is {_shown(value)}, a text expected; taken as not recorded")
        return None
    return value


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:40]


def _kind(value: Any) -> str:
    names = {dict: "a table", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
