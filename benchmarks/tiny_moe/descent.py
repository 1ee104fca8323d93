"""The steps that all trainings of models here share: optimizers whose rates rise and fall, kept to go on from.

A training makes batches and a loss of its own, and calls `step` after the backward pass. The optimizers are those of
`muon`. Where batches are made from their number, a training that goes on ends with the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import muon
import numpy as np
import torch

LEAST = 0.01  # share of the full rates
NORM = 1.0  # gradients are clipped to this


class Descent:
    """A model and its optimizers.

    `rates` are the full ones of matrix, embedding, head and other; `pace` has (step, share of them), linear between.
    """

    def __init__(self, model: Any, rates: dict[str, float], pace: Sequence[tuple[int, float]]) -> None:
        self._model, self._pace = model, pace
        self._optimizers = muon.optimizers(model, rates)
        self._full = [[group["lr"] for group in each.param_groups] for each in self._optimizers]

    def share(self, step: int) -> float:
        """The share of the full rates at a step, counted from 0."""
        return max(float(np.interp(step + 1, *zip(*self._pace, strict=True))), LEAST)

    def step(self, step: int) -> None:
        """Change the weights by their gradients, which are zero afterwards."""
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), NORM)
        for optimizer, rates in zip(self._optimizers, self._full, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * self.share(step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def keep(self, path: Path, steps: int) -> None:
        """Save all that training goes on from, whole or not at all; `steps` are done."""
        state = {"model": self._model.state_dict(), "optimizers": [o.state_dict() for o in self._optimizers]}
        new = path.with_suffix(".new")
        torch.save(state | {"step": steps}, new)
        new.replace(path)

    def load(self, path: Path) -> int:
        """Go on from what `keep` saved; gives how many steps are done."""
        state = torch.load(path)
        self._model.load_state_dict(state["model"])
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        return int(state["step"])
