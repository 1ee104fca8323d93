"""Which parts of a model have a fast form, and how a model takes them on.

A module of a known type gets a call of its own, so what listens to a module still sees its calls. A function that a
model's class calls by a name of its file, such as mlx-lm's attention, is replaced for that model alone: its class is
derived, with the methods that call the function bound to other globals.

Forms work inside `Forms.on` only: models are also followed over arrays that are never to be computed (`probe`), and a
form computes at once. A form gives None for a call that it does not cover, which then goes to the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from types import FunctionType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from . import attention, delta, learning, pointwise, products
from .threads import one_blas_thread
from .weights import Weights

Call = Callable[..., Any]
_DTYPES = (mx.float32, mx.bfloat16, mx.float16)
# Not a model's own: mlx-lm's classes share modules without weights (an activation) between models.
_ON: ContextVar[bool] = ContextVar("forms", default=False)
# Whether gradients are to go through: then only forms that give some are used, and the model's own for all else.
_LEARNING: ContextVar[bool] = ContextVar("learning", default=False)


@contextmanager
def with_gradients() -> Iterator[None]:
    """Within it `Forms.on` lets gradients through."""
    before = _LEARNING.set(True)
    try:
        with one_blas_thread():  # for what goes backward, after `Forms.on`
            yield
    finally:
        _LEARNING.reset(before)


class Forms:
    """The fast forms of one model; none where they do not apply."""

    def __init__(self, model: Any, dtype: mx.Dtype) -> None:
        """Give the model's parts their fast forms, if it is computed on the CPU."""
        self._weights = Weights()
        self.apply = dtype in _DTYPES and mx.default_device().type == mx.DeviceType.cpu
        if self.apply:
            replaced = {
                id(function): _instead(form, _WITH_GRADIENTS.get(form), function) for function, form in _functions()
            }
            for _, module in model.named_modules():
                self._take_on(module, replaced)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Compute by the forms, at once."""
        before = _ON.set(self.apply)
        try:
            with one_blas_thread() if self.apply else nullcontext():
                yield
        finally:
            _ON.reset(before)

    def forget(self) -> None:
        """Let go of what was made of a layer's weights."""
        self._weights.forget()

    def _take_on(self, module: Any, replaced: Mapping[int, Call]) -> None:
        kind = type(module)
        members = dict(_rebound(kind, replaced))
        for name, form in _MODULES.get((kind.__module__, kind.__name__), {}).items():
            members[name] = _instead(self._weighted(form), _WITH_GRADIENTS.get(form), getattr(kind, name))
        if members:
            object.__setattr__(module, "__class__", type(kind.__name__, (kind,), members))

    def _weighted(self, form: Call) -> Call:
        return lambda module, *args, **kwargs: form(self._weights, module, *args, **kwargs)


def _instead(form: Call, learned: Call | None, own: Call) -> Call:
    """A call of the form where forms are on and it covers the arguments, else of the model's own.

    Where gradients are to go through, it is that of `learned`, if there is one.
    """

    def called(*args: Any, **kwargs: Any) -> Any:
        now = (learned if _LEARNING.get() else form) if _ON.get() else None
        out = now(*args, **kwargs) if now is not None else None
        return own(*args, **kwargs) if out is None else out

    return called


def _rebound(kind: type, replaced: Mapping[int, Call]) -> Iterator[tuple[str, Call]]:
    """A class's methods that call replaced functions by global names, bound to the others instead."""
    seen = set[str]()
    for cls in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        for name, method in vars(cls).items():
            if name in seen:
                continue  # overridden
            seen.add(name)
            if isinstance(method, FunctionType):
                names = [n for n in method.__code__.co_names if id(method.__globals__.get(n)) in replaced]
                if names:
                    others = {n: replaced[id(method.__globals__[n])] for n in names}
                    yield name, _with_globals(method, {**method.__globals__, **others})


def _with_globals(method: FunctionType, names: dict[str, Any]) -> FunctionType:
    bound = FunctionType(method.__code__, names, method.__name__, method.__defaults__, method.__closure__)
    bound.__kwdefaults__ = method.__kwdefaults__
    return bound


# --- modules, by type ---


def _is_float(*arrays: Any, dtypes: tuple[mx.Dtype, ...] = _DTYPES) -> bool:
    return all(isinstance(a, mx.array) and a.dtype in dtypes for a in arrays)


def _is_float32(*arrays: Any) -> bool:
    return _is_float(*arrays, dtypes=(mx.float32,))


def _fits(module: Any, x: Any) -> bool:
    """Whether an input and a weight of one float dtype meet; quantized ones have scales of it, or of no float."""
    if not _is_float(x) or module.get("global_scale") is not None:
        return False
    if "scales" not in module:
        return bool(module["weight"].dtype == x.dtype)
    return module.mode != "affine" or bool(module["scales"].dtype == x.dtype)


def _linear(weights: Weights, module: Any, x: Any) -> mx.array | None:
    return products.dense(weights, module, x) if _fits(module, x) else None


def _switch(weights: Weights, module: Any, x: Any, indices: Any, sorted_indices: bool = False) -> mx.array | None:
    known = _fits(module, x) and x.ndim > 1 and x.shape[-2] == 1 and isinstance(indices, mx.array)
    return products.switched(weights, module, x, indices) if known else None


def _heads(weights: Weights, module: Any, x: Any, transpose: bool = True) -> mx.array | None:
    return products.heads(weights, module, x, transpose=transpose) if _fits(module, x) else None


def _linear_learned(module: Any, x: Any) -> mx.array | None:
    return learning.dense(module, x) if "scales" not in module and _is_float32(x, module["weight"]) else None


def _switch_learned(module: Any, x: Any, indices: Any, sorted_indices: bool = False) -> mx.array | None:
    known = "scales" not in module and _is_float32(x, module["weight"]) and x.ndim > 1 and x.shape[-2] == 1
    return learning.switched(module, x, indices) if known and isinstance(indices, mx.array) else None


_LINEAR, _AS_LINEAR = {"__call__": _linear}, {"as_linear": _linear}
_SWITCH, _HEADS = {"__call__": _switch}, {"__call__": _heads}
_MODULES: dict[tuple[str, str], Mapping[str, Call]] = {
    ("mlx.nn.layers.linear", "Linear"): _LINEAR,
    ("mlx.nn.layers.quantized", "QuantizedLinear"): _LINEAR,
    ("mlx.nn.layers.embedding", "Embedding"): _AS_LINEAR,
    ("mlx.nn.layers.quantized", "QuantizedEmbedding"): _AS_LINEAR,
    ("mlx_lm.models.switch_layers", "SwitchLinear"): _SWITCH,
    ("mlx_lm.models.switch_layers", "QuantizedSwitchLinear"): _SWITCH,
    ("mlx_lm.models.mla", "MultiLinear"): _HEADS,
    ("mlx_lm.models.mla", "QuantizedMultiLinear"): _HEADS,
}


# --- functions of mlx-lm, as they are ---


def _attention(
    queries: Any, keys: Any, values: Any, cache: Any, scale: float, mask: Any, sinks: Any = None, **others: Any
) -> mx.array | None:
    known = _is_float32(queries, keys, values) and not hasattr(cache, "bits") and not others
    known = known and (mask is None or isinstance(mask, mx.array) or mask == "causal")
    return attention.attend(queries, keys, values, scale, mask, sinks) if known else None


def _gated_delta(*args: Any, **kwargs: Any) -> tuple[mx.array, mx.array] | None:
    known = _rule(*args, **kwargs)
    return None if known is None else delta.gated_delta(*known)


def _gated_delta_learned(*args: Any, **kwargs: Any) -> tuple[mx.array, mx.array] | None:
    known = _rule(*args, **kwargs)
    return None if known is None or known[3].ndim == 4 else learning.gated_delta(*known)


def _rule(
    q: Any, k: Any, v: Any, a: Any, b: Any, A_log: Any, dt_bias: Any, state: Any = None, mask: Any = None, *,
    use_kernel: bool = True, lower_bound: float | None = None, allow_neg_eigval: bool = False, **others: Any,
) -> tuple[Any, Any, Any, Any, Any, Any] | None:  # fmt: skip
    """Queries, keys, values, decay, steps and state of the rule; None for a call that the forms do not cover."""
    from mlx_lm.models import gated_delta

    if mask is not None or others or not _is_float(q, k, v, a, b, *([] if state is None else [state])):
        return None
    beta = mx.sigmoid(b) * 2.0 if allow_neg_eigval else mx.sigmoid(b)
    if lower_bound is None:
        decay = gated_delta.compute_g(A_log, a, dt_bias)
    else:
        decay = gated_delta.compute_lower_bound_g(A_log, a, dt_bias, lower_bound)
    return q, k, v, decay, beta, state


def _swiglu(gate: Any, x: Any) -> mx.array | None:
    return pointwise.swiglu(gate, x) if _is_float32(gate, x) else None


def _precise_swiglu(h: Any, gate: Any, x: Any) -> mx.array | None:
    return pointwise.swiglu(gate, x).astype(h.dtype) if _is_float(h, gate, x) else None


# Forms that gradients go through, by those that they stand for then
_WITH_GRADIENTS: Mapping[Call, Call] = {
    _linear: _linear_learned,
    _switch: _switch_learned,
    _gated_delta: _gated_delta_learned,
}


def _functions() -> Iterator[tuple[Call, Call]]:
    """Functions of mlx-lm's that have a form, with it; those that this version has."""
    from mlx_lm.models import activations, base, gated_delta

    forms: dict[tuple[Any, str], Call] = {
        (base, "scaled_dot_product_attention"): _attention,
        (gated_delta, "gated_delta_update"): _gated_delta,
        (activations, "swiglu"): _swiglu,
        (activations, "precise_swiglu"): _precise_swiglu,
    }
    for (module, name), form in forms.items():
        if (function := getattr(module, name, None)) is not None:
            yield function, form
