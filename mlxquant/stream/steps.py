"""What all steps of a pass share: the models, the documents, their hidden states, and running one through the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..errors import MlxquantError
from .candidates import BuildLane, RecipeLane, Source, Step
from .hidden import Hidden
from .model import Streamed, Tokens
from .routing import Taps
from .scores import Sink
from .weights import Arrays

# Streams of hidden states: the reference's first, then each candidate's, the noise floor's, the teacher-forced ones.
REFERENCE = 0


@dataclass
class Running:
    """A pass at work. `documents` are the tokens of this rank's documents, `numbers` their places among all."""

    source: Source
    lanes: list[RecipeLane | BuildLane]
    documents: Sequence[Tokens]
    numbers: Sequence[int]
    sink: Sink
    chunk: int
    noise_floor: bool
    own: bool
    forced: bool
    taps: dict[str, Taps]
    hidden: Hidden

    @property
    def streams(self) -> int:
        """How many hidden states travel."""
        return 1 + len(self.lanes) + self.noise_floor + self.forced * len(self.lanes)

    @property
    def noise(self) -> int:
        """The noise floor's stream; as a candidate it has one less."""
        return 1 + len(self.lanes)

    def stream_of(self, candidate: int) -> int:
        """The stream of a candidate's own hidden state."""
        return 1 + candidate

    def forced_stream_of(self, candidate: int) -> int:
        """The stream of a candidate under the reference's routing."""
        return 1 + len(self.lanes) + self.noise_floor + candidate

    def chunks(self, document: int) -> list[slice]:
        """The parts in which a document goes through a layer."""
        n = len(self.documents[document])
        return [slice(at, min(at + self.chunk, n)) for at in range(0, n, self.chunk)]

    def caches(self, streamed: Streamed, document: int) -> list[Any] | None:
        """Caches for a document of more than one chunk, or for a model that cannot do without; else None."""
        whole = len(self.documents[document]) <= self.chunk
        return None if whole and not self.source.shape.needs_cache else streamed.caches()

    def through(
        self, streamed: Streamed, layer: int, document: int, state: mx.array, forced: Sequence[Any] | None = None
    ) -> mx.array:
        """A document's state (1, n, width) through one layer, evaluated. What its taps see is evaluated too."""
        taps, caches, parts = self.taps[streamed.name], self.caches(streamed, document), list[mx.array]()
        seen = taps.begin(forced)
        for part in self.chunks(document):
            tokens = self.documents[document][part]
            with on_device(streamed.name, f"layer {layer}", state.dtype):
                out = streamed.layer(self.source.shape, layer, tokens, state[:, part], caches)
                mx.eval(out, seen.arrays())
            parts.append(out)
        return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)

    def fill(self, lane: RecipeLane | BuildLane, step: Step, reference: Arrays) -> Arrays:
        """Put a lane's arrays of a step in place."""
        arrays = lane.arrays(step, reference)
        lane.streamed.put(arrays)
        return arrays


@contextmanager
def on_device(who: str, what: str, dtype: mx.Dtype) -> Iterator[None]:
    """Say in one line what mlx cannot compute here. Raises MlxquantError."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        on = "GPU" if mx.default_device().type == mx.DeviceType.gpu else "CPU"
        instead = "; compute in float32 instead" if dtype != mx.float32 else "; another device may"
        said = str(error).partition("\n")[0]
        raise MlxquantError(
            f"{who}: mlx on this {on} cannot compute {what} in {_word(dtype)} ({said}){instead}"
        ) from error


def _word(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2]


def relative_error(state: mx.array, reference: mx.array) -> NDArray[np.float32]:
    """|state - reference| / |reference| at each position; states are (1, n, width)."""
    a, b = state.astype(mx.float32), reference.astype(mx.float32)
    size = mx.maximum(mx.linalg.norm(b, axis=-1), 1e-30)
    error: NDArray[np.float32] = np.asarray(mx.linalg.norm(a - b, axis=-1) / size)[0]
    return error


def rounded(state: mx.array) -> mx.array:
    """A state as it would be after a trip through bf16."""
    return state.astype(mx.bfloat16).astype(state.dtype)


def check_finite(state: mx.array, who: str, where: str) -> None:
    """Raise MlxquantError where a state holds NaN or infinity."""
    if not bool(mx.all(mx.isfinite(state))):
        raise MlxquantError(
            f"{who}: {where} holds NaN or infinity; either its weights do, or values outgrow the dtype that is computed"
            " in, or its forward uses weights where they are not known to be used (please report the architecture)"
        )
