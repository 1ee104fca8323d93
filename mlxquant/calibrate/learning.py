"""A layer's integers, scales and biases learned by mlx's gradients, until it gives what it gave in full precision.

    start    each module as gptq encoded it
    weight   ŵ = s·q + b with q = round(p + v), and s and b rounded to what is stored. p is where the float lies between
             its levels, moved so that it rounds to the start's integer. Learned are v, and changes of s and b in units
             of the start's s. Gradients pass rounding as if it were not there (straight-through, arXiv 1308.3432)
    loss     |layer(ŵ, x̂) - layer(w, x)|² / |layer(w, x)|² of each token: x̂ comes out of the layers before as they were
             encoded, x out of the source's, so a layer makes up for those before it, too
    steps    Adam (1412.6980) over batches of whole documents, at rates that fall to 0

Rounding learned against what a part of the model gives is AdaRound's (arXiv 2004.10568), BRECQ's for a block
(2102.05426) and AutoRound's by straight-through (2309.05516). The whole model's output was tried as what is learned
against: 7,000 tokens were learned by heart, and other texts lost.

What is minimized are the values as stored, so the integers that come out are those that were learned. On documents held
out the layer is judged before and after; if it is no better there, the start is kept. Nothing is drawn at random, and
documents come in order, so bytes are the same on one machine with one version of mlx.

Which modules, and where a layer runs, is `layers`' and the pass's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import cycle
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from numpy.typing import NDArray

from ..kernels import Quantized, levels_of, pack_levels
from ..stream.scores import LayerAtHand
from ..words.formats import Format, widen
from .inputs import HOLD_OUT_EVERY
from .weights import TRUST

# So many steps, each on so many tokens at least: 150 steps go through the 5,400 tokens of 18 dialogues 66 times, and
# loss on documents held out still fell; a step of fewer tokens reaches too few of each expert
STEPS, STEP_TOKENS = 150, 2400
# Adam's steps at first, in levels for v and in scales for s and b: a v can then move three quarters of a level
RATES = {"v": 0.01, "scales": 0.02, "biases": 0.02}
# Gradients of a loss a token are small where weights are many
_BETAS, _EPSILON = (0.9, 0.999), 1e-15
# Tokens whose output is smaller than this, squared, do not weigh more
_SMALLEST = 1e-12

_DTYPES = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}
_WORDS = {"BF16": mx.uint16, "F16": mx.float16, "F32": mx.float32}
Parameters = dict[str, mx.array]


def settings() -> dict[str, Any]:
    """All that learned bytes depend on, beside start and documents."""
    device = str(mx.default_device().type).rpartition(".")[2]
    return {"steps": STEPS, "step_tokens": STEP_TOKENS, "rates": dict(RATES), "mlx": version("mlx"), "device": device}


@dataclass(frozen=True)
class Start:
    """A module as it was encoded: of `values` (rows, columns), in the carrier of `dtype`, of a weight of `shape`.

    `counts` (sets,) says on how many rows of inputs each expert, or the whole, is fitted.
    """

    path: str
    shape: tuple[int, ...]
    values: NDArray[Any]
    dtype: str
    format: Format
    encoded: Quantized
    counts: NDArray[np.int64]

    def trust(self) -> NDArray[np.float32]:
        """How far each row (rows, 1, 1) may move, as a share: experts that few inputs reach learn them by heart."""
        share = self.counts / (self.counts + TRUST)
        return np.repeat(share.astype(np.float32), len(self.values) // len(share))[:, None, None]


@dataclass(frozen=True)
class Outcome:
    """Mean relative squared error of a layer's output on tokens held out, as it started and as it was learned."""

    start_error: float | None
    error: float | None

    @property
    def is_better(self) -> bool:
        """Whether what was learned is worth keeping; what is not finite (None) is not."""
        return self.error is not None and self.start_error is not None and self.error < self.start_error

    def as_dict(self) -> dict[str, Any]:
        """As the audit has it."""
        return {"kept": "learned" if self.is_better else "start", "start_error": self.start_error, "error": self.error}


def _rounded(error: float) -> float | None:
    return float(f"{error:.6g}") if np.isfinite(error) else None


class Learned:
    """A module's parameters, and Adam's means of their gradients: (rows, groups, group size or 1) each."""

    def __init__(self, start: Start) -> None:
        self.start = start
        fmt = start.format
        self._top, self._dtype = float((1 << fmt.bits) - 1), _DTYPES[start.dtype]
        levels = levels_of(start.encoded, fmt).astype(np.float32)
        weights = widen(start.values, start.dtype).reshape(levels.shape)
        assert start.encoded.biases is not None, "only modules with biases are encoded here"
        scales, biases = (widen(a, start.dtype)[..., None] for a in (start.encoded.scales, start.encoded.biases))
        places = np.divide(weights - biases, scales, out=levels.copy(), where=scales != 0)
        self._places = mx.array(levels + np.clip(places - levels, -0.49, 0.49))
        self._scales, self._biases = mx.array(scales), mx.array(biases)
        self._trust = mx.array(start.trust())
        self._unit = mx.maximum(mx.abs(self._scales), 1e-8)
        shapes = {"v": levels.shape, "scales": scales.shape, "biases": scales.shape}
        self.parameters = {name: mx.zeros(shape) for name, shape in shapes.items()}
        self._means, self._squares = (tree_map(mx.zeros_like, self.parameters) for _ in range(2))
        mx.eval(self._places, self._unit, self.parameters, self._means, self._squares)

    def weight(self, parameters: Parameters | None = None) -> mx.array:
        """ŵ in the module's shape, of these parameters or its own."""
        p = self.parameters if parameters is None else parameters
        scales, biases = self._stored(p)
        return (self._levels(p) * scales + biases).reshape(self.start.shape)

    def follow(self, gradient: mx.array, step: int) -> None:
        """Take Adam's step number `step` along the gradient of the loss by ŵ."""

        def loss(parameters: Parameters) -> mx.array:
            return (self.weight(parameters) * gradient).sum()

        slopes: Parameters = mx.grad(loss)(self.parameters)
        first, second = _BETAS
        left = 1 - step / STEPS
        for name, slope in slopes.items():
            mean = first * self._means[name] + (1 - first) * slope
            square = second * self._squares[name] + (1 - second) * mx.square(slope)
            size = mx.sqrt(square / (1 - second ** (step + 1))) + _EPSILON
            change = RATES[name] * left / (1 - first ** (step + 1)) * mean / size
            moved = self.parameters[name] - change * self._trust
            self.parameters[name] = mx.clip(moved, -1, 1) if name == "v" else moved
            self._means[name], self._squares[name] = mean, square
        mx.eval(self.parameters, self._means, self._squares)

    def encoded(self) -> Quantized:
        """What is stored of it."""
        levels = np.asarray(mx.round(self._levels(self.parameters)).astype(mx.uint8))
        stored = (a[..., 0].astype(self._dtype) for a in self._stored(self.parameters))
        scales, biases = (np.asarray(a.view(_WORDS[self.start.dtype])) for a in stored)
        return Quantized(pack_levels(levels, self.start.format), scales.copy(), biases.copy())

    def _levels(self, p: Parameters) -> mx.array:
        places = self._places + p["v"]
        return mx.clip(_straight_through(places, mx.round(places)), 0.0, self._top)

    def _stored(self, p: Parameters) -> tuple[mx.array, mx.array]:
        scales, biases = self._scales + p["scales"] * self._unit, self._biases + p["biases"] * self._unit
        return self._narrowed(scales), self._narrowed(biases)

    def _narrowed(self, values: mx.array) -> mx.array:
        return _straight_through(values, values.astype(self._dtype).astype(mx.float32))


def _straight_through(values: mx.array, rounded: mx.array) -> mx.array:
    """`rounded`, with the gradient of `values`; exactly, since the difference of neighbours is exact."""
    return values + mx.stop_gradient(rounded - values)


class Learning:
    """A layer's modules, learned on documents to fit; `others` are its other arrays as encoded."""

    def __init__(self, layer: LayerAtHand, starts: Sequence[Start], others: Mapping[str, mx.array]) -> None:
        self._layer = layer
        self._modules = {f"{start.path}.weight": Learned(start) for start in starts}
        self._others = {name: array for name, array in others.items() if name not in self._modules}
        numbers = list(enumerate(layer.documents))
        self._fitted = [d for d, number in numbers if number % HOLD_OUT_EVERY]
        self._held_out = [d for d, number in numbers if number % HOLD_OUT_EVERY == 0]

    def run(self, tell: Callable[[float], None] = lambda _: None) -> Outcome:
        """Take all steps, and judge. Tells how many seconds the second step took: the first warms up."""
        before = self.error()
        documents = cycle(self._fitted)
        with self._layer.gradients():
            for step in range(STEPS):
                began = time.monotonic()
                self._step(step, documents)
                if step == 1:
                    tell(time.monotonic() - began)
        return Outcome(_rounded(before), _rounded(self.error()))

    def encoded(self) -> dict[str, Quantized]:
        """What is stored of the modules, by path."""
        return {module.start.path: module.encoded() for module in self._modules.values()}

    def error(self) -> float:
        """Mean relative squared error of the output, over tokens held out."""
        weights = self._weights()
        total = sum(float(self._loss(weights, d)) for d in self._held_out)
        return total / max(sum(self._layer.length(d) for d in self._held_out), 1)

    def _weights(self) -> dict[str, mx.array]:
        weights = {name: module.weight() for name, module in self._modules.items()}
        mx.eval(weights)
        return weights

    def _loss(self, weights: Mapping[str, mx.array], d: int) -> mx.array:
        """Relative squared errors of a document's tokens, summed."""
        target = self._layer.target(d)
        error = mx.square(self._layer.through(d, {**self._others, **weights}) - target).sum(-1)
        return (error / mx.maximum(mx.square(target).sum(-1), _SMALLEST)).sum()

    def _step(self, step: int, documents: Any) -> None:
        """Add up the gradients of a batch, a document at a time, then move."""
        weights, tokens = self._weights(), 0
        slope = mx.grad(self._loss)
        total: dict[str, mx.array] | None = None
        while tokens < STEP_TOKENS:
            d = next(documents)
            gradients: dict[str, mx.array] = slope(weights, d)
            total = gradients if total is None else {name: total[name] + g for name, g in gradients.items()}
            mx.eval(total)
            tokens += self._layer.length(d)
        assert total is not None, "there are documents to fit"
        for name, module in self._modules.items():
            module.follow(total.pop(name) / tokens, step)
