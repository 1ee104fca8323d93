"""Read along what a conversation is expected to go on with, and keep of it what the model would have said itself.

Greedy decoding of a call of 20 tokens runs the model 20 times. Where a suite can say which messages a faultless run
goes on with, the model reads them all at once instead, and its likeliest next token after each of them shows whether it
would have written the same: up to the first that differs, it would. What it says from there on is decoded as always. So
a draft changes no answer, but for what the order of sums changes: a token read among others and one decoded alone agree
to rounding only, as with every prompt. It changes how long answers take, and no time of one means anything.

How far ahead is read doubles each time that all of it was as expected, and begins anew at the first difference.

On a CPU tokens are read by `stream.cpu`, with numpy's products, if the model is small enough to be held in float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..stream.cpu.forms import Forms
from ..words.text import common_prefix
from .items import Message

MOST_AHEAD = 64  # answers
_STEP = 512  # tokens whose logits are in memory at once
_WIDENED_BYTES = 1 << 30  # of a model's weights in float32, beside its own


@dataclass
class PromptCache:
    """A cache and the tokens that it has read."""

    tokens: list[int]
    cache: Any

    def begins(self, prompt: Sequence[int]) -> bool:
        """Whether the prompt goes on from here."""
        return len(self.tokens) < len(prompt) and self.tokens == list(prompt[: len(self.tokens)])


@dataclass(frozen=True)
class ReadAhead:
    """Tokens that were read beyond a prompt; `likeliest[i]` is the model's next token after `tokens[:start + i + 1]`.

    `before` is the cache at `start`, `after` the one that has read all tokens. `messages` are what was written so, and
    `prompts` maps how many of them stand before an answer to how many tokens do, where that is known.
    """

    tokens: list[int]
    start: int
    likeliest: list[int]
    before: PromptCache
    after: PromptCache
    messages: Sequence[Message]
    prompts: Mapping[int, int]

    def prompt_of(self, messages: Sequence[Message]) -> list[int] | None:
        """The tokens of a conversation that is the beginning of this one, so that it need not be rendered again."""
        at = self.prompts.get(len(messages))
        pairs = zip(messages, self.messages, strict=False)
        alike = at is not None and all(a is b or readable(a) == readable(b) for a, b in pairs)
        return self.tokens[:at] if alike else None

    def covers(self, prompt: Sequence[int]) -> bool:
        """Whether the prompt is the beginning of what was read, and begins no earlier than that was known."""
        return self.start < len(prompt) < len(self.tokens) and self.tokens[: len(prompt)] == list(prompt)

    def answer(self, at: int, ends: Collection[int]) -> tuple[list[int], bool]:
        """What the model would say after the first `at` tokens, as far as it is what was read, and if that is all."""
        tokens: list[int] = []
        for i in range(at, len(self.tokens)):
            if self.likeliest[i - 1 - self.start] != self.tokens[i]:
                break
            tokens.append(self.tokens[i])
            if self.tokens[i] in ends:
                return tokens, True
        return tokens, False


class Reader:
    """Puts tokens into a model's cache, several at once."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._forms = Forms(model, mx.float32) if _widened_bytes(model) <= _WIDENED_BYTES else None

    def read(self, tokens: Sequence[int], cache: Any, step: int) -> None:
        """Read tokens, `step` at a time."""
        for at in range(0, len(tokens), step):
            with self._forms.on() if self._forms else nullcontext():
                self.model(mx.array(list(tokens[at : at + step]))[None], cache=cache)
                mx.eval([c.state for c in cache])
            mx.clear_cache()

    def likeliest(self, tokens: Sequence[int], cache: Any) -> list[int]:
        """Read tokens, and give the likeliest next one after each."""
        likeliest: list[int] = []
        for at in range(0, len(tokens), _STEP):
            with self._forms.on() if self._forms else nullcontext():
                logits = self.model(mx.array(list(tokens[at : at + _STEP]))[None], cache=cache)
                best = mx.argmax(logits[0], axis=-1)
                mx.eval(best, [c.state for c in cache])
            likeliest += map(int, best.tolist())  # type: ignore[arg-type]
            mx.clear_cache()
        return likeliest


def _widened_bytes(model: Any) -> int:
    """What the weights take in float32."""
    weights = [module for _, module in model.named_modules() if "weight" in module]
    return sum(4 * (m["scales"].size * m.group_size if "scales" in m else m["weight"].size) for m in weights)


def prompts_within(
    roles: Sequence[str], tokens: Sequence[int], prompt: Sequence[int], rendered: Sequence[int]
) -> list[int]:
    """How many tokens stand before each answer of a draft, whose messages have these roles.

    `tokens` are those of the whole conversation and `prompt` its beginning, up to where the draft begins; `rendered`
    is the prompt without what makes an answer begin. What it lacks stands before every answer: the list is empty where
    it stands otherwise often than there are answers, since then the template does not begin them alike.
    """
    opening = list(prompt[common_prefix(prompt, rendered) :])
    ends = range(len(prompt), len(tokens) + 1) if opening else ()
    places = [end for end in ends if list(tokens[end - len(opening) : end]) == opening]
    return places if len(places) == roles.count("assistant") else []


def first_answers(draft: Callable[[], Iterable[Message]], answers: int) -> Iterator[Message]:
    """The messages of a draft up to its n-th answer."""
    for message in draft():
        yield message
        answers -= message["role"] == "assistant"
        if not answers:
            return


def readable(message: Message) -> dict[str, Any]:
    """A message as chat templates want it: text for content, tables for arguments, as mlx_lm.server makes it."""
    out = dict(message, content=message.get("content") or "")
    if message.get("tool_calls"):
        out["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"] or "{}")}}
            for call in message["tool_calls"]
        ]
    return out
