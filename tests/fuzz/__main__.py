"""Run one target: ``python -m tests.fuzz TARGET [--cases N] [--seed N] [--keep]``. The last line is a JSON record."""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import signal
import sys
import time
import traceback
from random import Random
from types import FrameType

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import CORPUS, TARGETS, Target

# Seconds that one input may take, and inputs that the pool of interesting ones holds.
LIMIT = 10
POOL = 500


def fuzz(target: Target, cases: int, seed: int) -> tuple[list[tuple[bytes, str]], dict[str, bytes]]:
    """Try mutations of the corpus. Gives (input, what went wrong) of failures, and an input for each new message."""
    random, seeds = Random(seed), target.seeds()
    pool, failed = list(seeds), dict[str, tuple[bytes, str]]()
    seen = {_kind(target.outcome(data)): data for data in seeds}
    for _ in range(cases):
        data = mutated(random, random.choice(pool), pool)
        signal.alarm(LIMIT)
        try:
            kind = _kind(target.outcome(data))
        except Exception as error:  # noqa: BLE001 - finding these is what it is for
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__} in {where.name} (line {where.lineno}): {str(error)[:200]!r}"
            failed.setdefault(what, (data, what))
            continue
        finally:
            signal.alarm(0)
        if kind not in seen:  # a message not met before: a new path through the reader
            seen[kind] = data
            if len(pool) < POOL:
                pool.append(data)
    return list(failed.values()), seen


def _kind(message: str) -> str:
    """A message without the words and numbers of its input."""
    return "".join(c for c in message[:200] if c.isalpha() or c == " ")[:60]


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"more than {LIMIT} s")


def main() -> int:
    """Fuzz as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="save inputs that fail to the corpus")
    asked = parser.parse_args()
    signal.signal(signal.SIGALRM, _too_long)
    target, began = TARGETS[asked.target], time.perf_counter()
    for data in target.seeds():
        target.outcome(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    failed, seen = fuzz(target, asked.cases, asked.seed)
    unit = 1 if sys.platform == "darwin" else 1024
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    for data, what in failed:
        print(f"{what}\n  {data[:300]!r}", file=sys.stderr)
        if asked.keep:
            (CORPUS / target.name / f"failed-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
    record = {"target": target.name, "cases": asked.cases, "seed": asked.seed, "failed": [what for _, what in failed]}
    seconds = round(time.perf_counter() - began, 1)
    print(json.dumps(record | {"outcomes": len(seen), "grown_bytes": grown, "seconds": seconds}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
