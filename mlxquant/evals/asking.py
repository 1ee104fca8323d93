"""Ask one side on behalf of one item: the request's settings, repeats after transport errors, timing, the trace.

Only what went wrong on the way is asked again, after 1, 2, 4, … seconds, a minute at most; where a server says how long
to wait (`Retry-After`), after that, ten minutes at most. A timeout is not asked again: the answer may have been minutes
long, and it is told as what it is. A request is the same each time it is sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import MeasurementError
from .items import Item, Message, Reply
from .sides import EvalSide, Request, worth_repeating
from .trace import Trace, TraceSpan

_LONGEST_WAIT = 60.0  # seconds between attempts
_LONGEST_ASKED = 600.0  # seconds between attempts where the server asks for them


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn. At temperature 0 nothing is drawn, and no seed is sent.

    `draft` lets builds read along what is expected of them, at temperature 0 only (see `drafts`).
    """

    temperature: float = 0.0
    top_p: float | None = None
    seed: int = 0
    template: Mapping[str, Any] | None = None
    draft: bool = False

    def seed_of(self, trial: int) -> int | None:
        """The seed of a trial, the same for every side."""
        return self.seed + trial if self.temperature > 0 else None


@dataclass
class Asking:
    """Asks `side` for one item and one trial (an `items.Ask`); `served` gathers a line of figures for each request."""

    side: EvalSide
    item: Item
    trial: int
    sampling: Sampling
    retries: int = 3
    backoff_s: float = 1.0
    trace: Trace | None = None
    sleep: Callable[[float], None] = time.sleep
    served: list[dict[str, Any]] = field(default_factory=list)
    attempts: int = 0

    def __call__(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        max_tokens: int = 512,
        depth: int | None = None,
        draft: Callable[[], Iterable[Message]] | None = None,
    ) -> Reply:
        """Send a conversation and wait for the whole answer. Raises MeasurementError after the last attempt."""
        request = Request(
            tuple(messages),
            tools,
            max_tokens,
            self.sampling.temperature,
            self.sampling.top_p,
            self.sampling.seed_of(self.trial),
            self.sampling.template,
            f"{self.item.suite}/{self.item.id}/{self.trial}",
            draft if self.sampling.draft else None,
        )
        asked_s = 0.0
        for attempt in range(self.retries + 1):
            if attempt:
                self.sleep(max(asked_s, min(_LONGEST_WAIT, self.backoff_s * 2 ** (attempt - 1))))
            try:
                return self._once(request, attempt, depth)
            except MeasurementError as error:
                if attempt == self.retries or not worth_repeating(error):
                    raise
                asked_s = min(_LONGEST_ASKED, getattr(error, "wait_s", None) or 0.0)
        raise AssertionError("the last attempt returns or raises")

    def _once(self, request: Request, attempt: int, depth: int | None) -> Reply:
        began, reply, failed = time.time_ns(), None, None
        self.attempts += 1
        try:
            reply = self.side.ask(request)
        except MeasurementError as error:
            failed = error.kind
            raise
        finally:
            if self.trace is not None and (reply is not None or failed is not None):
                number = len(self.served)
                span = TraceSpan(
                    self.item, self.trial, number, attempt, depth, began, time.time_ns(), request, reply, failed
                )
                self.trace.write(span, self.side.variant)
        self.served.append(_figures(reply, depth, attempt, self.side.variant.model))
        return reply


def _figures(reply: Reply, depth: int | None, repeats: int, requested_model: str) -> dict[str, Any]:
    """A request's figures; who answered and how only where that is not as asked."""
    timing, usage = reply.timing, reply.usage
    return {
        "depth": depth,
        "seconds": round(timing.seconds, 6),
        "ttft_s": None if timing.ttft_s is None else round(timing.ttft_s, 6),
        "decode_tok_s": None if timing.decode_tok_s is None else round(timing.decode_tok_s, 4),
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "repeats": repeats,
        **({"model": reply.model} if reply.model not in (None, requested_model) else {}),
        **({"ways": list(reply.ways)} if reply.ways else {}),
    }
