"""Muon for the matrices of the layers, AdamW for the rest: embedding, head, routers, convolutions, norms, decays.

Muon steps along the orthogonal matrix nearest to the momentum (K. Jordan 2024, kellerjordan.github.io/posts/muon); an
expert is a matrix of its own. In steps it needs about half of AdamW's here, and its own cost is a few percent.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

_ADAM = ("gate.weight", "shared_expert_gate.weight", "in_proj_a.weight", "in_proj_b.weight", "conv1d.weight")


def orthogonal(matrices: Tensor) -> Tensor:
    """Return about the nearest orthogonal matrix to each of (N, rows, columns): Newton-Schulz, quintic, 5 steps."""
    x = matrices.bfloat16()
    if tall := x.shape[-2] > x.shape[-1]:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal, times ``rate * sqrt(max(1, rows / columns))``."""

    def __init__(self, params: list[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step; matrices of one shape are made orthogonal together."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                state = self.state[p]
                kept = state.setdefault("momentum", torch.zeros_like(p))
                kept.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(kept, group["momentum"])
                # (rows, columns) or, for stacked experts, (experts, rows, columns)
                shapes[p.shape[-2:]].append((p, update.view(-1, *p.shape[-2:])))
            for (rows, columns), found in shapes.items():
                steps = orthogonal(torch.cat([u for _, u in found])).split([len(u) for _, u in found])
                for (p, _), step in zip(found, steps, strict=True):
                    p.mul_(1 - group["lr"] * group["decay"])
                    p.add_(step.view_as(p), alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def optimizers(model: Any, rates: dict[str, float]) -> list[torch.optim.Optimizer]:
    """Return Muon for the layers' matrices and AdamW for the rest; `rates` of matrix, embedding, head and other."""
    groups: dict[str, list[Tensor]] = defaultdict(list)
    for name, p in model.named_parameters():
        if "embed_tokens" in name:
            groups["embedding"].append(p)
        elif "lm_head" in name:
            groups["head"].append(p)
        elif p.dim() < 2 or name.endswith(_ADAM):
            groups["other"].append(p)
        else:
            groups["matrix"].append(p)
    adam = [{"params": groups[kind], "lr": rates[kind]} for kind in ("embedding", "head", "other")]
    return [
        Muon(groups["matrix"], rates["matrix"], decay=0.1),
        torch.optim.AdamW(adam, betas=(0.9, 0.98), eps=1e-10, weight_decay=0.0),
    ]
