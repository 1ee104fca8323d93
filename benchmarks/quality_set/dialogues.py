"""Dialogues with tools, short ones and loops of many turns, from the worlds beside this module and from mlxquant's store."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from benchmarks.quality_set.domain import Called, Domain
from benchmarks.quality_set.domains_town import CALENDAR, LIBRARY, TRAINS
from benchmarks.quality_set.domains_works import BANK, GREENHOUSE, WORKSHOP

Record = dict[str, Any]
DOMAINS = (CALENDAR, LIBRARY, TRAINS, GREENHOUSE, BANK, WORKSHOP)


def tool_dialogues(draw: Random, each: int) -> list[Record]:
    """Short ones, two to four requests; arguments as objects in one half, as JSON text in the other."""
    return [
        _record(f"tools-{domain.name}-{n}", domain, draw, draw.randrange(2, 5), ["tool_call"], as_text=n % 2 == 1)
        for domain in DOMAINS
        for n in range(each)
    ]


def long_loops(draw: Random, each: int) -> list[Record]:
    """Loops of so many requests that most pass 4,000 tokens."""
    return [
        _record(f"loop-{domain.name}-{n}", domain, draw, draw.randrange(17, 29), ["tool_call", "long_loop"])
        for domain in DOMAINS
        for n in range(each)
    ]


def store_loops(seeds: range) -> list[Record]:
    """Tool loops of mlxquant's store, as its oracle plays them."""
    from mlxquant.evals.store import make_task, openai_tools, transcript

    made = []
    for n, seed in enumerate(seeds):
        task = make_task(seed, 10 + 4 * n)
        slices = ["tool_call", "store", *(["long_loop"] if n >= 4 else [])]
        made.append({"id": f"store-{n}", "slices": slices, "tools": openai_tools(), "messages": transcript(task)})
    return made


def _record(name: str, domain: Domain, draw: Random, requests: int, slices: list[str], as_text: bool = False) -> Record:
    messages: list[Record] = [{"role": "system", "content": domain.system}]
    calls = 0
    for _ in range(requests):
        asked, rounds, said = draw.choice(domain.asks)(draw)
        messages.append({"role": "user", "content": asked})
        for called in rounds:
            messages += _played(called, calls, as_text)
            calls += len(called)
        messages.append({"role": "assistant", "content": said})
    return {"id": name, "slices": slices, "tools": list(domain.tools), "messages": messages}


def _played(called: list[Called], first: int, as_text: bool) -> list[Record]:
    """One message with calls, and the results."""
    made: list[Record] = []
    for n, (name, arguments, _) in enumerate(called, first):
        given = json.dumps(arguments) if as_text else arguments
        made.append({"id": f"call{n:05d}", "type": "function", "function": {"name": name, "arguments": given}})
    results = [
        {"role": "tool", "tool_call_id": f"call{n:05d}", "content": json.dumps(result)}
        for n, (_, _, result) in enumerate(called, first)
    ]
    return [{"role": "assistant", "content": None, "tool_calls": made}, *results]
