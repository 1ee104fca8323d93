"""Small result files in the forms of τ²-bench and τ-bench, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def message(role: str, **fields: Any) -> dict[str, Any]:
    """A message of a dialogue."""
    return {"role": role, "content": None, "tool_calls": None, **fields}


def dialogue(turns: int, calls: int, failed: int = 0) -> list[dict[str, Any]]:
    """A dialogue of so many turns of the user and tool calls of the agent, the first of which fail."""
    made = [message("assistant", content="Hi!")]
    made += [message("user", content=f"please {i}") for i in range(turns)]
    for i in range(calls):
        made.append(message("assistant", tool_calls=[{"id": f"c{i}", "name": "get", "arguments": {}}]))
        made.append(message("tool", id=f"c{i}", content="{}", requestor="assistant", error=i < failed))
    return made


def simulation(task: str, trial: int = 0, reward: float = 1.0, **changed: Any) -> dict[str, Any]:
    """A simulation of τ²-bench; `reads` and `writes` are (right, asked for)."""
    checks = []
    for kind in ("read", "write"):
        right, asked = changed.pop(f"{kind}s", (0, 0))
        checks += [{"action": {"name": kind}, "action_match": i < right, "tool_type": kind} for i in range(asked)]
    db = changed.pop("db_match", reward == 1.0)
    return {
        "id": f"{task}-{trial}",
        "task_id": task,
        "trial": trial,
        "seed": 10 + trial,
        "termination_reason": "user_stop",
        "reward_info": {
            "reward": reward,
            "db_check": None if db is None else {"db_match": db, "db_reward": float(db)},
            "action_checks": checks or None,
        },
        "messages": dialogue(2, 3),
    } | changed


def lost(task: str, trial: int = 0) -> dict[str, Any]:
    """A simulation that the infrastructure ended."""
    return simulation(task, trial, termination_reason="infrastructure_error", reward_info=None, messages=None)


def results(simulations: list[Any], **changed: Any) -> dict[str, Any]:
    """A τ²-bench file of these simulations; every task asks for two actions of the agent and one of the user."""
    tasks = {s["task_id"] for s in simulations if isinstance(s, dict) and isinstance(s.get("task_id"), str)}
    asked = [{"requestor": who} for who in ("assistant", "assistant", "user")]
    return {
        "timestamp": "2026-01-02T03:04:05",
        "info": {
            "git_commit": "0123abcd",
            "num_trials": changed.pop("num_trials", 4),
            "max_steps": 200,
            "user_info": {"implementation": "user_simulator", "llm": "gpt"},
            "agent_info": {"implementation": "llm_agent", "llm": changed.pop("llm", "base")},
            "environment_info": {"domain_name": "retail"},
        },
        "tasks": [{"id": task, "evaluation_criteria": {"actions": asked}} for task in sorted(tasks)],
        "simulations": simulations,
        **changed,
    }


def entry(task: int, trial: int = 0, reward: float = 1.0, **changed: Any) -> dict[str, Any]:
    """An entry of τ-bench's list."""
    calls = [message("assistant", tool_calls=[{"function": {"name": "get"}}])] * 3
    return {
        "task_id": task,
        "trial": trial,
        "reward": reward,
        "info": {
            "task": {"actions": [{"name": "a"}, {"name": "b"}]},
            "reward_info": {"reward": reward, "info": {"r_actions": reward, "gt_data_hash": "x"}, "actions": []},
        },
        "traj": [message("system", content="policy"), message("user", content="hello"), *calls],
    } | changed


def write(path: Path, value: Any) -> Path:
    """Write a file as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path
