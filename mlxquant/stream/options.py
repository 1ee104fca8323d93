"""What goes into a pass and what it reports: options, the result. Progress is `words.progress`, scores are the sink's.

Alone in its module because `sweep` and the command line need it without mlx.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

NOISE_FLOOR = "bf16 noise floor"


class HasTokens(Protocol):
    """What the pass needs of a document."""

    @property
    def tokens(self) -> NDArray[np.int32]:
        """Token ids, (n,)."""


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How to compare.

    `compute` is the dtype that floats are cast to, "served" for those of the builds themselves. `chunk` is the most
    tokens that go through a layer at once. `own` scores each layer and router on the reference's state too, which
    doubles the work. `work` is the folder for resuming, in which what is done is kept at the end of a layer, at most
    once in `keep_every_s` seconds; None keeps nothing. `dtype` is as of `convert`.
    """

    chunk: int = 2048
    compute: str = "float32"
    dtype: str | None = None
    noise_floor: bool = True
    own: bool = True
    teacher_forced_routing: bool = False
    allow_nonfinite: bool = False
    work: Path | None = None
    fresh: bool = False
    keep_every_s: float = 30.0

    def that_change_scores(self) -> dict[str, Any]:
        """The options that a kept state depends on."""
        return {k: v for k, v in asdict(self).items() if k not in ("work", "fresh", "keep_every_s")}


@dataclass
class Pass:
    """What a finished pass reports of itself; the scores are with the sink.

    `source` is what a record says of the source; `candidates` have names and sizes, in the order of their numbers.
    `source_bytes` is what there was to read, `bytes_read` what was read from the disk, by all ranks.
    """

    source: dict[str, Any]
    candidates: list[dict[str, Any]]
    layers: int
    compute: str
    compute_reason: str
    source_bytes: int
    bytes_read: int
    seconds: float
    tokens: int
    peak_memory_bytes: int
    mlx_peak_bytes: int
    resumed_at: str | None
    ranks: int
    step_seconds: dict[str, float]
    rank: int
    notes: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """What the pass read and took, for its record."""
        return {k: v for k, v in asdict(self).items() if k not in ("source", "candidates", "rank", "notes")}
