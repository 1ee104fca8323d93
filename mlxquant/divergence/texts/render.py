"""Conversations as the model sees them: rendered by its chat template, with what that template cannot take reshaped.

Templates differ: some want a call's arguments as an object and some as text, some allow one call a message, refuse a
system message, or drop tools and calls without a word. The forms of `forms` are tried in turn, and the first is taken
in which nothing is lost. A model without a template gets the conversation as plain text. Nothing is generated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ...builds.read.templates import TemplateFailure
from ...errors import MlxquantError
from .chat_forms import FORMS, Conversation, Tools, shaped
from .marks import MarkedPiece, Marks, Message, find, mark, unmark

Write = Callable[[list[Message], Tools], str]


class TemplateRefusal(MlxquantError):
    """No form of the conversation gets through the chat template. Says what the template said."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text, where its messages' words stand in it, and how it had to be reshaped ("" if not)."""

    text: str
    pieces: tuple[MarkedPiece, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A tokenizer's chat template, and what it writes before a user's words, before an answer and after it."""

    write: Write
    has_template: bool
    user_opening: str
    answer_opening: str
    closing: str
    _first: dict[str, int] = field(default_factory=dict)  # shape of conversation -> the form it needed before

    def render(self, messages: Sequence[Message], tools: Tools = ()) -> Rendered:
        """Render with the first form that loses nothing. Raises TemplateRefusal, TemplateFailure for an overrun."""
        marked, marks = mark(messages)
        tried: list[Conversation] = []
        reason = "it drops messages or tool calls"
        shape = _shape(messages, tools)
        first = self._first.get(shape, 0)
        for n, (note, steps) in enumerate([*FORMS[first:], *FORMS[:first]], first):
            form = shaped(list(messages), tools, steps)
            if form in tried:
                continue
            tried.append(form)
            text, fault = self._written(form)
            if fault:
                reason = fault if len(tried) == 1 else reason
                continue
            pieces = self._pieces(text, shaped(marked, tools, steps), marks)
            if not _lost(messages, marks, pieces) and _shows(text, tools):
                self._first.setdefault(shape, n % len(FORMS))
                return Rendered(text, tuple(pieces), note)
        raise TemplateRefusal(f"the chat template cannot render this conversation: {reason}")

    def _pieces(self, text: str, form: Conversation, marks: Marks) -> list[MarkedPiece]:
        written, fault = self._written(form)
        plain, pieces = unmark(written, marks)
        return pieces if plain == text and not fault else find(text, marks)

    def _written(self, form: Conversation) -> tuple[str, str]:
        """What the template makes of it, or else what it says against it. Lets an overrun of its bounds pass."""
        from jinja2 import TemplateError

        try:
            return self.write(*form), ""
        except TemplateFailure as error:
            if error.overrun:
                raise
            return "", f"it {error.reason}"
        # a template that mlx-lm or transformers have as code of their own
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
            return "", " ".join(str(error).split()) or type(error).__name__


def plain_chat() -> Chat:
    """Write conversations without a template."""
    return Chat(_plain, False, "User: ", "Assistant: ", "\n\n")


def chat_of(tokenizer: Any) -> Chat:
    """Wrap a tokenizer, mlx-lm's or transformers', and learn what its template writes around a message.

    Raises TemplateFailure for a template that overruns its bounds even so.
    """
    has_template = getattr(tokenizer, "has_chat_template", None)
    if has_template is None:
        has_template = getattr(tokenizer, "chat_template", None) is not None
    if not has_template:
        return plain_chat()

    def write(messages: list[Message], tools: Tools) -> str:
        keywords = {"tools": list(tools)} if tools else {}
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False, **keywords))

    return Chat(write, True, *_frame(Chat(write, True, "", "", "")))


def _frame(chat: Chat) -> tuple[str, str, str]:
    r"""Learn what opens a user's words and an answer, and what closes that; empty where it cannot be told.

    Of "Beta.<|im_end|>\n<|im_start|>user\nGamma?", what the conversation that ends with Beta also has closes it.
    """
    question, answer = {"role": "user", "content": "Alpha?"}, {"role": "assistant", "content": "Beta."}
    try:
        short = chat.render([question, answer]).text
        long = chat.render([question, answer, {"role": "user", "content": "Gamma?"}, answer]).text
    except TemplateRefusal:
        return "", "", ""
    closing = short.rpartition("Beta.")[2]
    between = long.partition("Beta.")[2].partition("Gamma?")[0]
    answer_opening = short.partition("Alpha?")[2].partition("Beta.")[0]
    if not between.startswith(closing):
        return between, answer_opening, ""
    return between[len(closing) :], answer_opening, closing


def _shape(messages: Sequence[Message], tools: Tools) -> str:
    """What templates may object to: whether there are tools, who speaks after whom, how many calls, words beside them.

    Neighbours that repeat are told once, so that long conversations share their shape with short ones.
    """
    spoken = [f"{m['role'][0]}{min(len(m.get('tool_calls', ())), 2)}{bool(m['content']):d}" for m in messages]
    pairs = sorted(set(pairwise(spoken)))
    return f"{bool(tools)} {spoken[0]} {pairs}"


def _plain(messages: list[Message], _tools: Tools) -> str:
    return "".join(f"{message['role'].capitalize()}: {message['content'] or ''}\n\n" for message in messages)


def _lost(messages: Sequence[Message], marks: Marks, pieces: Sequence[MarkedPiece]) -> bool:
    """Whether a text is missing that must be there: any but an assistant's words beside its calls, which some drop."""
    there = {(piece.message, piece.kind, piece.call) for piece in pieces}
    return any(
        (message, kind, call) not in there
        for message, kind, call, _ in marks.slots
        if kind not in ("key", "value") and not (kind == "assistant" and messages[message].get("tool_calls"))
    )


def _shows(text: str, tools: Tools) -> bool:
    """Whether the tools stand in the text: the longest run of words in the first description, else the name."""
    if not tools:
        return True
    function = tools[0].get("function", tools[0])
    words = re.findall(r"[A-Za-z0-9]+(?: [A-Za-z0-9]+)*", str(function.get("description", "")))
    return max(words, key=len, default=str(function.get("name", ""))) in text
