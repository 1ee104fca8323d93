"""Who answers: the two or more sides of an evaluation, and what is known of each.

A side is asked with a `Request` and gives a `Reply` or raises MeasurementError. It keeps nothing between requests
that could change an answer. `Variant` is what records and traces say of it, so that a regression maps to a build.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import MeasurementError
from .items import Message, Reply

# Failures of the way to the model, not of the model: worth asking again
TRANSPORT = ("refused", "unreachable", "truncated", "busy")


@dataclass(frozen=True, slots=True)
class Request:
    """All that one answer depends on. `seed` is None at temperature 0, where nothing is drawn.

    `conversation` names the item, side and trial: what a side keeps of it (a prompt cache) helps no other. `draft`
    gives the messages that a faultless run goes on with: no answer depends on it, only how soon it is there.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    template: Mapping[str, Any] | None = None
    conversation: str = ""
    draft: Callable[[], Iterable[Message]] | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """What a side is. `facts` are a build's, as bench records have them; empty where unknown.

    `provider` is OpenTelemetry's gen_ai.provider.name; `address` and `port` are None in this process.
    `place` is where it is, so that one of the same place is known: a folder, or a server and its model.
    """

    name: str
    kind: str
    model: str
    provider: str
    facts: Mapping[str, Any]
    address: str | None = None
    port: int | None = None
    place: str = ""

    @property
    def recipe(self) -> str | None:
        """The recipe's name, where a manifest names it."""
        recipe = self.facts.get("recipe")
        return str(recipe["name"]) if isinstance(recipe, Mapping) and recipe.get("name") else None

    @property
    def format(self) -> str | None:
        """The format of most of its bytes, such as `affine 8/64`."""
        name = self.facts.get("format")
        return str(name) if name else None


class EvalSide(Protocol):
    """Something that answers."""

    @property
    def variant(self) -> Variant:
        """What it is."""

    def open(self) -> None:
        """Make it ready. Raises MlxquantError."""

    def close(self) -> None:
        """Free what it holds."""

    def ask(self, request: Request) -> Reply:
        """Answer. Raises MeasurementError, with a kind of `TRANSPORT` where asking again may help."""

    def describe(self) -> dict[str, Any]:
        """The side in the record."""


def worth_repeating(error: MeasurementError) -> bool:
    """Whether the failure is one of transport: a connection that was refused or broke off, a server that is busy."""
    status = getattr(error, "status", None)
    return error.kind in TRANSPORT or status == 429 or (status is not None and status >= 500)
