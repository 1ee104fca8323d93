"""One model whose layers are run one at a time, by its own forward.

The model is its provider's class, built but holding no weights: its arrays are NaN of no size in memory until a step
(`embed`, `layer`, `head`) has put its own in, so a value that is used where it is not there cannot go unseen. To run
one layer, the model's own forward is called: it makes the masks, positions and whatever else its layers take, from
its own caches; every layer before gives back what it was given, this one computes on the hidden state that the pass
brings, and the forward is left there. So nothing of an architecture is copied here.

That is right for models whose forward does nothing but hand one hidden state from layer to layer, in order. `probe`
finds out whether a model is of that kind, and what has to be known of its forward to run its layers one at a time
(`Forward`). Where the arrays come from is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from numpy.typing import NDArray

from ..errors import MODEL_ERRORS, LayoutError, MlxquantError
from ..layout.arrays import module_at
from ..layout.provider import MLX_LM, Provider
from ..words.formats import Format
from .cpu.forms import Forms, with_gradients
from .widened import added_up_in_float32


@dataclass(frozen=True)
class Forward:
    """How a model's forward treats its layers, found by running it over nothing.

    `places` is where each layer takes the hidden state: a position or a keyword. `before` and `after` are the arrays
    outside the layers that are used before the first and after the last one.
    """

    places: tuple[int | str, ...]
    before: frozenset[str]
    after: frozenset[str]
    needs_cache: bool

    def hidden(self, i: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The hidden state among a layer's arguments."""
        place = self.places[i]
        return args[place] if isinstance(place, int) else kwargs[place]

    def with_hidden(
        self, i: int, args: tuple[Any, ...], kwargs: dict[str, Any], hidden: mx.array
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A layer's arguments with another hidden state."""
        place = self.places[i]
        if isinstance(place, int):
            return (*args[:place], hidden, *args[place + 1 :]), kwargs
        return args, {**kwargs, place: hidden}


def refusal(model: Any, why: str) -> LayoutError:
    """The error for a model that cannot be run layer by layer."""
    kind = getattr(model, "model_type", type(model).__module__.rpartition(".")[2])
    return LayoutError(f"{kind} cannot be streamed layer by layer: {why}; compare builds of it with `eval` instead")


Tokens = NDArray[np.integer[Any]]
Call = Callable[..., Any]
Visit = Callable[[int, Call, tuple[Any, ...], dict[str, Any]], Any]


class _Left(Exception):
    """Carries a result out of a model's forward, which is then abandoned."""

    def __init__(self, value: Any) -> None:
        super().__init__("left")
        self.value = value


class Streamed:
    """A model that is run layer by layer. `formats` are those of its quantized modules."""

    def __init__(
        self,
        model: Any,
        layer_paths: Sequence[str],
        formats: Mapping[str, Format],
        dtype: mx.Dtype,
        name: str,
        provider: Provider = MLX_LM,
    ) -> None:
        self.model, self.name, self.paths, self.dtype = model, name, list(layer_paths), dtype
        self.provider = provider
        nn.quantize(model, class_predicate=lambda p, _: formats[p].as_dict() if p in formats else False)
        model.eval()
        self._nothing = {n: _nothing(a, dtype) for n, a in _flat(model.parameters())}
        self.names: dict[int | None, list[str]] = {i: [] for i in (None, *range(len(layer_paths)))}
        for name_ in self._nothing:
            self.names[self._layer_of(name_)].append(name_)
        self.forms = Forms(model, dtype)
        self.put(self._nothing)
        self._visit: Visit | None = None
        for i, path in enumerate(layer_paths):
            hook(module_at(model, path), self._hook_of(i))
        look_up_in(model, dtype)

    def put(self, arrays: Mapping[str, mx.array]) -> None:
        """Put arrays in by name. Raises LayoutError where one has another shape than the model's."""
        for name, array in arrays.items():
            shape = self._nothing[name].shape if name in self._nothing else None
            if shape != array.shape:
                expected = f"shape {list(shape)} expected" if shape is not None else "no such array expected"
                raise LayoutError(f"{self.name}: {name}: {expected}, {list(array.shape)} found")
            owner, _, key = name.rpartition(".")
            holder = module_at(self.model, owner)
            holder[int(key) if isinstance(holder, list) else key] = array

    def take_out(self, names: Sequence[str]) -> None:
        """Let arrays go."""
        self.put({n: self._nothing[n] for n in names})
        self.forms.forget()

    def caches(self) -> list[Any]:
        """Fresh caches, as the model's provider makes them for generation."""
        return self.provider.new_cache(self.model)

    @contextmanager
    def with_gradients(self) -> Iterator[None]:
        """Within it gradients go through what is computed: as in training, without kernels that have none."""
        self.model.train()
        try:
            with with_gradients():
                yield
        finally:
            self.model.eval()

    # --- steps ---

    def forward(self, tokens: Tokens, caches: Sequence[Any] | None, visit: Visit) -> Any:
        """Call the model's own forward; `visit` takes the place of every layer's call."""
        self._visit = visit
        try:
            ids = mx.array(np.asarray(tokens, np.int32))[None]
            with added_up_in_float32(self.dtype):
                return self.provider.forward(self.model, ids, None if caches is None else list(caches))
        except _Left as left:
            return left.value
        finally:
            self._visit = None

    def embed(self, forward: Forward, tokens: Tokens, caches: Sequence[Any] | None) -> mx.array:
        """What reaches the first layer for `tokens` (n,): (1, n, width), not evaluated."""

        def visit(_: int, __: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            raise _Left(forward.hidden(0, args, kwargs))

        hidden: mx.array = self._run(tokens, caches, visit)
        if caches is not None:
            for cache in caches:
                advance(cache, len(tokens))
        return hidden

    def layer(
        self, forward: Forward, i: int, tokens: Tokens, hidden: mx.array, caches: Sequence[Any] | None
    ) -> mx.array:
        """Layer `i` on `hidden` (1, n, width), the state of `tokens` (n,): (1, n, width), not evaluated.

        With `caches` the tokens are a part of a longer text; all caches are moved on by n, this layer's with content.

        Raises LayoutError where the layer gives anything but a hidden state.
        """
        moved: set[int] = set()  # caches that some layer before `i` was given, and `i` itself

        def visit(at: int, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            own = [c for c in (*args, *kwargs.values()) if caches is not None and any(c is known for known in caches)]
            moved.update(id(c) for c in own)
            if at == i:
                args, kwargs = forward.with_hidden(i, args, kwargs, hidden)
                with self.forms.on():
                    out = call(*args, **kwargs)
                raise _Left(out)  # the layers after it have no weights; the forward ends here
            for cache in own:
                advance(cache, len(tokens))
            return forward.hidden(at, args, kwargs)

        out = self._run(tokens, caches, visit)
        if not isinstance(out, mx.array) or out.shape != hidden.shape:
            raise refusal(self.model, f"layer {i} gives {_kind(out)} where a hidden state {list(hidden.shape)} is due")
        for cache in caches or ():  # those of the layers after it, which the forward did not reach
            if id(cache) not in moved:
                advance(cache, len(tokens))
        return out

    def head(self, forward: Forward, tokens: Tokens, hidden: mx.array) -> mx.array:
        """Logits (n, vocabulary) of the last layer's output `hidden` (1, n, width), not evaluated."""
        last = len(self.paths) - 1

        with ExitStack() as behind:  # forms compute at once, and before the last layer there is nothing to compute on

            def visit(at: int, _: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                if at < last:
                    return forward.hidden(at, args, kwargs)
                behind.enter_context(self.forms.on())
                return hidden

            logits: mx.array = self._run(tokens, self.caches() if forward.needs_cache else None, visit)
        return logits[0]

    def _run(self, tokens: Tokens, caches: Sequence[Any] | None, visit: Visit) -> Any:
        """`forward`, after the probe: what fails now would fail in the provider too. Raises MlxquantError."""
        try:
            return self.forward(tokens, caches, visit)
        except MODEL_ERRORS as error:
            reason = str(error).partition("\n")[0]
            raise MlxquantError(
                f"{self.name}: {self.provider.name}'s own forward fails on it ({type(error).__name__}: {reason}),"
                " so it could not be served either; leave it out"
            ) from error

    def _hook_of(self, i: int) -> Call:
        def called(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return call(*args, **kwargs) if self._visit is None else self._visit(i, call, args, kwargs)

        return called

    def _layer_of(self, name: str) -> int | None:
        return next((i for i, p in enumerate(self.paths) if name.startswith(p + ".")), None)


def advance(cache: Any, n: int) -> None:
    """Move a cache on by `n` positions that nothing was computed for, so that masks come out as they should.

    Raises LayoutError for a kind of cache that is not known to allow it.
    """
    if isinstance(inner := getattr(cache, "caches", None), list | tuple):
        for one in inner:
            advance(one, n)
    elif hasattr(cache, "update_and_fetch"):
        cache.update_and_fetch(mx.zeros((1, 1, n, 1)), mx.zeros((1, 1, n, 1)))
    elif hasattr(cache, "advance"):
        cache.advance(n)
    elif hasattr(cache, "offset"):
        raise LayoutError(f"a {type(cache).__name__} cannot be moved on without its layer; long texts need that")


def hook(module: Any, called: Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]) -> None:
    """Let `called(call, args, kwargs)` take the place of a module's call.

    The module keeps its place, its arrays and its type's name: it gets a class of its own, derived from its class.
    """
    kind = type(module)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return called(lambda *a, **k: kind.__call__(self, *a, **k), args, kwargs)

    object.__setattr__(module, "__class__", type(kind.__name__, (kind,), {"__call__": call}))


def look_up_in(model: Any, dtype: mx.Dtype) -> None:
    """Make embeddings in a mode without float scales answer in `dtype`: mlx looks them up as bf16, which is exact."""
    for _, module in model.named_modules():
        if isinstance(module, nn.QuantizedEmbedding) and module.mode != "affine":
            hook(module, lambda call, args, kwargs: call(*args, **kwargs).astype(dtype))


def _nothing(like: mx.array, dtype: mx.Dtype) -> mx.array:
    """Stands for an array that is not there: NaN, or 0 where that cannot be, in the memory of one value."""
    if mx.issubdtype(like.dtype, mx.floating):
        return mx.broadcast_to(mx.array(float("nan"), dtype), like.shape)
    return mx.broadcast_to(mx.array(0, like.dtype), like.shape)


def _flat(parameters: Any) -> Iterator[tuple[str, mx.array]]:
    flat: Any = tree_flatten(parameters)
    yield from flat


def _kind(value: Any) -> str:
    return f"{list(value.shape)}" if isinstance(value, mx.array) else type(value).__name__
