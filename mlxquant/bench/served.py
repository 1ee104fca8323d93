"""Measure a model behind an OpenAI-compatible server (LM Studio, mlx_lm.server, …) by streaming from it.

    prefill  a prompt of about n tokens and one token of answer: prompt tokens by the server's count, over the time
             until the first token arrives. That is `ttft_s`; network, queueing and tokenizing are in it.
    decode   n tokens of answer: those after the first, over the time from the first to the end. A server may
             send several tokens in one piece, so the times between pieces are those of pieces.

A server's tokenizer is not at hand, so two requests first find how many words make how many tokens, and each answer's
count corrects the next. `usage` is held against the pieces that came: counts that contradict them are a failure. So
is a prompt of which more than a tenth came from the server's cache (`cached_tokens`), for that is no prefill; a
template's few tokens are left out of the rate. A depth is a prompt of that length before the answer; prefill at a
depth would need the server's cache and is left out, with that reason. An answer may end before n tokens: the rate is
that of what came, and `finish_reason` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..endpoint.client import Server, StreamedAnswer, is_other_model, stream
from ..errors import MeasurementError, UsageError
from ..words.secrets import redact
from .prompts import Prompts, words_of_text
from .workload import BenchSettings, Sample, Workload

_SHORT_WORDS, _LONG_WORDS = 40, 240  # lengths of the two requests that count tokens
_FEWEST = 2  # tokens that make a rate
_CACHED = 0.1  # share of a prompt that may come from the server's cache
_OFF = 0.05  # a prompt further from its length than this share is worth a note
_MANY = 16  # pieces; fewer may be read at once by a process that had to wait for the processor
_AT_ONCE = 1e-4  # seconds between pieces; nobody decodes 10,000 tokens a second for one user


@dataclass
class Endpoint:
    """One model of a server. `chat` uses /chat/completions, where the server adds its template to the text.

    `facts` are those of the build that it serves, where the user named it.
    """

    server: Server
    model: str
    prompts: Prompts
    chat: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    _line: tuple[float, float] | None = field(default=None, repr=False)
    _words: dict[int, float] = field(default_factory=dict, repr=False)
    _others: dict[str, None] = field(default_factory=dict, repr=False)  # other models than asked for, which answered

    @property
    def name(self) -> str:
        """The model's name, without the folders of a path."""
        shown = redact(self.model)  # before it is cut
        return shown.rstrip("/").rpartition("/")[2] or shown

    def describe(self, settings: BenchSettings) -> dict[str, Any]:
        """The model in the record. An address on another machine is not published."""
        return {
            "manifest_sha256": None,
            "config_sha256": None,
            **self.facts,
            "kind": "endpoint",
            "endpoint": self.server.url if self.server.here else "another machine",
            "api": "chat/completions" if self.chat else "completions",
            "tokens_per_word": round(self._line[0], 4) if self._line else None,
            "traffic": None,
            **({"answers_as": sorted(self._others)} if self._others else {}),
        }

    def open(self) -> None:
        """Find how many words of this text make how many tokens; this also makes the server load the model."""
        if self._line is not None:
            return
        counts = []
        for words in (_SHORT_WORDS, _LONG_WORDS):
            answer = self._ask(words, 1)
            if not answer.usage or "prompt_tokens" not in answer.usage:
                self._line = (1.0, 0.0)
                return
            counts.append(answer.usage["prompt_tokens"])
        slope = (counts[1] - counts[0]) / (_LONG_WORDS - _SHORT_WORDS)
        if slope <= 0:
            raise MeasurementError(
                "contradiction",
                f"{self.server.url}: counts {counts[1]} prompt tokens for {_LONG_WORDS} words"
                f" and {counts[0]} for {_SHORT_WORDS}; its usage cannot be relied on",
            )
        self._line = (slope, counts[0] - slope * _SHORT_WORDS)

    def close(self) -> None:
        """Nothing is held."""

    def measure(self, workload: Workload, settings: BenchSettings, run: int) -> Sample:
        """Send one request. Raises MeasurementError."""
        if settings.batch != 1:
            raise UsageError("-b: several sequences at once are measured on builds, not through a server")
        if workload.n_prompt:
            if workload.n_depth:
                raise MeasurementError("skipped", "prefill at a depth cannot be told apart through a server")
            return self._prefill(workload.n_prompt)
        return self._decode(workload)

    def _prefill(self, n_prompt: int) -> Sample:
        answer, extra = self._request(n_prompt, 1)
        if "prompt_tokens" not in extra:
            raise MeasurementError(
                "uncounted", f"{self.server.url}: sends no usage, so the number of prompt tokens is unknown"
            )
        cached = extra.get("cached_tokens", 0)
        if cached > _CACHED * extra["prompt_tokens"]:
            raise MeasurementError("cached", f"{self.server.url}: took part of the prompt from its cache")
        seconds = answer.first - answer.asked
        return Sample(seconds, extra["prompt_tokens"] - cached, ttft_s=seconds, extra=extra)

    def _decode(self, workload: Workload) -> Sample:
        answer, extra = self._request(workload.n_depth, workload.n_gen)
        pieces = len(answer.chunks)
        tokens = extra.get("completion_tokens", pieces)
        if tokens < _FEWEST or pieces < _FEWEST:
            raise MeasurementError(
                "short",
                f"{self.model}: the answer ended after {tokens} tokens in {pieces} pieces"
                f" ({answer.finish_reason}); a rate needs {_FEWEST}",
            )
        stamps = [c.at for c in answer.chunks]
        gaps = tuple(b - a for a, b in pairwise(stamps))
        if pieces >= _MANY and stamps[-1] - stamps[0] < (pieces - 1) * _AT_ONCE:
            raise MeasurementError(
                "buffered",
                f"{self.server.url}: {pieces} pieces came at once; something on the way holds the stream back",
            )
        # the first piece is taken to hold one token; the last may have no text, and is there when the answer ends
        end = answer.ended if "completion_tokens" in extra else stamps[-1]
        return Sample(end - stamps[0], tokens - 1, ttft_s=answer.first - answer.asked, token_s=gaps, extra=extra)

    def _request(self, n_prompt: int, n_gen: int) -> tuple[StreamedAnswer, dict[str, Any]]:
        """Ask with a prompt of about so many tokens; the answer and its checked counts."""
        slope, base = self._line or (1.0, 0.0)
        words = self._words.setdefault(n_prompt, max(1.0, (n_prompt - base) / slope))
        answer = self._ask(round(words), n_gen)
        extra = self._checked(answer)
        if n_prompt and "prompt_tokens" in extra:
            self._words[n_prompt] = max(1.0, words * n_prompt / extra["prompt_tokens"])
        return answer, extra

    def _checked(self, answer: StreamedAnswer) -> dict[str, Any]:
        """The server's counts, held against what came."""
        pieces, usage = len(answer.chunks), dict(answer.usage or {})
        counted = usage.get("completion_tokens")
        if counted is not None and (counted < 0 or pieces > max(counted, 1)):
            raise MeasurementError(
                "contradiction", f"{self.server.url}: usage counts {counted} tokens, but {pieces} pieces of text came"
            )
        if usage.get("prompt_tokens", 1) < 1:
            raise MeasurementError(
                "contradiction", f"{self.server.url}: usage counts {usage['prompt_tokens']} prompt tokens"
            )
        return {**usage, "pieces": pieces, "finish_reason": answer.finish_reason}

    def _ask(self, words: int, tokens: int) -> StreamedAnswer:
        text = words_of_text(self.prompts, max(words, 1))
        body: dict[str, Any] = {"model": self.model, "max_tokens": tokens, "temperature": 0}
        if self.chat:
            body["messages"] = [{"role": "user", "content": text}]
            answer = stream(self.server, "/chat/completions", body)
        else:
            answer = stream(self.server, "/completions", {**body, "prompt": text})
        if answer.model and is_other_model(self.model, answer.model):
            self._others[answer.model] = None
        return answer


def check_endpoint(
    settings: BenchSettings, builds: Sequence[str], models: Sequence[str], served: Sequence[str] = ()
) -> None:
    """Refuse what a server cannot be asked; `served` are the builds that its models are. Raises UsageError."""
    if builds:
        raise UsageError("builds and --endpoint are measured apart: a server has its models loaded already")
    if not models:
        raise UsageError("--endpoint needs --model NAME, as the server lists it; give it again for each model")
    if served and len(served) != len(models):
        raise UsageError(
            f"--build is given {len(served)} times, --model {len(models)} times; give the build of each model, in order"
        )
    if settings.batch != 1:
        raise UsageError("-b: several sequences at once are measured on builds, not through a server")


def model_notes(builds: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say which servers answer as another model than was asked for."""
    for build in builds:
        if others := build.get("answers_as"):
            yield (
                f"{build['name']}: the server answers as {', '.join(others[:3])}; the figures are those"
                " of the model that answered, which may be another"
            )


def stream_notes(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say where answers ended early, and where pieces of a stream are not tokens."""
    streams = [r for r in rows if "pieces" in r and "completion_tokens" in r and Workload.parse(r["test"]).n_gen]
    early = [r for r in streams if r["completion_tokens"] < Workload.parse(r["test"]).n_gen]
    if early:
        yield f"{len(early)} of {len(streams)} answers ended before all tokens were generated; rates are of what came"
    merged = [r for r in streams if r["pieces"] < r["completion_tokens"]]
    if merged:
        tokens, pieces = (sum(r[k] for r in merged) for k in ("completion_tokens", "pieces"))
        yield (
            f"{len(merged)} of {len(streams)} answers came in fewer pieces than tokens ({pieces} for {tokens});"
            " times between tokens are times between pieces"
        )
    prompts = [r for r in rows if r.get("prompt_tokens") and abs(r["prompt_tokens"] - _asked(r)) > _OFF * _asked(r) > 0]
    if prompts:
        counts = [r["prompt_tokens"] for r in prompts]
        yield (
            f"{len(prompts)} prompts had {min(counts)} to {max(counts)} tokens where {_asked(prompts[0])} were wanted;"
            " rates are of the tokens that the server counted"
        )
    uncounted = [r for r in rows if "pieces" in r and "completion_tokens" not in r]
    if uncounted:
        yield f"{len(uncounted)} answers came without usage; their tokens are counted as pieces of the stream"


def _asked(row: Mapping[str, Any]) -> int:
    workload = Workload.parse(row["test"])
    return workload.n_prompt or workload.n_depth
