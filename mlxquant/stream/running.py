"""A pass at work: what its steps share, how a document goes through a layer, and what ends a pass in one line.

Hidden states travel in streams: the reference's, one or two for each candidate, the noise floor's, and that of layers
as a listener encoded them. Which step comes when is up to `engine`, what each does up to `steps`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..errors import MlxquantError
from .candidates import Source, Step, StreamedCandidate
from .floor import Floor
from .model import Streamed, Tokens
from .options import NOISE_FLOOR
from .routing import Taps
from .scores import Listener, Sink
from .state import Hidden
from .weights import Arrays

# The reference's stream of hidden states; `Streams` numbers the others.
REFERENCE = 0


@dataclass(frozen=True, slots=True)
class Streams:
    """Numbers of the hidden states that travel: the reference's, each candidate's, the noise floor's, the forced ones.

    `forced` says that each candidate has a second state, made under the reference's routing; `encoded` that there is
    one through the layers that a listener encodes.
    """

    candidates: int
    noise_floor: bool
    forced: bool
    encoded: bool = False

    @property
    def count(self) -> int:
        """How many hidden states travel."""
        return 1 + self.candidates + self.noise_floor + self.forced * self.candidates + self.encoded

    @property
    def of_encoded(self) -> int:
        """The last: what comes out of the layers as a listener encoded them."""
        return self.count - 1

    @property
    def noise(self) -> int:
        """The noise floor's; as a candidate its number is one less."""
        return 1 + self.candidates

    def of(self, candidate: int) -> int:
        """A candidate's own."""
        return 1 + candidate

    def forced_of(self, candidate: int) -> int:
        """A candidate's under the reference's routing."""
        return 1 + self.candidates + self.noise_floor + candidate


@dataclass
class Running:
    """A pass at work: its models, documents and hidden states.

    `documents` are the tokens (n,) of this rank's documents, `numbers` their places among all. `taps` see each model's
    routing, by the model's name. `reference` is the stream in which the reference's states travel. `beside` are the
    documents that candidates are encoded on, each with a listener, a stream, and no candidates; `forget_encoded` lets
    go of what was encoded.
    """

    source: Source
    candidates: list[StreamedCandidate]
    documents: Sequence[Tokens]
    numbers: Sequence[int]
    sink: Sink
    chunk: int
    own: bool
    taps: dict[str, Taps]
    streams: Streams
    hidden: Hidden
    floor: Floor | None = None
    advance: Callable[[int], None] = lambda _: None  # called with tokens that went through a layer
    listener: Listener | None = None
    reference: int = REFERENCE
    beside: Sequence[Running] = ()
    forget_encoded: Callable[[], None] = lambda: None

    def entering(self, candidate: int, stream: int, layer: int, document: int) -> mx.array:
        """A candidate's state (1, n, width) before a layer: the reference's where nothing differed yet."""
        differs = self.candidates[candidate].first_step <= layer  # the embedding is step 0, layer i step i + 1
        return self.hidden.read(stream if differs else REFERENCE, document)

    def begin(self, document: int) -> None:
        """Tell the listener which document comes next."""
        if self.listener is not None:
            self.listener.begin(self.numbers[document])

    def pause(self) -> None:
        """Tell the listener that what comes next is no document of its."""
        if self.listener is not None:
            self.listener.begin(None)

    def watch(self, advance: Callable[[int], None]) -> None:
        """Have tokens that go through a layer counted, in all that belongs to the pass."""
        for run in (self, *self.beside):
            run.advance = advance

    def chunks(self, document: int) -> list[slice]:
        """The parts in which a document goes through a layer."""
        n = len(self.documents[document])
        return [slice(at, min(at + self.chunk, n)) for at in range(0, n, self.chunk)]

    def tokens_of_layer(self) -> int:
        """Tokens that go through one layer in all its cases, at most."""
        cases = 1 + self.streams.noise_floor + len(self.candidates) * (1 + self.own + self.streams.forced)
        own = (cases + self.streams.encoded) * sum(len(document) for document in self.documents)
        return own + sum(len(document) for run in self.beside for document in run.documents)

    def caches(self, streamed: Streamed, document: int) -> list[Any] | None:
        """Caches for a document of more than one chunk, or for a model that cannot do without; else None."""
        whole = len(self.documents[document]) <= self.chunk
        return None if whole and not self.source.forward.needs_cache else streamed.caches()

    def through(
        self, streamed: Streamed, layer: int, document: int, state: mx.array, forced: Sequence[Any] | None = None
    ) -> mx.array:
        """A document's state (1, n, width) through one layer, evaluated. What its taps see is evaluated too.

        `forced` are the router's answers to give instead, one for each chunk.
        """
        taps, caches, parts = self.taps[streamed.name], self.caches(streamed, document), list[mx.array]()
        seen, state = taps.begin(forced), state.astype(streamed.dtype)
        for part in self.chunks(document):
            tokens = self.documents[document][part]
            with on_device(streamed.name, f"layer {layer}", state.dtype):
                out = streamed.layer(self.source.forward, layer, tokens, state[:, part], caches)
                mx.eval(out, seen.arrays())  # chunk by chunk: a graph over all of them would hold every activation
            parts.append(out)
            self.advance(len(tokens))
        return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)

    def forget(self) -> None:
        """Let what a step's arrays are made of go."""
        self.source.forget()
        self.forget_encoded()

    def fill(self, candidate: StreamedCandidate, step: Step, reference: Arrays) -> Arrays:
        """Put a candidate's arrays of a step in place."""
        arrays = candidate.arrays(step, reference)
        candidate.streamed.put(arrays)
        return arrays


@contextmanager
def on_device(who: str, what: str, dtype: mx.Dtype) -> Iterator[None]:
    """Say in one line what mlx cannot compute here. Raises MlxquantError."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        on = "GPU" if mx.default_device().type == mx.DeviceType.gpu else "CPU"
        if who == NOISE_FLOOR:
            instead = "; leave the noise floor out (--no-noise-floor)"
        else:
            instead = "; compute in float32 instead" if dtype != mx.float32 else "; another device may"
        reason = str(error).partition("\n")[0]
        raise MlxquantError(
            f"{who}: mlx on this {on} cannot compute {what} in {_word(dtype)} ({reason}){instead}"
        ) from error


def _word(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2]


def check_finite(state: mx.array, who: str, where: str) -> None:
    """Raise MlxquantError where a state holds NaN or infinity."""
    if not bool(mx.all(mx.isfinite(state))):
        raise MlxquantError(
            f"{who}: {where} holds NaN or infinity; either its weights do, or values outgrow the dtype that is computed"
            " in, or its forward uses weights where they are not known to be used (please report the architecture)"
        )
