"""Logged requests put together: mirrors with the requests that they mirror, users' thumbs and repetitions, samples.

A mirror has the trace id of its request, but one session may have one trace id for all of its requests; so a pair has
the same trace id and the same prompt. The call id is another. Either may be logged first, and one may never come.

Memory has a bound whatever the logs' size: of what waits for its pair, or may be rated later, the oldest is forgotten;
of pairs and of served requests a uniform sample is kept once there are more than `MOST`, drawn with a fixed seed.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Generic, TypeVar

from .calls import BASELINE, CANDIDATE, LoggedCall, rating_of, read_call
from .payloads import Faults

MOST = 100_000
# a request that is sent again within this time is a repetition, later it is another day's
_AGAIN_S = 600.0
_IDS = ("litellm_call_id", "call_id", "trace_id")

T = TypeVar("T")
V = TypeVar("V")
Pair = tuple[LoggedCall, LoggedCall]


class Sample(Generic[T]):
    """At most `most` of what is added, each as likely as any other (Vitter 1985, algorithm R); `seen` is of all."""

    def __init__(self, most: int = MOST) -> None:
        """Start empty."""
        self.items: list[T] = []
        self.seen = 0
        self._most, self._random = most, Random(0)

    def add(self, item: T) -> None:
        """Take an item, or leave it, or let it replace another."""
        self.seen += 1
        if len(self.items) < self._most:
            self.items.append(item)
        elif (place := self._random.randrange(self.seen)) < self._most:
            self.items[place] = item


class Recent(Generic[V]):
    """A table of at most `most` entries; the oldest is forgotten, and counted."""

    def __init__(self, most: int = MOST) -> None:
        """Start empty."""
        self._table: OrderedDict[Hashable, V] = OrderedDict()
        self._most = most
        self.forgotten = 0

    def get(self, key: Hashable) -> V | None:
        """What stands under a key."""
        return self._table.get(key)

    def pop(self, key: Hashable) -> V | None:
        """Take what stands under a key."""
        return self._table.pop(key, None)

    def put(self, key: Hashable, value: V) -> None:
        """Set what stands under a key."""
        self._table[key] = value
        if len(self._table) > self._most:
            self._table.popitem(last=False)
            self.forgotten += 1

    def __len__(self) -> int:
        return len(self._table)


@dataclass
class Traffic:
    """What the logs hold. `served` are requests whose answer a user got, by side; `pairs` (baseline, its mirror)."""

    pairs: Sample[Pair] = field(default_factory=Sample)
    served: dict[str, Sample[LoggedCall]] = field(default_factory=lambda: {BASELINE: Sample(), CANDIDATE: Sample()})
    counts: Counter[str] = field(default_factory=Counter)
    first: float | None = None
    last: float | None = None


def gather(
    payloads: Iterable[Mapping[str, Any]], addresses: Mapping[str, str], manifests: Mapping[str, str], faults: Faults
) -> Traffic:
    """Read all payloads. `manifests` are the first digits of each side's manifest hash, where they are known."""
    return _Gathering(addresses, manifests, faults).all_of(payloads)


class _Gathering:
    def __init__(self, addresses: Mapping[str, str], manifests: Mapping[str, str], faults: Faults) -> None:
        self._addresses, self._manifests, self._faults = addresses, manifests, faults
        self._traffic = Traffic()
        self._waiting: tuple[Recent[list[LoggedCall]], Recent[list[LoggedCall]]] = (Recent(), Recent())
        self._by_id: Recent[LoggedCall] = Recent()
        self._by_trace: Recent[LoggedCall] = Recent()
        self._asked: Recent[LoggedCall] = Recent()
        self._failed: Recent[LoggedCall] = Recent()
        self._seen: Recent[bool] = Recent()

    def all_of(self, payloads: Iterable[Mapping[str, Any]]) -> Traffic:
        counts = self._traffic.counts
        for number, entry in enumerate(payloads, 1):
            counts["payloads"] += 1
            try:
                if "status" not in entry and any(isinstance(entry.get(key), str) for key in _IDS):
                    self._rate(entry)
                elif (call := read_call(entry, self._addresses)) is None:
                    counts["others"] += 1
                else:
                    self._take(call, str(entry.get("model_id")))
            except (ValueError, RecursionError) as error:
                self._faults.add(f"payload {number}", str(error))
        counts["unpaired_baseline"] = len(self._waiting[0]) + self._waiting[0].forgotten
        counts["unpaired_mirrors"] = len(self._waiting[1]) + self._waiting[1].forgotten
        return self._traffic

    def _take(self, call: LoggedCall, deployment: str) -> None:
        counts, traffic = self._traffic.counts, self._traffic
        key = (call.call_id, deployment, call.start, call.failed)
        if self._seen.get(key):
            counts["twice"] += 1
            return
        self._seen.put(key, True)
        known = self._manifests.get(call.role)
        if known and call.manifest and call.manifest != known[: len(call.manifest)]:
            counts["other_builds"] += 1
            return
        traffic.first = call.start if traffic.first is None else min(traffic.first, call.start)
        traffic.last = call.start if traffic.last is None else max(traffic.last, call.start)
        if call.mirror:
            counts["mirrors"] += 1
        else:
            self._serve(call)
        if call.mirror or (call.role == BASELINE and not call.failed and call.mirrored is not False):
            self._pair(call)

    def _serve(self, call: LoggedCall) -> None:
        """Take a request that a user waited for, and see whether it repeats another."""
        counts = self._traffic.counts
        counts[f"served_{call.role}"] += 1
        self._traffic.served[call.role].add(call)
        if call.failed:
            self._failed.put(call.call_id, call)
            return
        if self._failed.pop(call.call_id) is not None:
            counts["answered_by_fallback"] += 1
        who = (call.user or call.trace, call.prompt)
        before = self._asked.get(who)
        if before is not None and before.call_id != call.call_id and 0 <= call.start - before.start < _AGAIN_S:
            before.retried = True
        self._asked.put(who, call)
        self._by_id.put(call.call_id, call)
        self._by_trace.put(call.trace, call)
        if call.rating is not None:
            counts["ratings"] += 1

    def _pair(self, call: LoggedCall) -> None:
        """Pair a mirror with its request, or let either wait for the other."""
        mine, other = self._waiting[call.mirror], self._waiting[not call.mirror]
        key = (call.trace, call.prompt)
        waiting = other.get(key)
        if not waiting:
            calls = mine.get(key) or []
            mine.put(key, [*calls, call])
            return
        partner = waiting.pop(0)
        if not waiting:
            other.pop(key)
        self._traffic.pairs.add((partner, call) if call.mirror else (call, partner))
        self._traffic.counts["pairs"] += 1

    def _rate(self, entry: Mapping[str, Any]) -> None:
        """A line that is no payload but a user's thumb for a request before it, by call id or trace id."""
        rating = rating_of(entry)
        if rating is None:
            raise ValueError("no payload and no feedback: status, or feedback up or down, expected")
        named = (
            self._by_id.get(entry.get("litellm_call_id") or entry.get("call_id")),
            self._by_trace.get(entry.get("trace_id")),
        )
        call = next((each for each in named if each is not None), None)
        if call is None:
            self._traffic.counts["ratings_of_nothing"] += 1
            return
        call.rating = rating
        self._traffic.counts["ratings"] += 1
