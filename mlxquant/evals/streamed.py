"""Put the events of a streamed answer together: text, reasoning, tool calls, and when its first token was seen.

A call's name and arguments may come in pieces (OpenAI, vLLM) or whole (mlx_lm.server, which also drops a call that it
cannot parse and then says `tool_calls` with none; that is a broken call whose text nobody has). Calls are told apart by
their index; where a server gives all the same or none, by what can only begin another call: a new id with a name, an
entry of its own in a list, a name after arguments that are whole. The time of the first token is that of the first
piece; where that piece is a whole call, the first token was long before and cannot be seen.

Whatever a server does differently is named in the reply's `ways`, so that it is never silently the model's failure.
Nothing is repaired that the model wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..endpoint.client import StreamError
from ..endpoint.events import CallPiece, Event
from ..words.strict_json import read_json, whole
from .items import Reply, Timing, ToolCall, Usage
from .replies import broken_calls, reasoning_within

_MOST_CALLS = 1000  # of one answer
_AT_ONCE = 1e-4  # seconds a token: nobody decodes 10,000 a second for one user, so such a stream was held back


@dataclass(eq=False)
class _Call:
    index: int | None
    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)  # of its arguments

    @property
    def arguments(self) -> str:
        """Its arguments' pieces one after another."""
        return "".join(self.pieces)

    @property
    def repeated(self) -> str | None:
        """Its arguments where each piece has all that came before in it, None where pieces go on with each other.

        Only what put together is no table and whole in the last piece is such a call: pieces of an answer that nests
        one table in another of the same beginning look alike.
        """
        if len(self.pieces) < 2 or self.is_whole:
            return None
        if not all(later.startswith(piece) for piece, later in zip(self.pieces, self.pieces[1:], strict=False)):
            return None
        return self.pieces[-1] if _Call(None, pieces=self.pieces[-1:]).is_whole else None

    @property
    def is_whole(self) -> bool:
        """Whether its arguments are a JSON table, to which nothing can be added."""
        try:
            return isinstance(read_json(self.arguments), dict)
        except ValueError:
            return False


@dataclass
class Gathered:
    """What has come of an answer so far."""

    asked: float
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    finish_reason: str | None = None
    ended: float = 0.0
    first: float | None = None
    begun_by: tuple[_Call, str] | None = None  # a call that came as the first piece, and its arguments then
    pieces: int = 0
    unseen: bool = False  # the whole answer came at once
    usage: dict[str, int] = field(default_factory=dict)
    model: str | None = None
    ways: dict[str, None] = field(default_factory=dict)

    def take(self, at: float, event: Event, where: str) -> None:
        """Add an event. Raises StreamError where it cannot be part of one answer."""
        self.usage = dict(event.usage) if event.usage is not None else self.usage
        self.model = event.model or self.model
        self.ways |= dict.fromkeys(event.ways)
        self.text += [event.text] if event.text else []
        self.reasoning += [event.reasoning] if event.reasoning else []
        self._take_calls(event.calls, where)
        if event.at_once and self.pieces == 0 and event.finish_reason is not None:
            self.unseen = True
            self.ways["answers whole, though a stream was asked for, so no token can be timed"] = None
        if event.text or event.reasoning or event.calls:
            self.pieces += 1
            self.first = at if self.first is None else self.first
        if event.finish_reason is not None:
            self.finish_reason, self.ended = event.finish_reason, at

    def _take_calls(self, pieces: tuple[CallPiece, ...], where: str) -> None:
        begun: set[int | None] = set()  # indices of calls that this event begins
        for piece in pieces:
            call = self._call_of(piece, begun)
            if call is None:
                call = _Call(piece.index)
                self.calls.append(call)
                begun.add(piece.index)
                if len(self.calls) > _MOST_CALLS:
                    raise StreamError("malformed", f"{where}: more than {_MOST_CALLS} calls in one answer")
            call.id = call.id or piece.id
            if piece.name != call.name or not call.arguments:  # a server may repeat the name with each piece
                call.name += piece.name
            call.pieces += [piece.arguments] if piece.arguments else []
            if self.first is None and self.begun_by is None and not self.text and not self.reasoning:
                self.begun_by = (call, call.arguments)

    def _call_of(self, piece: CallPiece, begun: set[int | None]) -> _Call | None:
        """The call that a piece goes on with; None where it begins another."""
        if piece.index is None:
            known = next((c for c in self.calls if piece.id and c.id == piece.id), None)
            last = known or (self.calls[-1] if self.calls else None)
        else:
            last = next((c for c in reversed(self.calls) if c.index == piece.index), None)
        if last is None or not piece.name:
            new_id = last is not None and piece.index is None and piece.id and last.id and piece.id != last.id
            return None if new_id else last
        if piece.id and last.id:
            how = "their ids" if piece.id != last.id else ""
        elif piece.index in begun:
            how = "their places in a list"
        else:
            how = "their names" if last.is_whole else ""
        if how and piece.index is not None:
            self.ways[f"gives several calls one index, so they are told apart by {how}"] = None
        elif how:
            self.ways[f"gives calls no index, so they are told apart by {how}"] = None
        return None if how else last

    def reply(self) -> Reply:
        """The whole answer."""
        if all(call.index is not None for call in self.calls):
            self.calls.sort(key=lambda call: call.index or 0)
        if any(call.repeated for call in self.calls):
            self.ways["repeats the arguments of calls from their beginning in each piece"] = None
        calls = tuple(ToolCall(whole(c.name), whole(c.repeated or c.arguments), whole(c.id)) for c in self.calls)
        text, reasoning = whole("".join(self.text)), whole("".join(self.reasoning))
        text, within = reasoning_within(text)
        if within:
            reasoning += within
            self.ways["leaves reasoning in the text, from which it was taken"] = None
        tokens = self.usage.get("completion_tokens")
        broken = broken_calls(text)
        shown = bool(calls or broken or text.strip() or reasoning.strip())
        dropped = self.finish_reason == "tool_calls" and not calls and not broken
        if dropped or (self.finish_reason == "length" and not shown and tokens):
            broken = ("",)
        self._name_ways(text, reasoning, calls, broken, tokens)
        usage = Usage(self.usage.get("prompt_tokens"), tokens, self.usage.get("cached_tokens"))
        reason, model = whole(self.finish_reason or ""), whole(self.model) if self.model else None
        return Reply(text, calls, reason, usage, self._timing(tokens), reasoning, broken, model, tuple(self.ways))

    def _name_ways(
        self, text: str, reasoning: str, calls: tuple[ToolCall, ...], broken: tuple[str, ...], tokens: int | None
    ) -> None:
        """Name what may be the server's doing where an answer has no text or calls that were not read."""
        if any(broken):
            self.ways["leaves calls in the text that its parser did not read"] = None
        elif broken:
            self.ways["reports a call that it does not show"] = None
        elif not text.strip() and not calls and reasoning.strip():
            self.ways["shows reasoning and no answer"] = None
        elif not text.strip() and not calls and tokens is None:
            self.ways["sends empty answers and does not count their tokens"] = None
        elif not text.strip() and not calls and (tokens or 0) > 1:
            self.ways["counts tokens of answers that it does not show"] = None

    def _timing(self, tokens: int | None) -> Timing:
        first = self.first if self.first is not None else (self.ended if tokens == 1 else None)
        if self.begun_by is not None and self.begun_by[0].arguments == self.begun_by[1]:
            first = None  # it came whole: its first token was long before
        seconds = self.ended - self.asked
        if first is None or self.unseen:
            return Timing(seconds)
        took = self.ended - first
        rate = (tokens - 1) / took if tokens and tokens > 1 and took > (tokens - 1) * _AT_ONCE else None
        return Timing(seconds, first - self.asked, rate)
