"""Where in a rendered conversation each message's own words stand, whatever the chat template writes around them.

Every text that goes into a template (contents, names of called tools, keys and strings of their arguments) is given a
private character before and after it, the template is run, and the characters are taken out again. What is left must
be what the template makes of the unmarked conversation, character for character; where it is not, the texts are looked
up in order instead. Nothing here knows any model's markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
_FIRST = 0xF0000  # supplementary private use area A: 65,534 characters that no text has business with
_SLOTS = 32_000


@dataclass(frozen=True, slots=True)
class MarkedPiece:
    """A text of the conversation as it stands in the rendered one: characters start … end.

    kind: the message's role for its content; "name", "key" or "value" within a tool call. call: which of the
    message's calls, else -1.
    """

    message: int
    kind: str
    call: int
    start: int
    end: int


@dataclass(slots=True)
class Marks:
    """The texts that were marked, in the order in which the conversation has them."""

    slots: list[tuple[int, str, int, str]]  # message, kind, call, text

    def around(self, message: int, kind: str, call: int, text: str) -> str:
        """Mark a text within its white space, which templates may strip; blank text stays as it is."""
        core = text.strip()
        if not core or len(self.slots) >= _SLOTS:
            return text
        at = _FIRST + 2 * len(self.slots)
        self.slots.append((message, kind, call, core))
        lead = len(text) - len(text.lstrip())
        return text[:lead] + chr(at) + core + chr(at + 1) + text[lead + len(core) :]


def mark(messages: Sequence[Message]) -> tuple[list[Message], Marks]:
    """Copy a conversation with every text of it marked."""
    marks = Marks([])
    return [_marked(message, i, marks) for i, message in enumerate(messages)], marks


def _marked(message: Message, index: int, marks: Marks) -> Message:
    copy = dict(message)
    if isinstance(message.get("content"), str):
        copy["content"] = marks.around(index, message["role"], -1, message["content"])
    if message.get("tool_calls"):
        copy["tool_calls"] = [_marked_call(call, index, n, marks) for n, call in enumerate(message["tool_calls"])]
    return copy


def _marked_call(call: Mapping[str, Any], index: int, n: int, marks: Marks) -> dict[str, Any]:
    function = call["function"]
    name = marks.around(index, "name", n, function["name"])
    arguments = _marked_value(function["arguments"], index, n, marks)
    return {**call, "function": {**function, "name": name, "arguments": arguments}}


def _marked_value(value: Any, index: int, n: int, marks: Marks) -> Any:
    if isinstance(value, str):
        return marks.around(index, "value", n, value)
    if isinstance(value, list):
        return [_marked_value(each, index, n, marks) for each in value]
    if isinstance(value, dict):
        return {marks.around(index, "key", n, k): _marked_value(v, index, n, marks) for k, v in value.items()}
    return value


def unmark(text: str, marks: Marks) -> tuple[str, list[MarkedPiece]]:
    """Take the marks out of a rendered text; the pieces whose two marks both came through, first showing each."""
    plain: list[str] = []
    at = 0
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    last = _FIRST + 2 * len(marks.slots)
    for character in text:
        code = ord(character)
        if _FIRST <= code < last:
            slot, closing = divmod(code - _FIRST, 2)
            (ends if closing else starts).setdefault(slot, at)
        else:
            plain.append(character)
            at += 1
    return "".join(plain), [_piece(marks, slot, start, ends[slot]) for slot, start in starts.items() if slot in ends]


def _piece(marks: Marks, slot: int, start: int, end: int) -> MarkedPiece:
    message, kind, call, _ = marks.slots[slot]
    return MarkedPiece(message, kind, call, start, end)


def find(text: str, marks: Marks) -> list[MarkedPiece]:
    """Look the marked texts up in a rendered one, in order: for templates that marks would disturb."""
    pieces: list[MarkedPiece] = []
    cursor = 0
    for slot, (_, _, _, words) in enumerate(marks.slots):
        start = text.find(words, cursor)
        if start >= 0:
            cursor = start + len(words)
            pieces.append(_piece(marks, slot, start, cursor))
    return pieces
