"""A side that is a build loaded in this process by mlx-lm, with its prompt cache kept through a conversation.

What a conversation's turns share is read once. The cache after an answer serves the next turn if the next prompt goes
on from exactly those tokens. Templates that write history otherwise than it was generated (Qwen drops reasoning)
break that; then the copy taken at the end of the last message serves, and for a new conversation the copy taken at
the end of system prompt and tools. No cache is trimmed, which linear attention would not allow. What is read in one
piece depends on the conversation alone, so an item gives the same answer whatever was asked before it. Where a request
comes with a draft, several answers are read at once (see `drafts`).

mlx's streams belong to the thread that made them: a side is opened, asked and closed in one thread.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import mlx.core as mx

from ..builds.facts import describe_build
from ..builds.read.build import Build
from ..builds.read.loading import load_build, run_failure
from ..builds.read.templates import TemplateFailure
from ..errors import MODEL_ERRORS, BuildError, MeasurementError
from ..words.text import common_prefix
from .drafts import MOST_AHEAD, PromptCache, ReadAhead, Reader, first_answers, prompts_within, readable
from .items import Message, Reply, Timing, Usage
from .replies import take_apart
from .sides import Request, Variant

_STEP = 2048  # prompt tokens at a time, mlx-lm's default


@dataclass
class LoadedModel:
    """A build as a side. Two sides of one folder load it twice, as two servers would."""

    build: Build
    name: str
    model: Any = None
    tokenizer: Any = None
    _live: PromptCache | None = field(default=None, repr=False)
    _turn: PromptCache | None = field(default=None, repr=False)
    _head: PromptCache | None = field(default=None, repr=False)
    _reader: Any = field(default=None, repr=False)
    _read_ahead: ReadAhead | None = field(default=None, repr=False)
    _ahead: int = 1  # answers that are read at once
    _conversation: str = ""
    _reused: int = 0
    _facts: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def variant(self) -> Variant:
        """What it is."""
        self._facts = self._facts or describe_build(self.build)
        return Variant(
            self.name, "build", self.build.name, "mlx_lm", self._facts, place=str(self.build.folder.resolve())
        )

    def describe(self) -> dict[str, Any]:
        """The side in the record."""
        return {"name": self.name, **self.variant.facts, "kind": "build"}

    def open(self) -> None:
        """Load weights and tokenizer. Raises BuildError."""
        self.model, self.tokenizer = load_build(self.build.folder)
        mx.eval(self.model.parameters())
        self._reader = Reader(self.model)
        if not self.tokenizer.has_chat_template:
            raise BuildError(f"{self.build.folder}: its tokenizer has no chat template, so it cannot be asked in turns")
        self._try_template()

    def close(self) -> None:
        """Let go of weights and caches."""
        self.model = self.tokenizer = self._reader = None
        self._forget()
        self._head = None
        gc.collect()
        mx.clear_cache()

    def ask(self, request: Request) -> Reply:
        """Answer. Raises MeasurementError where the model cannot run."""
        try:
            return self._ask(request)
        except (TemplateFailure, *MODEL_ERRORS) as error:
            self._forget()
            self._head = None
            if isinstance(error, TemplateFailure):
                why = f"its chat template {error.reason}"
            else:
                why = run_failure(error)
            raise MeasurementError("failed", f"{self.name}: {why}") from error

    def _ask(self, request: Request) -> Reply:
        from mlx_lm import stream_generate
        from mlx_lm.sample_utils import make_sampler

        if request.conversation != self._conversation:
            self._forget()
            self._conversation = request.conversation
        begin = perf_counter()
        known = self._read_ahead.prompt_of(request.messages) if self._read_ahead else None
        prompt = known or self._prompt(request, request.messages, add_generation_prompt=True)
        drafted = request.draft is not None and not request.temperature
        tokens, ended = self._drafted(request, prompt) if drafted else ([], False)
        stamps: list[float] = []
        text, reason = "", "stop"
        if not ended:
            before = [*prompt, *tokens]
            cache, read = self._cache(request, before)
            if request.seed is not None:
                mx.random.seed(request.seed)
            sampler = make_sampler(request.temperature, top_p=request.top_p or 0.0)
            self._reader.read(before[read:-1], cache, _STEP)
            for piece in stream_generate(
                self.model,
                self.tokenizer,
                mx.array(before[-1:]),
                max_tokens=request.max_tokens - len(tokens),
                sampler=sampler,
                prompt_cache=cache,
            ):
                stamps.append(perf_counter())
                text += piece.text
                tokens.append(piece.token)
                reason = piece.finish_reason or reason
            self._live = PromptCache([*prompt, *tokens], cache)
        if drafted:
            text, stamps = self._text(tokens), []
        answer, thought, calls, broken = take_apart(
            text, self.tokenizer, request.tools, thinking=self._begins_thinking(prompt)
        )
        return Reply(
            answer,
            calls,
            "tool_calls" if reason == "stop" and (calls or broken) else reason,
            Usage(len(prompt), len(tokens), self._reused),
            _timing(begin, stamps),
            thought,
            broken,
            self.build.name,
        )

    def _try_template(self) -> None:
        """Render one message, since a template that overruns its bounds there does so for every item."""
        try:
            self.tokenizer.apply_chat_template([{"role": "user", "content": "Hello."}], tokenize=False)
        except TemplateFailure as error:
            if error.overrun:
                raise BuildError(str(error)) from error
        except MODEL_ERRORS:
            pass  # a template of mlx-lm's own may want more; items say so

    def _prompt(self, request: Request, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
        tokens = self.tokenizer.apply_chat_template(
            [readable(m) for m in messages],
            tools=list(request.tools) or None,
            add_generation_prompt=add_generation_prompt,
            tokenize=True,
            **(request.template or {}),
        )
        return list(tokens["input_ids"] if isinstance(tokens, Mapping) else tokens)

    def _cache(self, request: Request, prompt: list[int]) -> tuple[Any, int]:
        """A cache that has read the beginning of the prompt, and how many tokens of it; the rest is never empty."""
        from mlx_lm.models.cache import make_prompt_cache

        prefix = next((k for k in (self._live, self._turn, self._head) if k is not None and k.begins(prompt)), None)
        self._reused = len(prefix.tokens) if prefix else 0
        if prefix is not None and prefix is self._live:
            return prefix.cache, self._reused
        cache = copy.deepcopy(prefix.cache) if prefix is not None else make_prompt_cache(self.model)
        self._live, read = None, self._reused
        head, turn = self._borders(request, prompt)
        if read < head:
            read = self._read(prompt, read, head, cache)
            self._head = PromptCache(prompt[:read], copy.deepcopy(cache))
        if read < turn:
            read = self._read(prompt, read, turn, cache)
            self._turn = PromptCache(prompt[:read], copy.deepcopy(cache))
        return cache, read

    def _borders(self, request: Request, prompt: list[int]) -> tuple[int, int]:
        """Where system prompt and tools end, and where the last message does: tokens that later prompts share."""
        system = [m for m in request.messages[:1] if m["role"] == "system"]
        other = [*system, {"role": "user", "content": ""}]
        head = common_prefix(prompt, self._prompt(request, other, add_generation_prompt=False))
        whole = self._prompt(request, request.messages, add_generation_prompt=False)
        return min(head, len(prompt) - 1), min(common_prefix(prompt, whole), len(prompt) - 1)

    def _read(self, prompt: list[int], start: int, end: int, cache: Any) -> int:
        """Put tokens into the cache; their logits are never computed."""
        self._reader.read(prompt[start:end], cache, _STEP)
        return end

    def _forget(self) -> None:
        """Let go of what belongs to one conversation."""
        self._live = self._turn = self._read_ahead = None
        self._ahead = 1

    def _drafted(self, request: Request, prompt: list[int]) -> tuple[list[int], bool]:
        """What of the answer the model was seen to give while it read a draft, and whether that is all of it.

        The cache for what is left to decode is the live one then.
        """
        ahead = self._read_ahead
        if ahead is None or not ahead.covers(prompt):
            if ahead is not None:
                as_expected = ahead.after.begins(prompt)
                self._live = ahead.after if as_expected else ahead.before
                self._ahead = min(2 * self._ahead, MOST_AHEAD) if as_expected else 1
            ahead = self._read_ahead = self._look_ahead(request, prompt)
        if ahead is None:
            return [], False
        self._reused = max(self._reused, ahead.start)
        tokens, ended = ahead.answer(len(prompt), self.tokenizer.eos_token_ids)
        if len(tokens) >= request.max_tokens:
            tokens, ended = tokens[: request.max_tokens - 1], False
        if not ended:
            self._live, self._read_ahead, self._ahead = ahead.before, None, 1
        return tokens, ended

    def _look_ahead(self, request: Request, prompt: list[int]) -> ReadAhead | None:
        """Read on as the draft goes on; None where the template does not write it as going on from the prompt."""
        assert request.draft is not None
        expected = [*request.messages, *first_answers(request.draft, self._ahead)]
        tokens = self._prompt(request, expected, add_generation_prompt=False)
        if len(expected) == len(request.messages) or tokens[: len(prompt)] != prompt:
            return None
        cache, read = self._cache(request, prompt)
        after = copy.deepcopy(cache)
        likeliest = self._reader.likeliest(tokens[read:], after)
        prompts: dict[int, int] = {}
        if self._ahead > 1:
            rendered = self._prompt(request, request.messages, add_generation_prompt=False)
            roles = [message["role"] for message in expected[len(request.messages) :]]
            answers = (i for i, role in enumerate(roles, len(request.messages)) if role == "assistant")
            prompts = dict(zip(answers, prompts_within(roles, tokens, prompt, rendered), strict=False))
        before = PromptCache(prompt[:read], cache)
        return ReadAhead(tokens, read, likeliest, before, PromptCache(tokens, after), expected, prompts)

    def _text(self, tokens: Sequence[int]) -> str:
        """An answer's text as mlx-lm writes it while it generates."""
        detokenizer = self.tokenizer.detokenizer
        for token in tokens:
            if token not in self.tokenizer.eos_token_ids:
                detokenizer.add_token(token)
        detokenizer.finalize()
        return str(detokenizer.text)

    def _begins_thinking(self, prompt: list[int]) -> bool:
        if not self.tokenizer.has_thinking:
            return False
        tail = self.tokenizer.decode(prompt[-64:])
        return bool(tail.rfind(self.tokenizer.think_start) > tail.rfind(self.tokenizer.think_end))


def _timing(begin: float, stamps: Sequence[float]) -> Timing:
    if not stamps:
        return Timing(perf_counter() - begin)
    took = stamps[-1] - stamps[0]
    rate = (len(stamps) - 1) / took if len(stamps) > 1 and took > 0 else None
    return Timing(stamps[-1] - begin, stamps[0] - begin, rate)
