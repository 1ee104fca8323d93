"""The forward pass of transformers' `Qwen3_5MoeForCausalLM` again, several times faster on a CPU.

It reads the parameters of transformers' own module and computes the same function. What differs: tokens are sorted by
expert once, and each expert is two matrix products in bf16 whose activations are recomputed on the way back; the
gated delta rule inverts its triangular systems by doubling, in chunks of 32; nothing is cached, masked or dropped.
`logits_agree` holds it to transformers' result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 32
ROWS = 128
TOLERANCE = 1e-5  # relative; float32 in another order of sums


def hidden_states(model: Any, tokens: Tensor, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """Return the last hidden state (B, T, hidden) of tokens (B, T), and each layer's router logits (B * T, experts)."""
    x = F.embedding(tokens, model.model.embed_tokens.weight)
    cos, sin = rotations(model, tokens.shape[1])
    routers = []
    for layer in model.model.layers:
        h = norm(x, layer.input_layernorm)
        if layer.block_type == "linear_attention":
            x = x + delta_net(layer.linear_attn, h, dtype)
        else:
            x = x + attention(layer.self_attn, h, cos, sin, dtype)
        out, router = experts(layer.mlp, norm(x, layer.post_attention_layernorm), dtype)
        routers.append(router)
        x = x + out
    return norm(x, model.model.norm), routers


def logits(model: Any, tokens: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the logits (B, T, vocabulary) of tokens (B, T), products computed in `dtype`."""
    return product(hidden_states(model, tokens, dtype)[0], model.lm_head.weight, dtype)


def product(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``x @ weight.T`` computed in `dtype` and returned in x's: bf16 is five times float32's speed here."""
    return F.linear(x.to(dtype), weight.to(dtype)).to(x.dtype)


def norm(x: Tensor, module: Any) -> Tensor:
    """Zero-centred RMS norm: ``x / rms(x) * (1 + w)``."""
    return F.rms_norm(x, x.shape[-1:], 1.0 + module.weight, module.eps)


def rotations(model: Any, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, rotated dimensions) of positions 0 … length - 1."""
    angles = torch.arange(length, dtype=torch.float32)[:, None] * model.model.rotary_emb.inv_freq[None]
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first dimensions of each head of x (B, heads, T, head) by its position."""
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    return torch.cat([turned * cos + torch.cat([-second, first], dim=-1) * sin, rest], dim=-1)


def attention(module: Any, x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """Gated full attention over x (B, T, hidden)."""
    batch, length, _ = x.shape
    head = module.head_dim
    query, gate = product(x, module.q_proj.weight, dtype).view(batch, length, -1, 2 * head).chunk(2, dim=-1)
    query = norm(query, module.q_norm).transpose(1, 2)
    key = norm(product(x, module.k_proj.weight, dtype).view(batch, length, -1, head), module.k_norm).transpose(1, 2)
    value = product(x, module.v_proj.weight, dtype).view(batch, length, -1, head).transpose(1, 2)
    groups = module.num_key_value_groups
    key = rotate(key, cos, sin).repeat_interleave(groups, dim=1)
    value = value.repeat_interleave(groups, dim=1)
    out = F.scaled_dot_product_attention(
        rotate(query, cos, sin).to(dtype), key.to(dtype), value.to(dtype), is_causal=True
    ).to(x.dtype)
    out = (out.transpose(1, 2) * torch.sigmoid(gate)).reshape(batch, length, -1)
    return product(out, module.o_proj.weight, dtype)


def delta_net(module: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    """GatedDeltaNet over x (B, T, hidden): a causal convolution of 4 taps, the gated delta rule, a gated norm."""
    batch, length, _ = x.shape
    mixed = product(x, module.in_proj_qkv.weight, dtype)
    taps = module.conv1d.weight[:, 0]  # (channels, 4); four shifted products beat conv1d on a CPU
    padded = F.pad(mixed, (0, 0, taps.shape[1] - 1, 0))
    mixed = F.silu(sum(padded[:, i : i + length] * taps[:, i] for i in range(taps.shape[1])))
    query, key, value = mixed.split([module.key_dim, module.key_dim, module.value_dim], dim=-1)
    heads = module.num_v_heads
    query, key = (
        t.view(batch, length, -1, module.head_k_dim).repeat_interleave(heads // module.num_k_heads, dim=2)
        for t in (query, key)
    )
    value = value.reshape(batch, length, heads, module.head_v_dim)
    beta = torch.sigmoid(F.linear(x, module.in_proj_b.weight))
    decay = -module.A_log.exp() * F.softplus(F.linear(x, module.in_proj_a.weight) + module.dt_bias)
    out = delta_rule(unit(query) * module.head_k_dim**-0.5, unit(key), value, decay, beta)
    gate = product(x, module.in_proj_z.weight, dtype).view_as(out)
    out = F.rms_norm(out, out.shape[-1:], module.norm.weight, module.norm.variance_epsilon) * F.silu(gate)
    return product(out.reshape(batch, length, -1), module.out_proj.weight, dtype)


def unit(x: Tensor) -> Tensor:
    """``x / sqrt(|x|^2 + 1e-6)``."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def delta_rule(query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor) -> Tensor:
    """Apply ``S = exp(decay) S + beta k (v - k^T exp(decay) S)``, read by q, in chunks; (B, T, heads, head) each.

    Within a chunk the updates solve a unit lower triangular system (arXiv:2412.06464, section 3.3), whose inverse is
    ``(1 + N)(1 + N^2)(1 + N^4)…`` for nilpotent N.
    """
    batch, length, heads, _ = value.shape
    short = -length % CHUNK
    query, key, value, decay, beta = (
        F.pad(t, (0, 0) * (t.dim() - 2) + (0, short)).transpose(1, 2).unflatten(2, (-1, CHUNK)).contiguous()
        for t in (query, key, value, decay, beta)
    )  # (B, heads, chunks, 32, head) and (B, heads, chunks, 32)
    total = decay.cumsum(-1)
    lower = torch.ones(CHUNK, CHUNK, dtype=torch.bool).tril()
    between = (total[..., :, None] - total[..., None, :]).masked_fill(~lower, float("-inf")).exp()
    scaled = key * beta[..., None]
    power = -((scaled @ key.mT) * between).tril(-1)
    inverse = torch.eye(CHUNK) + power
    for _ in range(CHUNK.bit_length() - 2):
        power = power @ power
        inverse = inverse + inverse @ power
    solved = inverse @ torch.cat([value * beta[..., None], scaled * total.exp()[..., None]], dim=-1)
    value, reading = solved.split([value.shape[-1], key.shape[-1]], dim=-1)
    within = (query @ key.mT) * between
    query = query * total.exp()[..., None]
    key = key * (total[..., -1:] - total).exp()[..., None]
    faded = total[..., -1].exp()[..., None, None]
    state = value.new_zeros(batch, heads, key.shape[-1], value.shape[-1])
    out = []
    for q, k, v, r, w, f in zip(*(t.unbind(2) for t in (query, key, value, reading, within, faded)), strict=True):
        new = v - r @ state
        out.append(q @ state + w @ new)
        state = state * f + k.mT @ new
    return torch.stack(out, dim=2).flatten(2, 3)[:, :, :length].transpose(1, 2)


class _Experts(torch.autograd.Function):
    """SwiGLU experts over rows sorted by expert, forward and backward one expert after another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate_up: Tensor, down: Tensor, counts: list[int]) -> Tensor:
        """Rows x (N, hidden), of which the first ``counts[0]`` belong to expert 0 and so on."""
        ctx.save_for_backward(x, gate_up, down)
        ctx.counts = counts
        out = torch.empty_like(x)
        for rows, y, w, d in zip(x.split(counts), out.split(counts), gate_up, down, strict=True):
            gate, up = (rows @ w.T).chunk(2, dim=-1)
            torch.mm(F.silu(gate) * up, d.T, out=y)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, gate_up, down = ctx.saved_tensors
        dx, dw, dd = torch.empty_like(x), torch.empty_like(gate_up), torch.empty_like(down)
        for i, (rows, g, into) in enumerate(
            zip(x.split(ctx.counts), grad.split(ctx.counts), dx.split(ctx.counts), strict=True)
        ):
            gate, up = (rows @ gate_up[i].T).chunk(2, dim=-1)
            sig = torch.sigmoid(gate)
            act = gate * sig
            torch.mm(g.T, act * up, out=dd[i])
            inner = g @ down[i]
            both = torch.cat([inner * up * (sig + act * (1 - sig)), inner * act], dim=-1)
            torch.mm(both.T, rows, out=dw[i])
            torch.mm(both, gate_up[i], out=into)
        return dx, dw, dd, None


def experts(module: Any, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The routed and the shared experts' answer to x (B, T, hidden), and the router's logits."""
    flat = x.reshape(-1, x.shape[-1])
    scores = F.linear(flat, module.gate.weight)
    top, chosen = scores.softmax(-1).topk(module.gate.top_k, dim=-1)
    top = top / top.sum(-1, keepdim=True)
    low = flat.to(dtype)
    place, source, counts = _places(chosen, scores.shape[-1])
    rows = low.index_select(0, source)
    done = _Experts.apply(rows, module.experts.gate_up_proj.to(dtype), module.experts.down_proj.to(dtype), counts)
    done = done.index_select(0, place).view(*chosen.shape, -1).to(x.dtype)
    out = (done * top[..., None]).sum(1)
    shared = module.shared_expert
    gated = F.silu(F.linear(low, shared.gate_proj.weight.to(dtype))) * F.linear(low, shared.up_proj.weight.to(dtype))
    common = F.linear(gated, shared.down_proj.weight.to(dtype)).to(x.dtype)
    out = out + torch.sigmoid(F.linear(flat, module.shared_expert_gate.weight)) * common
    return out.view_as(x), scores


def _places(chosen: Tensor, n_experts: int) -> tuple[Tensor, Tensor, list[int]]:
    """Where each choice (N, k) goes among rows sorted by expert, the token of each row, and the rows per expert.

    An expert's rows are filled up to a multiple of 128, since the library behind bf16 products compiles a kernel for
    every shape it meets; what fills them up is computed and never read.
    """
    flat = chosen.reshape(-1)
    order = flat.argsort()
    counts = torch.bincount(flat, minlength=n_experts)
    padded = (counts + ROWS - 1) // ROWS * ROWS
    shift = (padded.cumsum(0) - padded) - (counts.cumsum(0) - counts)
    target = torch.arange(len(flat)) + shift[flat[order]]
    place = torch.empty_like(order).scatter_(0, order, target)
    source = torch.zeros(int(padded.sum()), dtype=torch.long).scatter_(0, target, order // chosen.shape[1])
    return place, source, padded.tolist()


def balance(scores: Tensor, chosen_per_token: int) -> Tensor:
    """Transformers' load balancing loss of router logits (N, experts): k where all experts are chosen equally often.

    ``experts * sum(share of choices * mean probability)``, shares counted per token and so adding up to k.
    """
    probabilities = scores.softmax(-1)
    chosen = probabilities.topk(chosen_per_token, dim=-1).indices
    share = torch.bincount(chosen.flatten(), minlength=scores.shape[-1]) / len(scores)
    return scores.shape[-1] * (share * probabilities.mean(0)).sum()


def logits_agree(model: Any, tokens: Tensor, tolerance: float = TOLERANCE) -> float:
    """Return the largest difference between transformers' logits and ours in float32, relative to the largest logit.

    Raises ArithmeticError where it is beyond `tolerance`.
    """
    with torch.no_grad():
        wanted = model(tokens, use_cache=False).logits
        worst = float((wanted - logits(model, tokens)).abs().max() / wanted.abs().max())
    if worst > tolerance:
        raise ArithmeticError(f"logits differ from transformers' by {worst:.2e} of the largest, over {tolerance:.0e}")
    return worst


def parameters_of(model: nn.Module) -> int:
    """Count parameters."""
    return sum(p.numel() for p in model.parameters())
