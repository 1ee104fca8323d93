"""Tasks: what a scripted user asks for, which calls are right, and what a good answer is.

A task is played once by the oracle on its own store while it is made, so that its calls, results and replies are
those of the real tools. It is a function of (seed, n_calls) alone.

Slices of a turn: its kind (`cancel`, `address`, `note`, `refund`, `coupon`, `add`, `quantity`, `restock`, `status`,
`total`, `days`, `price`, `stock`, `count`, `level`, `customer_id`, `unknown_user`); `read` and `write`, for what its
calls do; `numeric`, where a figure decides or is told; `refusal`, where a rule forbids it; `owner`, where the order is
a stranger's; `not_found`; `namesake`, where a name fits several customers; `conditional`, where a result calls for a
further look-up; `back_reference`, where an id comes from an earlier request, and `long_reference`, where that lies
more than 20 calls back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .policy import SYSTEM_PROMPT


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call; `arguments` in the order of the tool's schema."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """One request and how it is done rightly: the calls in order, each with its result, then the reply.

    `kind` is the kind of request, `refuse` whether a rule forbids it (a forbidden turn has no call that writes),
    `facts` what any good reply has to contain, its first word included, `customer` the id of the customer who asks
    (None where nobody's order is concerned), `slices` all that the turn counts towards.
    """

    user: str
    calls: tuple[Call, ...]
    results: tuple[dict[str, Any], ...]
    reply: str
    kind: str
    refuse: bool = False
    facts: tuple[str, ...] = ()
    customer: str | None = None
    slices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """A conversation of exactly `n_calls` expected calls; `slices` are those of all its turns together."""

    id: str
    seed: int
    n_calls: int
    turns: tuple[Turn, ...]
    slices: tuple[str, ...]


def compact(value: object) -> str:
    """Write JSON as results and arguments are written here: no spaces, keys in their order."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def transcript(task: Task, *, system: bool = True) -> list[dict[str, Any]]:
    """Return the oracle's whole dialogue as OpenAI messages; `system` False leaves out the system prompt.

    Arguments are a JSON string, as in the OpenAI API, and a message of a call has empty text.
    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM_PROMPT}] if system else []
    number = 0
    for turn in task.turns:
        messages.append({"role": "user", "content": turn.user})
        for call, result in zip(turn.calls, turn.results, strict=True):
            number += 1
            messages += exchange(f"call_{number}", call, result)
        messages.append({"role": "assistant", "content": turn.reply})
    return messages


def exchange(call_id: str, call: Call, result: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Return the assistant's message of one call and the tool's answer."""
    function = {"name": call.name, "arguments": compact(call.arguments)}
    return (
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": call_id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call_id, "content": compact(result)},
    )
