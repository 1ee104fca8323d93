"""What `mlxquant.evals.store.scoring` says about calls, replies, steps and runs: records that a runner adds up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .tasks import Call, compact


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
