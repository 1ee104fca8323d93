"""Running the pass of `compare` in tests: documents, a sink that keeps everything, and mlx-lm's ordinary forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from numpy.typing import NDArray

from mlxquant.plan.recipe.recipe import Recipe, load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.stream import steps as end_steps
from mlxquant.stream.candidates import Candidate
from mlxquant.stream.engine import compare
from mlxquant.stream.model import look_up_in
from mlxquant.stream.options import CompareOptions, Pass
from mlxquant.stream.scores import LayerScores, TokenScores

# 134 tokens in documents of different lengths: two of them reach the sorted path of switched layers (64 indices).
LENGTHS = (40, 70, 7, 17)


@dataclass(frozen=True)
class Text:
    """A document: token ids."""

    tokens: NDArray[np.int32]


def texts(lengths: Sequence[int] = LENGTHS, *, vocabulary: int = 500, seed: int = 0) -> list[Text]:
    """Documents of random tokens."""
    rng = np.random.default_rng(seed)
    return [Text(rng.integers(0, vocabulary, n).astype(np.int32)) for n in lengths]


@dataclass
class Keeper:
    """A sink that keeps what it is given, by candidate, case, document and layer."""

    layers: dict[tuple[int, str, int, int], LayerScores] = field(default_factory=dict)
    scores: dict[tuple[int, str, int], TokenScores] = field(default_factory=dict)

    def layer(self, candidate: int, layer: int, case: str, document: int, start: int, scores: LayerScores) -> None:
        assert start == 0
        assert (candidate, case, document, layer) not in self.layers
        self.layers[candidate, case, document, layer] = scores

    def tokens(self, candidate: int, case: str, document: int, start: int, scores: TokenScores) -> None:
        assert start == 0
        assert (candidate, case, document) not in self.scores
        self.scores[candidate, case, document] = scores

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Every array under a name that says what it is."""
        found: dict[str, NDArray[np.generic]] = {}
        for key, scores in self.layers.items():
            where = "layer|" + "|".join(map(str, key))
            found[f"{where}|in"], found[f"{where}|out"] = scores.error_in, scores.error_out
            for name in ("set_changed", "first_changed", "block_change", "margin"):
                if scores.routing is not None and (array := getattr(scores.routing, name)) is not None:
                    found[f"{where}|{name}"] = array
        for token_key, tokens in self.scores.items():
            for f in fields(tokens):
                found["|".join(["tokens", *map(str, token_key), f.name])] = getattr(tokens, f.name)
        return found

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self.restored = dict(state)

    def merge(self, states: Sequence[Mapping[str, NDArray[np.generic]]]) -> None:
        self.restored = {name: array for state in states for name, array in state.items()}

    def routing(self, case: str, document: int, layer: int) -> Any:
        """The first candidate's routing at a layer."""
        return self.layers[0, case, document, layer].routing

    def whole(self) -> dict[str, NDArray[np.generic]]:
        """What this run gave and what it was given of earlier ones."""
        return {**getattr(self, "restored", {}), **self.state()}


def narrow(name: str, **overrides: Any) -> Recipe:
    """A shipped recipe with groups of 32, since tiny models are narrow."""
    return load_recipe(name) if name == "none" else load_recipe(name, group_size=32, unaligned="keep", **overrides)


def run_pass(
    source: Path, candidates: Sequence[Candidate], documents: Sequence[Text], **options: Any
) -> tuple[Pass, Keeper]:
    """Run the pass over a checkpoint's folder."""
    sink = Keeper()
    return compare(open_checkpoint(source), candidates, documents, sink, CompareOptions(**options)), sink


@contextmanager
def logits_seen() -> Iterator[list[tuple[NDArray[np.float32], NDArray[np.float32]]]]:
    """Look at the logits, of reference and candidate, that scores are made of, as they go by."""
    seen: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    step = vars(end_steps)
    real = step["token_scores"]

    def look(reference: mx.array, logits: mx.array, targets: mx.array) -> TokenScores:
        seen.append((np.array(reference), np.array(logits)))
        scores: TokenScores = real(reference, logits, targets)
        return scores

    step["token_scores"] = look
    try:
        yield seen
    finally:
        step["token_scores"] = real


def logits_of_pass(
    source: Path, candidate: Candidate, documents: Sequence[Text], **options: Any
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Logits of the reference and of one candidate, (n - 1, vocabulary) for each document."""
    with logits_seen() as seen:
        run_pass(source, [candidate], documents, noise_floor=False, **options)
    found: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]] = ([], [])
    at = iter(seen)
    for document in documents:
        parts: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        while sum(len(r) for r, _ in parts) < len(document.tokens) - 1:
            parts.append(next(at))
        for side in (0, 1):
            found[side].append(np.concatenate([p[side] for p in parts]))
    return found


def in_float32(model: Any) -> Any:
    """Cast every float array of a loaded model, scales and biases included, to float32."""
    model.update(
        tree_map(lambda a: a.astype(mx.float32) if mx.issubdtype(a.dtype, mx.floating) else a, model.parameters())
    )
    look_up_in(model, mx.float32)
    return model


def ordinary_logits(folder: Path, documents: Sequence[Text], chunk: int = 2048) -> list[NDArray[np.float32]]:
    """What mlx-lm's own loader and forward give for a checkpoint or a build, cast to float32."""
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model

    model = in_float32(load_model(folder, lazy=True)[0])
    found = []
    for document in documents:
        tokens = mx.array(document.tokens)[None]
        cache = make_prompt_cache(model) if tokens.shape[1] > chunk else None
        parts = []
        for at in range(0, tokens.shape[1], chunk):
            parts.append(np.array(model(tokens[:, at : at + chunk], **({"cache": cache} if cache else {}))[0]))
        found.append(np.concatenate(parts)[:-1])
    return found


def distance(mine: Sequence[NDArray[np.float32]], wanted: Sequence[NDArray[np.float32]]) -> float:
    """The largest |a - b| / |b| over documents."""
    assert [a.shape for a in mine] == [b.shape for b in wanted]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(mine, wanted, strict=True))
