"""What an evaluation is made of: items, what a side answers, how a program scores it, and suites that hold them.

An `Item` is one question or one whole loop. A side (an endpoint, a build loaded here) answers with a `Reply`. A
`Suite` plays an item against whatever asks for it, turn by turn, and gives a `Played`. Suites of single questions
only say how a reply is scored: `Questions` plays them. Everything here is plain data: suites never see which side
answers, and sides never see what is expected, unless drafts are asked for (`drafts`), which change no answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

# An OpenAI chat message: {"role": "user", "content": "…"}, with tool_calls or tool_call_id where they belong
Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that is asked of every side.

    `messages` begin the conversation and `tools` are the request's, both as OpenAI's API has them. `score` says how a
    program judges the reply, in the suite's own terms. `cluster` names what several items share (a template, a
    document): they are not independent, and intervals count clusters. `task` is what a suite makes the whole item from
    when it is played, where that stands in no message: the seed and length of a store task.
    """

    id: str
    suite: str
    messages: tuple[Message, ...]
    slices: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    max_tokens: int = 512
    score: Mapping[str, Any] = field(default_factory=dict)
    cluster: str | None = None
    task: Mapping[str, int] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What it is one observation of: its cluster, or itself."""
        return self.cluster or self.id

    def digest(self) -> str:
        """SHA-256 of all that makes the item what it is."""
        content = [self.id, self.suite, self.messages, self.slices, self.tools, self.max_tokens]
        content += [self.score or self.task, self.unit]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=dict).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as it came: `arguments` is the text that the model wrote for them, which may be no JSON at all."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request by the side's own count; None where it does not tell."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of one request in seconds.

    `ttft_s` is None where the first token cannot be seen, such as in a call that a server hands out only when it is
    whole; `decode_tok_s` where there are fewer than two tokens to take a rate of, or the first cannot be seen.
    """

    seconds: float = 0.0
    ttft_s: float | None = None
    decode_tok_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a side answered.

    `broken_calls` are texts that set out to be a call and could not be read as one: by the server's parser, by the
    tokenizer's, or because they stand in the text. A server may drop such a text; then it is "". `ways` says what a
    server did otherwise than OpenAI's API has it, such as "leaves reasoning in the text"; records count them.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    usage: Usage = Usage()
    timing: Timing = Timing()
    reasoning: str = ""
    broken_calls: tuple[str, ...] = ()
    model: str | None = None
    ways: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """A program's judgement of a reply: whether it passed, the checks it consists of, and why not in a few words."""

    passed: bool
    checks: Mapping[str, bool] = field(default_factory=dict)
    said: str = ""


@dataclass(frozen=True, slots=True)
class CallMade:
    """One call that was due, by the first attempt at it. `depth` is its number in the loop, from 1, on every side.

    `checks` holds those of `CALL_CHECKS` that could be judged; `slices` are those of the request that it serves.
    """

    depth: int
    checks: Mapping[str, bool]
    tool: str = ""
    said: str = ""
    slices: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        """Whether nothing was wrong with it."""
        return all(self.checks.values())

    def as_record(self) -> list[Any]:
        """`[depth, "11110010", tool, slices]`: a sign for each of `CALL_CHECKS`, "-" for one that was not judged.

        What was wrong with the call comes last, where something was. A record has thousands of calls, so it is short.
        """
        signs = "".join("-" if c not in self.checks else "1" if self.checks[c] else "0" for c in CALL_CHECKS)
        return [self.depth, signs, self.tool, list(self.slices), *([self.said] if self.said and not self.right else [])]

    @classmethod
    def from_record(cls, entry: Sequence[Any]) -> CallMade:
        """Read what `as_record` wrote."""
        depth, signs, tool, slices, *problem = entry
        checks = {check: sign == "1" for check, sign in zip(CALL_CHECKS, signs, strict=True) if sign != "-"}
        return cls(depth, checks, tool, problem[0] if problem else "", tuple(slices))


# Each of the first six presupposes those before it. A policy may be kept or broken by any call; `made` says that the
# call was made in the end, at the first attempt or a later one.
CALL_CHECKS = (
    "valid_call", "valid_json", "valid_schema", "right_tool", "right_arguments", "in_order", "policy_kept", "made",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Played:
    """One item, played to its end by one side.

    `calls` are a loop's, empty elsewhere. `depth` is how many calls a faultless run makes, `first_error` the depth at
    which this one first went wrong: None where it never did.
    """

    passed: bool
    checks: Mapping[str, bool] = field(default_factory=dict)
    calls: tuple[CallMade, ...] = ()
    depth: int = 0
    first_error: int | None = None
    said: str = ""


class Ask(Protocol):
    """Asks the side that is being played. Raises MeasurementError where there is no answer."""

    def __call__(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        max_tokens: int = 512,
        depth: int | None = None,
        draft: Callable[[], Iterable[Message]] | None = None,
    ) -> Reply:
        """Send a conversation and wait for the whole answer; `depth` is the number of calls before it, for traces.

        `draft` gives what a faultless run goes on with, for who may read it along (see `drafts`).
        """


class Suite(Protocol):
    """A named set of items and the way to play one."""

    @property
    def name(self) -> str:
        """What the command line and records call it."""

    def items(self) -> Sequence[Item]:
        """All items, always the same in the same order."""

    def play(self, item: Item, ask: Ask) -> Played:
        """Play one item. Lets MeasurementError pass: what could not be asked is no failure of the model."""

    def describe(self) -> Mapping[str, Any]:
        """What a record says of it: where it comes from, its options."""


@dataclass(frozen=True)
class Questions:
    """A suite of single questions: each item's messages are sent once, and `score` judges the reply.

    `about` is what the record says of it.
    """

    name: str
    questions: tuple[Item, ...]
    score: Callable[[Item, Reply], Score]
    about: Mapping[str, Any] = field(default_factory=dict)

    def items(self) -> Sequence[Item]:
        return self.questions

    def play(self, item: Item, ask: Ask) -> Played:
        score = self.score(item, ask(item.messages, tools=item.tools, max_tokens=item.max_tokens))
        return Played(score.passed, score.checks, said=score.said)

    def describe(self) -> Mapping[str, Any]:
        return self.about
