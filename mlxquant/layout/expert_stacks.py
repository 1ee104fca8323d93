"""Experts that a checkpoint stores one by one, where mlx-lm's class expects them fused.

Qwen's FP8 repositories, and whatever transformers 5 saved, have `mlp.experts.7.down_proj.weight` where the bf16 ones
have one `mlp.experts.down_proj`, and the `sanitize` of qwen3_5_moe knows only the latter (mlx-lm 0.32.2; pull request
1224). What it leaves over is stacked here, after it, into the array that the model wants: (experts, out, in).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .views.view import View, stack

_ONE = re.compile(r"(?P<block>.*)\.experts\.(?P<number>\d+)\.(?P<rest>\w+\.(?:weight|bias))", re.ASCII)
_STACKED = "switch_mlp"


def stacked(views: Mapping[str, View], parameters: Mapping[str, tuple[int, ...]]) -> dict[str, View]:
    """Stack experts that stand alone into the arrays that the model lacks otherwise.

    A set with a gap in its numbers, or of another size than the model's, is left for `check_arrays` to name.
    """
    found: dict[str, dict[int, str]] = {}
    for name in views:
        if name not in parameters and (match := _ONE.fullmatch(name)):
            found.setdefault(f"{match['block']}.{_STACKED}.{match['rest']}", {})[int(match["number"])] = name
    kept = dict(views)
    for target, members in found.items():
        wanted = parameters.get(target)
        if wanted and target not in views and sorted(members) == list(range(wanted[0])):
            kept[target] = stack([kept.pop(members[number]) for number in range(wanted[0])])
    return kept
