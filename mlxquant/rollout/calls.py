"""One request as LiteLLM logged it, cut down to what is measured: who answered, when, and how it looks to a program.

A payload holds prompt and answer; what is kept of them are hashes, lengths and yes or no, some hundred bytes a request,
so that a month of logs fits into memory. Checks of calls, refusals and languages are those of `evals.suites`.

Whose a request is, the deployment's id says (`deployments.read_id`), for configurations of `rollout`; for others, the
address that it was sent to. A mirror is known by its deployment, or by the mark `is_silent_experiment`, which LiteLLM
1.108 leaves out of its payloads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from ..errors import MeasurementError
from ..evals.items import Reply, ToolCall
from ..evals.replies import broken_calls
from ..evals.suites.scores_calls import formally, parsed_calls
from ..evals.suites.scores_text import language_of, refuses
from ..words.text import printable
from .deployments import BASELINE, CANDIDATE, FALLBACK, LAST, MIRROR, MIRRORED, read_id

_REDACTED = "redacted-by-litellm"
_NOT_TAGS = ("default",)
_AGENT = "User-Agent: "
_UP, _DOWN = (
    frozenset({"up", "thumbs_up", "positive", "good", "👍"}),
    frozenset({"down", "thumbs_down", "negative", "bad", "👎"}),
)
_RATINGS = ("feedback", "user_feedback", "thumbs", "rating")
_LONGEST_NAME = 100
_LATEST_S = 253_402_300_800  # the year 10000, which no date has
_MOST = 1 << 53  # of a count or time; a float holds integers up to here
# upper ends of a context's length in tokens
_CONTEXTS = ((4_096, "0-4k"), (16_384, "4k-16k"), (65_536, "16k-64k"), (1 << 62, "64k+"))


@dataclass(slots=True)
class LoggedCall:
    """A request to one deployment. Times are in seconds; what cannot be told is None."""

    role: str
    mirror: bool
    fallback: bool
    mirrored: bool | None
    manifest: str | None
    trace: str
    call_id: str
    prompt: int
    start: float
    seconds: float
    ttft_s: float | None
    failed: bool
    timeout: bool
    finish: str | None
    input_tokens: int | None
    output_tokens: int | None
    tools: tuple[str, ...]
    arguments: int
    checks: tuple[bool, bool, bool] | None  # valid_call, valid_json, valid_schema
    refused: bool | None
    language: str | None
    slices: tuple[str, ...]
    user: str | None
    rating: bool | None = None
    retried: bool = False


def read_call(entry: Mapping[str, Any], addresses: Mapping[str, str]) -> LoggedCall | None:
    """What a payload says of a request; None for one to neither side. Raises ValueError for what is no payload.

    `addresses` are those of the sides' servers, without a slash at the end, each with its side.
    """
    if entry.get("status") not in ("success", "failure"):
        raise ValueError("no payload of LiteLLM's: its status is neither success nor failure")
    identity = read_id(_word(entry.get("model_id")) or "")
    role = identity.role if identity else addresses.get((_word(entry.get("api_base")) or "").rstrip("/"))
    if role is None or not str(entry.get("call_type") or "acompletion").endswith("completion"):
        return None
    metadata = _table(entry.get("metadata"))
    purpose = identity.purpose if identity else None
    reply, tools = _reply(entry), _tools(entry)
    failed = entry["status"] == "failure"
    start, end = _number(entry.get("startTime")), _number(entry.get("endTime"))
    if start is None or end is None or not 0 <= start <= end < _LATEST_S:
        raise ValueError(
            "startTime and endTime: two numbers of seconds since 1970 expected, the end not before the start"
        )
    first = _number(entry.get("completionStartTime"))
    messages = entry.get("messages")
    trace = _word(entry.get("trace_id")) or _word(entry.get("litellm_call_id"))
    if not trace:
        raise ValueError("neither a trace_id nor a litellm_call_id stands in it")
    return LoggedCall(
        role=role,
        mirror=purpose == MIRROR or metadata.get("is_silent_experiment") is True,
        fallback=purpose in (FALLBACK, LAST),
        mirrored=purpose in (MIRRORED, FALLBACK, LAST) if identity else None,
        manifest=identity.manifest if identity else None,
        trace=trace,
        call_id=_word(entry.get("litellm_call_id")) or "",
        prompt=_hash(messages),
        start=start,
        seconds=end - start,
        ttft_s=first - start if entry.get("stream") is True and first is not None and start <= first < end else None,
        failed=failed,
        timeout=failed and "imeout" in str(_table(entry.get("error_information")).get("error_class") or ""),
        **_answer(reply, tools, failed),
        input_tokens=_count(entry.get("prompt_tokens")) or None,
        output_tokens=None if failed else _count(entry.get("completion_tokens")),
        slices=_slices(entry, messages),
        user=_word(entry.get("end_user")) or _word(metadata.get("user_api_key_end_user_id")),
        rating=rating_of(_table(metadata.get("requester_metadata"))) if failed is False else None,
    )


def rating_of(table: Mapping[str, Any]) -> bool | None:
    """A user's thumb in a table, under one of the names that are used for it: True up, False down, None without.

    >>> rating_of({"feedback": "thumbs_down"}), rating_of({"rating": 1}), rating_of({})
    (False, True, None)
    """
    for key in _RATINGS:
        value = table.get(key)
        if isinstance(value, bool):
            return value
        if value in (1, -1, 0):
            return bool(value == 1)
        if isinstance(value, str) and value.strip().lower() in _UP | _DOWN:
            return value.strip().lower() in _UP
    return None


def _answer(reply: Reply | None, tools: Sequence[Mapping[str, Any]], failed: bool) -> dict[str, Any]:
    """What a program sees in an answer; nothing of one that failed or was not logged."""
    if failed or reply is None:
        finish = None if reply is None else reply.finish_reason
        return {"finish": finish, "tools": (), "arguments": 0, "checks": None, "refused": None, "language": None}
    calls = parsed_calls(reply)
    checks = None
    if reply.tool_calls or reply.broken_calls:
        try:
            formal, _ = formally(reply, tools)
            checks = formal["valid_call"], formal["valid_json"], formal["valid_schema"]
        except MeasurementError:  # a schema that leads nowhere: the client's fault, and no reply's
            checks = None
    text = reply.text.strip()
    return {
        "finish": reply.finish_reason,
        "tools": tuple(_name(name) for name, _ in calls),
        "arguments": _hash([arguments for _, arguments in calls]),
        "checks": checks,
        "refused": refuses(text) if text and not calls else None,
        "language": language_of(text) if text else None,
    }


def _reply(entry: Mapping[str, Any]) -> Reply | None:
    """The first choice of an answer; None where there is none, or its text was not logged."""
    choices = _table(entry.get("response")).get("choices")
    choice = _table(choices[0]) if isinstance(choices, list) and choices else {}
    message = _table(choice.get("message"))
    if not message:
        return None
    text = message.get("content")
    text = text if isinstance(text, str) else ""
    if text == _REDACTED:
        return None
    calls = []
    for call in message.get("tool_calls") or ():
        function = _table(_table(call).get("function"))
        calls.append(ToolCall(str(function.get("name") or ""), str(function.get("arguments") or "")))
    reason = str(choice.get("finish_reason") or "stop")[:_LONGEST_NAME]
    return Reply(text, tuple(calls), reason, broken_calls=() if calls else broken_calls(text))


def _tools(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tools that a request offered, as far as each is one."""
    tools = _table(entry.get("model_parameters")).get("tools")
    return [
        tool for tool in tools
        if isinstance(tool, dict) and isinstance(_table(tool.get("function")).get("name"), str)
    ] if isinstance(tools, list) else []  # fmt: skip


def _slices(entry: Mapping[str, Any], messages: Any) -> tuple[str, ...]:
    """Cohorts, the language of the user's last words, and the length of the context."""
    tags = entry.get("request_tags")
    named = [
        f"cohort:{_name(tag)}" for tag in (tags if isinstance(tags, list) else ())
        if isinstance(tag, str) and tag not in _NOT_TAGS and not tag.startswith(_AGENT)
    ]  # fmt: skip
    if language := language_of(_last_words(messages)):
        named.append(f"language:{language}")
    if tokens := _count(entry.get("prompt_tokens")):
        named.append(f"context:{next(label for end, label in _CONTEXTS if tokens < end)}")
    return tuple(dict.fromkeys(named))


def _last_words(messages: Any) -> str:
    """The user's last message."""
    for message in reversed(messages if isinstance(messages, list) else []):
        if _table(message).get("role") == "user":
            content = _table(message).get("content")
            if isinstance(content, list):
                return " ".join(str(_table(part).get("text") or "") for part in content)
            return content if isinstance(content, str) else ""
    return ""


def _hash(value: Any) -> int:
    """A hash of JSON that is equal for equal values, whatever the order of keys."""
    return xxhash.xxh3_64_intdigest(json.dumps(value, sort_keys=True).encode())


def _name(text: str) -> str:
    return printable(text[:_LONGEST_NAME])


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _word(value: Any) -> str | None:
    return value[:_LONGEST_NAME] if isinstance(value, str) and value else None


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST
    return float(value) if known else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST else None


__all__ = ["BASELINE", "CANDIDATE", "LoggedCall", "rating_of", "read_call"]
