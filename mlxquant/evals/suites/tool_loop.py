"""The `tool-loop` suite: an agent at the service desk of a small store, over loops of 5 to 200 tool calls.

A scripted user asks for one thing after another; the model calls tools, one request to the side each time, until it
answers in text. `mlxquant.evals.store` has the world, makes the tasks from seeds and judges every call and reply; later
requests need what earlier results returned, so errors compound, and each expected call has a depth. Seeds begin at
1,000,000, which no training data of this project uses.

`tool-loop-deep` makes the requests of `store.deep`, which a small model can do without an error over 150 calls.

History is what the model wrote, with call ids of our own, so that both sides read the same. A call that cannot be
read stays in it as text, followed by the reason, since servers refuse history whose arguments are no JSON. Reasoning is
not sent back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from ...words.secrets import shortened
from ...words.strict_json import read_json
from ..items import CALL_CHECKS, Ask, CallMade, Item, Message, Played, Reply
from ..store import SYSTEM_PROMPT, Task, exchange, make_deep_task, make_task, openai_tools
from ..store.scoring import CallVerdict, Judge, Step

NAME, DEEP = "tool-loop", "tool-loop-deep"
WORLDS: Mapping[str, Callable[[int, int], Task]] = {NAME: make_task, DEEP: make_deep_task}
FIRST_SEED = 1_000_000
CALLS = (5, 10, 20, 50, 100, 200)


@dataclass(frozen=True)
class ToolLoop:
    """`tasks` loops of each length in `calls`, every one a seed of its own; `name` says which world makes them."""

    calls: tuple[int, ...] = (5, 10, 20)
    tasks: int = 10
    first_seed: int = FIRST_SEED
    max_tokens: int = 1024
    name: str = NAME

    @cached_property
    def _items(self) -> tuple[Item, ...]:
        tools = tuple(openai_tools())
        system: Message = {"role": "system", "content": SYSTEM_PROMPT}
        lengths = [n for n in self.calls for _ in range(self.tasks)]
        return tuple(
            Item(
                id=f"{n}-calls-{seed}",
                suite=self.name,
                messages=(system,),
                slices=(f"calls:{n}",),
                tools=tools,
                max_tokens=self.max_tokens,
                task={"seed": seed, "calls": n},
            )
            for seed, n in enumerate(lengths, self.first_seed)
        )

    def items(self) -> Sequence[Item]:
        """All loops, shortest first. A task is made when it is played."""
        return self._items

    def describe(self) -> Mapping[str, Any]:
        """What the record says of it."""
        return {"calls": list(self.calls), "tasks": self.tasks, "first_seed": self.first_seed}

    def play(self, item: Item, ask: Ask) -> Played:
        """Play one loop to its end. Lets MeasurementError pass."""
        with Judge(_task(self.name, item.task["seed"], item.task["calls"])) as judge:
            talk = _Talk(item, ask, judge)
            while (request := judge.user()) is not None:
                talk.take(request)
            return _played(judge)


@lru_cache(maxsize=8)
def _task(world: str, seed: int, calls: int) -> Task:
    """Every side plays a task in turn, so it is made once."""
    return WORLDS[world](seed, calls)


class _Talk:
    """The conversation so far, and one request after another."""

    def __init__(self, item: Item, ask: Ask, judge: Judge) -> None:
        self.item, self.ask, self.judge = item, ask, judge
        self.messages: list[Message] = list(item.messages)

    def take(self, request: str) -> None:
        """Let the model do what the user asks, until it answers or has made too many calls."""
        self.messages.append({"role": "user", "content": request})
        begun = self.judge.begun
        while self.judge.open and self.judge.begun == begun:
            reply = self.ask(
                self.messages,
                tools=self.item.tools,
                max_tokens=self.item.max_tokens,
                depth=len(self.judge.calls),
                draft=self._faultless,
            )
            if reply.tool_calls or reply.broken_calls:
                self._calls(reply)
            else:
                self.messages.append({"role": "assistant", "content": reply.text})
                self.judge.reply(reply.text)

    def _faultless(self) -> Iterator[Message]:
        """The messages with which a run without a fault goes on from here."""
        number = len(self.judge.calls)
        for request, calls, reply in self.judge.rest():
            if request:
                yield {"role": "user", "content": request}
            for call, result in calls:
                number += 1
                yield from exchange(f"call{number:05d}", call, result)
            yield {"role": "assistant", "content": reply}

    def _calls(self, reply: Reply) -> None:
        """Judge and run the calls of one reply, and put them and their results into the history."""
        readable: list[tuple[dict[str, Any], CallVerdict]] = []
        unreadable: list[tuple[str, CallVerdict]] = []
        for call in reply.tool_calls:
            number = len(self.judge.calls) + 1
            verdict = self.judge.call(call.name, call.arguments)
            if _is_table(call.arguments):
                function = {"name": call.name, "arguments": call.arguments}
                readable.append(({"id": f"call{number:05d}", "type": "function", "function": function}, verdict))
            else:
                unreadable.append((f"{call.name}({call.arguments})", verdict))
        for text in reply.broken_calls:
            unreadable.append((text, self.judge.call("", text)))
        if readable:
            self.messages.append(
                {"role": "assistant", "content": reply.text, "tool_calls": [entry for entry, _ in readable]}
            )
            for entry, verdict in readable:
                self.messages.append({"role": "tool", "tool_call_id": entry["id"], "content": verdict.content})
        for text, verdict in unreadable:
            self.messages.append({"role": "assistant", "content": text})
            self.messages.append({"role": "user", "content": f"That call could not be read. {verdict.content}"})


def _is_table(arguments: str) -> bool:
    """Whether arguments may stand in a history: servers want a JSON object."""
    try:
        return isinstance(read_json(arguments), dict)
    except ValueError:
        return False


def _played(judge: Judge) -> Played:
    outcome = judge.outcome()
    checks = {
        "state_equal": outcome.state_equal,
        "rules_kept": outcome.policy_kept,
        "replies_right": all(reply.right for reply in outcome.replies),
    }
    refusals = [r for r in outcome.replies if r.should_refuse]
    if refusals:
        checks["refused_rightly"] = all(r.right for r in refusals)
    checks["nothing_refused_wrongly"] = not any(r.refused_wrongly for r in outcome.replies)
    first = None if outcome.first_wrong is None else max(1, outcome.first_wrong)
    calls = tuple(_call(step) for step in outcome.steps)
    return Played(outcome.passed, checks, calls, judge.task.n_calls, first)


def _call(step: Step) -> CallMade:
    """One expected call by its first attempt; one that was never attempted is no call at all."""
    attempt = step.attempt
    if attempt is None:
        checks = dict.fromkeys((check for check in CALL_CHECKS if check != "policy_kept"), False)
        return CallMade(step.depth, checks, step.call.name, "no call", step.slices)
    checks = {
        "valid_call": True,
        "valid_json": attempt.valid_json,
        "valid_schema": attempt.valid_schema,
        "right_tool": attempt.right_tool and attempt.valid_schema,
        "right_arguments": attempt.right_arguments,
        "in_order": attempt.in_order,
        "policy_kept": attempt.broken_policy is None,
        "made": step.made,
    }
    problem = attempt.problem or attempt.broken_policy or ("" if step.right else f"{attempt.call.name} called")
    return CallMade(step.depth, checks, step.call.name, shortened(problem, 120), step.slices)
