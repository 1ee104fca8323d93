"""One pass over several machines: each rank takes a share of the documents, and the first merges what all counted.

Under `mlx.launch` (mlx.distributed: ring over Ethernet or Thunderbolt) every rank streams the whole source itself and
carries its own documents through it, so nothing passes between the machines until the end, when the sinks' arrays do,
a few megabytes. The shares depend on the documents' lengths alone. Before the first layer the ranks tell each other
whether all can begin, so that what stops one stops all, in one line of one rank. One that fails later just ends: the
launcher ends the others then.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import MlxquantError, OtherRankError, UsageError
from .scores import Sink
from .state import pack, unpack

# What a launcher leaves in the environment: mlx.launch, then Open MPI and Intel's or MPICH's mpirun
_LAUNCHED = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return any(name in os.environ for name in _LAUNCHED)


@dataclass
class Ranks:
    """A process among those that run the same command; `begun`: all are known to have come to the first layer."""

    group: Any
    rank: int = 0
    size: int = 1
    begun: bool = False

    @classmethod
    def join(cls) -> Ranks:
        """Find the others, if a launcher started this process."""
        if not launched():
            return cls(None)
        group = mx.distributed.init()
        return cls(group, group.rank(), group.size())

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """Let an error before the pass end every rank: the first that has one raises it, the others OtherRankError."""
        try:
            yield
        except MlxquantError as error:
            if self.size > 1 and not self.begun:
                self.begin(error=error)
            raise

    def begin(self, work: str = "", error: MlxquantError | None = None) -> None:
        """Wait until all ranks can begin, or some cannot (see `as_one`), or their `work` differs.

        Raises the error or OtherRankError; UsageError on the first rank where `work` differs.
        """
        self.begun = True
        if self.size == 1:
            return
        answers = [json.loads(a) for a in self.gather(json.dumps([error and str(error), work]).encode())]
        failed = [rank for rank, (message, _) in enumerate(answers) if message is not None]
        if not failed:
            others = [rank for rank, (_, other) in enumerate(answers) if other != answers[0][1]]
            if not others:
                return
            failed = [0]
            message = f"rank {others[0]} has other data, recipes or options than rank 0; give all ranks the same"
            error = UsageError(message) if self.rank == 0 else None
        if error is None or self.rank != failed[0]:
            raise OtherRankError(f"rank {failed[0]} of {self.size} cannot begin")
        if answers[0][0] is None and failed[0] != 0:  # not all fail: say where
            error.args = (f"rank {self.rank} of {self.size}: {error}",)
        raise error

    def share(self, lengths: Sequence[int]) -> list[int]:
        """The documents of this rank: longest first, each to the rank that has the fewest tokens so far."""
        loads, share = [0] * self.size, list[int]()
        for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            rank = min(range(self.size), key=lambda r: (loads[r], r))
            loads[rank] += lengths[i]
            if rank == self.rank:
                share.append(i)
        return sorted(share)

    def folder(self, work: Path | None) -> Path | None:
        """The work folder of this rank."""
        if work is None or self.size == 1:
            return work
        whole = work.absolute()
        return whole.with_name(f"{whole.name}.rank{self.rank}")

    def merge(self, sink: Sink, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Give every rank's counts to the first one's sink; the figures that add up, added up."""
        if self.size == 1:
            return {"bytes_read": figures["bytes_read"]}
        packed = self.gather(pack(sink.state(), {"bytes_read": figures["bytes_read"]}))
        states, counts = zip(*(unpack(io.BytesIO(p)) for p in packed), strict=True)
        if self.rank == 0:
            sink.merge(states)
        return {"bytes_read": sum(c["bytes_read"] for c in counts)}

    def gather(self, data: bytes) -> list[bytes]:
        """Every rank's bytes, in the order of the ranks."""
        cpu = mx.cpu
        lengths = mx.distributed.all_gather(mx.array([len(data)], mx.int32), group=self.group, stream=cpu)
        counts = [int(n) for n in np.asarray(lengths)]
        # all_gather takes arrays of one shape, so all are as long as the longest
        padded = np.zeros(max(counts), np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)
        rows = mx.distributed.all_gather(mx.array(padded)[None], group=self.group, stream=cpu)
        gathered = np.asarray(rows)
        return [gathered[r, :n].tobytes() for r, n in enumerate(counts)]
