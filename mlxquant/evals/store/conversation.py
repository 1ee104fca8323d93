"""The oracle's side of a conversation: what it has called, and what it can refer back to.

Requests (`requests`, with the phrases of `references`) draw what is asked for, play it through
`Conversation.do`, and close the turn with `Conversation.end`. Drawing may peek into the database, so that
enough requests are lawful; what is called never depends on a peek, only on the request and on results.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from .database import Store
from .tasks import Call, Turn
from .tools import BY_NAME

# A reference that reaches back further than this many calls counts as long.
LONG = 20


@dataclass
class Conversation:
    """The state of the world and of the talk; `calls` and `results` are those of the turn being made."""

    store: Store
    rng: Random
    turns: list[Turn] = field(default_factory=list)
    made: int = 0
    calls: list[Call] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    slices: set[str] = field(default_factory=set)
    customer: str | None = None
    # what "the same …" means: that of the turn before, or None
    same_user: str | None = None
    same_order: str | None = None
    same_item: str | None = None
    first_user: str | None = None
    first_order: str | None = None
    # customer's name (and city, for namesakes) -> the order of theirs that was opened last; the latest customer last
    before: dict[str, str] = field(default_factory=dict)
    # id -> how many calls had been made when a request was last about it
    seen: dict[str, int] = field(default_factory=dict)
    # the turn now being made refers to these; they become "the same" when it ends
    now_user: str | None = None
    now_order: str | None = None
    now_item: str | None = None

    def do(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Make one call and return its result."""
        result = self.store.call(name, arguments)
        self.calls.append(Call(name, arguments))
        self.results.append(result)
        self.made += 1
        self.slices.add("write" if BY_NAME[name].writes else "read")
        return result

    def pick(self, *texts: str) -> str:
        """Draw one paraphrase."""
        return self.rng.choice(texts)

    def refer(self, known: str) -> None:
        """Note that the request refers back to an id from earlier in the conversation."""
        self.slices.add("back_reference")
        if self.made - self.seen.get(known, 0) > LONG:
            self.slices.add("long_reference")

    def end(self, kind: str, user: str, reply: str, *facts: object, refuse: bool = False) -> None:
        """Close the turn: keep it, and move on what "the same" and "the first" mean."""
        word = reply.split(":", 1)[0] + ":"
        self.slices |= {kind} | ({"refusal"} if refuse else set())
        facts_due = (word, *(str(fact) for fact in facts))
        turn = Turn(
            user[0].upper() + user[1:],
            tuple(self.calls),
            tuple(self.results),
            reply,
            kind,
            refuse,
            facts_due,
            self.customer,
            tuple(sorted(self.slices)),
        )
        self.turns.append(turn)
        self.same_user, self.same_order, self.same_item = self.now_user, self.now_order, self.now_item
        self.first_user = self.first_user or self.now_user
        self.first_order = self.first_order or self.now_order
        for known in (self.now_user, self.now_order, self.now_item):
            if known:
                self.seen[known] = self.made
        self.now_user = self.now_order = self.now_item = self.customer = None
        self.calls, self.results, self.slices = [], [], set()
