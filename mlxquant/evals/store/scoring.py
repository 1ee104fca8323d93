"""Judge an agent's calls and replies against a task, one at a time, while the world answers it.

A runner feeds a `Judge`: `user()` gives the next request, `call()` judges one tool call and returns what to hand back,
`reply()` judges the text that ends the turn, `outcome()` sums up. How it judges:

- Each turn starts with its expected calls outstanding, in order. A call equal to an outstanding one (same tool, same
  arguments, key order aside) fulfils it, also if it comes before its turn: what was jumped over stays outstanding,
  and is out of order when it is made after all.
- Any other call that is valid runs as well. A read returns its real result: not right, but harmless. A write changes
  the model's store: a wrong write, which the state shows at the end. A call that is not valid JSON or breaks the
  tool's schema runs nothing and gets an error to read, so that the model can try again.
- A turn ends with the model's text, or after 3 + 2 × expected calls. What is outstanding then was missed.
- Each expected call is one step, at a depth: its number in the task, from 1. A call that fulfils none counts for the
  first outstanding step of the same tool that has no attempt yet, or else for the next outstanding one. A step's
  `attempt` is the first call that counts for it; that is what shares by depth are made of. `made` says whether the
  step was fulfilled at all.
- The run goes wrong at the first step that is missed, or at which a call is not valid, breaks the policy, or is a
  wrong write. A superfluous read is none of these. Replies are judged apart.

It does not talk to models, and knows nothing of transport errors: a task that could not be finished has an outcome of
the turns begun, with `finished` False.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from ...words.secrets import shortened
from ...words.strict_json import read_json
from .database import Store
from .tasks import Call, Task, Turn, compact
from .tools import BY_NAME

__all__ = ["CallVerdict", "Judge", "Outcome", "ReplyVerdict", "Step"]


# --- verdicts ---


@dataclass(frozen=True, slots=True)
class CallVerdict:
    """What one call was: each property includes those above it, except that the policy is judged on its own.

    `depth` is that of the expected call it counts for (of the turn's last where none is outstanding: `superfluous`),
    `in_order` whether it is right and no later one was made before. `broken_policy` names the rule, None where none
    was broken. `result` goes back to the model, as text: `content`. `turn_over` says that the turn's limit of calls is
    reached, `problem` why it is not valid.
    """

    depth: int
    turn: int
    call: Call
    valid_json: bool
    valid_schema: bool
    right_tool: bool
    right_arguments: bool
    in_order: bool
    writes: bool
    broken_policy: str | None
    superfluous: bool
    result: dict[str, Any]
    turn_over: bool
    problem: str | None = None

    @property
    def content(self) -> str:
        """The result as text for the tool message."""
        return compact(self.result)

    @property
    def wrong_write(self) -> bool:
        """Whether it changed the store otherwise than expected."""
        return self.writes and not self.right_arguments and "error" not in self.result

    @property
    def went_wrong(self) -> bool:
        """Whether the run goes wrong with it."""
        return not self.valid_schema or self.broken_policy is not None or self.wrong_write


@dataclass(frozen=True, slots=True)
class ReplyVerdict:
    """What the end of a turn was: `missed` are the depths of calls not made, `missing` the facts not told.

    `word` is which of Done, Answer, Refused, Not found the reply begins with, None for something else or no reply.
    """

    turn: int
    missed: tuple[int, ...]
    missing: tuple[str, ...]
    word: str | None
    should_refuse: bool
    slices: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether it begins with the right word and tells all facts; missed calls are judged apart."""
        return not self.missing

    @property
    def refused_wrongly(self) -> bool:
        """Whether it refuses what is allowed."""
        return self.word == "Refused:" and not self.should_refuse

    @property
    def complied_wrongly(self) -> bool:
        """Whether it claims to have done, or answers, what a rule forbids."""
        return self.should_refuse and self.word in ("Done:", "Answer:")


@dataclass(slots=True)
class Step:
    """One expected call: its first attempt, None where none was made, and whether it was fulfilled in the end."""

    depth: int
    turn: int
    call: Call
    slices: tuple[str, ...]
    attempt: CallVerdict | None = None
    made: bool = False

    @property
    def right(self) -> bool:
        """Whether the first attempt was right and in order."""
        return self.attempt is not None and self.attempt.right_arguments and self.attempt.in_order


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run summed up. `state_equal` compares the stores after all turns begun; `first_wrong` is a depth, or None."""

    finished: bool
    steps: tuple[Step, ...]
    calls: tuple[CallVerdict, ...]
    replies: tuple[ReplyVerdict, ...]
    state_equal: bool
    first_wrong: int | None

    @property
    def policy_kept(self) -> bool:
        """Whether no call broke a rule."""
        return all(call.broken_policy is None for call in self.calls)

    @property
    def passed(self) -> bool:
        """Whether the task was done: finished, the state as expected, no rule broken, every reply right."""
        return self.finished and self.state_equal and self.policy_kept and all(reply.right for reply in self.replies)


# --- the judge ---


SPARE_CALLS = 3


class Judge:
    """The world, the user and the judge of one task for one run; use as a context manager, or close it."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.store = Store(task.seed)
        self.steps: list[Step] = []
        self.calls: list[CallVerdict] = []
        self.replies: list[ReplyVerdict] = []
        self.first_wrong: int | None = None
        self.begun = 0
        self.outstanding: list[Step] = []
        self.open = False
        self.left = 0
        self.furthest = 0  # depth of the last step fulfilled

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the database."""
        self.store.close()

    @property
    def turn(self) -> Turn:
        """The turn begun last."""
        return self.task.turns[self.begun - 1]

    def user(self) -> str | None:
        """Return the next request, None after the last; a turn still open ends without a reply."""
        if self.open:
            self.reply("")
        if self.begun == len(self.task.turns):
            return None
        self.begun += 1
        self.open = True
        self.left = SPARE_CALLS + 2 * len(self.turn.calls)
        first = len(self.steps) + 1
        self.outstanding = [
            Step(depth, self.begun, call, self.turn.slices) for depth, call in enumerate(self.turn.calls, first)
        ]
        self.steps += self.outstanding
        return self.turn.user

    def call(self, name: str, raw_arguments: str) -> CallVerdict:
        """Judge one call, `raw_arguments` being the JSON text that the model wrote, and run it where that is possible.

        After the turn's end (its limit reached amid parallel calls) it runs nothing and returns an error.
        """
        arguments, problem = parsed(raw_arguments)
        valid_json = problem is None
        problem = problem or schema_problem(name, arguments)
        call = Call(name, arguments if isinstance(arguments, dict) else {})
        step = self.fulfilled(call) if problem is None and self.open else None
        aimed = step or self.meant(name)
        self.left -= 1
        broken, result = None, {"error": problem or "too many calls for this request"}
        if problem is None and self.open:
            broken = self.store.broken_policy(name, call.arguments, customer=self.turn.customer, said=self.turn.user)
            result = self.store.call(name, call.arguments)
        verdict = CallVerdict(
            depth=aimed.depth if aimed else len(self.steps),
            turn=self.begun,
            call=call,
            valid_json=valid_json,
            valid_schema=problem is None,
            right_tool=aimed is not None and aimed.call.name == name,
            right_arguments=step is not None,
            in_order=step is not None and step.depth > self.furthest,
            writes=problem is None and BY_NAME[name].writes,
            broken_policy=broken,
            superfluous=aimed is None,
            result=result,
            turn_over=self.left <= 0,
            problem=problem,
        )
        self.keep(verdict, aimed, step)
        return verdict

    def fulfilled(self, call: Call) -> Step | None:
        """Find the outstanding expected call that this one equals."""
        return next((step for step in self.outstanding if step.call == call), None)

    def meant(self, name: str) -> Step | None:
        """Find the outstanding step that a call which fulfils none counts for."""
        alike = (step for step in self.outstanding if step.call.name == name and step.attempt is None)
        return next(alike, self.outstanding[0] if self.outstanding else None)

    def keep(self, verdict: CallVerdict, aimed: Step | None, step: Step | None) -> None:
        """Enter a verdict into the record, and end the turn at its limit."""
        self.calls.append(verdict)
        if aimed and aimed.attempt is None:
            aimed.attempt = verdict
        if step:
            step.made = True
            self.outstanding.remove(step)
            self.furthest = max(self.furthest, step.depth)
        if verdict.went_wrong:
            self.went_wrong(verdict.depth)
        if self.open and self.left <= 0:
            self.reply("")

    def went_wrong(self, depth: int) -> None:
        """Keep the least depth at which something was wrong."""
        self.first_wrong = depth if self.first_wrong is None else min(self.first_wrong, depth)

    def reply(self, text: str) -> ReplyVerdict:
        """Judge the text that ends the turn, and end it; raises RuntimeError where none is open (ask `user()`)."""
        if not self.open:
            raise RuntimeError("no turn is open: ask user() for the next request first")
        missed = tuple(step.depth for step in self.outstanding)
        if missed:
            self.went_wrong(missed[0])
        word, *facts = self.turn.facts
        begins = beginning(text)
        missing = tuple(fact for fact in facts if not tells(text, fact))
        if begins != word:
            missing = (word, *missing)
        verdict = ReplyVerdict(self.begun, missed, missing, begins, self.turn.refuse, self.turn.slices)
        self.replies.append(verdict)
        self.outstanding, self.open = [], False
        return verdict

    def rest(self) -> Iterator[tuple[str, list[tuple[Call, dict[str, Any]]], str]]:
        """Of each turn that is not over, its request (empty if begun), the calls due with their results, and a reply.

        Results are those of a run without a fault.
        """
        for number, turn in enumerate(self.task.turns[self.begun - self.open :], self.begun + 1 - self.open):
            begun = number == self.begun
            due = [step.call for step in self.outstanding] if begun else list(turn.calls)
            pairs = list(zip(turn.calls, turn.results, strict=True))
            yield "" if begun else turn.user, [pair for pair in pairs if pair[0] in due], turn.reply

    def outcome(self) -> Outcome:
        """Sum up the turns begun."""
        with Store(self.task.seed) as expected:
            for turn in self.task.turns[: self.begun]:
                for call in turn.calls:
                    expected.call(call.name, call.arguments)
            equal = expected.state() == self.store.state()
        finished = self.begun == len(self.task.turns) and not self.open
        return Outcome(finished, tuple(self.steps), tuple(self.calls), tuple(self.replies), equal, self.first_wrong)


def parsed(raw: str) -> tuple[Any, str | None]:
    """Parse arguments strictly (no NaN); return the value, and what is wrong with it or None."""
    try:
        value = read_json(raw)
    except ValueError as error:
        return None, f"arguments are not valid JSON: {error}"
    if isinstance(value, dict):  # JSON and its schema know no difference between 3.0 and 3; Python's text does
        value = {
            key: int(each) if isinstance(each, float) and each.is_integer() else each for key, each in value.items()
        }
    return value, None


@cache
def validator(name: str) -> Any:
    """Make the validator of a tool's schema, once."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(BY_NAME[name].parameters)


def schema_problem(name: str, arguments: Any) -> str | None:
    """Say why a call breaks its tool's schema; None where it does not."""
    if name not in BY_NAME:
        return f"no tool {shortened(ascii(name), 80)}"
    error = next(iter(validator(name).iter_errors(arguments)), None)
    return None if error is None else f"arguments break the schema: {shortened(error.message, 200)}"


WORDS = ("Done:", "Answer:", "Refused:", "Not found:")


def beginning(text: str) -> str | None:
    """Return which of the four words a reply begins with, markdown around it aside."""
    start = re.sub(r"[*_`#>\"']", "", text[:40]).strip().casefold()
    return next((word for word in WORDS if start.startswith(word.casefold())), None)


def tells(text: str, fact: str) -> bool:
    """Whether a text holds a fact as a whole word: 24 is not in O2480; 1,240 is 1240; spelling in US English too."""
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text).casefold().replace("canceled", "cancelled")
    return re.search(rf"(?<!\w){re.escape(fact.casefold())}(?!\w)", plain) is not None
