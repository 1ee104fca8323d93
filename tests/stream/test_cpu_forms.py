"""The fast forms of a CPU compute what mlx and mlx-lm compute, and stay out of what they do not cover."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import base, gated_delta
from mlx_lm.models.switch_layers import SwitchGLU

from mlxquant.stream.cpu import attention, pointwise
from mlxquant.stream.cpu.delta import delta_rule
from mlxquant.stream.cpu.forms import Forms
from mlxquant.stream.cpu.weights import dequantized

CLOSE = 1e-5  # norm-wise


def random(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def far(mine: mx.array, own: mx.array) -> float:
    a, b = np.array(mine), np.array(own)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def by_forms(module: nn.Module, *args: mx.array) -> tuple[mx.array, mx.array]:
    """What a module gives by its form, and by mlx."""
    own = module(*args)
    mx.eval(own)
    with Forms(module, mx.float32).on():
        return module(*args), own


# --- modules ---


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("bits", [None, 8, 3])
def test_a_dense_layer_is_mlxs(bits, bias):
    layer = nn.Linear(64, 48, bias=bias)
    module = layer if bits is None else nn.QuantizedLinear.from_linear(layer, 32, bits)
    assert far(*by_forms(module, random(2, 5, 64))) < CLOSE


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_a_dense_layer_in_a_mode_without_float_scales_is_mlxs(mode):
    group, bits = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}[mode]
    module = nn.QuantizedLinear.from_linear(nn.Linear(64, 48, bias=False), group, bits, mode)
    assert far(*by_forms(module, random(2, 5, 64))) < CLOSE


@pytest.mark.parametrize("tokens", [3, 40])  # below 64 choices mlx-lm does not sort them
@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_switched_experts_are_mlx_lms(tokens, bits, bias):
    module = SwitchGLU(64, 32, 8, bias=bias)
    if bits is not None:
        nn.quantize(module, 32, bits)
    chosen = np.argsort(np.random.default_rng(1).random((1, tokens, 8)))[..., :3]
    assert far(*by_forms(module, random(1, tokens, 64), mx.array(chosen))) < CLOSE


def test_a_tied_head_is_mlxs():
    module = nn.Embedding(50, 32)
    own = module.as_linear(random(1, 4, 32))
    with Forms(module, mx.float32).on():
        assert far(module.as_linear(random(1, 4, 32)), own) < CLOSE
        assert np.array_equal(np.array(module(mx.array([3]))), np.array(module.weight[3:4]))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_a_large_weight_is_dequantized_to_mlxs_numbers(bits):
    module = nn.QuantizedLinear.from_linear(nn.Linear(1024, 1024, bias=False), 64, bits)
    own = mx.dequantize(module.weight, module.scales, module.biases, 64, bits)
    assert far(mx.array(dequantized(module)), own) < 1e-7


# --- functions ---


def step_by_step(q, k, v, decay, beta, state):
    """The recurrence as it is written down, in float64; (heads, n, …), state (heads, D, values)."""
    outputs = []
    state = state.astype(np.float64)
    decay = decay if decay.ndim == 3 else decay[..., None]
    for t in range(v.shape[1]):
        state = np.exp(decay[:, t])[..., None] * state
        new = beta[:, t, None] * (v[:, t] - np.einsum("hdv,hd->hv", state, k[:, t]))
        state = state + k[:, t, :, None] * new[:, None]
        outputs.append(np.einsum("hdv,hd->hv", state, q[:, t]))
    return np.stack(outputs, 1), state


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("keys", ["random", "repeated"])
def test_the_delta_rule_in_chunks_is_the_one_step_by_step(by_channel, keys):
    rng = np.random.default_rng(0)
    heads, n, d, values = 2, 70, 16, 8
    q, k = (rng.standard_normal((heads, n, d)) for _ in range(2))
    if keys == "repeated":  # the system is then as far from the identity as it gets
        k[:] = k[:, :1]
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    v, state = rng.standard_normal((heads, n, values)), rng.standard_normal((heads, d, values))
    beta = rng.uniform(0.9, 1.0, (heads, n))
    decay = -rng.exponential(0.01 if keys == "repeated" else 3.0, (heads, n, d) if by_channel else (heads, n))
    lines = [a.astype(np.float32)[None] for a in (q, k, v, decay, beta, state)]
    out, after = delta_rule(*lines)
    expected, expected_after = step_by_step(*(a[0].astype(np.float64) for a in lines))
    assert np.linalg.norm(out[0] - expected) < CLOSE * np.linalg.norm(expected)
    assert np.linalg.norm(after[0] - expected_after) < CLOSE * np.linalg.norm(expected_after)


MASKS = {
    "none": None,
    "causal": "causal",
    "true where seen": mx.array(np.tri(7, 300, 293, dtype=np.bool_)),
    "added": mx.array(np.random.default_rng(2).standard_normal((1, 4, 7, 300)).astype(np.float32)),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("sinks", [False, True])
def test_attention_is_mlxs(mask, sinks):
    arrays = random(1, 4, 7, 16), random(1, 2, 300, 16, seed=1), random(1, 2, 300, 8, seed=2)
    sink = random(4, seed=3) if sinks else None
    own = mx.fast.scaled_dot_product_attention(*arrays, scale=0.3, mask=MASKS[mask], sinks=sink)
    assert far(attention.attend(*arrays, 0.3, MASKS[mask], sink), own) < CLOSE


def test_a_long_causal_attention_goes_by_blocks_of_queries():
    arrays = random(1, 2, 600, 8), random(1, 1, 600, 8, seed=1), random(1, 1, 600, 8, seed=2)
    own = mx.fast.scaled_dot_product_attention(*arrays, scale=0.3, mask="causal")
    assert far(attention.attend(*arrays, 0.3, "causal", None), own) < CLOSE


# --- when ---


class Attending(nn.Module):
    """Calls functions of mlx-lm's as its models do."""

    def __call__(self, x: mx.array) -> mx.array:
        attended: mx.array = scaled_dot_product_attention(x, x, x, None, 1.0, "causal")
        return attended


scaled_dot_product_attention = base.scaled_dot_product_attention


def test_functions_are_replaced_for_one_model_alone(monkeypatch):
    calls: list[mx.array] = []

    def attend(queries: mx.array, *_: object) -> mx.array:
        calls.append(queries)
        return queries

    monkeypatch.setattr(attention, "attend", attend)
    one, other = Attending(), Attending()
    with Forms(one, mx.float32).on():
        one(random(1, 1, 4, 8))
        other(random(1, 1, 4, 8))
    assert len(calls) == 1
    assert scaled_dot_product_attention is base.scaled_dot_product_attention


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_products_of_16_bits_are_added_up_in_float32_and_rounded_once(dtype, bits):
    layer = nn.Linear(512, 8, bias=False)
    module = layer if bits is None else nn.QuantizedLinear.from_linear(layer, 64, bits)
    module.set_dtype(dtype)
    x = random(1, 4, 512).astype(dtype)
    w = module.weight if bits is None else mx.dequantize(module.weight, module.scales, module.biases, 64, bits)
    own = (x.astype(mx.float32) @ w.astype(mx.float32).T).astype(dtype)
    with Forms(module, dtype).on():
        mine = module(x)
    assert mine.dtype == dtype
    assert far(mine.astype(mx.float32), own.astype(mx.float32)) < (1e-3 if bits is None else 1e-2)


def test_models_that_share_an_activation_both_have_its_form(monkeypatch):
    calls: list[mx.array] = []
    swiglu = pointwise.swiglu

    def counted(gate: mx.array, x: mx.array) -> mx.array:
        calls.append(x)
        return swiglu(gate, x)

    monkeypatch.setattr(pointwise, "swiglu", counted)
    for _ in range(2):
        by_forms(SwitchGLU(64, 32, 4), random(1, 2, 64), mx.array([[[0], [1]]]))
    assert len(calls) == 2


def test_an_input_of_another_dtype_than_the_weight_is_mlxs_own():
    module = nn.Linear(32, 8)
    mine, own = by_forms(module, random(1, 4, 32).astype(mx.bfloat16))
    assert mine.dtype == own.dtype
    assert mx.array_equal(mine, own)


def test_outside_of_on_nothing_is_computed():
    module = nn.Linear(4, 4, bias=False)
    Forms(module, mx.float32)
    module.weight = mx.broadcast_to(mx.array(float("nan")), (1 << 20, 1 << 20))  # 4 TB if it were
    assert module(mx.broadcast_to(mx.array(1.0), (1, 1 << 20))).shape == (1, 1 << 20)


def test_the_delta_rule_of_a_model_does_not_step_by_token(tiny, monkeypatch):
    from mlxquant.stream.candidates import Candidate
    from tests.stream.compare_pass import narrow, run_pass, texts

    def steps(*_: object, **__: object) -> None:
        raise AssertionError("token by token")

    monkeypatch.setattr(gated_delta, "gated_delta_ops", steps)
    run_pass(tiny("qwen3_5_moe"), [Candidate("it", recipe=narrow("gates-8bit"))], texts((20,)))
