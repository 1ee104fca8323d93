"""How much memory a model's context takes: its KV and state caches, asked of the model itself.

The provider's model is built and makes its own prompt cache (`make_cache()`, else a KVCache a layer), and its forward
pass is run *lazily* on two short prompts. Nothing is computed: the shapes and dtypes that the cache's arrays would
have are enough to see which of them grow with the context, and by how much a token. So sliding windows, latent
attention, recurrent state, indexers and shared caches cost what they cost in mlx-lm, without a table of
architectures. A pass that asks for a value, which random weights of 122 B parameters must not be computed for, is
stopped; then a formula from the config stands in, and the answer says so.

Sizes are those of decoding. During a prompt a rotating cache holds up to one prefill step (2,048 tokens) more, and
the pass itself needs working memory; neither is counted here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from ..errors import MODEL_ERRORS, LayoutError, UsageError
from ..words.formats import DTYPES, FLOATS
from ..words.modules import Module
from .provider import MLX_LM, Provider
from .views.bytes import MLX_DTYPES

# Prompt lengths. mlx-lm's own caches grow by the token once their step is set to 1, so that a few tokens tell;
# a class of another kind may pool tokens (deepseek_v41: by 4 and 128) and needs multiples of its groups.
SHORT, LONG = 8, 256


@dataclass(frozen=True, slots=True)
class Growth:
    """One cache of one layer: `fixed` bytes, and `per_token` for each token that it holds.

    It holds the context rounded up to its `step`, but at most `limit` tokens (None: no limit).
    """

    fixed: int
    per_token: int
    step: int
    limit: int | None

    def at(self, tokens: int) -> int:
        """Bytes at a context of so many tokens."""
        held = ceil(tokens / self.step) * self.step
        return self.fixed + self.per_token * (held if self.limit is None else min(held, self.limit))


@dataclass(frozen=True, slots=True)
class ContextCost:
    """What a context costs. `method` is "model" where the model's own caches were measured, "formula"
    where sizes were computed from the config, and `note` says why then.
    """

    caches: tuple[Growth, ...]
    method: str
    note: str | None = None

    def at(self, tokens: int) -> int:
        """Bytes of all caches at a context of so many tokens, one sequence."""
        return sum(cache.at(tokens) for cache in self.caches)


def context_cost(config: Mapping[str, Any], modules: Sequence[Module], provider: Provider = MLX_LM) -> ContextCost:
    """Find what a context costs in a build whose modules have these dtypes.

    Raises LayoutError where the model cannot be run lazily and its config lacks the sizes.
    """
    prepared = provider.prepared(config)
    try:
        return ContextCost(tuple(_measured(prepared, modules, provider)), "model")
    except _Evaluated as error:
        why = f"its forward pass cannot be run without weights: it calls {error}"
    except MODEL_ERRORS as error:
        why = f"its forward pass failed: {type(error).__name__}: {error}"
    growth = _from_config(prepared, modules)
    return ContextCost((growth,), "formula", f"the cache is layers × 2 × KV heads × head size from config.json; {why}")


# The names under which configs state the longest context, in the order in which they are looked for
_LONGEST = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx", "model_max_length")


def longest_context(config: Mapping[str, Any]) -> int | None:
    """The most tokens that a model was made for, by its config; stretched positions (yarn and the like) included.

    None where the config does not say.
    """
    tables = [t for t in (config.get("text_config"), config.get("llm_config"), config) if isinstance(t, Mapping)]
    for table in tables:
        stated = next((v for key in _LONGEST if type(v := table.get(key)) is int and v > 0), None)
        if stated is not None:
            return max(stated, *_stretched(table))
    return None


def check_context(config: Mapping[str, Any], tokens: int, name: str, option: str = "--context") -> None:
    """Raise UsageError, which names `option`, where a model was made for fewer tokens than these."""
    longest = longest_context(config)
    if longest is not None and tokens > longest:
        raise UsageError(f"{option} {tokens:,}: {name} was made for {longest:,} tokens at most, by its config")


def _stretched(table: Mapping[str, Any]) -> Iterator[int]:
    """Lengths to which a config stretches the positions that a model was trained with."""
    yield 0
    for key in ("rope_scaling", "rope_parameters"):
        rope = table.get(key)
        if isinstance(rope, Mapping):
            factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
            if isinstance(factor, int | float) and type(original) is int:
                yield int(factor * original)


# --- from the model ---


def _measured(config: Mapping[str, Any], modules: Sequence[Module], provider: Provider) -> Iterator[Growth]:
    """Run the model on two lengths and compare the sizes of each cache."""
    n = SHORT if all(_known(cache) for cache in _leaves(provider.new_cache(provider.build_model(config)))) else LONG
    first, second = (_cache_after(config, modules, length, provider) for length in (n, 2 * n))
    for short, long in zip(first, second, strict=True):
        before, after = _nbytes(short), _nbytes(long)
        per_token = (after - before) // n
        step, limit = _bounds(long)
        yield Growth(before - per_token * n, per_token, step, limit)


def _cache_after(config: Mapping[str, Any], modules: Sequence[Module], tokens: int, provider: Provider) -> list[Any]:
    """Run a new model's forward pass lazily on a prompt, and return its caches."""
    model = provider.build_model(config)
    model.eval()  # out of training mode, as mlx_lm.load does; computes nothing
    _cast(model, modules)
    caches = provider.new_cache(model)
    leaves = list(_leaves(caches))
    for cache in leaves:
        if _known(cache) and hasattr(cache, "step"):
            cache.step = 1
    with _nothing_evaluated():
        provider.forward(model, mx.zeros((1, tokens), dtype=mx.int32), caches)
    return leaves


def _cast(model: Any, modules: Sequence[Module]) -> None:
    """Give every parameter the dtype that it has in the build (a quantized one: that of its scales)."""
    dtypes = {f"{m.path}.{a.name}" if a.name else m.path: a.dtype for m in modules for a in m.arrays}
    usual = _usual_dtype(modules)
    cast = []
    for name, array in _arrays(model.parameters()):
        dtype = dtypes.get(name, usual)
        if mx.issubdtype(array.dtype, mx.floating):
            array = array.astype(MLX_DTYPES[dtype if dtype in FLOATS else usual])
        cast.append((name, array))
    model.update(tree_unflatten(cast))


def _usual_dtype(modules: Sequence[Module]) -> str:
    """The float dtype that most modules have."""
    dtypes = [m.weight.dtype for m in modules if m.weight.dtype in FLOATS]
    return max(set(dtypes), key=dtypes.count, default="BF16")


def _known(cache: Any) -> bool:
    """Whether a cache is one of mlx-lm's own, which grow by the token (in steps) or not at all."""
    return type(cache).__module__.endswith(".models.cache")


def _leaves(caches: Sequence[Any]) -> Iterator[Any]:
    """The caches that hold arrays, each once; a CacheList holds others."""
    seen: set[int] = set()
    for cache in caches:
        for leaf in _leaves(inner) if (inner := getattr(cache, "caches", None)) is not None else (cache,):
            if leaf is not None and id(leaf) not in seen:
                seen.add(id(leaf))
                yield leaf


def _nbytes(cache: Any) -> int:
    """Bytes of all arrays that a cache holds, used or not."""
    arrays = {id(array): array.nbytes for _, array in _arrays(list(vars(cache).values()))}
    return sum(arrays.values())


def _arrays(tree: Any) -> list[tuple[str, mx.array]]:
    """The arrays in nested tables and lists, by dotted name."""
    return [(name, leaf) for name, leaf in dict(tree_flatten(tree)).items() if isinstance(leaf, mx.array)]


def _bounds(cache: Any) -> tuple[int, int | None]:
    """A cache's step and the most tokens that it holds while decoding."""
    step = getattr(type(cache), "step", 1)
    if (window := getattr(cache, "max_size", None)) is not None:
        return step, window
    if (chunk := getattr(cache, "chunk_size", None)) is not None:
        return step, chunk + step  # full, it is cut to the chunk at each token and grows by a step again
    return step, None


class _Evaluated(Exception):
    """A lazy pass asked for a value."""


_EVALUATING = (
    "item", "tolist", "__bool__", "__int__", "__float__", "__complex__", "__index__",
    "__array__", "__dlpack__", "__repr__",
)  # fmt: skip


@contextmanager
def _nothing_evaluated() -> Iterator[None]:
    """Forbid evaluation while inside: what would compute a value raises _Evaluated."""

    def stop(name: str) -> Any:
        def refuse(*_: Any, **__: Any) -> Any:
            raise _Evaluated(name)

        return refuse

    places: list[tuple[Any, str]] = [(mx, name) for name in ("eval", "async_eval")]
    places += [(mx.array, name) for name in _EVALUATING if name in vars(mx.array)]
    before = [(place, name, getattr(place, name)) for place, name in places]
    try:
        for place, name in places:
            setattr(place, name, stop(name))
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


# --- from the config ---

_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
_HEADS = ("num_attention_heads", "n_heads", "n_head")
_KV_HEADS = ("num_key_value_heads", "kv_n_heads", "num_kv_heads", "n_kv_heads")
_WIDTHS = ("hidden_size", "d_model", "n_embd")


def _from_config(config: Mapping[str, Any], modules: Sequence[Module]) -> Growth:
    """Count plain attention in every layer: ``layers * 2 * kv_heads * head_dim * itemsize`` a token.

    dbrx: 40 * 2 * 8 * 128 * 2 bytes = 163,840 a token.
    """
    tables = [config, *(t for t in (config.get("text_config"), config.get("attn_config")) if isinstance(t, dict))]

    def first(names: Sequence[str]) -> int | None:
        return next((t[n] for t in tables for n in names if isinstance(t.get(n), int)), None)

    layers, heads, width = first(_LAYERS), first(_HEADS), first(_WIDTHS)
    head_dim = first(("head_dim",)) or (width // heads if width and heads else None)
    kv_heads = first(_KV_HEADS) or heads
    if not (layers and kv_heads and head_dim):
        raise LayoutError("config.json: does not tell the size of the KV cache, and the model cannot be run lazily")
    return Growth(0, layers * 2 * kv_heads * head_dim * DTYPES[_usual_dtype(modules)].nbytes, 256, None)
